from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from gptfast.data.prepare import prepare
from gptfast.errors import RunError, UserError
from gptfast.model import GPT, ModelConfig, build_model
from gptfast.model.folder import load_model
from gptfast.train import loop
from gptfast.train import run as run_module
from gptfast.train.config import PRESETS, TrainConfig, load_preset
from gptfast.train.evaluate import bits_per_byte, evaluate
from gptfast.train.optim import Muon, Optimizer, orthogonalize
from gptfast.train.run import run
from gptfast.train.schedule import lr_factor


@pytest.fixture
def config(corpus_file: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        out=tmp_path / "run", corpus=str(corpus_file), tokenizer="char", block_size=16, n_layer=2,
        n_head=2, n_embd=16, dropout=0.1, max_steps=12, batch_size=4, warmup_steps=2,
        eval_interval=4, eval_windows=4,
    )  # fmt: skip


def train(config: TrainConfig) -> loop.Result:
    result = run(config, "test", Console(quiet=True))
    assert result is not None
    return result


def metrics(config: TrainConfig) -> list[dict[str, Any]]:
    lines = (config.out / "metrics.jsonl").read_text().splitlines()
    timed = ("seconds", "tokens_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def test_a_run_leaves_a_whole_model_folder(config: TrainConfig) -> None:
    result = train(config)
    names = {path.name for path in config.out.iterdir()}
    assert names == {
        "config.json", "generation_config.json", "metrics.jsonl", "model.safetensors", "run.json",
        "tokenizer.json", "training",
    }  # fmt: skip
    assert [p.name for p in (config.out / "training").iterdir()] == ["step-00000012"]
    record = json.loads((config.out / "run.json").read_text())
    assert record["config"]["seed"] == 1337
    assert record["config"]["n_embd"] == 16
    assert record["command"] == "test"
    assert record["versions"]["torch"] == torch.__version__
    assert record["hardware"]["torch_threads"] == torch.get_num_threads()
    assert len(record["data"]["corpus_sha256"]) == 64
    assert record["result"]["val_loss"] == result.val_loss
    # The figure belongs to the weights in the folder.
    model, _ = load_model(config.out)
    data = prepare(config.corpus, "char", 0, 0.1, say=print)
    assert evaluate(model, data.val, batch_size=4) == result.val_loss


def test_training_learns(config: TrainConfig) -> None:
    config = replace(config, n_embd=32, learning_rate=1e-2, max_steps=150, eval_interval=50)
    result = train(config)
    looks = [m["val_loss"] for m in metrics(config) if "val_loss" in m]
    assert looks[0] == pytest.approx(math.log(30), abs=0.5)
    assert looks == sorted(looks, reverse=True)
    assert result.val_loss < 1.5


def test_the_same_seed_gives_bitwise_the_same_losses(config: TrainConfig) -> None:
    other = replace(config, out=config.out.with_name("again"))
    third = replace(config, out=config.out.with_name("third"), seed=1)
    results = [train(c).val_loss for c in (config, other, third)]
    assert results[0] == results[1] != results[2]
    assert metrics(config) == metrics(other) != metrics(third)


class Killed(Exception):
    pass


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check = loop.check_finite

    def check_or_die(loss: Any, norm: Any, model: Any, progress: Any, config: Any) -> None:
        if progress.step == step:
            raise Killed
        check(loss, norm, model, progress, config)

    monkeypatch.setattr(loop, "check_finite", check_or_die)


@pytest.mark.parametrize("eval_interval", [10, 7])
def test_a_killed_run_goes_on_bitwise_as_if_it_never_stopped(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, eval_interval: int
) -> None:
    config = replace(config, max_steps=30, eval_interval=eval_interval)
    whole = train(replace(config, out=config.out.with_name("whole")))
    with monkeypatch.context() as patch:
        kill_at(17, patch)
        with pytest.raises(Killed):
            train(config)
    # What a kill can leave behind: half a line, and half a checkpoint under its temporary name.
    with (config.out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 18, "lo')
    half = config.out / "training" / ".step-00000018.1.tmp"
    half.mkdir()
    resumed = train(replace(config, resume=True))
    assert not half.exists()
    assert resumed.val_loss == whole.val_loss
    assert resumed.best_step == whole.best_step
    assert metrics(config) == metrics(replace(config, out=config.out.with_name("whole")))


def test_a_signal_saves_and_the_run_can_go_on(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    whole = train(replace(config, out=config.out.with_name("whole")))
    check = loop.check_finite

    def check_and_interrupt(loss: Any, norm: Any, model: Any, progress: Any, config: Any) -> None:
        if progress.step == 5:
            signal.raise_signal(signal.SIGTERM)
        check(loss, norm, model, progress, config)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "check_finite", check_and_interrupt)
        assert run(config, "test", Console(quiet=True)) is None
    # The step during which the signal came was finished.
    assert [p.name for p in (config.out / "training").iterdir()] == ["step-00000006"]
    assert train(replace(config, resume=True)).val_loss == whole.val_loss
    assert metrics(config) == metrics(replace(config, out=config.out.with_name("whole")))
    record = json.loads((config.out / "run.json").read_text())
    assert (record["command"], record["resumed_by"]) == ("test", ["test"])


@pytest.mark.parametrize("eval_interval", [4, 1])
def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
    config: TrainConfig, eval_interval: int
) -> None:
    # With a look at val after every step it is that look which meets the NaN.
    with pytest.raises(RunError) as caught:
        train(replace(config, learning_rate=1e30, warmup_steps=0, eval_interval=eval_interval))
    message = str(caught.value)
    assert re.search("loss is (nan|inf)|norm (nan|inf)", message)
    assert "keeps the last good checkpoint" in message
    assert "--learning-rate (now 1e+30)" in message
    assert [p.name for p in (config.out / "training").iterdir()] == ["step-00000000"]
    model, _ = load_model(config.out)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("what", ["loss", "gradient", "weight"])
def test_the_diagnosis_names_what_is_not_finite(what: str, config: TrainConfig) -> None:
    model = build_model(ModelConfig(5, "gpt", 4, 1, 1, 4))
    ids = torch.zeros(1, 4, dtype=torch.long)
    loss = model(ids, ids)
    loss.backward()
    expected = "weights and gradients are finite"
    if what == "loss":
        loss = loss * math.inf
    if what == "gradient":
        model.h[0].mlp.c_fc.bias.grad[0] = math.nan
        expected = r"1 gradients are not finite, the first is that of h\.0\.mlp\.c_fc\.bias"
    if what == "weight":
        loss = loss * math.nan
        model.wpe.weight.data[0, 0] = math.inf
        expected = r"the weights wpe\.weight are not finite"
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    with pytest.raises(RunError, match=expected):
        loop.check_finite(loss, norm, model, loop.Progress(), config)


def test_bfloat16_trains_on_this_cpu(config: TrainConfig) -> None:
    # Where AMX is advertised but masked, this dies with SIGILL unless gptfast._cpu did its work.
    assert math.isfinite(train(replace(config, dtype="bfloat16")).val_loss)


def test_every_kernel_choice_trains_to_the_same_losses(config: TrainConfig) -> None:
    config = replace(config, dropout=0.0)
    torch_loss = train(replace(config, kernels="torch")).val_loss
    reference = replace(config, kernels="reference", out=config.out.with_name("reference"))
    assert train(reference).val_loss == pytest.approx(torch_loss, abs=1e-4)


def test_the_val_loss_of_the_whole_split_predicts_every_token_once() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(11, "gpt", 8, 1, 2, 8)).eval()
    tokens = np.random.default_rng(0).integers(11, size=8 * 5 + 4).astype(np.uint16)
    total = 0.0
    for start in range(0, len(tokens) - 1, 8):
        piece = torch.from_numpy(tokens[start : start + 9].astype(np.int64))[None]
        log_p = model.logits(piece[:, :-1]).double().log_softmax(-1)
        total -= log_p.gather(-1, piece[:, 1:, None]).sum().item()
    expected = total / (len(tokens) - 1)
    for batch_size in (1, 3, 100):
        assert evaluate(model, tokens, batch_size=batch_size) == pytest.approx(expected, rel=1e-6)


def test_a_look_takes_the_same_windows_each_time_and_keeps_the_mode() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(11, "gpt", 8, 1, 2, 8, dropout=0.5)).train()
    tokens = np.random.default_rng(0).integers(11, size=500).astype(np.uint16)
    losses = {evaluate(model, tokens, batch_size=4, max_windows=10) for _ in range(3)}
    assert len(losses) == 1
    assert model.training


def test_bits_per_byte_by_hand() -> None:
    # 1 nat per token of 2 bytes: half a nat per byte, 1 / (2 ln 2) bits.
    assert bits_per_byte(1.0, 2.0) == pytest.approx(0.7213475204444817)
    # A uniform guess over 256 byte values is 8 bits per byte.
    assert bits_per_byte(math.log(256), 1.0) == pytest.approx(8.0)


def test_the_learning_rate_rises_and_falls_linearly() -> None:
    assert [lr_factor(step, 2, 6) for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert lr_factor(0, 0, 4) == 1.0


def test_muons_direction_is_nearly_orthogonal() -> None:
    torch.manual_seed(0)
    for shape in [(32, 32), (16, 48), (48, 16)]:
        matrix = torch.randn(shape)
        u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
        ours = orthogonalize(matrix).double()
        # The same singular vectors; singular values pulled from a factor of hundreds to around 1.
        in_basis = u.T @ ours @ v.T
        assert (in_basis - in_basis.diagonal().diag()).abs().max() < 1e-3
        large = s > 0.05 * s.max()
        assert ((in_basis.diagonal()[large] > 0.6) & (in_basis.diagonal()[large] < 1.3)).all()


def test_muons_first_step_by_hand() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 2))
    before = weight.detach().clone()
    weight.grad = torch.randn(8, 2)
    # Momentum 0.05 g, Nesterov 0.95 * 0.05 g + 0.05 g: a multiple of g, of which only the
    # direction counts. Tall by 4: scaled by 2. Decay 1 - 0.1 * 0.5.
    expected = before * 0.95 - 0.1 * 2 * orthogonalize(weight.grad)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), expected)


def test_every_parameter_is_trained_once_and_only_matrices_decay() -> None:
    model = build_model(ModelConfig(11, "gpt", 8, 2, 2, 8))
    optimizer = Optimizer(model, 1e-3, 0.02, 0.1)
    (adamw, _), (muon, _) = optimizer.parts
    trained = [p for part in (adamw, muon) for g in part.param_groups for p in g["params"]]
    assert len(trained) == len({id(p) for p in trained}) == len(list(model.parameters()))
    assert {tuple(p.shape) for p in muon.param_groups[0]["params"]} == {
        (24, 8), (8, 8), (32, 8), (8, 32),
    }  # fmt: skip
    for group in adamw.param_groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])


def test_every_preset_is_complete() -> None:
    for path in PRESETS.glob("*.json"):
        config = load_preset(path.stem)
        assert config.preset == path.stem
        config.model_config(config.vocab_size)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 256}, "vocab_size is 256: a byte-level BPE tokenizer needs"),
        ({"max_steps": 0}, "max_steps is 0: expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: expected more than 0"),
        ({"grad_clip": math.nan}, "grad_clip is nan"),
        ({"warmup_steps": -1}, "warmup_steps is -1: expected 0 or more"),
        ({"weight_decay": math.nan}, "weight_decay is nan: expected 0 or more"),
        ({"seed": 2**63}, "expected less than 2"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**settings)


def test_a_text_shorter_than_one_context_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short a text " * 10)
    with pytest.raises(UserError, match=r"val part of the corpus has 17 tokens, but one context"):
        train(replace(config, corpus=str(short), block_size=32))
    with pytest.raises(UserError, match=r"train part of the corpus has 153 tokens"):
        train(replace(config, corpus=str(short), block_size=512))
    # Nothing was written, so nothing stands in the way of the mended command.
    assert not any(config.out.iterdir())


def test_resume_refuses_another_text(config: TrainConfig, tmp_path: Path) -> None:
    train(config)
    weights = (config.out / "model.safetensors").read_bytes()
    with Path(config.corpus).open("a", encoding="utf-8") as file:
        file.write("One more line.\n")
    with pytest.raises(UserError, match="the corpus or the tokenizer has changed"):
        train(replace(config, resume=True))
    assert (config.out / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("step", ["delete_checkpoints", "write_record", "delete_model"])
@pytest.mark.parametrize("again", ["resume", "overwrite"])
def test_an_interrupted_overwrite_can_be_repeated(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, step: str, again: str
) -> None:
    fresh = train(replace(config, seed=5, out=config.out.with_name("fresh")))
    train(config)

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_module, step, killed)
        with pytest.raises(Killed):
            train(replace(config, overwrite=True, seed=5))
    if again == "resume" and step != "delete_model":
        # The old run is still there, whole: to go on with another seed is refused as ever.
        with pytest.raises(UserError, match="was begun with seed=1337"):
            train(replace(config, resume=True, seed=5))
        load_model(config.out)
        return
    resumed = train(replace(config, **{again: True}, seed=5))
    assert resumed.val_loss == fresh.val_loss


def test_overwrite_replaces_a_damaged_record(config: TrainConfig) -> None:
    train(config)
    (config.out / "run.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"run\.json is damaged .*--overwrite"):
        train(replace(config, resume=True))
    assert train(replace(config, overwrite=True)).steps == 12


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json"])
def test_a_damaged_checkpoint_is_named(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patch:
        kill_at(6, patch)
        with pytest.raises(Killed):
            train(config)
    path = config.out / "training" / "step-00000004" / name
    for length in (50, 0):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(UserError, match=r"step-00000004 is damaged .*--overwrite"):
            train(replace(config, resume=True))
