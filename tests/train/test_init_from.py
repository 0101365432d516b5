"""--init-from: a run that starts from a model folder, ours or one that transformers saved."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from gptfast.cli import cli
from gptfast.data.loader import EvalWindows
from gptfast.data.prepare import prepare
from gptfast.errors import MissingFileError, RunError, UserError
from gptfast.llm import LLM
from gptfast.model import ModelConfig
from gptfast.model.folder import load_model, save_description
from gptfast.model.positions import rotation
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.chat import read_chat_template, write_chat_template
from gptfast.train import precision
from gptfast.train.__main__ import main as train_command
from gptfast.train.__main__ import parse_config
from gptfast.train.config import TrainConfig
from gptfast.train.evaluate import evaluate
from gptfast.train.init_from import with_init
from gptfast.train.loop import Trainer
from gptfast.train.optim import Optimizer
from gptfast.train.pretrain import pretrain
from measured import measured

MODEL = ModelConfig(300, block_size=16, n_layer=2, n_head=2, n_embd=16)


@pytest.fixture
def config(corpus_file: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        out=tmp_path / "base", corpus=str(corpus_file), model=MODEL, max_steps=10, batch_size=4,
        warmup_steps=2, eval_interval=5, eval_windows=1000, dtype="float32", device="cpu",
    )  # fmt: skip


def first_val_loss(folder: Path) -> float:
    return next(line["val_loss"] for line in measured(folder) if "val_loss" in line)


def test_the_first_val_loss_is_the_folders(config: TrainConfig, tmp_path: Path) -> None:
    result = pretrain(config)
    assert result is not None
    start = with_init(replace(config, init_from=config.out, out=tmp_path / "run"))
    assert start.model.vocab_size == 300
    pretrain(start)
    model, tokenizer = load_model(config.out)
    val = prepare(config.corpus, str(config.out), 0, 0.1, print).val
    windows = EvalWindows(val, 16, 4, max_windows=1000)
    assert first_val_loss(tmp_path / "run") == pytest.approx(evaluate(model, windows), abs=1e-6)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["init_from"] == str(config.out)
    assert load_model(tmp_path / "run")[1].fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("scaling", ["yarn", "llama3"])
def test_a_shorter_context_keeps_stretched_positions(scaling: str, tmp_path: Path) -> None:
    stretched = replace(
        MODEL, block_size=64, positions="rotary", rope_scaling=scaling, rope_factor=4.0
    )
    save_description(tmp_path, stretched, BPETokenizer.train(["some text"], 258))
    shorter = parse_config(["--init-from", str(tmp_path), "--block-size", "16"], "x").model
    assert shorter.block_size == 16
    for ours, whole in zip(rotation(shorter), rotation(stretched), strict=True):
        assert torch.equal(ours, whole[:16])


@pytest.mark.parametrize("kind", ["GPT2", "Llama", "Mistral", "Mixtral", "Qwen3"])
def test_a_folder_of_transformers_is_a_start(
    kind: str, config: TrainConfig, corpus_file: Path, tmp_path: Path
) -> None:
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16,
    }  # fmt: skip
    if kind == "GPT2":
        sizes = {"vocab_size": 320, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
    if kind == "Mixtral":
        sizes |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    torch.manual_seed(0)
    settings = getattr(transformers, f"{kind}Config")(**sizes)
    theirs = transformers.AutoModelForCausalLM.from_config(settings).eval()
    folder = tmp_path / "theirs"
    theirs.save_pretrained(folder)
    BPETokenizer.train(texts=[corpus_file.read_text()], vocab_size=300).save(folder)  # 20 unused
    start = with_init(replace(config, init_from=folder, out=tmp_path / "run", max_steps=1))
    assert start.model.vocab_size == 320
    pretrain(start)
    val = prepare(config.corpus, str(folder), 0, 0.1, print).val
    total = count = 0.0
    for batch in EvalWindows(val, 16, 4, max_windows=1000):
        with torch.no_grad():
            logits = theirs(batch.ids_BT).logits
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.targets_BT.flatten(), reduction="sum"
        ).item()
        count += batch.targets_BT.numel()
    assert first_val_loss(tmp_path / "run") == pytest.approx(total / count, abs=1e-6)


def test_a_shorter_context_crops_learned_positions(config: TrainConfig, tmp_path: Path) -> None:
    pretrain(config)
    start = with_init(replace(config, init_from=config.out, out=tmp_path / "run", max_steps=1))
    start = replace(start, model=replace(start.model, block_size=8), learning_rate=1e-9)
    start = replace(start, matrix_learning_rate=1e-9)
    pretrain(start)
    whole, cropped = (load_model(folder)[0] for folder in (config.out, tmp_path / "run"))
    assert cropped.config.block_size == 8
    ids = torch.arange(8)[None] + 40
    torch.testing.assert_close(cropped(ids), whole(ids)[:, :8], atol=1e-5, rtol=1e-4)


def test_the_command_takes_model_and_tokenizer_from_the_folder(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(config)
    flags = ["--init-from", str(config.out), "--corpus", config.corpus, "--max-steps", "2",
             "--out", str(tmp_path / "run"), "--device", "cpu"]  # fmt: skip
    parsed = parse_config(flags)
    assert parsed.model == load_model(config.out)[0].config
    assert parsed.tokenizer == str(config.out)
    assert parse_config([*flags, "--block-size", "8"]).model.block_size == 8
    assert cli.run(train_command, [*flags, "--dtype", "float32"]) == 0
    assert cli.run(train_command, [*flags, "--dtype", "float32", "--resume"]) == 0
    capsys.readouterr()
    for wrong, message in [
        (["--n-layer", "3"], "n_layer is 3, but the model in"),
        (["--block-size", "32"], "block_size is 32, but the model in"),
        (["--init-from", str(tmp_path)], "no model in"),
    ]:
        out = ["--out", str(tmp_path / "wrong")]
        assert cli.run(train_command, [*flags, *out, *wrong]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_corpus_of_another_tokenizer_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    pretrain(config)
    start = with_init(replace(config, init_from=config.out, out=tmp_path / "run"))
    larger = replace(start, tokenizer="bpe", model=replace(start.model, vocab_size=300))
    BPETokenizer.train(texts=["abc abd abe " * 50], vocab_size=257).save(tmp_path / "other")
    with pytest.raises(UserError, match="was trained with another tokenizer"):
        pretrain(replace(larger, tokenizer=str(tmp_path / "other")))
    with pytest.raises(MissingFileError, match="no model in"):
        with_init(replace(config, init_from=tmp_path / "nothing"))


def test_frozen_parameters_have_no_optimizer() -> None:
    from gptfast.model import GPT

    model = GPT(MODEL)
    model.h[0].requires_grad_(False)
    optimizer = Optimizer(model, 1e-3, 0.02, 0.1)
    trained = {
        id(p) for part, _ in optimizer.parts for group in part.param_groups for p in group["params"]
    }
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}
    frozen = [p.clone() for p in model.h[0].parameters()]
    ids = torch.zeros(1, 4, dtype=torch.long)
    model(ids, ids).backward()
    optimizer.step(1.0)
    for before, after in zip(frozen, model.h[0].parameters(), strict=True):
        assert torch.equal(before, after)


def test_a_run_does_not_replace_what_it_starts_from(config: TrainConfig) -> None:
    pretrain(config)
    before = (config.out / "model.safetensors").read_bytes()
    start = with_init(replace(config, init_from=config.out, overwrite=True))
    with pytest.raises(UserError, match=r"out and init_from are both .*choose another --out"):
        pretrain(start)
    assert (config.out / "model.safetensors").read_bytes() == before


def test_a_run_resumes_without_the_folder_that_it_started_from(
    config: TrainConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretrain(config)
    write_chat_template(config.out, "{{ messages }}")
    out = tmp_path / "run"
    flags = ["--init-from", str(config.out), "--corpus", config.corpus, "--device", "cpu",
             "--dtype", "float32", "--max-steps", "8", "--eval-interval", "4", "--batch-size", "4",
             "--block-size", "8", "--dropout", "0.1"]  # fmt: skip
    assert cli.run(train_command, [*flags, "--out", str(tmp_path / "whole")]) == 0

    take_step = Trainer.step

    def step(trainer: Trainer) -> None:
        if trainer.state.progress.step == 6:  # 2 steps after the newest checkpoint
            raise RunError("the power failed")
        take_step(trainer)

    monkeypatch.setattr(Trainer, "step", step)
    assert cli.run(train_command, [*flags, "--out", str(out)]) == 1
    monkeypatch.undo()
    shutil.rmtree(config.out)
    capsys.readouterr()
    assert cli.run(train_command, [*flags, "--out", str(out), "--block-size", "4", "--resume"]) == 2
    assert "was started with block_size=8" in capsys.readouterr().err
    assert cli.run(train_command, [*flags, "--out", str(out), "--resume"]) == 0
    assert "from step 4" in capsys.readouterr().out
    assert measured(out) == measured(tmp_path / "whole")
    assert read_chat_template(out) == "{{ messages }}"
    names = ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json")
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    llm = LLM.train(
        config.corpus, out=out, init_from=config.out, resume=True, device="cpu", dtype="float32",
        max_steps=8, eval_interval=4, batch_size=4, verbose=False,
    )  # fmt: skip
    assert llm.model.config == load_model(tmp_path / "whole")[0].config
    # Starting needs the folder.
    for start in (["--out", str(out), "--overwrite", "--resume"], ["--out", str(tmp_path / "new")]):
        assert cli.run(train_command, [*flags, *start]) == 2
        assert "no model in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "chosen", "tries"),
    [((1.0, 0.5), "bfloat16", 12), ((1.0, 0.8), "float32", 12), ((1.0, 50.0), "float32", 4)],
)
def test_bfloat16_is_chosen_where_it_is_faster(
    seconds: tuple[float, float], chosen: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By less than 1.3 times does not count; where it is emulated, a second product tells."""
    timed = []

    def time_one(dtype: torch.dtype) -> float:
        timed.append(dtype)
        return seconds[dtype == torch.bfloat16]

    monkeypatch.setattr(precision, "_seconds", time_one)
    assert precision.resolve_dtype(torch.device("cpu")).dtype == chosen
    assert len(timed) == tries


def test_a_run_says_its_precision_and_keeps_it(config: TrainConfig) -> None:
    console = Console(file=io.StringIO(), soft_wrap=True)
    pretrain(replace(config, dtype="auto", max_steps=5), console=console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    chosen = json.loads((config.out / "run.json").read_text())["config"]["dtype"]
    assert f"dtype auto is {chosen}: this CPU multiplies bfloat16 at" in printed
    pretrain(replace(config, dtype="auto", max_steps=6, resume=True), console=console)
    rest = console.file.getvalue()[len(printed) :]  # type: ignore[attr-defined]
    assert f"parameters on cpu, {chosen}; from step 5" in rest
    assert "dtype" not in rest


def test_replay_starts_from_the_folders_losses_and_keeps_the_old_corpus(
    config: TrainConfig, tmp_path: Path
) -> None:
    """Continued on other text, with and without the old one: what is forgotten differs."""
    pretrain(replace(config, max_steps=60))
    new = tmp_path / "numbers.txt"
    new.write_text(" ".join(f"{i}+{i}={2 * i};" for i in range(2000)), encoding="utf-8")
    old_losses = []
    for name, old, weights in (("replay", (config.corpus,), (80, 20)), ("alone", (), ())):
        start = with_init(replace(config, init_from=config.out, out=tmp_path / name))
        start = replace(start, corpus=str(new), mix_corpora=old, corpus_weights=weights)
        pretrain(replace(start, max_steps=60, eval_interval=60))
        model, _ = load_model(config.out)
        vals = [prepare(c, str(config.out), 0, 0.1, print).val for c in (str(new), *old)]
        base = [evaluate(model, EvalWindows(val, 16, 4, max_windows=1000)) for val in vals]
        first, *_, last = [m for m in measured(start.out) if "val_loss" in m]
        assert first.get("val_losses", [first["val_loss"]]) == pytest.approx(base, abs=1e-6)
        assert last.get("val_losses", [last["val_loss"]])[0] < base[0] - 0.3
        val = prepare(config.corpus, str(config.out), 0, 0.1, print).val
        windows = EvalWindows(val, 16, 4, max_windows=1000)
        old_losses.append(evaluate(load_model(start.out)[0], windows))
    assert old_losses[0] < old_losses[1] - 0.1
