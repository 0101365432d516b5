"""`gptfast finetune classify`: data, loss, evaluation, and a kill."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chat_model import CHAT_MODEL, new_chat_base
from killing import check_killed_and_resumed
from rich.console import Console

from gptfast import load_classifier
from gptfast.data.classes import class_batch, encode_labelled, read_labelled
from gptfast.errors import UserError
from gptfast.finetune.__main__ import main
from gptfast.finetune.classify import prepare
from gptfast.finetune.settings.supervised import ClassifyConfig
from gptfast.model.config import ExpertBalance
from gptfast.model.folder import load_model
from gptfast.model.heads import SequenceClassifier, logits_of
from gptfast.tokenizer import load_tokenizer
from gptfast.train.distributed import SINGLE_PROCESS
from gptfast.train.step import accumulate_gradients, gradient_scaler
from measured import measured


def sentences(n: int) -> list[dict[str, str]]:
    """Sentences of very unequal lengths, whose class is that of their first word."""
    rng = random.Random(0)
    words = {"sum": "number", "three": "number", "Hello": "greeting", "today": "greeting"}
    return [
        {
            "text": " ".join([first, *rng.choices(["the", "is", "of"], k=rng.choice([0, 3, 9]))])
            + f" {i}",
            "label": words[first],
        }
        for i, first in enumerate(rng.choices(list(words), weights=[4, 2, 2, 2], k=n))
    ]


def written(folder: Path, records: list[dict[str, str]], name: str = "texts.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


def arguments(base: Path, data: Path, *further: str) -> list[str]:
    return [
        "classify", "--model", str(base), "--data", str(data), "--max-steps", "12",
        "--batch-size", "16", "--learning-rate", "3e-3", "--warmup-steps", "2",
        "--eval-interval", "4", "--device", "cpu", "--dtype", "float32", *further,
    ]  # fmt: skip


def test_it_learns_and_says_what_always_the_same_answer_would_reach(
    chat_base: Path, tmp_path: Path
) -> None:
    records = sentences(300)
    out = tmp_path / "out"
    assert main([*arguments(chat_base, written(tmp_path, records)), "--out", str(out)]) == 0
    result = json.loads((out / "run.json").read_text())["result"]["measured"]
    val = [m for m in measured(out) if "val_loss" in m]
    assert val[0]["accuracy"] < 0.8 < 0.95 < result["accuracy"]
    assert 0.5 < result["majority_accuracy"] < 0.75
    model, tokenizer = load_classifier(out)
    assert model.labels == ("greeting", "number")
    guessed = [label for label, _ in model.classify(tokenizer, ["Hello 1", "three of the 2"])]
    assert guessed == ["greeting", "number"]


def test_it_is_evaluated_by_hand_counted_answers(chat_base: Path, tmp_path: Path) -> None:
    data = written(tmp_path, sentences(100))
    config = ClassifyConfig(
        model=chat_base, data=data, out=tmp_path / "out", batch_size=7, eval_windows=5
    )
    task = prepare(config, Console(quiet=True))
    model = task.new_model(torch.device("cpu"))
    assert isinstance(model, SequenceClassifier)
    val = task.objective.val  # type: ignore[attr-defined]
    probabilities = [logits_of(model, [one.ids]).softmax(-1)[0] for one in val]
    right = [int(p.argmax()) == one.label for p, one in zip(probabilities, val, strict=True)]
    nats = [-float(p[one.label].log()) for p, one in zip(probabilities, val, strict=True)]
    found = task.objective.evaluate(model, SINGLE_PROCESS, whole=True)
    n = len(val)
    assert n == 10
    assert found.loss == pytest.approx(sum(nats) / n, abs=1e-6)
    accuracy = sum(right) / n
    assert found.measured["accuracy"] == pytest.approx(accuracy)
    assert found.measured["accuracy_stderr"] == pytest.approx(
        (accuracy * (1 - accuracy) / n) ** 0.5
    )
    chosen = [0, 2, 4, 6, 9]
    few = task.objective.evaluate(model, SINGLE_PROCESS, whole=False)
    assert few.loss == pytest.approx(sum(nats[i] for i in chosen) / 5, abs=1e-6)


def test_micro_batches_of_unequal_lengths_have_the_gradients_of_the_batch(
    chat_base: Path, tmp_path: Path
) -> None:
    config = ClassifyConfig(
        model=chat_base, data=written(tmp_path, sentences(60)), out=tmp_path / "out", batch_size=7
    )
    task = prepare(config, Console(quiet=True))
    model = task.new_model(torch.device("cpu"))
    batch = task.source.next_batch()
    assert len(set(batch.extras["length"].tolist())) > 2
    gradients = []
    for size in (7, 3, 1):
        model.zero_grad()
        scaler = gradient_scaler("float32", torch.device("cpu"))
        loss = accumulate_gradients(model, batch, task.objective, scaler, micro_batch_size=size)
        gradients.append([loss, *(p.grad for p in model.parameters())])
    for others in gradients[1:]:
        torch.testing.assert_close(others, gradients[0], atol=1e-6, rtol=1e-5)


def test_the_same_text_is_never_on_both_sides(chat_base: Path, tmp_path: Path) -> None:
    records = [{"text": f"  Hello\tTHREE {i % 20} ", "label": str(i % 2)} for i in range(200)]
    config = ClassifyConfig(
        model=chat_base, data=written(tmp_path, records), out=tmp_path / "out", val_fraction=0.2
    )
    task = prepare(config, Console(quiet=True))
    val = {tuple(one.ids) for one in task.objective.val}  # type: ignore[attr-defined]
    assert len(val) == 4
    for _ in range(20):
        batch = task.source.next_batch()
        for ids, length in zip(batch.ids_BT.tolist(), batch.extras["length"], strict=True):
            assert tuple(ids[:length]) not in val


def test_a_long_text_is_left_out_and_counted(chat_base: Path, tmp_path: Path) -> None:
    records = [*sentences(50), {"text": "the " * 200, "label": "number"}]
    config = ClassifyConfig(
        model=chat_base, data=written(tmp_path, records), out=tmp_path / "out",
        val_data=written(tmp_path, records[:9], "val.jsonl"),
    )  # fmt: skip
    notes = prepare(config, Console(quiet=True)).notes
    assert notes[1:] == [
        "note: 9 val texts also among those to train on",
        "left out: 1 text longer than 64 tokens",
    ]
    assert notes[0].startswith("train on 50 texts of 2 classes (greeting, number), validate on 9;")


def test_csv_has_the_same_texts_as_jsonl(tmp_path: Path) -> None:
    records = [{"text": 'a "fine", film\nof two lines', "label": "7"}, {"text": "é", "label": "no"}]
    with (tmp_path / "texts.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["label", "text"])
        writer.writeheader()
        writer.writerows(records)
    found = read_labelled(tmp_path / "texts.csv")
    assert [(one.text, one.label) for one in found] == [(r["text"], r["label"]) for r in records]
    assert [one.line for one in found] == [3, 4]
    records[0]["label"] = 7  # type: ignore[assignment]
    as_json = read_labelled(written(tmp_path, records))
    assert [(one.text, one.label) for one in as_json] == [(one.text, one.label) for one in found]


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"text": "a", "label": None}, r"texts\.jsonl:2: there is no label"),
        ({"text": "a", "label": True}, r"texts\.jsonl:2: there is no label"),
        ({"text": " ", "label": "b"}, r"texts\.jsonl:2: there is no text"),
        ({"label": "b"}, r"texts\.jsonl:2: there is no text"),
    ],
)
def test_a_record_without_text_or_label_is_refused(
    record: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=complaint):
        read_labelled(written(tmp_path, [{"text": "a", "label": "b"}, record]))


def test_a_label_that_only_val_has_is_refused(chat_base: Path, tmp_path: Path) -> None:
    config = ClassifyConfig(
        model=chat_base, data=written(tmp_path, sentences(20)), out=tmp_path / "out",
        val_data=written(tmp_path, [{"text": "a", "label": "new"}], "val.jsonl"),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"val\.jsonl:1: no text to train on has the label 'new'"):
        prepare(config, Console(quiet=True))


def test_a_class_that_the_split_leaves_no_text_of_is_refused(
    chat_base: Path, tmp_path: Path
) -> None:
    records = [{"text": f"{i}", "label": f"{i}"} for i in range(20)]
    config = ClassifyConfig(model=chat_base, data=written(tmp_path, records), out=tmp_path / "out")
    with pytest.raises(UserError, match=r"to train on has the label '\d+': give more texts with"):
        prepare(config, Console(quiet=True))


def test_experts_that_need_a_loss_to_balance_them_are_refused(tmp_path: Path) -> None:
    sizes = replace(CHAT_MODEL, n_expert=4, n_hidden=32, bias=False)
    data = written(tmp_path, sentences(30))

    def config(balance: ExpertBalance) -> ClassifyConfig:
        base = new_chat_base(tmp_path / balance, replace(sizes, expert_balance=balance))
        return ClassifyConfig(model=base, data=data, out=tmp_path / "out")

    with pytest.raises(UserError, match="4 experts, balanced by a loss that this method does not"):
        prepare(config("loss"), Console(quiet=True))
    assert prepare(config("bias"), Console(quiet=True)).new_model(torch.device("cpu"))


def test_a_folder_is_no_file_of_texts(tmp_path: Path) -> None:
    folder = tmp_path / "texts.csv"
    folder.mkdir()
    for path in (folder, tmp_path / "none.csv"):
        with pytest.raises(UserError, match=r"no file at .*: expected texts with their labels"):
            read_labelled(path)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_an_adapter_with_a_head_is_a_classifier_for_us_and_for_peft(
    chat_base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    data = written(tmp_path, sentences(100))
    further = ("--lora-rank", "4", "--learning-rate", "1e-2", "--max-steps", "8")
    assert main([*arguments(chat_base, data, *further), "--out", str(out)]) == 0
    model, tokenizer = load_classifier(out)
    assert model.labels == ("greeting", "number")
    with pytest.raises(UserError, match="is a classifier or a reward model, which predicts no"):
        load_model(out)
    texts = [tokenizer.encode_ordinary(one["text"]) for one in sentences(5)]
    ours_BN = logits_of(model, texts)
    assert ours_BN.std() > 0.1
    peft = pytest.importorskip("peft")
    theirs = peft.AutoPeftModelForSequenceClassification.from_pretrained(out, num_labels=2)
    for i, ids in enumerate(texts):
        with torch.no_grad():
            expected_N = theirs(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(ours_BN[i], expected_N, atol=1e-5, rtol=0)


@pytest.mark.integration
@pytest.mark.parametrize(("n_processes", "rank"), [(2, "0"), (1, "2")])
def test_killed_it_resumes_bitwise(
    n_processes: int, rank: str, chat_base: Path, tmp_path: Path
) -> None:
    data = written(tmp_path, sentences(60))
    check_killed_and_resumed(
        arguments(chat_base, data, "--lora-rank", rank), tmp_path, n_processes=n_processes, step=6
    )


def test_the_rows_of_a_batch_are_filled_up_on_the_right(chat_base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(chat_base)
    texts = read_labelled(written(tmp_path, sentences(5)))
    encoded, n_long = encode_labelled(texts, ["greeting", "number"], tokenizer, 64)
    assert n_long == 0
    batch = class_batch(encoded, [3, 1])
    for row, length, label, i in zip(
        batch.ids_BT.tolist(), batch.extras["length"].tolist(), batch.extras["label"], (3, 1),
        strict=True,
    ):  # fmt: skip
        assert row[:length] == tokenizer.encode_ordinary(texts[i].text)
        assert not any(row[length:])
        assert texts[i].label == ["greeting", "number"][label]
