"""SFT: its loss by independent oracles, what is refused, and kill and resume."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_model import CHAT_MODEL, new_chat_base
from killing import check_on_one_and_on_two_processes
from rich.console import Console
from torch.nn import functional as F
from unequal import N_TARGETS, main, unequal_batch, unequal_model

from gptfast.data.batch import IGNORED, Batch
from gptfast.data.packing import Example, PackedRows
from gptfast.errors import UserError
from gptfast.finetune.settings.supervised import SFTConfig
from gptfast.finetune.sft import AnswerTokens, prepare
from gptfast.model import GPT, ModelConfig
from gptfast.model.base import LanguageModel
from gptfast.model.folder import load_model
from gptfast.train.distributed import SINGLE_PROCESS
from gptfast.train.evaluate import evaluate
from gptfast.train.objective import NextToken
from gptfast.train.run import run
from gptfast.train.step import accumulate_gradients, gradient_scaler
from processes import start

LLAMA = replace(
    CHAT_MODEL, norm="rmsnorm", bias=False, positions="rotary", activation="swiglu", n_kv_head=2,
    tie_embeddings=False,
)  # fmt: skip


def write_chats(path: Path, n: int = 40) -> Path:
    """Sums as questions, of which some have an answer of one letter and some a long one."""
    records: list[dict[str, Any]] = []
    for i in range(n):
        long = i % 4 == 0
        answer = "It is " + "very " * (3 if long else 0) + f"{i}." if i % 2 == 0 else "n"
        records.append({"prompt": f"{i} + {i + 1}?", "completion": answer})
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Why"},
                {"role": "assistant", "content": "Because"}]  # fmt: skip
    records.append({"messages": messages})
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def settings(model: Path, data: Path, out: Path, **changes: Any) -> SFTConfig:
    return SFTConfig(
        **{
            "model": model, "data": data, "out": out, "max_steps": 6, "batch_size": 4,
            "warmup_steps": 2, "eval_interval": 2, "device": "cpu", "dtype": "float32", **changes,
        }
    )  # fmt: skip


def random_examples(lengths: list[int], vocab_size: int) -> list[Example]:
    rng = np.random.default_rng(0)
    made = []
    for n in lengths:
        mask = rng.random(n) < 0.5
        mask[-1] = True
        made.append(Example(rng.integers(0, vocab_size, n), mask))
    return made


# ---- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CHAT_MODEL, LLAMA], ids=["gpt2", "llama"])
def test_packed_loss_is_that_of_transformers_with_labels_of_minus_100(
    tmp_path: Path, config: ModelConfig
) -> None:
    from transformers import AutoModelForCausalLM

    folder = new_chat_base(tmp_path / "base", config)
    task = prepare(
        settings(folder, write_chats(tmp_path / "a.jsonl"), tmp_path / "out"), Console(quiet=True)
    )
    batch = task.source.example()
    assert batch.document_starts_BT is not None
    assert (batch.document_starts_BT.sum(1) > 1).all()  # there are several in each row
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    total = count = 0.0
    assert batch.cu_seqlens is not None
    ids, targets, borders = batch.ids_BT.flatten(), batch.targets_BT.flatten(), batch.cu_seqlens
    with torch.no_grad():
        loss = task.objective.loss(load_model(folder)[0], batch).item()
        for begin, end in pairwise(borders.tolist()):
            labels = torch.cat([torch.tensor([IGNORED]), targets[begin:end]])
            n = int((labels != IGNORED).sum())
            if n:  # theirs shifts labels by one, so an id is appended that predicts nothing
                text = torch.cat([ids[begin:end], ids[:1]])
                total += n * theirs(input_ids=text[None], labels=labels[None]).loss.item()
                count += n
    assert loss == pytest.approx(total / count, abs=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        CHAT_MODEL,
        LLAMA,
        replace(CHAT_MODEL, max_ngram=3, ngram_rows=500),
        replace(LLAMA, sliding_window=7),
    ],
    ids=["learned", "rotary", "n-grams", "window"],
)
def test_packed_equals_one_by_one(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = GPT(config)
    rows = PackedRows(random_examples([30, 21, 14, 40, 25, 9, 8, 8, 3, 2], 320), 64, fill=0)
    assert len(rows) < 4
    packed = rows.batch(range(len(rows)))
    one_by_one = PackedRows(rows.examples, 64, fill=0)
    one_by_one.rows = [[i] for i in range(len(rows.examples))]
    losses, gradients = [], []
    for batch in (packed, one_by_one.batch(range(len(one_by_one.rows)))):
        model.zero_grad()
        loss = NextToken().loss(model, batch)
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    # A row alone, of its own length: what surrounds it makes no difference either.
    alone = rows.examples[0]
    single = Batch(
        torch.from_numpy(alone.ids[None, :-1]),
        torch.from_numpy(np.where(alone.is_target, alone.ids, IGNORED)[None, 1:]),
    )
    one_by_one.rows = [[0]]
    expected = NextToken().loss(model, one_by_one.batch([0])).item()
    assert NextToken().loss(model, single).item() == pytest.approx(expected, abs=1e-6)


def by_hand(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """The mean over all targets of the batch at once."""
    logits = model(batch.ids_BT).flatten(0, 1)
    loss = F.cross_entropy(logits, batch.targets_BT.flatten(), ignore_index=IGNORED)
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 4, None])
def test_micro_batches_are_weighted_by_their_targets(micro_batch_size: int | None) -> None:
    batch, expected, model = unequal_batch(), unequal_model(), unequal_model()
    assert tuple((batch.targets_BT != IGNORED).sum(1).tolist()) == N_TARGETS
    loss = accumulate_gradients(
        model, batch, NextToken(), gradient_scaler("float32", torch.device("cpu")),
        micro_batch_size=micro_batch_size,
    )  # fmt: skip
    assert loss.item() == pytest.approx(by_hand(expected, batch).item(), abs=1e-6)
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-6)


@pytest.mark.integration
def test_processes_are_weighted_by_their_targets(tmp_path: Path) -> None:
    start(2, [str(tmp_path / "two.pt")], tmp_path / "printed", main).finished()
    loss, gradients = torch.load(tmp_path / "two.pt")
    expected = unequal_model()
    assert loss.item() == pytest.approx(by_hand(expected, unequal_batch()).item(), abs=1e-6)
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-6)


def test_an_evaluation_weights_by_counted_targets(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPT(replace(CHAT_MODEL, dropout=0.5))
    lengths = [65] * 5
    examples = random_examples(lengths, 320)
    for example, n in zip(examples, (1, 40, 3, 64, 20), strict=True):
        example.is_target[:] = np.arange(65) >= 65 - n
    rows = PackedRows(examples, 64, fill=0)
    config = settings(tmp_path, tmp_path, tmp_path / "out", batch_size=2, eval_windows=3)
    objective = AnswerTokens(config, rows, 320)
    model.train()
    result = objective.evaluate(model, SINGLE_PROCESS, whole=True)
    assert model.training
    model.eval()
    ids = torch.from_numpy(np.stack([example.ids for example in examples]))
    counted = torch.from_numpy(np.stack([example.is_target for example in examples]))[:, 1:]
    with torch.no_grad():
        logits = model(ids[:, :-1])[counted]
    targets = ids[:, 1:][counted]
    assert result.loss == pytest.approx(F.cross_entropy(logits, targets).item(), abs=1e-6)
    accuracy = (logits.argmax(-1) == targets).float().mean().item()
    assert result.measured["val_accuracy"] == pytest.approx(accuracy)
    nothing = Batch(ids[:2, :-1], torch.full((2, 64), IGNORED))
    batches = [nothing, *rows.batches(2)]  # the mean of nothing would be NaN
    assert evaluate(model, batches) == pytest.approx(result.loss, abs=1e-6)
    some = objective.evaluate(model, SINGLE_PROCESS, whole=False)  # rows 0, 2 and 4
    assert some.loss != result.loss
    objective.rows_at_once = 1  # few logits at once
    again = objective.evaluate(model, SINGLE_PROCESS, whole=True)
    assert again.loss == pytest.approx(result.loss, abs=1e-6)


# ---- the data ------------------------------------------------------------------------------------


def test_targets_are_the_answers_and_their_end(chat_base: Path, tmp_path: Path) -> None:
    data = write_chats(tmp_path / "a.jsonl", 1)
    val = write_chats(tmp_path / "b.jsonl", 2)
    task = prepare(
        settings(chat_base, data, tmp_path / "out", val_data=val, batch_size=1),
        Console(quiet=True),
    )
    tokenizer = task.tokenizer
    batch = task.source.example()
    texts = []
    for ids_T, targets_T in zip(batch.ids_BT, batch.targets_BT, strict=True):
        texts.append(tokenizer.decode(ids_T.tolist()))
        counted = targets_T[targets_T != IGNORED].tolist()
        assert tokenizer.decode(counted) in (
            "It is very very very 0.<|end|>",
            "Hello<|end|>Because<|end|>It is very very very 0.<|end|>",
            "Hello<|end|>Because<|end|>",
        )
    assert all(text.startswith("<|endoftext|><|") for text in texts)
    assert task.examine is not None
    assert "2 of 3 prompts" in " ".join(task.examine())


def test_long_conversations_are_left_out_and_counted(chat_base: Path, tmp_path: Path) -> None:
    data = write_chats(tmp_path / "a.jsonl")
    n = len(data.read_text().splitlines())
    with data.open("a") as file:
        file.write(json.dumps({"prompt": "long", "completion": "ab " * 80}) + "\n")
    config = settings(chat_base, data, tmp_path / "out", val_data=write_chats(tmp_path / "b.jsonl"))
    task = prepare(config, Console(quiet=True))
    assert any(
        note.startswith("left out 1 conversation longer than the context of 64 tokens, at line "
                        f"{n + 1} of") for note in task.notes
    )  # fmt: skip
    assert task.record["data"]["train"]["left_out"] == 1
    assert task.record["data"]["train"]["conversations"] == n
    for seed in (0, 3):  # with which it would be in train, and in val
        halves = replace(config, val_data=None, val_fraction=0.5, seed=seed)
        parts = prepare(halves, Console(quiet=True)).record["data"]
        assert (parts["train"]["conversations"], parts["val"]["conversations"]) == (n - 20, 20)
        assert (parts["train"]["left_out"], parts["val"]["left_out"]) == (1, 0)
    data.write_text(json.dumps({"prompt": "long", "completion": "ab " * 80}) + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl: no conversation fits into the context of 64"):
        prepare(config, Console(quiet=True))


def test_what_cannot_be_learned_is_refused_with_its_line(chat_base: Path, tmp_path: Path) -> None:
    data = write_chats(tmp_path / "a.jsonl")
    with data.open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    config = settings(chat_base, data, tmp_path / "out")
    with pytest.raises(UserError, match=r"a\.jsonl, line 42: the conversation has no answer"):
        prepare(config, Console(quiet=True))
    folder = new_chat_base(tmp_path / "refusing")
    template = folder / "chat_template.jinja"
    template.write_text(
        "{% if messages[0].content == 'Hi' %}{{ raise_exception('no Hi') }}{% endif %}"
        + template.read_text()
    )
    with pytest.raises(UserError, match=r"a\.jsonl, line 41: .*no Hi"):
        prepare(
            replace(config, model=folder, data=_last_answered(data), val_data=data),
            Console(quiet=True),
        )
    with pytest.raises(UserError, match="val_fraction is 1: expected"):
        replace(config, val_fraction=1)


def _last_answered(data: Path) -> Path:
    """Give the unanswered conversation of a file an answer."""
    lines = data.read_text().splitlines()
    answered = json.dumps({"prompt": "Hi", "completion": "Hello"})
    data.write_text("\n".join([*lines[:40], answered]) + "\n")
    return data


# ---- the run -------------------------------------------------------------------------------------


def test_a_run_learns_and_says_what_it_did(chat_base: Path, tmp_path: Path) -> None:
    printed = io.StringIO()
    config = settings(
        chat_base, write_chats(tmp_path / "a.jsonl"), tmp_path / "out",
        max_steps=30, eval_interval=15, learning_rate=3e-3, sample_interval=15,
    )  # fmt: skip
    result = run(config, prepare, console=Console(file=printed, width=1000))
    assert result is not None
    assert result.val_loss < 4
    assert result.measured["val_accuracy"] > 0.2
    lines = printed.getvalue()
    assert "train on 37 conversations of" in lines
    assert "validate on 4 conversations of" in lines
    assert "30 steps of 4 rows:" in lines
    assert "nats/answer token" in lines
    assert "--- sample after 15 steps" in lines
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["data"]["train"]["answer_tokens"] > 200
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == (
        chat_base / "chat_template.jinja"
    ).read_text()


def test_a_run_goes_on_with_the_same_conversations_only(chat_base: Path, tmp_path: Path) -> None:
    data = write_chats(tmp_path / "a.jsonl")
    config = settings(chat_base, data, tmp_path / "out", max_steps=1, eval_interval=1)
    run(config, prepare)
    moved = replace(config, resume=True, max_steps=2, data=data.rename(tmp_path / "b.jsonl"))
    result = run(moved, prepare)
    assert result is not None
    assert result.steps == 2
    other = new_chat_base(tmp_path / "other", replace(CHAT_MODEL, n_layer=1))
    with pytest.raises(UserError, match=r"the weights in .*other are not those that the run in"):
        run(replace(moved, max_steps=3, model=other), prepare)
    with pytest.raises(UserError, match="has changed since the run in"):
        run(replace(moved, max_steps=3, data=write_chats(tmp_path / "c.jsonl", 39)), prepare)


@pytest.mark.integration
def test_killed_it_resumes_bitwise(chat_base: Path, tmp_path: Path) -> None:
    data = write_chats(tmp_path / "a.jsonl")
    arguments = [
        "sft", "--model", str(chat_base), "--data", str(data), "--max-steps", "8",
        "--batch-size", "4", "--micro-batch-size", "1", "--eval-interval", "3",
        "--warmup-steps", "2", "--device", "cpu", "--dtype", "float32",
    ]  # fmt: skip
    check_on_one_and_on_two_processes(arguments, tmp_path, step=5)
