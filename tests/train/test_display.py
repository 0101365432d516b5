"""What is seen of a run: the panel's text, the pipe's lines, samples that change nothing."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from gptfast.errors import UserError
from gptfast.model import LanguageModel, ModelConfig, build_model
from gptfast.sample.generate import write_sample
from gptfast.system.machine import peak_flops
from gptfast.system.memory import peak_memory
from gptfast.tokenizer import Tokenizer
from gptfast.train import display as display_module
from gptfast.train import recovery
from gptfast.train import run as run_module
from gptfast.train.config import TrainConfig
from gptfast.train.display import SAMPLE_LINES, Display, Sampler, printable
from gptfast.train.distributed import SINGLE_PROCESS, World
from gptfast.train.pretrain import pretrain
from gptfast.train.recovery import BadStep
from gptfast.train.run import sample_interval

MEASURED = {
    "loss": 3.25, "learning_rate": 1e-3, "grad_norm": 0.5, "tokens_per_second": 12_000.0,
    "peak_memory": 3 * 2**30,
}  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The display's clock, whose `now` is set by hand."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(display_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def terminal() -> Console:
    return Console(record=True, force_terminal=True, width=100, file=io.StringIO())


def pipe() -> Console:
    return Console(record=True, file=io.StringIO(), soft_wrap=True)


def panel_text(display: Display) -> str:
    display.console.print(display.panel())
    return display.console.export_text()


def test_the_panel_says_it_all(clock: SimpleNamespace) -> None:
    display = Display(100, terminal(), SINGLE_PROCESS, flops_per_token=5_000_000)
    assert "step 0/100" in panel_text(display)
    display.evaluation(3.5, best_val_loss=3.4, best_step=30)
    clock.now = 20.0
    display.step(40, **MEASURED)
    text = panel_text(display)
    # Half a second per step, 60 steps to go; 12,000 tokens/s of 5 million operations each.
    for shown in (
        "step 40/100", "30 s left", r"train loss\s+3\.2500", r"\sval loss\s+3\.5000",
        r"best val loss\s+3\.4000 at step 30", r"learning rate\s+1\.00e-03",
        r"gradient norm\s+0\.500", r"speed\s+12,000 tokens/s", r"compute\s+60\.0 GFLOP/s\s+│",
        r"peak memory\s+3\.00 GiB",
    ):  # fmt: skip
        assert re.search(shown, text), shown
    bar = re.search("step 40/100 ([━╸╺]+) ", text)[1]
    assert re.search("[╸╺]", bar).start() / len(bar) == pytest.approx(0.4, abs=0.02)
    assert "MFU" not in text


def test_the_time_left_counts_from_where_the_run_went_on(clock: SimpleNamespace) -> None:
    display = Display(100, terminal(), SINGLE_PROCESS)
    clock.now = 50.0
    display.begin(60)
    assert "step 60/100" in panel_text(display)
    clock.now = 60.0
    display.step(70, **MEASURED)  # a second per step, 30 to go
    assert "30 s left" in panel_text(display)
    display.begin(20)
    clock.now = 80.0
    display.step(30, **MEASURED)  # two seconds per step, 70 to go
    assert "2.3 min left" in panel_text(display)


def test_the_mfu_of_two_gpus_by_hand(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"H100": "NVIDIA H100 80GB HBM3", "slower": "NVIDIA H100 PCIe"}
    texts = {}
    for key, name in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        world = World(0, 2, torch.device("cuda"))
        display = Display(100, terminal(), world, flops_per_token=989_000_000)
        clock.now += 10.0
        display.step(10, **MEASURED | {"tokens_per_second": 400_000.0})
        texts[key] = panel_text(display)
    # 4e5 tokens/s of 9.89e8 operations; two GPUs could do 2 x 9.89e14 per second.
    assert "395.6 TFLOP/s, 20.0% MFU" in texts["H100"]
    assert "395.6 TFLOP/s" in texts["slower"]
    assert "MFU" not in texts["slower"]


def test_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    assert peak_memory(torch.device("cuda")) == 3 * 2**30
    cpu = torch.device("cpu")
    assert peak_flops(cpu) is None
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs Linux's /proc")
    high_water_kib = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    assert peak_memory(cpu) == pytest.approx(high_water_kib * 1024, rel=0.02)


def test_a_pipe_gets_one_line_in_ten_seconds(clock: SimpleNamespace) -> None:
    with Display(1000, pipe(), SINGLE_PROCESS, flops_per_token=5_000_000) as display:
        for now, step in [(4.0, 10), (9.0, 20), (10.0, 30), (19.0, 40), (20.0, 50)]:
            clock.now = now
            display.step(step, **MEASURED)
        display.message("step 50: a message")
    numbers = "loss 3.250  lr 1.00e-03  grad norm 0.50  12,000 tokens/s  60.0 GFLOP/s  3.00 GiB"
    assert display.console.export_text().splitlines() == [
        f"step 30/1000  {numbers}  5.4 min left",  # a third of a second for 970 steps each
        f"step 50/1000  {numbers}  6.3 min left",
        "step 50: a message",
    ]


def spy_on_display(monkeypatch: pytest.MonkeyPatch) -> list[Display]:
    """The displays that runs make."""
    made: list[Display] = []

    def make(*arguments: object) -> Display:
        made.append(Display(*arguments))
        return made[-1]

    monkeypatch.setattr(run_module, "Display", make)
    return made


@pytest.fixture
def config(corpus_file: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        out=tmp_path / "run", corpus=str(corpus_file), tokenizer="char",
        model=ModelConfig(1024, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.1),
        max_steps=12, batch_size=4, warmup_steps=2, eval_interval=4, eval_windows=4, device="cpu",
        dtype="float32",
    )  # fmt: skip


def test_flops_of_training_by_hand_and_none_for_other_architectures(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = spy_on_display(monkeypatch)
    monkeypatch.setattr(display_module, "SECONDS_BETWEEN_LINES", 0.0)
    counted, uncounted = pipe(), pipe()
    pretrain(config, "test", counted)
    V = json.loads((config.out / "config.json").read_text())["vocab_size"]
    # Two blocks of 12 C^2 and the output layer, 2 operations each; attention 4 C T per block; the
    # backward pass takes twice the forward pass.
    assert made[0].flops_per_token == 3 * (2 * (2 * 12 * 16**2 + V * 16) + 2 * 4 * 16 * 16)
    assert counted.export_text().count("FLOP/s") == 2
    bigram = replace(config, model=replace(config.model, architecture="bigram"), overwrite=True)
    pretrain(bigram, "test", uncounted)
    text = uncounted.export_text()
    assert "step 12/12  loss" in text
    assert "FLOP" not in text


def test_a_roll_back_begins_the_display_anew(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, bad = spy_on_display(monkeypatch), []

    def spike(loss: float, recent: list[float], limit: float) -> None:
        (display,) = made
        assert display.first_step == (4 if bad else 0)
        if not bad and len(recent) == 6:
            bad.append(6)
            raise BadStep("a spike")

    monkeypatch.setattr(recovery, "check_spike", spike)
    assert pretrain(replace(config, max_steps=8), "test", Console(quiet=True)) is not None
    assert bad == [6]


def writer(lengths: list[int]) -> Callable[[LanguageModel, Tokenizer], str]:
    """What writes real samples and takes random numbers; notes the length of each in `lengths`."""

    def write(model: LanguageModel, tokenizer: Tokenizer) -> str:
        assert not model.training
        torch.rand(3)
        text = write_sample(model, tokenizer, 20, seed=1)
        lengths.append(len(text))
        return text

    return write


@pytest.mark.parametrize("variant", ["gpt2", "llama", "experts", "bigram"])
def test_training_is_bitwise_the_same_with_samples(config: TrainConfig, variant: str) -> None:
    model = config.model
    if variant in ("llama", "experts"):
        model = replace(model, norm="rmsnorm", bias=False, positions="rotary")
    if variant == "experts":
        model = replace(model, n_expert=4, n_hidden=32, expert_balance="bias")
    if variant == "bigram":
        model = replace(model, architecture="bigram")
    config = replace(config, model=model)
    console, samples = pipe(), list[int]()
    plain = pretrain(config, "test", Console(quiet=True))
    sampled = replace(config, out=config.out.with_name("sampled"), sample_interval=3)
    result = pretrain(sampled, "test", console, writer(samples))
    assert samples == [20] * 5
    text = console.export_text()
    shown = re.findall(r"(?m)^--- sample after (\d+) steps ---$", text)
    assert shown == ["0", "3", "6", "9", "12"]
    assert result.val_loss == plain.val_loss
    for name in ("model.safetensors", "training/step-00000012/model.safetensors"):
        assert (sampled.out / name).read_bytes() == (config.out / name).read_bytes()


def logged_samples(config: TrainConfig) -> dict[int, str]:
    """Step: text, of every sample in metrics.jsonl."""
    lines = map(json.loads, (config.out / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["sample"] for line in lines if "sample" in line}


def test_samples_are_logged_by_every_run_and_shown_on_a_terminal_or_if_asked_for(
    config: TrainConfig,
) -> None:
    seen, unseen, asked_for = terminal(), pipe(), pipe()
    pretrain(config, "test", seen, writer([]))
    logged = logged_samples(config)
    assert list(logged) == [0, 1, 4, 6, 8, 12]  # every evaluation, 10% and half of the steps
    assert {len(text) for text in logged.values()} == {20}
    assert len(set(logged.values())) > 1
    again = replace(config, overwrite=True)
    pretrain(again, "test", unseen, writer([]))
    assert logged_samples(again) == logged
    pretrain(replace(again, sample_interval=5), "test", asked_for, writer([]))
    assert list(logged_samples(again)) == [0, 5, 10]
    never: list[int] = []
    pretrain(replace(again, sample_interval=0), "test", terminal(), writer(never))
    assert logged_samples(again) == {}
    assert never == []
    assert "--- sample" not in unseen.export_text()
    assert "--- sample after 10 steps" in asked_for.export_text()
    text = seen.export_text()
    assert "sample after 12 steps" in text  # the last frame shows the newest
    assert "step 12/12" in text
    assert "step 12: val loss" in text


def test_a_sample_leaves_mode_and_random_state() -> None:
    model = build_model(ModelConfig(11, "gpt", 8, 1, 2, 8, dropout=0.5))
    torch.manual_seed(0)
    expected = torch.rand(1).item()
    torch.manual_seed(0)
    sampler = Sampler(lambda m, t: f"{m.training} {torch.rand(1).item() == expected}", None, 5)
    for mode in (True, False):
        assert sampler.sample(model.train(mode)) == "False True"
        assert model.training == mode
    assert torch.rand(1).item() == expected
    assert [step for step in range(16) if sampler.is_due(step)] == [0, 5, 10, 15]
    sampler = Sampler(lambda *_: "", None, 5, {7})
    assert [step for step in range(16) if sampler.is_due(step)] == [0, 5, 7, 10, 15]
    assert not any(Sampler(lambda *_: "", None, 0, {7}).is_due(step) for step in range(16))


def test_the_panel_of_a_sample_keeps_its_height() -> None:
    for text in ("short", "a long line " * 100, "many lines\n" * 30):
        display = Display(10, terminal(), SINGLE_PROCESS)
        before = len(panel_text(display).splitlines())
        with display:
            display.sample(5, text)
        lines = panel_text(display).splitlines()
        assert any("sample after 5 steps" in line for line in lines)
        (top,) = [i for i, line in enumerate(lines) if "sample after" in line][-1:]
        assert len(lines[top:]) == SAMPLE_LINES + 2
        assert text[:5] in lines[top + 1]
        assert before == 7
        if text.startswith("a long"):
            assert "a long line" in lines[top + SAMPLE_LINES]  # wrapped, not cut


def test_what_a_terminal_would_obey_is_replaced() -> None:
    assert printable("a\x1b[2Jb\n\tÉ\x07\r") == "a�[2Jb\n\tÉ��"


def test_sharded_weights_are_not_sampled_from(config: TrainConfig) -> None:
    config = replace(config, parallel="fsdp")
    two = World(0, 2, torch.device("cpu"))
    assert sample_interval(config, two) == 0
    assert sample_interval(config, SINGLE_PROCESS) == 4
    assert sample_interval(replace(config, parallel="ddp"), two) == 4
    with pytest.raises(UserError, match="sample_interval is 5: with parallel 'fsdp' no process"):
        sample_interval(replace(config, sample_interval=5), two)
    with pytest.raises(UserError, match="sample_interval is -1: expected 0 or more"):
        replace(config, sample_interval=-1)
