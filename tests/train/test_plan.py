"""Plans against what the thing itself then takes."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from allocations import largest_and_peak
from gptfast.cli import cli
from gptfast.cli.units import (
    count,
    duration,
    flop_count,
    flop_rate,
    gib,
    number,
)
from gptfast.model import GPT, ModelConfig
from gptfast.model.size import n_parameters
from gptfast.model.transformer import Block
from gptfast.ops import linear_cross_entropy
from gptfast.plan import __main__ as plan_command_module
from gptfast.plan.__main__ import main as plan_command
from gptfast.system.memory import total_memory
from gptfast.tokenizer import BPETokenizer, CharTokenizer
from gptfast.train import plan as plan_module
from gptfast.train.config import TrainConfig, load_preset
from gptfast.train.loop import Trainer
from gptfast.train.optim import Optimizer
from gptfast.train.plan import memory, plan, probe, with_vocabulary
from gptfast.train.pretrain import pretrain

SMALL = TrainConfig(
    model=ModelConfig(300, block_size=32, n_layer=2, n_head=2, n_embd=32, dropout=0.1),
    batch_size=8, dtype="float32",
)  # fmt: skip


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
    model.activation_checkpointing = config.activation_checkpointing
    parameters = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.zeros(config.micro_batch_size, config.model.block_size, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.hidden(ids)
    assert hidden.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("micro_batch_size", [8, 2])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("variant", ["gpt2", "llama", "experts"])
def test_activations_are_what_autograd_keeps(
    micro_batch_size: int, recompute: bool, variant: str
) -> None:
    model = SMALL.model
    if variant != "gpt2":
        model = replace(model, norm="rmsnorm", bias=False, positions="rotary", activation="swiglu")
    if variant == "experts":
        model = replace(model, n_expert=4)
    config = replace(
        SMALL, model=model, micro_batch_size=micro_batch_size, activation_checkpointing=recompute
    )
    V, C, n_tokens = 300, 32, 32 * micro_batch_size
    loss = 4 * (n_tokens * C + V * C + 2 * V * min(n_tokens, 256))
    # Not to the byte: the rotary tables are the model's, and kept whether there is a step or not.
    assert memory(config).activations == pytest.approx(kept_for_backward(config) + loss, rel=0.02)


# A remark of PyTorch 2.11.
@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_losss_memory_is_what_it_takes(dtype: str) -> None:
    V, C, n_windows = 3000, 32, 32
    model = replace(SMALL.model, vocab_size=V)
    config = replace(SMALL, model=model, tokenizer="char", batch_size=n_windows, dtype=dtype)
    without = memory(replace(config, model=replace(model, vocab_size=1))).activations
    of_the_loss = memory(config).activations - without
    hidden, weight = torch.randn(n_windows * 32, C), torch.randn(V, C)
    hidden.requires_grad_(), weight.requires_grad_()
    targets = torch.zeros(len(hidden), dtype=torch.long)

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", getattr(torch, dtype), enabled=dtype != "float32"):
            return linear_cross_entropy(hidden, weight, targets, backend="torch")

    _, taken = largest_and_peak(loss)
    assert of_the_loss == pytest.approx(taken, rel=0.1)


def test_experts_that_a_token_does_not_go_to_need_no_tokens() -> None:
    planned = plan(load_preset("moe-small"))
    dense = replace(load_preset("moe-small").model, n_expert=0)
    # The two experts of a token: an MLP more than the dense model has, and two rows of the router.
    C, F = dense.n_embd, dense.hidden_width
    active = n_parameters(dense) + dense.n_layer * (3 * C * F + 2 * C)
    assert planned.optimal_tokens == 20 * active


def test_a_probe_takes_the_steps_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks recomputed and in micro-batches, and a look after the last step as well."""
    forwards = []
    forward = Block.forward
    monkeypatch.setattr(
        Block, "forward", lambda *arguments: forwards.append(1) or forward(*arguments)
    )
    config = replace(
        SMALL, activation_checkpointing=True, micro_batch_size=4, max_steps=10, eval_interval=4,
        eval_windows=8,
    )  # fmt: skip
    probed = probe(config, seconds=0.0)
    assert probed.steps == 1
    # Twice a part of a step, whose two blocks run twice, and a look in two parts.
    assert len(forwards) == 2 * 2 * 2 + 2 * 2
    # Looks after steps 0, 4, 8 and 10.
    expected = probed.first_step_seconds + 10 * probed.step_seconds + 4 * probed.eval_seconds
    assert probed.seconds == pytest.approx(expected)


def test_a_long_look_is_timed_by_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a plan of a large preset would take as long as its look."""
    clock, windows_seen = [0.0], []
    model_eval = GPT.forward

    def forward(model: GPT, idx_BT: torch.Tensor, *arguments: object) -> torch.Tensor:
        if not model.training:
            clock[0] += 0.5 * len(idx_BT)
            windows_seen.append(len(idx_BT))
        return model_eval(model, idx_BT, *arguments)

    monkeypatch.setattr(GPT, "forward", forward)
    monkeypatch.setattr(plan_module.time, "perf_counter", lambda: clock[0])
    probed = probe(replace(SMALL, micro_batch_size=2, eval_windows=1000), seconds=0.0)
    assert sum(windows_seen) == 4
    assert probed.eval_seconds == pytest.approx(500)


def test_the_vocabulary_is_the_tokenizers(tmp_path: Path) -> None:
    CharTokenizer.train("abcdefg").save(tmp_path)
    by_folder = replace(SMALL, tokenizer=str(tmp_path))
    assert with_vocabulary(by_folder, 65).model.vocab_size == 7
    assert with_vocabulary(replace(SMALL, tokenizer="char"), 65).model.vocab_size == 65
    assert with_vocabulary(SMALL, 65).model.vocab_size == 300
    (tmp_path / "data.json").write_text("{}")  # a prepared corpus has its own
    prepared = replace(SMALL, corpus=str(tmp_path), tokenizer="char")
    assert with_vocabulary(prepared, 65).model.vocab_size == 7


@pytest.mark.parametrize(
    "changes", [{}, {"micro_batch_size": 2, "activation_checkpointing": True}], ids=str
)
def test_the_time_of_a_run_is_predicted(
    corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """By a clock that counts windows, so that the machine's other work does not matter.

    benchmarks/plans.py compares plans with real times.
    """
    clock, forward = [0.0], Block.forward

    def timed_forward(block: Block, x_BTC: torch.Tensor, *arguments: Any) -> Any:
        clock[0] += len(x_BTC) * (3.0 if block.training else 1.0)
        return forward(block, x_BTC, *arguments)

    monkeypatch.setattr(Block, "forward", timed_forward)
    for name in ("perf_counter", "monotonic"):  # the clocks of the plan and of the run
        monkeypatch.setattr(plan_module.time, name, lambda: clock[0])
    config = replace(
        SMALL, corpus=str(corpus_file), tokenizer="char", out=tmp_path / "run", max_steps=60,
        eval_interval=25, eval_windows=12, warmup_steps=2, **changes,
    )  # fmt: skip
    predicted = probe(config, seconds=4.0).seconds
    begun = clock[0]
    # The plan does not read the corpus, and leaves out the last evaluation, on the whole val split.
    finish, ended = Trainer.finish, []
    monkeypatch.setattr(Trainer, "finish", lambda run: ended.append(clock[0]) or finish(run))
    pretrain(config, "test", Console(quiet=True))
    # The trial step is smaller, too: the probe's first step has one micro-batch.
    assert predicted == pytest.approx(ended[0] - begun, rel=0.015)


def test_the_command_prints_the_plan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_command_module, "PROBE_SECONDS", 0.1)
    small = ["--n-embd", "32", "--n-head", "2", "--block-size", "16", "--max-steps", "10"]
    assert cli.run(plan_command, ["shakespeare-cpu", *small]) == 0
    text = capsys.readouterr().out
    for row in ("parameters", "FLOPs per token", "tokens of the run", "2,560", "memory", "time"):
        assert row in text
    for program in (r"llama\.cpp", "transformers", "ONNX", "a web page"):
        assert re.search(rf"{program} +│ yes ", text)
    arguments = ["nanogpt-shakespeare", *small, "--n-layer", "1", "--qk-norm"]
    assert cli.run(plan_command, arguments) == 0
    text = capsys.readouterr().out
    assert "a vocabulary of 65 characters was assumed" in text
    for program in (r"llama\.cpp", "transformers"):
        assert re.search(rf"{program} +│ no ", text)
    assert text.count("qk_norm") == 2
    assert re.search(r"ONNX +│ yes ", text)


def test_the_plan_names_what_onnx_and_a_page_lack(tmp_path: Path) -> None:
    config = replace(SMALL, model=replace(SMALL.model, max_ngram=3, ngram_rows=50))
    BPETokenizer({bytes([i]): i for i in range(256)}, "none").save(tmp_path)
    config = replace(config, tokenizer=str(tmp_path))
    console = Console(record=True, width=200, file=StringIO())
    console.print(plan_command_module.table(config, plan(config), None))
    shown = console.export_text()
    assert re.search(r"ONNX +│ no +│ max_ngram is 3", shown)
    assert re.search(r"a web page +│ no +│ the tokenizer's pattern is 'none'", shown)


def test_what_does_not_fit_is_not_tried(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["gpt2-1558m", "--micro-batch-size", "480", "--device", "cpu"]
    assert cli.run(plan_command, arguments) == 0
    text = capsys.readouterr().out
    assert "no time was measured" in text
    assert "tokens/s" not in text


def test_the_plan_says_that_the_memory_of_the_machine_is_unknown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.sysconf")  # as on Windows
    assert total_memory(torch.device("cpu")) is None
    small = ["--n-layer", "1", "--n-embd", "8", "--n-head", "1", "--device", "cpu"]
    assert plan_command([*small, "--dtype", "float32"]) == 0
    printed = capsys.readouterr().out
    assert "this system does not say how much memory it has" in printed
    assert "tokens/s" in printed


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
    assert [duration(s) for s in (0.25, 1.44, 86400 * 900, 86400 * 5383)] == [
        "250 ms", "1.4 s", "2.5 years", "15 years",
    ]  # fmt: skip
    assert [number(x) for x in (1.016, 25.44, 1020.4)] == ["1.02", "25.4", "1,020"]
    assert [count(n, "step") for n in (1, 2, 1000)] == ["1 step", "2 steps", "1,000 steps"]
    assert [flop_count(n) for n in (1.16e13, 2.52e20, 5e9)] == [
        "11.6 TFLOP", "252.0 EFLOP", "5.0 GFLOP",
    ]  # fmt: skip
    assert [flop_rate(f) for f in (59.06e9, 1e12, 395.6e12)] == [
        "59.1 GFLOP/s", "1.0 TFLOP/s", "395.6 TFLOP/s",
    ]  # fmt: skip
