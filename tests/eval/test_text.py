"""Bits per byte with a stride, against a naive twin and transformers' recipe."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from judged import STORY, TEXTS, save

from gptfast.cli import cli
from gptfast.errors import UserError
from gptfast.eval.__main__ import main
from gptfast.model import GPT, ModelConfig, build_model
from gptfast.model.text_score import Document, Score, encode_documents, score, spans
from gptfast.tokenizer import BPETokenizer, CharTokenizer


def test_windows_by_hand() -> None:
    # A document of 9 tokens after its first; windows of 4 ids, each 2 further.
    assert list(spans(10, 4, 2)) == [(0, 1, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10)]
    assert list(spans(9, 4, 2)) == [(0, 1, 4), (2, 4, 6), (4, 6, 8), (6, 8, 9)]
    assert list(spans(4, 4, 3)) == [(0, 1, 4)]
    assert list(spans(2, 4, 3)) == [(0, 1, 2)]


@given(st.integers(2, 60), st.integers(2, 20), st.data())
def test_each_token_is_predicted_once_with_enough_context(
    n_tokens: int, block_size: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, block_size - 1))
    predicted = []
    for begin, first, end in spans(n_tokens, block_size, stride):
        assert end - begin <= block_size
        for target in range(first, end):
            assert target - begin >= min(target, block_size - stride)
            predicted.append(target)
    assert predicted == list(range(1, n_tokens))


@torch.no_grad()
def test_a_score_is_that_of_a_naive_loop_in_float64(model: GPT, tokenizer: BPETokenizer) -> None:
    wide = deepcopy(model).double()
    documents = encode_documents(TEXTS, tokenizer)
    expected = []
    for document in documents:
        nats = 0.0
        for begin, first, end in spans(len(document.ids), 16, 5):
            for target in range(first, end):
                ids = torch.tensor(document.ids[begin:target])[None]
                logprobs = wide(ids)[0, -1].log_softmax(-1)
                nats -= float(logprobs[int(document.ids[target])])
        expected.append(nats)
    found = score(wide, documents, 5, batch_size=3)
    assert found.nats_N == pytest.approx(expected, rel=1e-9)
    # Every byte of each text is predicted, because the end-of-text token stands before it.
    assert found.bytes_N.tolist() == [len(text.encode()) for text in TEXTS]
    assert found.tokens_N.tolist() == [tokenizer.count(text) for text in TEXTS]
    assert score(model, documents, 5, 2).nats_N == pytest.approx(expected, rel=1e-5)


def test_bits_per_byte_by_hand() -> None:
    # 2 documents: 6 ln 2 nats for 4 bytes in 3 tokens, 2 ln 2 nats for 12 bytes in 1 token.
    found = Score(np.array([6, 2]) * math.log(2), np.array([3, 1]), np.array([4, 12]))
    assert found.bits_per_byte == pytest.approx(8 / 16)
    assert found.nats_per_token == pytest.approx(2 * math.log(2))


def test_without_a_token_that_begins_a_text_the_first_one_is_not_predicted() -> None:
    tokenizer = CharTokenizer.train("éab漢")
    (whole, single) = encode_documents(["éab漢", "漢"], tokenizer)
    assert (whole.ids.tolist(), whole.n_bytes) == (tokenizer.encode("éab漢"), 1 + 1 + 3)
    assert (len(single.ids), single.n_bytes) == (1, 0)
    uniform = build_model(ModelConfig(4, "bigram", 8, 1, 1, 4))
    for parameter in uniform.parameters():
        parameter.data.zero_()
    found = score(uniform, [whole, single], 4, 2)
    assert found.bits_per_byte == pytest.approx(3 * 2 / 5)  # 3 tokens of 2 bits, 5 bytes
    assert found.n_documents == 1
    with pytest.raises(UserError, match="no token to predict"):
        encode_documents(["漢"], tokenizer)


def test_an_unknown_character_counts_as_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = CharTokenizer.train("ab", special_tokens=("<unk>",))
    found = encode_documents(["漢b漢", "ba", "", "é"], tokenizer)
    assert [document.n_bytes for document in found] == [1 + 3, 1, 0, 0]
    uniform = build_model(ModelConfig(3, "bigram", 8, 1, 1, 4))
    for parameter in uniform.parameters():
        parameter.data.zero_()
    folder, text = save(tmp_path / "m", uniform, tokenizer), tmp_path / "a.txt"
    text.write_text("xxab", encoding="utf-8")
    assert cli.run(main, [str(folder), "--text", str(text), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["text"]
    assert result["bits_per_byte"] == pytest.approx(math.log2(3))  # 3 tokens for 3 bytes
    assert any("50.00% of the tokens are <unk>" in note for note in result["notes"])
    text.write_text("xa" * 40, encoding="utf-8")
    assert cli.run(main, [str(folder), "--corpus", str(text), "--part", "all", "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["corpus"]["notes"]
    assert any("50.00% of the tokens are <unk>" in note for note in notes)


def test_models_with_different_tokenizers_compare(tokenizer: BPETokenizer) -> None:
    """A uniform model needs log2(V) bits per token, whatever the tokenizer."""
    for some in (tokenizer, BPETokenizer.train([STORY], 257)):
        uniform = build_model(ModelConfig(some.n_vocab, "bigram", 8, 1, 1, 4))
        for parameter in uniform.parameters():
            parameter.data.zero_()
        documents = encode_documents([STORY], some)
        n_tokens = len(documents[0].ids) - 1
        expected = math.log2(some.n_vocab) * n_tokens / documents[0].n_bytes
        assert score(uniform, documents, 4, 8).bits_per_byte == pytest.approx(expected)


def test_transformers_recipe_for_perplexity_gives_the_same(folder: Path, model: GPT) -> None:
    """https://huggingface.co/docs/transformers/perplexity, with its variables."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.randint(280, (1, 75), generator=torch.Generator().manual_seed(0))
    max_length, stride, prev_end = 16, 6, 0
    nats, n_tokens = 0.0, 0
    for begin in range(0, 75, stride):
        end = min(begin + max_length, 75)
        input_ids = ids[:, begin:end]
        labels = input_ids.clone()
        labels[:, : -(end - prev_end)] = -100
        n_valid = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            nats += float(theirs(input_ids, labels=labels).loss) * n_valid
        n_tokens += n_valid
        prev_end = end
        if end == 75:
            break
    found = score(model, [Document(ids[0].numpy(), 100)], stride, 4)
    assert found.tokens_N.tolist() == [n_tokens]
    assert found.nats_per_token == pytest.approx(nats / n_tokens, rel=1e-5)


def test_the_command_saves_what_it_prints(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "results" / "a.json"
    text.write_text("<|endoftext|>".join(TEXTS), encoding="utf-8")
    given = [str(folder), "--text", str(text), "--out", str(out)]
    assert cli.run(main, [*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    assert cli.run(main, given) == 0
    said, found = capsys.readouterr().out, json.loads(out.read_text())["text"]
    assert f"{found['bits_per_byte']:.4f}" in said
    assert "each document is begun by <|endoftext|>" in said
    assert found["documents"] == 3
    assert found["bytes"] == sum(len(text.strip().encode()) for text in TEXTS)
    assert found["stride"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to measure: expected --corpus, --text, --tasks or --images"),
        (["--stride", "3"], "nothing to measure"),
        (["--corpus", "x", "--stride", "3"], "--stride was given without --text"),
        (["--text", "{text}", "--limit", "2"], "--limit was given without --tasks"),
        (["--text", "{text}", "--val-fraction", "0.2"], "--val-fraction was given without --corp"),
        (["--text", "{text}", "--mask-documents"], "--mask-documents was given without --corpus"),
        (["--tasks", "x", "--field", "a"], "--field was given without --corpus or --text"),
        (["--text", "{text}", "--stride", "16"], "stride is 16: expected at least 1 and less than"),
        (["--text", "{text}", "--stride", "0"], "stride is 0"),
        (["--text", "nowhere.txt"], "nowhere.txt"),
        (["--text", "{text}", "--batch-size", "0"], "batch_size is 0"),
        (["--tasks", "nowhere.yaml"], "there is no file nowhere.yaml"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = tmp_path / "a.txt"
    text.write_text(STORY, encoding="utf-8")
    given = [argument.format(text=text) for argument in arguments]
    assert cli.run(main, [str(folder), *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_characters_that_the_tokenizer_lacks_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = CharTokenizer.train("abc\n")
    folder = save(tmp_path / "chars", build_model(ModelConfig(4, "bigram", 8, 1, 1, 4)), tokenizer)
    text = tmp_path / "a.txt"
    text.write_text("abx", encoding="utf-8")
    assert cli.run(main, [str(folder), "--text", str(text)]) == 2
    error = capsys.readouterr().err
    assert "'x'" in error
    assert error.count("\n") == 1
