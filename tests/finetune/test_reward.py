"""`gptfast finetune reward`: the loss, its gradient, what is measured, and a kill."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
from killing import check_on_one_and_on_two_processes
from rich.console import Console

from gptfast import load_classifier
from gptfast.finetune.__main__ import main
from gptfast.finetune.reward import bradley_terry_loss, prepare, scores
from gptfast.finetune.settings.preferences import RewardConfig
from gptfast.model.heads import SequenceClassifier, score_texts
from gptfast.tokenizer.chat import ChatTemplate, read_chat_template
from gptfast.train.distributed import SINGLE_PROCESS
from gptfast.train.step import accumulate_gradients, gradient_scaler


def pairs(folder: Path, n: int) -> Path:
    """Pairs whose better answer says "seven", at any place, in few words or in many."""
    rng = random.Random(0)

    def answer(word: str) -> str:
        words = [word, *rng.choices(["the", "sum", "is", "four"], k=rng.choice([0, 2, 9]))]
        rng.shuffle(words)
        return " ".join(words)

    path = folder / "pairs.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {"prompt": f"Hello {i}", "chosen": answer("seven"), "rejected": answer("you")}
            )
            + "\n"
            for i in range(n)
        )
    )
    return path


def arguments(base: Path, data: Path) -> list[str]:
    return [
        "reward", "--model", str(base), "--data", str(data), "--max-steps", "18",
        "--batch-size", "8", "--learning-rate", "3e-3", "--warmup-steps", "2",
        "--eval-interval", "6", "--device", "cpu", "--dtype", "float32",
    ]  # fmt: skip


def test_bradley_terry_by_hand() -> None:
    chosen, rejected = [0.0, 2.0, -1.5, 80.0, -90.0], [0.0, -1.0, 3.0, -80.0, 90.0]
    losses = bradley_terry_loss(
        torch.tensor(chosen, dtype=torch.float64), torch.tensor(rejected, dtype=torch.float64)
    )
    by_hand = [math.log1p(math.exp(b - a)) for a, b in zip(chosen, rejected, strict=True)]
    assert losses.tolist() == pytest.approx(by_hand, abs=1e-12)
    assert float(losses[0]) == pytest.approx(math.log(2), abs=1e-12)
    in_float32 = bradley_terry_loss(torch.tensor(chosen), torch.tensor(rejected))
    assert in_float32.tolist() == pytest.approx(by_hand, abs=1e-7)


def test_bradley_terrys_gradient_is_that_of_differences() -> None:
    chosen = torch.randn(5, dtype=torch.float64, requires_grad=True)
    rejected = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bradley_terry_loss, (chosen, rejected))


def test_it_learns_and_its_scores_are_those_of_whole_conversations(
    chat_base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main([*arguments(chat_base, pairs(tmp_path, 120)), "--out", str(out)]) == 0
    result = json.loads((out / "run.json").read_text())["result"]["measured"]
    assert result["accuracy"] > 0.9
    assert result["accuracy_stderr"] == pytest.approx(
        math.sqrt(result["accuracy"] * (1 - result["accuracy"]) / 12)
    )
    model, tokenizer = load_classifier(out)
    assert model.labels == ("LABEL_0",)
    template = ChatTemplate(read_chat_template(out) or "", tokenizer)
    better, worse = (
        template.encode_with_mask(
            [{"role": "user", "content": "Hello 4"}, {"role": "assistant", "content": content}]
        )[0]
        for content in ("the sum is seven", "the sum is you")
    )
    score = score_texts(model, [better, worse]).tolist()
    assert score[0] > score[1] + 1


def test_micro_batches_and_the_evaluation_are_means_over_pairs(
    chat_base: Path, tmp_path: Path
) -> None:
    config = RewardConfig(
        model=chat_base, data=pairs(tmp_path, 50), out=tmp_path / "out", batch_size=4
    )
    task = prepare(config, Console(quiet=True))
    model = task.new_model(torch.device("cpu"))
    assert isinstance(model, SequenceClassifier)
    batch = task.source.next_batch()
    chosen_B, rejected_B = scores(model, batch)
    for i in range(len(batch)):
        for side, score_B in enumerate((chosen_B, rejected_B)):
            ids = batch.ids_BT[i, side, : batch.extras["lengths"][i, side]].tolist()
            assert score_texts(model, [ids])[0] == pytest.approx(score_B[i].item(), abs=1e-6)
    gradients = []
    for size in (4, 1):
        model.zero_grad()
        scaler = gradient_scaler("float32", torch.device("cpu"))
        loss = accumulate_gradients(model, batch, task.objective, scaler, micro_batch_size=size)
        gradients.append([loss, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)
    found = task.objective.evaluate(model, SINGLE_PROCESS, whole=True)
    losses = []
    for pair in task.objective.val:  # type: ignore[attr-defined]
        better, worse = score_texts(model, pair.ids).tolist()
        losses.append(math.log1p(math.exp(worse - better)))
    assert found.loss == pytest.approx(sum(losses) / len(losses), abs=1e-6)
    accuracy = sum(loss < math.log(2) for loss in losses) / len(losses)
    assert found.measured["accuracy"] == pytest.approx(accuracy)


@pytest.mark.integration
def test_killed_it_resumes_bitwise(chat_base: Path, tmp_path: Path) -> None:
    given = [*arguments(chat_base, pairs(tmp_path, 40)), "--max-steps", "8", "--eval-interval", "3"]
    check_on_one_and_on_two_processes(given, tmp_path, step=5)
