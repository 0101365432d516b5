"""Plans against what the thing itself then takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gptfast import cli
from gptfast.model import GPT, ModelConfig
from gptfast.model.transformer import Block
from gptfast.plan.__main__ import main as plan_command
from gptfast.tokenizer import CharTokenizer
from gptfast.train.config import TrainConfig, load_preset
from gptfast.train.optim import Optimizer
from gptfast.train.plan import memory, plan, probe, with_vocabulary
from gptfast.train.run import run
from gptfast.train.units import duration, flop_rate, gib

SMALL = TrainConfig(
    model=ModelConfig(300, block_size=32, n_layer=2, n_head=2, n_embd=32, dropout=0.1),
    batch_size=8,
)


def test_gpt2_124m_by_hand() -> None:
    planned = plan(load_preset("gpt2-124m"))
    assert planned.parameters == 124_439_808
    # 12 blocks of 12 C^2 and the output layer, 2 FLOPs each; attention 2 * 2 * T * C per block.
    matrices = 12 * 12 * 768**2 + 50257 * 768
    assert planned.forward_flops == 2 * matrices + 12 * 4 * 1024 * 768
    assert planned.tokens == 600_000 * 480 * 1024
    assert planned.optimal_tokens == 20 * 124_439_808
    assert planned.training_flops == 3 * planned.forward_flops * planned.tokens
    assert planned.memory.weights == planned.memory.gradients == 4 * 124_439_808


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_optimizers_memory_is_what_its_state_takes(optimizer: str) -> None:
    config = replace(SMALL, optimizer=optimizer)
    model = GPT(config.model)
    ours = Optimizer(model, 1e-3, 0.02 if optimizer == "muon" else None, 0.1)
    model(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long)).backward()
    ours.step(1.0)
    taken = sum(
        value.nbytes
        for part, _ in ours.parts
        for state in part.state.values()
        for value in state.values()
        if value.ndim > 0
    )
    assert memory(config).optimizer == taken


def kept_for_backward(config: TrainConfig) -> int:
    """Bytes that autograd really keeps, of a real forward pass."""
    model = GPT(config.model)
    model.recompute_blocks = config.recompute_blocks
    parameters = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    n_windows = config.batch_size // config.micro_batches
    ids = torch.zeros(n_windows, config.model.block_size, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.hidden(ids)
    assert hidden.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("variant", ["gpt2", "llama", "experts"])
def test_activations_are_what_autograd_keeps(
    micro_batches: int, recompute: bool, variant: str
) -> None:
    model = SMALL.model
    if variant != "gpt2":
        model = replace(model, norm="rmsnorm", bias=False, positions="rotary", activation="swiglu")
    if variant == "experts":
        model = replace(model, n_expert=4)
    config = replace(SMALL, model=model, micro_batches=micro_batches, recompute_blocks=recompute)
    V, C, n_tokens = 300, 32, 8 * 32 // micro_batches
    loss = 4 * (n_tokens * C + V * C + V * 256)
    # Not to the byte: the rotary tables are the model's, and kept whether there is a step or not.
    assert memory(config).activations == pytest.approx(kept_for_backward(config) + loss, rel=0.02)


def test_a_probe_takes_the_steps_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks recomputed and in micro-batches, and a look after the last step as well."""
    forwards = []
    forward = Block.forward
    monkeypatch.setattr(
        Block, "forward", lambda *arguments: forwards.append(1) or forward(*arguments)
    )
    config = replace(
        SMALL, recompute_blocks=True, micro_batches=2, max_steps=10, eval_interval=4,
        eval_windows=8,
    )  # fmt: skip
    probed = probe(config, seconds=0.0)
    assert probed.steps == 1
    # Twice a part of a step, whose two blocks run twice, and a look in two parts.
    assert len(forwards) == 2 * 2 * 2 + 2 * 2
    # Looks after steps 0, 4, 8 and 10.
    assert probed.seconds == pytest.approx(10 * probed.step_seconds + 4 * probed.look_seconds)


def test_the_vocabulary_is_the_tokenizers(tmp_path: Path) -> None:
    CharTokenizer.train("abcdefg").save(tmp_path)
    by_folder = replace(SMALL, tokenizer=str(tmp_path))
    assert with_vocabulary(by_folder, 65).model.vocab_size == 7
    assert with_vocabulary(replace(SMALL, tokenizer="char"), 65).model.vocab_size == 65
    assert with_vocabulary(SMALL, 65).model.vocab_size == 300
    (tmp_path / "data.json").write_text("{}")  # a prepared corpus has its own
    prepared = replace(SMALL, corpus=str(tmp_path), tokenizer="char")
    assert with_vocabulary(prepared, 65).model.vocab_size == 7


@pytest.mark.slow
def test_the_time_of_a_run_is_predicted_within_15_percent(
    corpus_file: Path, tmp_path: Path
) -> None:
    config = replace(
        load_preset("shakespeare-cpu"), corpus=str(corpus_file), tokenizer="char",
        out=tmp_path / "run", max_steps=60, eval_interval=20, eval_windows=4,
    )  # fmt: skip
    predictions, ratios = [], []
    for _ in range(3):
        predictions.append(probe(config, seconds=4.0).seconds)
        result = run(replace(config, overwrite=True), "test", Console(quiet=True))
        assert result is not None
        ratios.append(predictions[-1] / result.seconds)
        if 0.85 < ratios[-1] < 1.15:
            return
    if max(predictions) > 1.15 * min(predictions):
        pytest.skip(f"others use this machine: the same probe gave {predictions} s")
    pytest.fail(f"predicted / real: {ratios}")


def test_the_command_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--n-embd", "32", "--n-head", "2", "--block-size", "16", "--max-steps", "10"]
    assert cli.run(plan_command, ["shakespeare-cpu", *small]) == 0
    text = capsys.readouterr().out
    for row in ("parameters", "FLOPs per token", "tokens asked for", "2,560", "memory", "time"):
        assert row in text
    assert cli.run(plan_command, ["nanogpt-shakespeare", *small, "--n-layer", "1"]) == 0
    assert "a vocabulary of 65 characters was assumed" in capsys.readouterr().out


def test_what_does_not_fit_is_not_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(plan_command, ["gpt2-1558m", "--micro-batches", "1", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "no time was measured" in text
    assert "tokens/s" not in text


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in [
        (["gpt5"], "unknown preset 'gpt5': expected one of gpt2-124m"),
        (["shakespeare-cpu", "--architecture", "bigram"], "architecture 'gpt' only"),
    ]:
        assert cli.run(plan_command, arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_numbers_for_people() -> None:
    assert [gib(3 * 2**20), gib(5 * 2**29)] == ["3.0 MiB", "2.50 GiB"]
    assert [duration(s) for s in (7.4, 150, 9000, 86400 * 3)] == [
        "7 s", "2.5 min", "2.5 h", "3.0 days",
    ]  # fmt: skip
    assert [flop_rate(f) for f in (59.06e9, 1e12, 395.6e12)] == [
        "59.1 GFLOP/s", "1.0 TFLOP/s", "395.6 TFLOP/s",
    ]  # fmt: skip
