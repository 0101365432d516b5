"""DPO, IPO and SimPO: their losses, what is kept of the starting model, and whole runs."""

from __future__ import annotations

import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killing import check_on_one_and_on_two_processes
from rich.console import Console

from gptfast.errors import UserError
from gptfast.finetune.dpo import DPO, dpo_loss, ipo_loss, pair_logprobs, prepare, simpo_loss
from gptfast.finetune.settings.preferences import DPOConfig
from gptfast.model.adapter_folder import weights_sha256
from gptfast.model.folder import load_model
from gptfast.train.distributed import SINGLE_PROCESS
from gptfast.train.objective import Task
from gptfast.train.run import run
from measured import measured


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 questions, whose right answers are longer than the wrong ones."""
    rng = random.Random(0)
    lines = []
    for _ in range(40):
        a, b = rng.randint(1, 9), rng.randint(1, 9)
        answers = {"chosen": f"The sum is {a + b}.", "rejected": f"{rng.randint(1, 9)}"}
        lines.append(json.dumps({"prompt": f"{a} + {b} + {rng.random():.2f}?", **answers}))
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def settings(base: Path, pairs: Path, out: Path, **changes: object) -> DPOConfig:
    given = {
        "model": base, "data": pairs, "out": out, "max_steps": 12, "batch_size": 8,
        "micro_batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 2, "eval_interval": 6,
        "val_fraction": 0.25, "device": "cpu", "dtype": "float32",
    }  # fmt: skip
    return DPOConfig(**{**given, **changes})  # type: ignore[arg-type]


def objective_of(config: DPOConfig) -> tuple[Task, DPO]:
    task = prepare(config, Console(quiet=True))
    assert isinstance(task.objective, DPO)
    return task, task.objective


def test_losses_by_hand() -> None:
    logprobs = torch.tensor([[-10.0, -12.0], [-7.0, -4.0]], dtype=torch.float64)
    reference = torch.tensor([[-11.0, -10.0], [-7.0, -5.0]], dtype=torch.float64)
    lengths = torch.tensor([[5, 4], [2, 8]])
    dpo, rewards = dpo_loss(logprobs, reference, 0.1)  # log-ratios: 1 and -2, 0 and 1
    assert dpo.tolist() == pytest.approx(
        [math.log(1 + math.exp(-0.3)), math.log(1 + math.exp(0.1))]
    )
    assert rewards.flatten().tolist() == pytest.approx([0.1, -0.2, 0, 0.1])
    ipo, _ = ipo_loss(logprobs, reference, lengths, 0.5)
    assert ipo.tolist() == pytest.approx([(1 / 5 + 2 / 4 - 1) ** 2, (-1 / 8 - 1) ** 2])
    simpo, _ = simpo_loss(logprobs, lengths, 2.0, 0.5)
    margins = [2 * (-2 + 3) - 0.5, 2 * (-3.5 + 0.5) - 0.5]
    assert simpo.tolist() == pytest.approx([math.log(1 + math.exp(-m)) for m in margins])


@pytest.mark.parametrize(("loss", "sft_weight"), [("dpo", 0.0), ("ipo", 0.0), ("simpo", 0.5)])
def test_gradient_is_that_of_finite_differences(
    loss: str, sft_weight: float, chat_base: Path, pairs: Path, tmp_path: Path
) -> None:
    config = settings(chat_base, pairs, tmp_path / "run", loss=loss, sft_weight=sft_weight)
    task, objective = objective_of(config)
    model = task.new_model(torch.device("cpu")).double()
    batch = objective.prepare(model, task.source.next_batch())
    noise = torch.randn(len(batch), 2, dtype=torch.float64)
    batch = replace(batch, extras=batch.extras | {"reference": noise - 20})
    objective.loss(model, batch).backward()
    generator = torch.Generator().manual_seed(0)
    for name in ("wte.weight", "h.0.attn.c_attn.weight", "h.1.mlp.c_proj.bias", "ln_f.weight"):
        weight = model.get_parameter(name)
        direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        assert weight.grad is not None
        slope = (weight.grad * direction).sum().item()
        around = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight += step * direction
                around.append(objective.loss(model, batch).item())
                weight -= step * direction
        assert slope == pytest.approx((around[0] - around[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_sft_weight_adds_the_loss_of_chosen_answers(
    chat_base: Path, pairs: Path, tmp_path: Path
) -> None:
    config = settings(chat_base, pairs, tmp_path / "run")
    numbers = (
        torch.tensor([[-10.0, -12.0]]),
        torch.tensor([[-11.0, -10.0]]),
        torch.tensor([[5, 4]]),
    )
    alone, more = (
        objective_of(replace(config, sft_weight=weight))[1].losses(*numbers)[0].item()
        for weight in (0, 0.25)
    )
    assert more - alone == pytest.approx(0.25 * 10 / 5)


def test_a_run(chat_base: Path, pairs: Path, tmp_path: Path) -> None:
    """It starts at ln 2 although the model had dropout, and keeps what the start predicted."""
    base = tmp_path / "base"
    shutil.copytree(chat_base, base)
    described = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(
        json.dumps(described | {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3})
    )
    assert load_model(base)[0].config.dropout == 0.3
    config = settings(base, pairs, tmp_path / "run", max_steps=30, eval_interval=10)
    result = run(config, prepare)
    assert result is not None
    assert result.measured["reward_accuracy"] > 0.9
    lines = measured(config.out)
    first = lines[0]
    assert first["val_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["reward_accuracy"] == pytest.approx(0.5, abs=0.4)
    assert lines[-1]["logprob_chosen"] - lines[-1]["logprob_rejected"] > (
        first["logprob_chosen"] - first["logprob_rejected"]
    )
    kept = json.loads((config.out / "training" / "reference.json").read_text())
    assert kept["model_sha256"] == weights_sha256(base)
    task, objective = objective_of(replace(config, overwrite=True))
    model, _ = load_model(base)
    expected = pair_logprobs(model.eval(), objective.train, range(30), 5, SINGLE_PROCESS)
    torch.testing.assert_close(torch.tensor(kept["train"]), expected)
    assert len(kept["val"]) == 10
    assert task.source.next_batch().ids_BT.shape[:2] == (8, 2)
    # A batch of the first step: nothing has changed, dropout included.
    objective.reference = [torch.tensor(kept[name]) for name in ("train", "val")]
    start = task.new_model(torch.device("cpu")).train()
    batch = objective.prepare(start, task.source.next_batch())
    assert objective.loss(start, batch).item() == pytest.approx(math.log(2), abs=1e-6)


def test_reference_is_that_of_transformers(chat_base: Path, pairs: Path, tmp_path: Path) -> None:
    import transformers

    _, objective = objective_of(settings(chat_base, pairs, tmp_path / "run"))
    model, tokenizer = load_model(chat_base)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(chat_base).eval()
    ours = pair_logprobs(model, objective.val, range(3), 2, SINGLE_PROCESS)
    for i in range(3):
        for side in range(2):
            ids = torch.tensor(objective.val[i].ids[side])
            counted = objective.val[i].counted[side]
            answer = [t for t, counts in enumerate(counted) if counts]
            text = tokenizer.decode(ids[answer].tolist())
            assert text.endswith("<|end|>")
            with torch.no_grad():
                logprobs = theirs(ids[None]).logits[0].log_softmax(-1)
            expected = sum(logprobs[t - 1, ids[t]].item() for t in answer)
            assert ours[i, side].item() == pytest.approx(expected, abs=1e-4)


def test_another_reference_is_refused(chat_base: Path, pairs: Path, tmp_path: Path) -> None:
    config = settings(chat_base, pairs, tmp_path / "run", max_steps=2, eval_interval=1)
    run(config, prepare)
    longer = replace(config, max_steps=3, resume=True)
    path = config.out / "training" / "reference.json"
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | {"model_sha256": "0" * 64}))
    with pytest.raises(UserError, match=r"reference\.json is of another model or of other pairs"):
        run(longer, prepare)
    path.write_text(kept[:100])
    with pytest.raises(UserError, match=r"reference\.json can't be read .* --overwrite"):
        run(longer, prepare)
    path.write_text(kept)
    assert run(longer, prepare) is not None
    assert path.read_text() == kept


def test_with_lora_the_reference_is_the_base(chat_base: Path, pairs: Path, tmp_path: Path) -> None:
    config = settings(chat_base, pairs, tmp_path / "run", max_steps=4, lora_rank=4)
    run(config, prepare)
    assert measured(config.out)[0]["val_loss"] == pytest.approx(math.log(2), abs=1e-6)
    kept = json.loads((config.out / "training" / "reference.json").read_text())
    assert kept["model_sha256"] == weights_sha256(chat_base)
    expected = pair_logprobs(
        load_model(chat_base)[0],
        objective_of(replace(config, out=tmp_path / "other"))[1].val,
        range(10),
        10,
        SINGLE_PROCESS,
    )
    torch.testing.assert_close(torch.tensor(kept["val"]), expected)
    assert (config.out / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.0}, "beta is 0.0"),
        ({"beta": math.inf}, "beta is inf"),
        ({"sft_weight": math.nan}, "sft_weight is nan"),
        ({"lora_rank": 8, "lora_dropout": 0.1}, "lora_dropout is 0.1: expected 0"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0"),
        ({"simpo_gamma": -1.0}, "simpo_gamma is -1.0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(Path("base"), Path("pairs"), Path("run"), **changes)


def test_killed_it_resumes_bitwise_and_two_processes_equal_one(
    chat_base: Path, pairs: Path, tmp_path: Path
) -> None:
    arguments = [
        "dpo", "--model", str(chat_base), "--data", str(pairs), "--max-steps", "8",
        "--eval-interval", "3", "--batch-size", "4", "--device", "cpu", "--dtype", "float32",
        "--learning-rate", "1e-3", "--warmup-steps", "2",
    ]  # fmt: skip
    check_on_one_and_on_two_processes(arguments, tmp_path, step=5)
