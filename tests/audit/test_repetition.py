"""How much texts repeat themselves and what they learned from: by hand, by brute force, by others'
code."""

from __future__ import annotations

import json
import lzma
import math
import zlib
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptfast.audit.__main__ import main
from gptfast.audit.config import RepetitionPlan
from gptfast.audit.likeness import (
    GivenTrain,
    compression_ratio,
    known_words,
    longest_copies,
    words_of,
)
from gptfast.audit.repetition import MEASURES, measure, measure_next_token, of_ids, stretches
from gptfast.cli import cli
from gptfast.errors import UserError
from gptfast.model import GPT, LanguageModel, ModelConfig
from gptfast.model.folder import save_description, save_weights
from gptfast.sample.repetition import bleu, distinct, longest_repeat, self_bleu, seq_rep
from gptfast.tokenizer import BPETokenizer, CharTokenizer

# ---- formulas that count tokens -----------------------------------------------------------------


def test_measures_of_ids_by_hand() -> None:
    text = [1, 2, 1, 2, 1, 3]
    assert distinct([text], 1) == 3 / 6
    assert distinct([text], 2) == 3 / 6  # 12 21 13
    assert distinct([text], 3) == 3 / 6  # 121 212 213
    assert distinct([[1, 2], [2, 1]], 2) == 2 / 4  # no pair crosses from one text into the next
    assert distinct([[1, 2], [1, 2]], 2) == 1 / 4
    assert distinct([[1]], 2) == 0
    # Of the 5 runs of 4 ids in 12341234, 1234 comes twice.
    assert seq_rep([1, 2, 3, 4, 1, 2, 3, 4], 4) == pytest.approx(1 - 4 / 5)
    assert seq_rep([7] * 8, 4) == pytest.approx(1 - 1 / 5)
    assert seq_rep(list(range(8)), 4) == 0
    assert seq_rep([1, 2, 1], 4) == 0
    assert longest_repeat(text) == 3  # 121, which overlaps with itself
    assert longest_repeat([1, 2, 3]) == 0
    assert longest_repeat([5, 1, 2, 9, 1, 2, 5]) == 2
    found = of_ids([[7] * 8, list(range(8))])
    assert found["seq_rep_4"] == pytest.approx((4 / 5 + 0) / 2)
    assert found["seq_rep_1"] == pytest.approx((7 / 8 + 0) / 2)
    assert found["distinct_1"] == 8 / 16


@given(st.lists(st.integers(0, 2), max_size=14))
def test_the_longest_repeat_is_that_of_a_brute_force_search(text: list[int]) -> None:
    n = len(text)
    spans = (
        length
        for length in range(n - 1, 0, -1)
        if len({tuple(text[i : i + length]) for i in range(n - length + 1)}) < n - length + 1
    )
    assert longest_repeat(text) == next(spans, 0)


def test_bleu_by_hand() -> None:
    assert bleu([1, 2, 3, 4, 5], [[1, 2, 3, 4, 5], [9] * 5]) == pytest.approx(1)
    # 4 of 5 ids, 3 of 4 pairs, 2 of 3 triples, 1 of 2 runs of four.
    expected = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert bleu([1, 2, 3, 4, 9], [[1, 2, 3, 4, 5]]) == pytest.approx(expected)
    # Two 1s are in no single reference; half the length costs exp(1 - 2).
    expected = (1 / 4 * 0.1 / 3 * 0.1 / 2 * 0.1 / 1) ** (1 / 4) * math.exp(1 - 8 / 4)
    assert bleu([1, 1, 8, 8], [[1, 2, 3, 4, 5, 6, 7, 9]]) == pytest.approx(expected)
    assert bleu([1, 2, 3], [[1, 2, 3]]) == 0


ids = st.lists(st.integers(0, 4), min_size=5, max_size=12)


@settings(max_examples=25)
@given(st.lists(ids, min_size=2, max_size=4))
def test_self_bleu_is_that_of_sacrebleu(texts: list[list[int]]) -> None:
    metrics = pytest.importorskip("sacrebleu.metrics")
    theirs = metrics.BLEU(smooth_method="floor", smooth_value=0.1, tokenize="none")
    spelled = [" ".join(map(str, text)) for text in texts]
    expected = []
    for i, text in enumerate(spelled):
        others = [[other] for other in spelled[:i] + spelled[i + 1 :]]
        expected.append(theirs.corpus_score([text], others).score / 100)
    assert self_bleu(texts) == pytest.approx(sum(expected) / len(texts))


# ---- formulas that count characters -------------------------------------------------------------


def test_measures_of_texts_by_hand() -> None:
    text = "to be or not to be, " * 9
    assert compression_ratio(text) == len(text) / len(zlib.compress(text.encode(), 9))
    assert compression_ratio(text) > 4 * compression_ratio("Who goes there? Stand!")
    train = "The king sees the crow, and the crow follows the king.\n" * 3
    more = "The king sees the fool.\n"
    bits = 8 * (len(lzma.compress((train + more).encode())) - len(lzma.compress(train.encode())))
    assert GivenTrain(train).bits_per_byte(more) == bits / len(more)
    assert GivenTrain(train).bits_per_byte(more) < GivenTrain("x").bits_per_byte(more)
    assert words_of("O, Céline's crow-king 3 x_y can't") == [
        "O", "Céline's", "crow", "king", "x", "y", "can't",
    ]  # fmt: skip
    # The first and the last word may be cut.
    assert known_words("ng sees the moon, and the cr", {"sees", "the", "and"}) == 4 / 5
    assert known_words("a b", set()) == 1
    assert longest_copies(["xx sees the crow, but", "the", "ßßß", ""], train) == [16, 3, 0, 0]


@given(st.text("ab", max_size=24), st.lists(st.text("abc", max_size=16), max_size=3))
def test_the_longest_copy_is_that_of_a_brute_force_search(train: str, texts: list[str]) -> None:
    expected = [
        max((j - i for j in range(len(t) + 1) for i in range(j) if t[i:j] in train), default=0)
        for t in texts
    ]
    assert longest_copies(texts, train) == expected


# ---- the likeliest next token -------------------------------------------------------------------


class Echo(LanguageModel):
    """Finds the token before the present one the likeliest, and the present one at first."""

    def __init__(self, block_size: int) -> None:
        super().__init__(ModelConfig(20, "bigram", block_size))
        self.scale = torch.nn.Parameter(torch.ones(()))

    def _logits(self, idx_BT: Tensor) -> Tensor:
        before_BT = torch.cat((idx_BT[:, :1], idx_BT[:, :-1]), 1)
        return torch.nn.functional.one_hot(before_BT, 20) * self.scale


def test_rep_and_wrep_by_hand() -> None:
    # Two windows of 4 places each: 0 1 0 2 | 3 and 4 4 4 5 | 6.
    found, n_places = measure_next_token(Echo(4), [[0, 1, 0, 2, 3], [4, 4, 4, 5, 6]])
    assert n_places == 8
    (one,) = found
    assert one.span == 4
    # Next tokens that were there: 0 in the first window; 4 and 4 in the second.
    assert one.text == 3 / 8
    # It always predicts one that was there: 0 0 1 0 and 4 4 4 4, of which the second 0 and the
    # first two 4s are right.
    assert one.rep == 1
    assert one.wrep == 5 / 8


def test_a_span_ends_where_it_says() -> None:
    # With a period of 16, the next token is the oldest of the last 16, from the 16th place on.
    for period, share in ((10, 10 / 19), (16, 4 / 19), (17, 0)):
        text = [*range(period)] * 4
        (one,), _ = measure_next_token(Echo(19), [text, text])
        assert one.span == 16
        assert one.text == pytest.approx(share)


# ---- the audit ----------------------------------------------------------------------------------


def test_stretches_are_spread_and_do_not_overlap() -> None:
    documents = [list(range(10)), [99], list(range(100, 125))]
    assert stretches(documents, 5, 3) == [
        [0, 1, 2, 3, 4], [105, 106, 107, 108, 109], [120, 121, 122, 123, 124],
    ]  # fmt: skip
    everything = stretches(documents, 5, 100)
    assert len(everything) == 2 + 5
    assert len({i for stretch in everything for i in stretch}) == 35
    with pytest.raises(UserError, match="has 30 tokens, the longest has 25"):
        stretches(documents, 30, 2)


def shaken(tokenizer: CharTokenizer | BPETokenizer) -> GPT:
    torch.manual_seed(0)
    model = GPT(ModelConfig(tokenizer.n_vocab, "gpt", 32, 1, 2, 16)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


PLAN = RepetitionPlan(samples=3, sets=2, prompt_tokens=4, sample_tokens=24)


def test_a_model_that_loops_repeats_more_than_the_text(nursery_text: str) -> None:
    """The val text's row is that of the text itself, whatever the model."""
    tokenizer = CharTokenizer.train(nursery_text)
    val = tokenizer.encode_ordinary(nursery_text[-3000:])
    train = nursery_text[:-3000]
    audit = measure(shaken(tokenizer), tokenizer, [val], train, PLAN)
    assert [row.name for row in audit.rows] == [
        "val text", "greedy", "T 0.8", "T 0.8, top-p 0.9", "T 1",
    ]  # fmt: skip
    text, greedy, cool, *_ = audit.rows
    own = [stretch[4:] for stretch in stretches([val], 28, 3)]
    assert text.measures["seq_rep_4"] == sum(seq_rep(ids, 4) for ids in own) / 3
    assert text.example == tokenizer.decode(own[0])
    assert text.measures["known_words"] == 1
    assert list(text.measures) == list(MEASURES)
    assert text.spread is None
    assert greedy.spread is None
    assert cool.spread is not None
    assert len(greedy.example) == 24
    assert greedy.measures["seq_rep_4"] > 3 * text.measures["seq_rep_4"]
    assert json.loads(json.dumps(asdict(audit)))["rows"][1]["measures"] == greedy.measures
    again = measure(shaken(tokenizer), tokenizer, [val], train, PLAN)
    assert again == audit


def save(folder: Path, nursery_text: str) -> Path:
    tokenizer = BPETokenizer.train([nursery_text], 270, special_tokens=("<|endoftext|>",))
    model = shaken(tokenizer)
    save_description(folder, model.config, tokenizer)
    save_weights(model, folder / "model.safetensors")
    return folder


def test_the_command(
    tmp_path: Path, nursery_text: str, corpus_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = save(tmp_path / "model", nursery_text), tmp_path / "out"
    small = ["--samples", "3", "--sets", "2", "--prompt-tokens", "4", "--sample-tokens", "24"]
    given = ["repetition", str(folder), *small]
    assert cli.run(main, given) == 2
    assert "does not say which corpus its model learned from: give --corpus" in (
        capsys.readouterr().err
    )
    given += ["--corpus", str(corpus_file), "--out", str(out)]
    assert cli.run(main, given) == 0
    said = capsys.readouterr().out
    saved = json.loads((out / "repetition.json").read_text(encoding="utf-8"))
    text, greedy = (row["measures"]["seq_rep_4"] for row in saved["rows"][:2])
    assert f"│ {text:.3f} │ {greedy:.3f} │" in " ".join(said.split())
    assert f"greedy: {greedy / text:.2g} times the val text's seq-rep-4" in said
    assert "wrep/l" in said
    assert cli.run(main, [*given, "--sample-tokens", "700"]) == 2
    assert "room for one sample of 4 and 700 tokens" in capsys.readouterr().err
    assert cli.run(main, [*given, "--sets", "1"]) == 2
    assert "sets is 1: expected at least 2" in capsys.readouterr().err
    assert cli.run(main, [*given, "--sample-tokens", "50000"]) == 2
    assert "no document of the val text has 50004 tokens" in capsys.readouterr().err


def test_the_corpus_of_the_run_is_taken(
    tmp_path: Path, nursery_text: str, corpus_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gptfast.audit.corpus import read_corpus
    from gptfast.tokenizer import load_tokenizer

    folder = save(tmp_path / "model", nursery_text)
    marked = corpus_file.with_name("marked.txt")
    marked.write_text(f"{nursery_text}<|endoftext|>ONE\n<|endoftext|>TWO\n", encoding="utf-8")
    config = {"corpus": str(marked), "val_fraction": 0.0001}
    record = {"config": config, "command": "", "fingerprint": "", "resumed_by": [], "result": None}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    capsys.readouterr()
    val, train = read_corpus(folder, tokenizer, None, print)
    assert "has changed" not in capsys.readouterr().out
    assert [tokenizer.decode(document).strip() for document in val if document] == ["TWO"]
    assert nursery_text.strip() in train
    assert "TWO" not in train
    other = {"corpus_sha256": "0" * 64}
    (folder / "run.json").write_text(json.dumps(record | {"data": other}), encoding="utf-8")
    read_corpus(folder, tokenizer, None, print)
    assert "marked.txt has changed since the model was trained on it" in capsys.readouterr().out
