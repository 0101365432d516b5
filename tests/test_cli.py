"""The commands as a user meets them: help, bad input, exit codes, output in a pipe."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from gptfast.__main__ import COMMANDS, main
from gptfast.cli import cli
from gptfast.doctor.__main__ import main as doctor
from gptfast.errors import MissingFileError, RunError, UserError
from gptfast.sample.__main__ import main as sample
from gptfast.train.__main__ import main as train
from timing import assert_is_below

TINY = [
    "--tokenizer", "char", "--block-size", "16", "--n-layer", "1", "--n-head", "2",
    "--n-embd", "16", "--max-steps", "6", "--batch-size", "2", "--eval-windows", "2",
    "--dtype", "float32",
]  # fmt: skip


# With another `python` first on the PATH, and outside its folder, ours is named by its whole path.
ELSEWHERE = {"env": os.environ | {"PATH": os.defpath}, "cwd": Path(sys.executable).anchor}


def gptfast(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **ELSEWHERE)


@dataclass(frozen=True)
class Trained:
    """A finished run and the training arguments that made it, but for --out."""

    arguments: list[str]
    folder: Path
    cache: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, nursery_text: str) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    corpus = folder / "nursery.txt"
    corpus.write_text(nursery_text, encoding="utf-8")
    arguments = [*TINY, "--corpus", str(corpus)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTFAST_CACHE", str(folder / "cache"))
        assert cli.run(train, [*arguments, "--out", str(folder / "run")]) == 0
    return Trained(arguments, folder / "run", folder / "cache")


def test_help_names_every_command_and_is_quick() -> None:
    def processor_seconds_of_help() -> float:
        before = os.times()
        done = gptfast("gptfast", "--help")
        after = os.times()
        assert done.returncode == 0
        assert set(re.findall(r"(?m)^  (\w+)", done.stdout)) == set(COMMANDS)
        user = after.children_user - before.children_user
        return user + after.children_system - before.children_system

    assert_is_below(0.5, processor_seconds_of_help, tries=10)


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; sys.argv = ['gptfast', '--help']; from gptfast.__main__ import main; main();"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gptfast", name, "--help"])
    try:
        code: object = main()
    except SystemExit as end:  # argparse and tyro leave this way
        code = end.code
    assert not code
    assert "usage" in capsys.readouterr().out.lower()


@pytest.mark.parametrize("preset", ["shakespeare-cpu", "shakespeare-12min"])
def test_the_help_of_a_switch_names_the_form_that_it_describes(
    preset: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way the preset sets the switch."""
    monkeypatch.setenv("COLUMNS", "80")  # wider terminals get two columns
    with pytest.raises(SystemExit):
        train(["--preset", preset, "--help"])
    text = capsys.readouterr().out
    for name in ("bias", "tie-embeddings", "qk-norm", "compile", "resume"):
        assert f" --{name}, --no-{name} " in text
    assert re.search(r"--bias, --no-bias +Give linear layers", text)


def test_an_unknown_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gptfast", "fly"])
    assert main() == 2
    assert capsys.readouterr().err == (
        "error: unknown command 'fly': expected one of train, finetune, sample, serve, rag, "
        "eval, audit, quantize, tokenizer, plan, compare, report, ladder, bench, export, import, "
        "data, doctor\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--n-layr", "3"], r"Unrecognized options: --n-layr, 3; perhaps .* --n-layer"),
        (["train", "--n-layer", "abc"], "Error parsing --n-layer: .*'abc'"),
        (["train", "--dtype", "float8"], "invalid choice 'float8' for argument '--dtype'"),
        (["train", "--preset"], "argument --preset: expected one argument"),
        (["plan", "--n-layer", "1", "--preset"], "argument --preset: expected one argument"),
        (["bench", "train", "--data", "x"], "the following arguments are required: --out"),
        (["bench", "fly"], "argument command: invalid choice: 'fly'"),
        (["sample"], "Missing from .*: --model PATH"),
        (["tokenizer"], r"Expected one of \{train, encode"),
    ],
)
@pytest.mark.parametrize("columns", ["60", "200"])
def test_wrong_flags_are_one_line(
    arguments: list[str],
    message: str,
    columns: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "argv", ["gptfast", *arguments])
    assert main() == 2
    printed = capfd.readouterr()
    see = r"see python -m gptfast\.\w+( train)? --help"
    assert re.fullmatch(rf"error: {message}.*: {see}\n", printed.err)
    assert printed.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [(UserError("u"), 2), (MissingFileError("m"), 2), (RunError("r"), 1), (OSError("full"), 1)],
)
def test_exit_codes(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> int:
        raise error

    assert cli.run(fail, []) == code
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize(
    "error",
    [ValueError("not the user's mistake"), RuntimeError("an illegal memory access was met")],
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    def bug(_: object) -> int:
        raise error

    with pytest.raises(type(error), match=str(error)):
        cli.run(bug, [])


@pytest.mark.integration
def test_train_and_sample_in_a_pipe(corpus_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = gptfast("gptfast.train", *TINY, "--corpus", str(corpus_file), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "step 6: val loss" in done.stdout
    assert "--- sample 1 ---" in done.stdout
    talk = done.stdout.rstrip().splitlines()[-1].strip()
    assert talk == f"{sys.executable} -m gptfast.sample --model {out}"
    written = gptfast(
        "gptfast.sample", "--model", str(out), "--prompt", "ALICE:\n", "--max-new-tokens", "20",
        "--top-k", "5", "--top-p", "0.9", "--min-p", "0.01", "--temperature", "0.9", "--seed", "3",
    )  # fmt: skip
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith("ALICE:\n")
    assert len(written.stdout) == len("ALICE:\n") + 20 + 1


BAD_TRAINING = {
    "missing corpus": (["--corpus", "nowhere.txt"], "no corpus 'nowhere.txt'"),
    "empty corpus": (["--corpus", "{tmp}/empty.txt"], "holds no text"),
    "short corpus": (["--block-size", "5000"], "needs 5001"),
    "vocab_size": (["--tokenizer", "bpe", "--vocab-size", "255"], "vocab_size is 255"),
    "preset": (["--preset", "gpt9"], "unknown preset 'gpt9': expected one of gpt2-"),
    "heads": (["--n-head", "3"], "n_embd 16 can't be divided into n_head 3"),
    "device": (["--device", "toaster"], "no device 'toaster' here: expected auto or one of cpu"),
    "no directory": (["--out", "{tmp}/empty.txt/run"], "can't be written to"),
    "out is a file": (["--out", "{tmp}/empty.txt"], "can't be written to"),
    "tokenizer": (["--tokenizer", "nowhere"], "nowhere"),
    "seed": (["--seed", "99999999999999999999"], "expected less than 2^63"),
    "kernels": (["--overwrite", "--kernels", "triton", "--out", "{tmp}/old"], "TRITON_INTERPRET"),
    "overwrite": (["--overwrite", "--device", "cuda:9", "--out", "{tmp}/old"], "no device"),
    "foreign": (["--out", "{tmp}/foreign"], "holds files, but no run of gptfast"),
    "taken": (["--out", "{tmp}/old"], "already holds a run: give --resume"),
    "changed": (["--resume", "--seed", "7", "--out", "{tmp}/old"], "was started with seed=1337"),
}


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_bad_input_is_one_line_and_destroys_nothing(
    case: str,
    trained: Trained,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "precious.txt").write_text("mine")
    shutil.copytree(trained.folder, tmp_path / "old")
    shutil.copytree(trained.cache, cache)
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    capsys.readouterr()
    arguments, message = BAD_TRAINING[case]
    bad = [argument.format(tmp=tmp_path) for argument in arguments]
    assert cli.run(train, [*trained.arguments, "--out", str(tmp_path / "new"), *bad]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert after == files


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_output_is_refused(
    corpus_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    out = str(tmp_path / "locked" / "run")
    assert cli.run(train, [*TINY, "--corpus", str(corpus_file), "--out", out]) == 2
    assert "can't be written to" in capsys.readouterr().err


def test_an_unwritable_cache_is_refused(
    corpus_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GPTFAST_CACHE", str(corpus_file / "cache"))
    arguments = [*TINY, "--corpus", str(corpus_file), "--out", str(tmp_path / "run")]
    assert cli.run(train, arguments) == 2
    assert "set GPTFAST_CACHE to another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [(MemoryError(), 1, "out of memory"),
     (RuntimeError("DefaultCPUAllocator: can't allocate memory: ..."), 1, "can't allocate")],
)  # fmt: skip
def test_a_full_memory_is_one_line(
    error: Exception, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise error

    assert cli.run(fail, []) == code
    assert message in capsys.readouterr().err


def test_overwrite_deletes_the_run_and_nothing_else(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "run")
    base = [*trained.arguments, "--out", str(tmp_path / "run")]
    (tmp_path / "run" / "notes.txt").write_text("mine")
    # `make train` always resumes: ARGS=--overwrite has the last word.
    assert cli.run(train, [*base, "--resume", "--overwrite", "--max-steps", "4"]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["result"]["steps"] == 4
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_commands_are_printed_as_the_user_can_type_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.defpath)
    arguments = ["--overwrite", "--out", "my runs"]
    assert cli.resume_command("m", arguments) == ".venv/bin/python -m m --out 'my runs' --resume"
    monkeypatch.setenv("PATH", str(python.parent))  # an active environment
    assert cli.command_line("m", []) == "python -m m"


def test_a_finished_run_is_not_repeated(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained.folder, tmp_path / "run")
    base = [*trained.arguments, "--out", str(tmp_path / "run"), "--resume"]
    weights = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert cli.run(train, base) == 0
    out = capsys.readouterr().out
    assert "is trained already" in out
    assert "--- sample 1 ---" in out
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == weights


@pytest.mark.integration
def test_ctrl_c_saves_and_says_how_to_go_on(corpus_file: Path, tmp_path: Path) -> None:
    arguments = [*TINY, "--corpus", str(corpus_file), "--out", str(tmp_path / "run")]
    arguments += ["--max-steps", "100000", "--eval-interval", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gptfast.train", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **ELSEWHERE,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 0:"):
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == ""
    text, command = rest.rstrip().rsplit("to continue: ", 1)
    assert text.endswith("stopped and saved; ")
    expected = [sys.executable, "-m", "gptfast.train", *arguments, "--resume"]
    assert shlex.split(command) == expected
    checkpoint = max((tmp_path / "run" / "training").glob("step-*"))
    assert int(checkpoint.name.removeprefix("step-")) > 0


BAD_SAMPLING = {
    "no model": (["--model", "nowhere"], "no model in nowhere"),
    "outside the vocabulary": (["--prompt", "ALICE: §"], "'§'"),
    "temperature": (["--temperature", "-1"], "temperature is -1.0"),
    "top_p": (["--top-p", "2"], "top_p is 2.0"),
    "seed": (["--seed", "-1"], "seed is -1"),
    "device": (["--device", "meta"], "no device 'meta' here"),
    "no tokens": (["--max-new-tokens", "0"], "max_new_tokens is 0"),
}


@pytest.mark.parametrize("case", BAD_SAMPLING)
def test_bad_sampling_is_one_line(
    case: str, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = BAD_SAMPLING[case]
    assert cli.run(sample, ["--model", str(trained.folder), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_prompt_longer_than_the_context_is_noted(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = "ALICE:\nThe king sees the fool.\n"
    arguments = ["--model", str(trained.folder), "--prompt", prompt, "--max-new-tokens", "5"]
    assert cli.run(sample, arguments) == 0
    captured = capsys.readouterr()
    assert (
        captured.err == f"note: the prompt has {len(prompt)} tokens, the model sees the last 16\n"
    )
    assert captured.out.startswith(prompt)


def test_doctor_names_every_op_and_why_backends_do_not_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(doctor, []) == 0
    out = capsys.readouterr().out
    for word in (
        "attention",
        "layer_norm",
        "triton",
        "torch",
        "reference",
        "auto takes",
        "amx:",
    ):
        assert word in out
    assert "rust extension: loaded" in out
    assert cli.run(doctor, ["--loud"]) == 2


@pytest.mark.integration
def test_without_the_rust_extension_bpe_says_what_to_build_and_characters_still_work(
    corpus_file: Path, tmp_path: Path
) -> None:
    arguments = [*TINY, "--corpus", str(corpus_file), "--out", str(tmp_path / "run")]
    code = (
        "import sys; sys.modules['gptfast._rust'] = None\n"
        "from gptfast.cli import cli; from gptfast.train.__main__ import main\n"
        f"assert cli.run(main, [*{arguments!r}, '--tokenizer', 'bpe']) == 2\n"
        f"assert cli.run(main, {arguments!r}) == 0"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^error: byte-level BPE needs the Rust extension .*`make build`", done.stderr)
