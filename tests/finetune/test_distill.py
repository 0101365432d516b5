"""Distillation: its loss, its teachers, and whole runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import check_killed_and_resumed, check_on_one_and_on_two_processes
from rich.console import Console
from torch.nn import functional as F

from gptfast.data.batch import Batch
from gptfast.errors import UserError
from gptfast.finetune.__main__ import parse_config
from gptfast.finetune.distill import Distillation, distillation_loss, mean_logprobs, prepare
from gptfast.finetune.settings.distill import DistillConfig
from gptfast.model import ModelConfig, build_model
from gptfast.model.folder import load_model, save_description, save_weights
from gptfast.tokenizer import BPETokenizer, Tokenizer, load_tokenizer
from gptfast.train.config import TrainConfig
from gptfast.train.run import run
from measured import measured

SIZES = ModelConfig(300, block_size=16, n_layer=1, n_head=2, n_embd=16)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, nursery_text: str) -> Path:
    path = tmp_path_factory.mktemp("text") / "nursery.txt"
    path.write_text(nursery_text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(nursery_text: str) -> Tokenizer:
    return BPETokenizer.train(nursery_text, 300, progress=False)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A folder with random weights, dropout, and 20 rows of its vocabulary that have no token."""
    folder = tmp_path_factory.mktemp("teacher")
    return write(folder, replace(SIZES, vocab_size=320, n_layer=2, dropout=0.5), tokenizer, 1)


def write(folder: Path, config: ModelConfig, tokenizer: Tokenizer, seed: int) -> Path:
    torch.manual_seed(seed)
    model = build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4  # so that predictions differ
    save_description(folder, config, tokenizer)
    save_weights(model, folder / "model.safetensors")
    return folder


def settings(text: Path, teacher: Path, out: Path, **changes: Any) -> DistillConfig:
    given = {
        "teacher": (teacher,), "corpus": str(text), "out": out, "model": SIZES, "max_steps": 8,
        "batch_size": 4, "micro_batch_size": 2, "warmup_steps": 2, "eval_interval": 3,
        "optimizer": "adamw", "device": "cpu", "dtype": "float32",
    }  # fmt: skip
    return DistillConfig(**{**given, **changes})


def objective_of(config: DistillConfig) -> tuple[Distillation, Batch]:
    task = prepare(config, Console(quiet=True))
    assert isinstance(task.objective, Distillation)
    return task.objective, task.source.next_batch()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_loss_is_that_of_pytorch(temperature: float) -> None:
    student, teacher = torch.randn(2, 2, 3, 11).mul(3).requires_grad_()
    p = (teacher / temperature).softmax(-1).flatten(0, 1)
    q = (student / temperature).log_softmax(-1).flatten(0, 1)
    expected = temperature**2 * F.kl_div(q, p, reduction="batchmean")
    ours = distillation_loss(student, mean_logprobs([teacher], temperature), temperature)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    gradients = [
        torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (ours, expected)
    ]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=0)
    same = distillation_loss(teacher, mean_logprobs([teacher], temperature), temperature)
    assert same.item() == pytest.approx(0, abs=1e-6)


def test_rows_of_a_student_that_have_no_token_become_improbable() -> None:
    student, teacher = torch.randn(2, 2, 3, 11).mul(3).requires_grad_()
    loss = distillation_loss(student, mean_logprobs([teacher[..., :9]], 2.0), 2.0)
    p = torch.cat([(teacher[..., :9] / 2).softmax(-1), torch.zeros(2, 3, 2)], -1).flatten(0, 1)
    log_q = (student / 2).log_softmax(-1).flatten(0, 1)
    torch.testing.assert_close(loss, 4 * F.kl_div(log_q, p, reduction="batchmean"))
    (gradient,) = torch.autograd.grad(loss, student)
    assert (gradient[..., 9:] > 0).all()


def test_several_teachers_are_the_mean_of_their_probabilities() -> None:
    first, second = torch.tensor([[[0.9, 0.1]]]).log(), torch.tensor([[[0.3, 0.7]]]).log()
    mean = mean_logprobs([first, second], 1.0)
    torch.testing.assert_close(mean.exp(), torch.tensor([[[0.6, 0.4]]]))


def test_objective_is_kl_to_the_teachers_folder(
    text: Path, teacher: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Its logits are those of transformers, without dropout or rows that have no token."""
    import transformers

    config = settings(text, teacher, tmp_path / "run", temperature=2.0, hard_weight=0.25)
    objective, batch = objective_of(config)
    student = build_model(SIZES)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(teacher).eval()
    with torch.no_grad():
        logits = theirs(batch.ids_BT).logits[..., :300] / 2
        log_q = (student(batch.ids_BT) / 2).log_softmax(-1)
        kl = F.kl_div(log_q, logits.softmax(-1), reduction="none").sum(-1).mean()
        expected = 0.75 * 4 * kl + 0.25 * student(batch.ids_BT, batch.targets_BT)
    loss = objective.loss(student, batch)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in objective.teachers[0].parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_documents_are_masked_for_the_teacher_too(
    text: Path, teacher: Path, tmp_path: Path
) -> None:
    objective, batch = objective_of(settings(text, teacher, tmp_path / "run"))
    starts = torch.zeros_like(batch.ids_BT, dtype=torch.bool)
    starts[:, 5] = True
    masked = objective.teach(replace(batch, document_starts_BT=starts))
    changed = batch.ids_BT.clone()
    changed[:, :5] = 7
    also = objective.teach(replace(batch, ids_BT=changed, document_starts_BT=starts))
    torch.testing.assert_close(masked[:, 5:], also[:, 5:])
    assert (masked[:, :5] - also[:, :5]).abs().max() > 0.1


def test_a_student_comes_nearer_to_its_teacher(text: Path, teacher: Path, tmp_path: Path) -> None:
    config = settings(text, teacher, tmp_path / "run", max_steps=30, learning_rate=1e-2)
    objective, batch = objective_of(config)
    result = run(config, prepare)
    assert result is not None
    lines = [line["loss"] for line in measured(config.out) if "loss" in line]
    assert lines[-1] < 0.8 * lines[0]
    record = json.loads((config.out / "run.json").read_text())
    assert len(record["teacher_sha256"]) == 1
    model, tokenizer = load_model(config.out)
    assert (model.config.n_layer, model.config.vocab_size) == (1, 300)
    assert tokenizer.fingerprint == load_tokenizer(teacher).fingerprint
    before, after = (objective.loss(m, batch).item() for m in (build_model(SIZES), model))
    assert after < 0.8 * before


def test_an_adapter_learns_beside_a_student(
    text: Path, teacher: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    student = write(tmp_path / "student", replace(SIZES, block_size=32), tokenizer, 5)
    before = (student / "model.safetensors").read_bytes()
    given = [
        "--teacher", str(teacher), "--corpus", str(text), "--init-from", str(student),
        "--lora-rank", "4", "--optimizer", "adamw", "--block-size", "16", "--max-steps", "20",
        "--learning-rate", "1e-2", "--eval-interval", "10", "--batch-size", "4", "--device", "cpu",
        "--dtype", "float32", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    config = parse_config("distill", given)
    assert isinstance(config, DistillConfig)
    assert run(config, prepare) is not None
    assert {path.name for path in config.out.rglob("*.safetensors")} == {
        "adapter_model.safetensors"
    }
    assert (student / "model.safetensors").read_bytes() == before
    resumed = parse_config("distill", [*given, "--max-steps", "30", "--resume"])
    assert run(resumed, prepare) is not None  # type: ignore[arg-type]
    objective, batch = objective_of(replace(config, overwrite=True))
    (base, _), (tuned, _) = load_model(student), load_model(config.out)
    assert tuned.config.block_size == 32
    losses = [objective.loss(model, batch).item() for model in (base, tuned)]
    assert losses[1] < 0.9 * losses[0]
    with pytest.raises(UserError, match="give --init-from FOLDER, too"):
        parse_config("distill", [*given[:4], *given[6:]])
    with pytest.raises(UserError, match="give --optimizer adamw"):
        parse_config("distill", [*given, "--optimizer", "muon"])


def test_others_are_refused(
    text: Path, teacher: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    def refused(config: DistillConfig, message: str) -> None:
        with pytest.raises(UserError, match=message):
            run(config, prepare)

    other = BPETokenizer.train("abcabc" * 99, 300, progress=False)
    stranger = write(tmp_path / "stranger", SIZES, other, 2)
    out = tmp_path / "run"
    two = replace(settings(text, teacher, out), teacher=(teacher, stranger))
    refused(two, "another tokenizer than the student")
    with_char = replace(settings(text, teacher, out), tokenizer="char")  # as a preset may have
    refused(with_char, f"give --tokenizer {teacher}")
    short = write(tmp_path / "short", replace(SIZES, block_size=8), tokenizer, 2)
    refused(settings(text, short, out), "context of 8 tokens, and the student one of 16")
    run(settings(text, teacher, out, max_steps=3), prepare)
    changed = write(tmp_path / "changed", replace(SIZES, n_layer=2), tokenizer, 3)
    resumed = settings(text, changed, out, max_steps=4, resume=True)
    refused(resumed, "the model to start from has changed")
    assert run(replace(resumed, teacher=(shutil.copytree(teacher, tmp_path / "moved"),)), prepare)
    for changes, message in (
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"hard_weight": 1.5}, "hard_weight is 1.5"),
        ({"teacher": ()}, "teacher is empty"),
        ({"model": replace(SIZES, n_expert=2, bias=False)}, "n_expert is 2"),
    ):
        with pytest.raises(UserError, match=message):
            replace(resumed, **changes)


def test_command_takes_presets_and_a_student_to_start_from(text: Path, teacher: Path) -> None:
    flags = ["--teacher", str(teacher), "--out", "run", "--corpus", str(text)]
    config = parse_config("distill", [*flags, "--preset", "llama-small", "--n-layer", "3"])
    assert isinstance(config, DistillConfig)
    assert (config.model.norm, config.model.n_layer) == ("rmsnorm", 3)
    assert config.teacher == (teacher,)
    started = parse_config("distill", [*flags, "--init-from", str(teacher)])
    assert isinstance(started, TrainConfig)
    assert started.model == load_model(teacher)[0].config
    assert started.tokenizer == str(teacher)
    for missing in ("--teacher", "--out"):
        at = flags.index(missing)
        with pytest.raises(UserError, match=missing):
            parse_config("distill", flags[:at] + flags[at + 2 :])


def small_run(text: Path, teacher: Path) -> list[str]:
    return [
        "distill", "--teacher", str(teacher), "--corpus", str(text), "--max-steps", "8",
        "--eval-interval", "3", "--batch-size", "4", "--device", "cpu", "--dtype", "float32",
        "--block-size", "16",
    ]  # fmt: skip


def test_killed_it_resumes_bitwise_and_two_processes_equal_one(
    text: Path, teacher: Path, tmp_path: Path
) -> None:
    student = ["--n-layer", "1", "--n-head", "2", "--n-embd", "16"]
    check_on_one_and_on_two_processes([*small_run(text, teacher), *student], tmp_path, step=5)


def test_killed_an_adapter_resumes_bitwise(
    text: Path, teacher: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    student = write(tmp_path / "student", SIZES, tokenizer, 2)
    lora = ["--init-from", str(student), "--lora-rank", "2", "--optimizer", "adamw"]
    check_killed_and_resumed([*small_run(text, teacher), *lora], tmp_path, step=5)
    assert {path.name for path in tmp_path.joinpath("killed").rglob("*.safetensors")} == {
        "adapter_model.safetensors"
    }
