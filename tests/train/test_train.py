from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from gptfast.data.batch import IGNORED, Batch
from gptfast.data.loader import EvalWindows
from gptfast.data.prepare import prepare
from gptfast.errors import RunError, UserError
from gptfast.model import GPT, ModelConfig, build_model
from gptfast.model.config import Architecture
from gptfast.model.folder import load_model
from gptfast.model.formats import format_of
from gptfast.model.size import n_parameters
from gptfast.train import checkpoint, loop, optim, recovery
from gptfast.train import run as run_module
from gptfast.train import step as step_module
from gptfast.train.config import PRESETS, TrainConfig, load_preset
from gptfast.train.evaluate import bits_per_byte, evaluate
from gptfast.train.objective import Evaluation, NextToken
from gptfast.train.optim import (
    Muon,
    Optimizer,
    build_optimizer,
    hidden_matrices,
    orthogonalize,
)
from gptfast.train.pretrain import pretrain
from gptfast.train.recovery import BadStep, check_finite, check_spike
from gptfast.train.schedule import lr_factor
from measured import measured


def small_run(corpus: Path, out: Path) -> TrainConfig:
    return TrainConfig(
        out=out, corpus=str(corpus), tokenizer="char",
        model=ModelConfig(1024, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.1),
        max_steps=12, batch_size=4, warmup_steps=2, eval_interval=4, eval_windows=4,
        dtype="float32",
    )  # fmt: skip


@pytest.fixture
def config(corpus_file: Path, tmp_path: Path) -> TrainConfig:
    return small_run(corpus_file, tmp_path / "run")


def train(config: TrainConfig) -> loop.Result:
    result = pretrain(config, "test", Console(quiet=True))
    assert result is not None
    return result


def metrics(config: TrainConfig) -> list[dict[str, Any]]:
    return measured(config.out)


def steps_saved(config: TrainConfig) -> list[int]:
    saved = (config.out / "training").glob("step-*")
    return sorted(int(path.name.removeprefix("step-")) for path in saved)


def test_a_run_leaves_a_whole_model_folder(config: TrainConfig) -> None:
    result = train(config)
    names = {path.name for path in config.out.iterdir()}
    assert names == {
        "config.json", "generation_config.json", "metrics.jsonl", "model.safetensors", "run.json",
        "tokenizer.json", "tokenizer_config.json", "training",
    }  # fmt: skip
    assert steps_saved(config) == [8, 12]
    record = json.loads((config.out / "run.json").read_text())
    assert record["config"]["seed"] == 1337
    assert record["config"]["model"]["n_embd"] == 16
    assert record["command"] == "test"
    assert record["versions"]["torch"] == torch.__version__
    assert record["hardware"]["torch_threads"] == torch.get_num_threads()
    assert len(record["data"]["corpus_sha256"]) == 64
    assert record["result"]["val_loss"] == result.val_loss
    # The figure belongs to the weights in the folder.
    model, _ = load_model(config.out)
    data = prepare(config.corpus, "char", 0, 0.1, say=print)
    assert evaluate(model, EvalWindows(data.val, 16, 4)) == result.val_loss


def test_training_learns(config: TrainConfig) -> None:
    config = replace(
        config,
        model=replace(config.model, n_embd=32),
        learning_rate=1e-2,
        max_steps=150,
        eval_interval=50,
    )
    result = train(config)
    val_losses = [m["val_loss"] for m in metrics(config) if "val_loss" in m]
    assert val_losses[0] == pytest.approx(math.log(30), abs=0.5)
    assert val_losses == sorted(val_losses, reverse=True)
    assert result.val_loss < 1.5


def test_the_same_seed_gives_bitwise_the_same_losses(config: TrainConfig) -> None:
    other = replace(config, out=config.out.with_name("again"))
    third = replace(config, out=config.out.with_name("third"), seed=1)
    results = [train(c).val_loss for c in (config, other, third)]
    assert results[0] == results[1] != results[2]
    assert metrics(config) == metrics(other) != metrics(third)


class Killed(Exception):
    pass


def within_step(step: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `act` called once, in the middle of the step after `step`: between loss and update."""
    take_step, check = loop.Trainer.step, recovery.check_finite
    trainers, acted = [], []

    def remember(trainer: loop.Trainer) -> None:
        trainers.append(trainer)
        take_step(trainer)

    def act_and_check(*arguments: Any) -> None:
        if trainers[-1].state.progress.step == step and not acted:
            acted.append(step)
            act()
        check(*arguments)

    monkeypatch.setattr(loop.Trainer, "step", remember)
    monkeypatch.setattr(recovery, "check_finite", act_and_check)


def before_batch(number: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `error` raised before the batch so numbered is drawn."""
    next_batch = loop.Trainer.next_batch

    def next_batch_or_die(trainer: loop.Trainer) -> Any:
        if trainer.state.progress.batches == number:
            raise error
        return next_batch(trainer)

    monkeypatch.setattr(loop.Trainer, "next_batch", next_batch_or_die)


def train_until_killed_at(step: int, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def die() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        within_step(step, die, patch)
        with pytest.raises(Killed):
            train(config)


@dataclass(frozen=True)
class Runs:
    """Runs on the same text: one that has ended, one with another seed, one killed in step 11."""

    whole: TrainConfig
    seed_5: TrainConfig
    killed: TrainConfig
    val_loss: float
    val_loss_of_seed_5: float


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, nursery_text: str) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    corpus = folder / "nursery.txt"
    corpus.write_text(nursery_text, encoding="utf-8")
    whole, seed_5, killed = (small_run(corpus, folder / name) for name in ("whole", "5", "killed"))
    seed_5 = replace(seed_5, seed=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTFAST_CACHE", str(folder / "cache"))
        train_until_killed_at(10, killed, patch)
        return Runs(whole, seed_5, killed, train(whole).val_loss, train(seed_5).val_loss)


def copied(config: TrainConfig, out: Path) -> TrainConfig:
    return replace(config, out=shutil.copytree(config.out, out))


@pytest.mark.parametrize("eval_interval", [10, 7])
def test_a_killed_run_goes_on_bitwise_as_if_it_never_stopped(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, eval_interval: int
) -> None:
    config = replace(config, max_steps=30, eval_interval=eval_interval)
    whole = train(replace(config, out=config.out.with_name("whole")))
    train_until_killed_at(17, config, monkeypatch)
    # What a kill can leave behind: half a line, and half a checkpoint under its temporary name.
    with (config.out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 18, "lo')
    half = config.out / "training" / ".step-00000018.1.tmp"
    half.mkdir()
    # In a container, the run that goes on may have the number of the one that was killed.
    half_weights = config.out / f".model.safetensors.{os.getpid()}.0123abcd.tmp"
    half_weights.write_bytes(b"half")
    half_deleted = config.out / ".training.deleted" / "step-00000001"
    half_deleted.mkdir(parents=True)
    resumed = train(replace(config, resume=True))
    assert not half.exists()
    assert not half_weights.exists()
    assert not half_deleted.parent.exists()
    assert resumed.val_loss == whole.val_loss
    assert resumed.best_step == whole.best_step
    assert metrics(config) == metrics(replace(config, out=config.out.with_name("whole")))


def test_a_signal_saves_and_the_run_can_go_on(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    config = replace(runs.whole, out=tmp_path / "run")
    with monkeypatch.context() as patch:
        within_step(5, lambda: signal.raise_signal(signal.SIGTERM), patch)
        assert pretrain(config, "test", Console(quiet=True)) is None
    # The step during which the signal came was finished.
    assert steps_saved(config) == [4, 6]
    assert train(replace(config, resume=True)).val_loss == runs.val_loss
    assert metrics(config) == metrics(runs.whole)
    record = json.loads((config.out / "run.json").read_text())
    assert (record["command"], record["resumed_by"]) == ("test", ["test"])


@pytest.mark.parametrize("eval_interval", [4, 1])
def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
    config: TrainConfig, eval_interval: int
) -> None:
    # With an evaluation after every step, the evaluation meets the NaN.
    with pytest.raises(RunError) as caught:
        train(replace(config, learning_rate=1e30, warmup_steps=0, eval_interval=eval_interval))
    message = str(caught.value)
    assert re.search("loss is (nan|inf)|norm (nan|inf)|val loss before it is (nan|inf)", message)
    assert "3 batches were already skipped: giving up" in message
    assert "keeps the last good checkpoint" in message
    assert "--learning-rate (now 1e+30)" in message
    assert steps_saved(config) == [0]
    model, _ = load_model(config.out)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("what", ["loss", "gradient", "weight"])
def test_the_diagnosis_names_what_is_not_finite(what: str) -> None:
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
    with pytest.raises(BadStep, match=expected):
        check_finite(loss.item(), norm.item(), model)


def poison_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a number of one gradient NaN in every step."""
    accumulate = step_module.accumulate_gradients

    def accumulate_poison(model: GPT, *arguments: Any, **settings: Any) -> torch.Tensor:
        loss = accumulate(model, *arguments, **settings)
        model.h[1].mlp.c_fc.weight.grad[0, 0] = math.nan
        return loss

    monkeypatch.setattr(step_module, "accumulate_gradients", accumulate_poison)


def test_the_gradient_that_is_nan_is_named_before_clipping_spreads_it(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison_gradients(monkeypatch)
    expected = r"step 1: .*; 1 gradients are not finite, the first is that of h\.1\.mlp\.c_fc"
    with pytest.raises(RunError, match=expected):
        train(replace(config, max_rollbacks=0))


def test_gradients_that_no_scale_makes_finite_end_a_run_in_float16(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison_gradients(monkeypatch)
    # The scale is 2^16 at first, and is halved by each step.
    with pytest.raises(RunError, match=r"step 17: .*first is that of h\.1\.mlp\.c_fc"):
        train(replace(config, max_rollbacks=0, dtype="float16", max_steps=30, eval_interval=30))


def test_bfloat16_trains_on_this_cpu(config: TrainConfig) -> None:
    # Where AMX is advertised but masked, this dies with SIGILL unless system/cpu.py did its work.
    rounded = train(replace(config, dtype="bfloat16")).val_loss
    exact = train(replace(config, out=config.out.with_name("exact"))).val_loss
    assert rounded == pytest.approx(exact, abs=0.02)
    assert rounded != exact
    model = build_model(config.model)
    _, (muon, _) = build_optimizer(replace(config, dtype="bfloat16"), model).parts
    assert isinstance(muon, Muon)
    assert muon.dtype == torch.bfloat16


def test_adamws_first_step_is_its_first(config: TrainConfig) -> None:
    """Each weight moves by the learning rate, as Adam's corrected averages agree then.

    The checkpoint of step 0 must not have counted as a step.
    """
    config = replace(
        config, optimizer="adamw", max_steps=1, eval_interval=1, warmup_steps=0,
        learning_rate=1e-3, weight_decay=0.0,
    )  # fmt: skip
    train(config)
    before, after = (
        load_file(config.out / "training" / f"step-{step:08d}" / "model.safetensors")
        for step in (0, 1)
    )
    names = [name for name in before if name.endswith("c_fc.weight")]
    assert len(names) == 2  # layers
    for name in names:
        moved = (after[name] - before[name]).abs()
        assert moved.median().item() == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_checkpoints_know_how_many_steps_were_taken(config: TrainConfig, optimizer: str) -> None:
    train(replace(config, optimizer=optimizer))
    path = config.out / "training" / "step-00000012" / "optimizer.pt"
    states = torch.load(path, weights_only=True)["optimizer"]["state"].values()
    assert {float(state["step"]) for state in states if "step" in state} == {12.0}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gradients_are_clipped_to_the_norm_asked_for(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    norms = []
    step = Optimizer.step

    def watched(optimizer: Optimizer, lr_factor: float) -> None:
        groups = [g for part, _ in optimizer.parts for g in part.param_groups]
        gradients = [p.grad for group in groups for p in group["params"]]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
        step(optimizer, lr_factor)

    monkeypatch.setattr(Optimizer, "step", watched)
    train(replace(config, grad_clip=1e-3, dtype=dtype, max_steps=10))
    assert len(norms) == 10 if dtype == "float32" else norms  # float16 may overflow at first
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-2)
    (line,) = [m for m in metrics(config) if "grad_norm" in m]
    assert line["grad_norm"] > 0.01  # that before


def test_a_trained_folder_is_loaded_by_the_package(runs: Runs) -> None:
    import gptfast

    model, tokenizer = gptfast.load(str(runs.whole.out))
    text = Path(runs.whole.corpus).read_text()
    val = tokenizer.encode_to_numpy(text[int(len(text) * 0.9) :])
    assert evaluate(model, EvalWindows(val, 16, 4)) == pytest.approx(runs.val_loss, rel=1e-5)


def test_float16_scales_the_loss_and_goes_on_bitwise(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, dtype="float16")
    whole = train(replace(config, out=config.out.with_name("whole")))
    with monkeypatch.context() as patch:
        before_batch(6, Killed, patch)
        with pytest.raises(Killed):
            train(config)
    assert train(replace(config, resume=True)).val_loss == whole.val_loss
    single = train(replace(config, dtype="float32", out=config.out.with_name("single")))
    assert whole.val_loss == pytest.approx(single.val_loss, abs=0.01)
    assert whole.val_loss != single.val_loss
    state = torch.load(config.out / "training" / "step-00000012" / "optimizer.pt")
    assert state["scaler"]["scale"] >= 1024


def test_a_gradient_that_overflows_float16_makes_no_update_and_lowers_the_scale(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales, weights = [], []
    take_step = loop.Trainer.step

    def step(trainer: loop.Trainer) -> None:
        trainer.state.scaler._init_scale = 2.0**44  # the first gradients overflow
        take_step(trainer)
        scales.append(trainer.state.scaler.get_scale())
        weights.append(trainer.state.model.h[0].attn.c_attn.weight.detach().clone())

    monkeypatch.setattr(loop.Trainer, "step", step)
    train(replace(config, dtype="float16", max_steps=40))
    overflowed = [after < before for before, after in pairwise(scales)]
    assert sum(overflowed) > 10
    # JSON has no infinity, which Python's reader would take.
    text = (config.out / "metrics.jsonl").read_text()
    assert '"grad_norm": null' in text
    assert not re.search("Infinity|NaN", text)
    assert not overflowed[-1]
    for made_none, (before, after) in zip(overflowed, pairwise(weights), strict=True):
        assert torch.equal(before, after) == made_none


@pytest.mark.parametrize("architecture", ["gpt", "bigram"])
@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_gradients_of_parts_add_up_to_those_of_the_whole(
    config: TrainConfig, micro_batch_size: int, architecture: Architecture
) -> None:
    torch.manual_seed(0)
    model = build_model(
        replace(config.model, architecture=architecture, dropout=0.0, vocab_size=11)
    )
    x = torch.randint(11, (4, 16))
    y = torch.randint(11, (4, 16))
    y[0, 3:] = IGNORED  # so that the parts have different numbers of targets,
    y[2] = IGNORED  # and one of them none
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    expected_loss = model(x, y)
    expected = torch.autograd.grad(expected_loss, list(model.parameters()))
    loss = step_module.accumulate_gradients(
        model, Batch(x, y), NextToken(), scaler, micro_batch_size=micro_batch_size
    )
    torch.testing.assert_close(loss, expected_loss.detach())
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_the_settings_reach_what_they_set(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers = []
    take_step = loop.Trainer.step

    def step(trainer: loop.Trainer) -> None:
        trainers.append(trainer)
        take_step(trainer)

    monkeypatch.setattr(loop.Trainer, "step", step)
    settings = {
        "optimizer": "adamw", "beta2": 0.9, "micro_batch_size": 2, "activation_checkpointing": True,
        "schedule": "wsd", "final_learning_rate": 0.5, "learning_rate": 1e-2, "eval_interval": 12,
    }  # fmt: skip
    train(replace(config, **settings))
    ((adamw, peak),) = trainers[0].state.optimizer.parts
    assert peak == 1e-2
    assert adamw.param_groups[0]["betas"] == (0.9, 0.9)
    assert trainers[0].state.model.activation_checkpointing
    # Constant to step 7 of 12, then down; the factor of the last step is 0.5 + 0.5 / 5.
    assert adamw.param_groups[0]["lr"] == pytest.approx(1e-2 * 0.6)


@pytest.mark.slow
def test_compiled_trains_to_the_same_loss(config: TrainConfig) -> None:
    model = replace(config.model, dropout=0.0, n_layer=1)
    config = replace(config, model=model, max_steps=4)
    plain = train(replace(config, out=config.out.with_name("plain")))
    compiled = train(replace(config, compile=True))
    assert compiled.val_loss == pytest.approx(plain.val_loss, abs=1e-4)


@pytest.mark.parametrize("balance", ["loss", "bias"])
def test_experts_train_and_how_busy_they_are_is_logged(config: TrainConfig, balance: str) -> None:
    model = replace(config.model, bias=False, n_expert=4, expert_balance=balance, n_hidden=32)
    config = replace(config, model=model, max_steps=20, learning_rate=1e-2)
    whole = train(config)
    (line,) = [m for m in metrics(config) if m["step"] == 20 and "loss" in m]
    shares = line["expert_shares"]
    assert len(shares) == 2  # layers
    for layer in shares:
        assert len(layer) == 4
        assert sum(layer) == pytest.approx(1)
    assert whole.val_loss < 3.3
    trained, _ = load_model(config.out)
    moved = [
        moe.bias_E is not None and moe.bias_E.abs().max().item() > 0 for moe in trained.experts()
    ]
    assert moved == [balance == "bias"] * 2


def test_every_kernel_choice_trains_to_the_same_losses(config: TrainConfig) -> None:
    config = replace(config, model=replace(config.model, dropout=0.0))
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
        log_p = model(piece[:, :-1]).double().log_softmax(-1)
        total -= log_p.gather(-1, piece[:, 1:, None]).sum().item()
    expected = total / (len(tokens) - 1)
    for batch_size in (1, 3, 100):
        windows = EvalWindows(tokens, 8, batch_size)
        assert evaluate(model, windows) == pytest.approx(expected, rel=1e-6)


def test_an_evaluation_takes_the_same_windows_each_time_and_keeps_the_mode() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(11, "gpt", 8, 1, 2, 8, dropout=0.5)).train()
    tokens = np.random.default_rng(0).integers(11, size=500).astype(np.uint16)
    losses = {evaluate(model, EvalWindows(tokens, 8, 4, max_windows=10)) for _ in range(3)}
    assert len(losses) == 1
    assert model.training


def test_bits_per_byte_by_hand() -> None:
    # 1 nat per token of 2 bytes: half a nat per byte, 1 / (2 ln 2) bits.
    assert bits_per_byte(1.0, 2.0) == pytest.approx(0.7213475204444817)
    # A uniform guess over 256 byte values is 8 bits per byte.
    assert bits_per_byte(math.log(256), 1.0) == pytest.approx(8.0)


def factors(schedule: str, steps: int, **settings: Any) -> list[float]:
    defaults = {"warmup_steps": 2, "max_steps": steps, "decay_fraction": 0.5, "final": 0.0}
    return [lr_factor(s, schedule=schedule, **defaults | settings) for s in range(steps)]


def test_the_learning_rate_rises_linearly_and_falls_as_the_schedule_says() -> None:
    assert factors("linear", 6) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert factors("linear", 6, final=0.5) == [0.5, 1.0, 1.0, 0.875, 0.75, 0.625]
    assert factors("wsd", 8) == [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    half = math.sqrt(0.5)
    expected = [0.5, 1.0, 1.0, (1 + half) / 2, 0.5, (1 - half) / 2]
    assert factors("cosine", 6) == pytest.approx(expected)
    assert factors("cosine", 6, final=0.1)[4] == pytest.approx(0.55)
    assert factors("linear", 4, warmup_steps=0)[0] == 1.0


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.03), (torch.float16, 5e-3)]
)
def test_muons_direction_is_nearly_orthogonal(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    for shape in [(32, 32), (16, 48), (48, 16)]:
        matrix = 1e-6 * torch.randn(shape)  # as small as gradients are
        u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
        ours = orthogonalize(matrix, dtype)
        assert ours.dtype == torch.float32
        assert torch.equal(ours, orthogonalize(matrix)) == (dtype == torch.float32)
        ours = ours.double()
        # The same singular vectors; singular values pulled from a factor of hundreds to around 1.
        in_basis = u.T @ ours @ v.T
        assert (in_basis - in_basis.diagonal().diag()).abs().max() < tolerance
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


@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16)])
def test_muon_is_pytorchs(shape: tuple[int, int]) -> None:
    """PyTorch's, which knows bfloat16 and single matrices only, over several steps."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(w) for w in torch.randn(shape).expand(2, *shape).clone())
    settings = {"lr": 0.1, "weight_decay": 0.5, "momentum": 0.9}
    optimizers = [
        Muon([ours], **settings, dtype=torch.bfloat16),
        torch.optim.Muon([theirs], **settings),
    ]
    for _ in range(6):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    # An update moves a weight by 0.1 / sqrt(32), about 0.02, and is wrong by a hundredth of that;
    # with another momentum by a tenth.
    assert (ours - theirs).abs().mean() < 8e-4


@pytest.mark.parametrize("most_stacked", [2**24, 2 * 16 * 48, 1])
def test_muon_treats_matrices_together_as_each_alone(
    most_stacked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(shape) for shape in [(16, 48), (32, 32), (48, 16), *[(16, 48)] * 4]]
    together, alone = ([torch.nn.Parameter(w.clone()) for w in weights] for _ in range(2))
    settings = {"lr": 0.1, "weight_decay": 0.5, "momentum": 0.9}
    optimizers = [Muon(together, **settings), *(Muon([p], **settings) for p in alone)]
    monkeypatch.setattr(optim, "_MOST_STACKED", most_stacked)
    for _ in range(6):
        for one, other in zip(together[:-1], alone[:-1], strict=True):  # the last has no gradient
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert torch.equal(together[-1], weights[-1])


@pytest.mark.parametrize("shape", [(3, 16, 48), (3, 48, 16), (2, 3, 16, 48), (2, 3, 48, 16)])
def test_a_stack_of_matrices_is_made_orthogonal_one_by_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    stack = torch.randn(shape)
    alone = torch.stack([orthogonalize(matrix) for matrix in stack.flatten(0, -3)]).view(shape)
    torch.testing.assert_close(orthogonalize(stack), alone, rtol=1e-3, atol=1e-4)


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
        assert group["fused"]
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])


def test_muon_trains_the_matrices_of_attention_and_experts() -> None:
    """No router, no embedding, no head, no gain."""
    config = ModelConfig(
        11, block_size=8, n_layer=1, n_head=2, n_embd=8, bias=False, positions="rotary",
        qk_norm=True, n_expert=4, n_hidden=8, max_ngram=3, tie_embeddings=False,
    )  # fmt: skip
    model = build_model(config)
    by_muon = hidden_matrices(model)
    assert by_muon == {
        "h.0.attn.c_attn.weight", "h.0.attn.c_proj.weight", "h.0.mlp.c_fc", "h.0.mlp.c_proj",
    }  # fmt: skip
    others = {name for name, _ in model.named_parameters()} - by_muon
    assert {"h.0.mlp.router.weight", "h.0.attn.q_norm.weight", "wne.weight"} < others


def test_presets_are_the_models_that_their_names_say() -> None:
    models = {
        name: load_preset(name).model
        for name in ("gpt2-124m", "gpt2-350m", "gpt2-774m", "gpt2-1558m", "llama-small",
                     "moe-small", "speedrun-124m", "shakespeare-cpu")
    }  # fmt: skip
    for name, layout in {"gpt2": "gpt2", "llama": "llama", "moe": "mixtral"}.items():
        for preset, model in models.items():
            if preset.startswith(name):
                assert format_of(model) == layout
    # Embedding and head; 12 layers of queries and outputs, keys and values, MLP, norms; a norm.
    C, F = 768, 2048
    llama = 2 * 32768 * C + 12 * (2 * C * C + 2 * C * C // 3 + 3 * C * F + 2 * C) + C
    assert n_parameters(models["llama-small"]) == llama
    C, F = 512, 1408
    moe = 2 * 32768 * C + 8 * (2 * C * C + 2 * C * C // 4 + 8 * (3 * C * F + C) + 2 * C) + C
    assert n_parameters(models["moe-small"]) == moe
    C, D = 768, 128  # an embedding norm, too, and norms of queries and keys
    speedrun = 2 * 50257 * C + C + 12 * (12 * C * C + 2 * C + 2 * D) + C
    assert n_parameters(models["speedrun-124m"]) == speedrun


def test_nanogpts_preset_has_nanogpts_recipe() -> None:
    """config/train_shakespeare_char.py of nanoGPT, and the defaults of its train.py."""
    preset = load_preset("nanogpt-shakespeare")
    assert (preset.batch_size, preset.max_steps, preset.warmup_steps) == (64, 5000, 100)
    assert (preset.learning_rate, preset.final_learning_rate) == (1e-3, 0.1)  # to 1e-4
    assert (preset.optimizer, preset.beta2, preset.schedule) == ("adamw", 0.99, "cosine")
    assert (preset.weight_decay, preset.grad_clip, preset.eval_interval) == (0.1, 1.0, 250)
    model = preset.model
    assert (model.n_layer, model.n_head, model.n_embd, model.block_size) == (6, 6, 384, 256)
    assert (model.dropout, model.bias, preset.corpus) == (0.2, False, "tinyshakespeare")


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.json")))
def test_every_preset_can_be_built_and_has_the_parameters_predicted(preset: str) -> None:
    config = load_preset(preset)
    assert config.preset == preset
    model_config = config.model_config(65 if config.tokenizer == "char" else 50257)
    with torch.device("meta"):
        model = build_model(model_config)
    assert model.n_parameters() == n_parameters(model_config)


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.json")))
def test_every_preset_trains(preset: str, corpus_file: Path, tmp_path: Path) -> None:
    """Two steps as it says, but of a small model, with a few windows, and not compiled."""
    config = load_preset(preset)
    model = replace(
        config.model, vocab_size=300, block_size=16, n_layer=2, n_embd=8 * config.model.n_head,
        n_hidden=32 if config.model.n_expert else None, ngram_rows=50,
    )  # fmt: skip
    config = replace(
        config, model=model, corpus=str(corpus_file), out=tmp_path / "run", max_steps=2,
        batch_size=4, micro_batch_size=config.micro_batch_size and 2, eval_interval=1,
        eval_windows=3, compile=False,
    )  # fmt: skip
    result = train(config)
    assert math.isfinite(result.val_loss)
    again, _ = load_model(config.out)
    assert again.n_parameters() == n_parameters(again.config)


def test_nanogpts_preset_has_nanogpts_size() -> None:
    config = load_preset("nanogpt-shakespeare").model_config(65)
    # nanoGPT prints 10.65M, and doesn't count the position embedding.
    assert n_parameters(config) - 256 * 384 == 10_646_784


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ModelConfig(256)}, "vocab_size is 256: a byte-level BPE tokenizer needs"),
        ({"max_steps": 0}, "max_steps is 0: expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: expected more than 0"),
        ({"beta2": 1.0}, "beta2 is 1.0: expected 0 <= beta2 < 1"),
        ({"muon_momentum": 1.0}, "muon_momentum is 1.0: expected 0 <= muon_momentum < 1"),
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
    with pytest.raises(UserError, match=r"val part of .*short.txt has 17 tokens, but one context"):
        train(replace(config, corpus=str(short), model=replace(config.model, block_size=32)))
    with pytest.raises(UserError, match=r"train part of .*short.txt has 153 tokens"):
        train(replace(config, corpus=str(short), model=replace(config.model, block_size=512)))
    # Nothing was written, so nothing stands in the way of the mended command.
    assert not any(config.out.iterdir())


def test_resume_refuses_another_text(config: TrainConfig, tmp_path: Path) -> None:
    train(config)
    weights = (config.out / "model.safetensors").read_bytes()
    with Path(config.corpus).open("a", encoding="utf-8") as file:
        file.write("One more line.\n")
    with pytest.raises(UserError, match="has changed since"):
        train(replace(config, resume=True))
    assert (config.out / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("step", ["delete_checkpoints", "write_record", "delete_model"])
@pytest.mark.parametrize("again", ["resume", "overwrite"])
def test_an_interrupted_overwrite_can_be_repeated(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, again: str
) -> None:
    config = copied(runs.whole, tmp_path / "run")

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_module, step, killed)
        with pytest.raises(Killed):
            train(replace(config, overwrite=True, seed=5))
    if again == "resume" and step != "delete_model":
        # The old run is still there, whole: to go on with another seed is refused as ever.
        with pytest.raises(UserError, match="was started with seed=1337"):
            train(replace(config, resume=True, seed=5))
        load_model(config.out)
        return
    resumed = train(replace(config, **{again: True}, seed=5))
    assert resumed.val_loss == runs.val_loss_of_seed_5


def test_overwrite_replaces_a_damaged_record(runs: Runs, tmp_path: Path) -> None:
    config = copied(runs.whole, tmp_path / "run")
    (config.out / "run.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"run\.json is damaged .*--overwrite"):
        train(replace(config, resume=True))
    assert train(replace(config, overwrite=True)).steps == 12


DAMAGES = {
    "cut short": lambda data: data[:50],
    "empty": lambda data: b"",
    "one bit": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "state.json", "checksums.json"]
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    runs: Runs, tmp_path: Path, name: str, damage: str
) -> None:
    config = copied(runs.killed, tmp_path / "run")
    assert steps_saved(config) == [4, 8]
    path = config.out / "training" / "step-00000008" / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    console = Console(record=True, quiet=False, file=io.StringIO(), soft_wrap=True)
    result = pretrain(replace(config, resume=True), "test", console)
    assert result is not None
    assert "step-00000008 is damaged" in console.export_text()
    assert result.val_loss == runs.val_loss
    assert metrics(config) == metrics(runs.whole)
    assert steps_saved(config) == [8, 12]


def test_when_every_checkpoint_is_damaged_that_is_said(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until_killed_at(6, config, monkeypatch)
    for path in (config.out / "training").glob("*/optimizer.pt"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"all checkpoints in .* are damaged: .*--overwrite"):
        train(replace(config, resume=True))


class Evil:
    """What a pickle can do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("import gptfast; gptfast.was_hacked = True",))


def test_a_pickle_in_a_checkpoint_is_not_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until_killed_at(6, config, monkeypatch)
    for folder in (config.out / "training").glob("step-*"):
        torch.save({"optimizer": Evil()}, folder / "optimizer.pt")
        checksums = json.loads((folder / "checksums.json").read_text())
        data = (folder / "optimizer.pt").read_bytes()
        checksums["optimizer.pt"] = hashlib.sha256(data).hexdigest()
        (folder / "checksums.json").write_text(json.dumps(checksums))
    with pytest.raises(UserError, match=r"is undamaged, but can't be loaded \(Weights only"):
        train(replace(config, resume=True))
    import gptfast

    assert not hasattr(gptfast, "was_hacked")


def test_only_as_many_checkpoints_as_asked_for_are_kept(config: TrainConfig) -> None:
    train(replace(config, keep_checkpoints=3, eval_interval=2))
    assert steps_saved(config) == [8, 10, 12]


def poison_batch(number: int, monkeypatch: pytest.MonkeyPatch, factor: float) -> list[int]:
    """Multiply the loss of the batch so numbered; return the list that counts how often."""
    accumulate, next_batch = step_module.accumulate_gradients, loop.Trainer.next_batch
    drawn, poisoned = [], []

    def next_batch_and_number(trainer: loop.Trainer) -> Any:
        batch = next_batch(trainer)
        drawn.append(trainer.state.progress.batches - 1)
        return batch

    def accumulate_poison(*arguments: Any, **settings: Any) -> torch.Tensor:
        loss = accumulate(*arguments, **settings)
        if drawn and drawn[-1] == number:
            poisoned.append(number)
            loss = loss * factor
        return loss

    monkeypatch.setattr(loop.Trainer, "next_batch", next_batch_and_number)
    monkeypatch.setattr(step_module, "accumulate_gradients", accumulate_poison)
    return poisoned


def begin_without(batches: list[int]) -> Callable[..., bool]:
    """What takes load_checkpoint's place in a new run that is to skip some batches."""

    def begin(folder: Path, state: checkpoint.State, log: Callable[[str], None]) -> bool:
        state.progress.skipped = batches
        return False

    return begin


EXPERTS = ModelConfig(
    1024, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.1,
    bias=False, n_hidden=32, n_expert=4, expert_balance="bias",
)  # fmt: skip


@pytest.mark.parametrize(
    ("factor", "message", "settings"),
    [
        (math.nan, "loss is nan", {}),
        (4.0, "nats above", {}),
        (math.nan, "loss is nan", {"dtype": "float16"}),
        (math.nan, "loss is nan", {"model": EXPERTS}),
    ],
    ids=["nan", "spike", "float16", "experts"],
)
def test_a_bad_batch_is_undone_and_skipped(
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
    message: str,
    settings: dict[str, Any],
) -> None:
    before = 60 if factor == 4.0 else 10  # a spike is one among fifty losses
    bad, last = before + 6, before + 10
    config = replace(config, max_steps=last, eval_interval=10, **settings)
    console = Console(record=True, file=io.StringIO(), soft_wrap=True)
    with monkeypatch.context() as patch:
        poisoned = poison_batch(bad, patch, factor)
        result = pretrain(config, "test", console)
    assert poisoned == [bad]
    text = console.export_text()
    assert message in text
    assert f"back to step {before}; batch {bad} will be skipped" in text
    assert result is not None
    assert result.steps == last
    # The same as if the loader had never given that batch.
    without = replace(config, out=config.out.with_name("without"))
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "load_checkpoint", begin_without([bad]))
        expected = train(without)
    assert result.val_loss == expected.val_loss
    assert metrics(config) == metrics(without)
    saved = config.out / "training" / f"step-{last:08d}" / "state.json"
    state = json.loads(saved.read_text())
    assert state["progress"]["skipped"] == [bad]
    assert state["progress"]["batches"] == last + 1


def test_what_was_skipped_is_known_to_a_run_that_goes_on(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no checkpoint was saved after the bad batch; and damaged ones don't stay."""
    config = replace(config, max_steps=30, eval_interval=10)
    whole = replace(config, out=config.out.with_name("whole"))
    with monkeypatch.context() as patch:
        poison_batch(26, patch, math.nan)
        train(whole)
    roll_back = recovery.Recovery.roll_back

    def damage_and_roll_back(recovery: recovery.Recovery, bad: BadStep) -> None:
        (config.out / "training" / "step-00000020" / "optimizer.pt").write_bytes(b"")
        roll_back(recovery, bad)
        raise Killed

    with monkeypatch.context() as patch:
        poison_batch(26, patch, math.nan)
        patch.setattr(recovery.Recovery, "roll_back", damage_and_roll_back)
        with pytest.raises(Killed):
            train(config)
    assert steps_saved(config) == [10]
    with monkeypatch.context() as patch:
        poisoned = poison_batch(26, patch, math.nan)
        train(replace(config, resume=True))
    assert not poisoned
    assert steps_saved(config) == [20, 30]
    assert metrics(config) == metrics(whole)


def test_a_roll_back_knows_whose_weights_the_best_are(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint beside them may have failed, so that the run goes back to before they were."""
    save, roll_back = recovery.save_checkpoint, recovery.Recovery.roll_back
    rolled_back = []

    def save_but_one(folder: Path, state: checkpoint.State, *options: Any) -> None:
        if state.progress.step == 8:
            raise OSError("no space left on device")
        save(folder, state, *options)

    def roll_back_and_note(recovery: recovery.Recovery, bad: BadStep) -> None:
        roll_back(recovery, bad)
        rolled_back.append((recovery.state.progress.step, recovery.state.progress.best_step))

    monkeypatch.setattr(recovery, "save_checkpoint", save_but_one)
    monkeypatch.setattr(recovery.Recovery, "roll_back", roll_back_and_note)
    poison_batch(9, monkeypatch, math.nan)
    train(config)
    assert rolled_back == [(4, 8)]


def test_checkpoints_are_made_between_evaluations_if_asked_for(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, eval_interval=8, checkpoint_interval=3, keep_checkpoints=9)
    whole = train(replace(config, out=config.out.with_name("whole")))
    train_until_killed_at(11, config, monkeypatch)
    assert steps_saved(config) == [0, 3, 6, 8, 9]
    console = Console(record=True, file=io.StringIO(), soft_wrap=True)
    assert pretrain(replace(config, resume=True), "test", console) is not None
    assert "from step 9" in console.export_text()
    assert steps_saved(config) == [0, 3, 6, 8, 9, 12]
    assert metrics(config) == metrics(replace(config, out=config.out.with_name("whole")))
    record = json.loads((config.out / "run.json").read_text())
    assert record["result"]["val_loss"] == whole.val_loss


@pytest.mark.parametrize("what", ["weights", "record"])
def test_damaged_best_weights_are_not_evaluated(config: TrainConfig, what: str) -> None:
    """Those of the last step take their place."""
    evaluated = loop.Trainer.finish

    def damage_and_finish(trainer: loop.Trainer) -> loop.Result:
        if what == "weights":
            path = config.out / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
        else:
            (config.out / "training" / "best.json").write_text("{}")
        return evaluated(trainer)

    console = Console(record=True, file=io.StringIO(), soft_wrap=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "evaluate", evaluate_and_call_the_first_best)
        patch.setattr(loop.Trainer, "finish", damage_and_finish)
        result = pretrain(config, "test", console)
    assert "model.safetensors does not match its checksum: the weights of the last step" in (
        console.export_text()
    )
    assert result is not None
    assert result.best_step == 12
    last = load_file(config.out / "training" / "step-00000012" / "model.safetensors")
    best = load_file(config.out / "model.safetensors")
    assert all(torch.equal(best[name], last[name]) for name in last)


def evaluate_and_call_the_first_best(trainer: loop.Trainer) -> None:
    if trainer.state.progress.step == 0:
        trainer.recovery.save_best(val_loss=0.0)


def test_best_weights_whose_record_failed_are_saved_again(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_record = checkpoint.make_best_record

    def make_all_but_one(folder: Path, val_loss: float, step: int) -> None:
        if step == 8:
            raise OSError("no space left on device")
        make_record(folder, val_loss, step)

    monkeypatch.setattr(checkpoint, "make_best_record", make_all_but_one)
    console = Console(record=True, file=io.StringIO(), soft_wrap=True)
    result = pretrain(config, "test", console)
    text = console.export_text()
    assert "can't save the best weights so far (no space left on device): the run continues" in text
    assert "does not match its checksum" not in text
    assert result is not None
    assert result.best_step == 12


def test_a_run_that_goes_on_knows_whose_weights_the_best_are(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it was killed between them and the checkpoint; damaged ones count for nothing."""
    found: list[tuple[float, int]] = []
    announce = loop.Trainer.announce

    def note_and_announce(trainer: loop.Trainer) -> None:
        found.append((trainer.state.progress.best_val_loss, trainer.state.progress.best_step))
        announce(trainer)

    def save_but_one(folder: Path, state: checkpoint.State, *options: Any) -> None:
        if state.progress.step == 8:
            raise Killed
        checkpoint.save_checkpoint(folder, state, *options)

    monkeypatch.setattr(loop.Trainer, "announce", note_and_announce)
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "save_checkpoint", save_but_one)
        with pytest.raises(Killed):
            train(config)
        with pytest.raises(Killed):
            train(replace(config, resume=True))
        (config.out / "model.safetensors").write_bytes(b"damaged")
        with pytest.raises(Killed):
            train(replace(config, resume=True))
    evaluations = [line for line in metrics(config) if "val_loss" in line]
    assert found[0] == (math.inf, 0)
    assert found[1] == (evaluations[-1]["val_loss"], 8)
    assert found[2] == (math.inf, 0)


def test_a_val_loss_that_is_nan_before_any_batch_ends_the_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no batch to skip: going back would lead to the same evaluation for ever."""
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "evaluation", lambda *_, **__: Evaluation(math.nan))
        with pytest.raises(RunError, match=r"^step 1: the val loss before it is nan\. No batch"):
            train(config)
    train_until_killed_at(6, replace(config, resume=True), monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "evaluation", lambda *_, **__: Evaluation(math.nan))
        with pytest.raises(RunError, match=r"^step 5: the val loss before it is nan\. No batch"):
            train(replace(config, resume=True))
    assert not (config.out / "training" / "skipped.json").exists()
    assert train(replace(config, resume=True)).steps == config.max_steps


def test_two_runs_can_not_train_into_one_folder(
    config: TrainConfig, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin_another() -> None:
        with pytest.raises(UserError, match=r"another run is writing into .*run: wait until"):
            train(replace(config, resume=True))
        another.append(True)

    another: list[bool] = []
    within_step(6, begin_another, monkeypatch)
    assert train(config).val_loss == runs.val_loss
    assert another == [True]


@pytest.mark.parametrize("settings", [{}, {"max_rollbacks": 2}], ids=["as it was", "changed"])
def test_a_run_that_gave_up_can_go_on(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """Without the batch that made it give up, also after giving up twice."""
    config = replace(config, max_steps=20, eval_interval=10, max_rollbacks=0)
    with monkeypatch.context() as patch:
        poison_batch(16, patch, math.nan)
        with pytest.raises(RunError, match=r"giving up; .*--max-rollbacks \(now 0\)"):
            train(config)
    with monkeypatch.context() as patch:
        poison_batch(18, patch, math.nan)
        with pytest.raises(RunError, match=r"0 batches were already skipped: giving up"):
            train(replace(config, resume=True))
    console = Console(record=True, file=io.StringIO(), soft_wrap=True)
    with monkeypatch.context() as patch:
        poisoned = poison_batch(16, patch, math.nan)
        result = pretrain(replace(config, resume=True, **settings), "test", console)
    assert result is not None
    assert not poisoned
    is_announced = "continuing with max_rollbacks 2 instead of 0" in console.export_text()
    assert is_announced == bool(settings)
    without = replace(config, out=config.out.with_name("without"))
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "load_checkpoint", begin_without([16, 18]))
        assert train(without).val_loss == result.val_loss
    assert metrics(config) == metrics(without)


def test_what_another_machine_needs_may_change_when_a_run_goes_on(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without dropout, whose random numbers depend on what goes through the model together.
    config = replace(config, model=replace(config.model, dropout=0.0))
    whole = train(replace(config, out=config.out.with_name("whole")))
    train_until_killed_at(6, config, monkeypatch)
    moved = replace(config, resume=True, micro_batch_size=1, activation_checkpointing=True)
    assert train(moved).val_loss == pytest.approx(whole.val_loss, abs=1e-4)
    written = json.loads((config.out / "run.json").read_text())["config"]
    assert (written["micro_batch_size"], written["activation_checkpointing"]) == (1, True)


def test_the_learning_rate_may_change_when_a_run_goes_on(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until_killed_at(6, config, monkeypatch)
    rates = []
    step = Optimizer.step

    def watched(optimizer: Optimizer, lr_factor: float) -> None:
        step(optimizer, lr_factor)
        rates.append(optimizer.parts[0][0].param_groups[0]["lr"])

    monkeypatch.setattr(Optimizer, "step", watched)
    train(replace(config, resume=True, learning_rate=1e-5))
    # From the checkpoint of step 4 on: a linear decay from step 2 to step 12.
    assert rates == pytest.approx([1e-5 * left / 10 for left in range(8, 0, -1)])


def test_copies_of_checkpoints_are_left_alone(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until_killed_at(10, config, monkeypatch)
    training = config.out / "training"
    shutil.copytree(training / "step-00000008", training / "step-00000008-keep")
    train(replace(config, resume=True))
    left = sorted(path.name for path in training.glob("step-*"))
    assert left == ["step-00000008", "step-00000008-keep", "step-00000012"]


def test_a_checkpoint_that_cant_be_read_is_not_taken_for_a_damaged_one(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until_killed_at(10, config, monkeypatch)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    def fail_to_read(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "load_weights", fail)
        with pytest.raises(UserError, match=r"is undamaged, but can't be loaded \(out of memory\)"):
            train(replace(config, resume=True))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_sha256", fail_to_read)
        with pytest.raises(UserError, match="can't read the checkpoint"):
            train(replace(config, resume=True))
    assert steps_saved(config) == [4, 8]


def test_a_spike_is_only_seen_once_there_is_something_to_compare_with() -> None:
    check_spike(9.0, [1.0] * 49, spike=1.5)
    check_spike(2.4, [1.0] * 50, spike=1.5)
    with pytest.raises(BadStep, match=r"loss is 2\.600, more than 1\.5 nats above 1\.000"):
        check_spike(2.6, [1.0] * 50, spike=1.5)


@contextmanager
def full_disk(first: int, last: int) -> Iterator[None]:
    """From step `first` on, and before step `last`, no file of this process can grow."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    step = loop.Trainer.step

    def step_on_a_full_disk(trainer: loop.Trainer) -> None:
        full = first <= trainer.state.progress.step < last
        # Python ignores SIGXFSZ: writing fails instead, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000 if full else soft, hard))
        step(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "step", step_on_a_full_disk)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_run_alive_and_the_old_checkpoint_whole(
    runs: Runs, tmp_path: Path
) -> None:
    config = replace(runs.whole, out=tmp_path / "run")
    console = Console(record=True, file=io.StringIO(), soft_wrap=True)
    with full_disk(first=5, last=8):
        result = pretrain(config, "test", console)
    text = console.export_text()
    assert "can't save the checkpoint of step 8" in text
    assert "the run continues and keeps the previous one" in text
    assert steps_saved(config) == [4, 12]
    assert result is not None
    assert result.val_loss == runs.val_loss


def test_a_disk_that_is_full_at_the_end_is_an_error_and_the_run_can_go_on(
    runs: Runs, tmp_path: Path
) -> None:
    config = replace(runs.whole, out=tmp_path / "run")
    with full_disk(first=9, last=99), pytest.raises(RunError) as caught:
        train(config)
    assert "can't save the checkpoint of step 12" in str(caught.value)
    assert "free some space and give --resume" in str(caught.value)
    assert steps_saved(config) == [4, 8]
    assert train(replace(config, resume=True)).val_loss == runs.val_loss
    assert metrics(config) == metrics(runs.whole)
