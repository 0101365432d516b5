from __future__ import annotations

from pathlib import Path

import pytest

from gptfast.data.prepare import prepare
from gptfast.errors import UserError
from gptfast.tokenizer import load_tokenizer


def test_both_parts_decode_to_the_text(corpus_file: Path, nursery_text: str) -> None:
    cut = int(len(nursery_text) * 0.9)
    for name in ("char", "bpe"):
        data = prepare(str(corpus_file), name, 300, 0.1, say=lambda _: None)
        eot = "" if data.tokenizer.eot_token is None else "<|endoftext|>"
        assert data.tokenizer.decode(data.train.tolist()) == nursery_text[:cut] + eot
        assert data.tokenizer.decode(data.val.tolist()) == nursery_text[cut:] + eot
        assert data.report.val_bytes == len(nursery_text[cut:].encode())
        assert data.val_bytes_per_token == data.report.val_bytes / len(data.val)


def test_the_second_time_nothing_is_made(corpus_file: Path) -> None:
    logged: list[str] = []
    first = prepare(str(corpus_file), "bpe", 300, 0.1, say=logged.append)
    assert any("training a BPE tokenizer of 300 ids" in line for line in logged)
    logged.clear()
    again = prepare(str(corpus_file), "bpe", 300, 0.1, say=logged.append)
    assert logged == []
    assert again.folder == first.folder
    assert prepare(str(corpus_file), "bpe", 301, 0.1, say=logged.append).folder != first.folder


def test_every_document_ends_with_the_end_of_text_token(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"{name} wrote this text and no other. " * 20)
    data = prepare(str(tmp_path), "bpe", 300, 0.3, say=lambda _: None)
    eot = data.tokenizer.eot_token
    assert data.report.train_documents == 2
    assert [i for i, t in enumerate(data.train) if t == eot][-1] == len(data.train) - 1
    assert (data.train == eot).sum() == 2
    assert (data.val == eot).sum() == 1


def test_the_tokenizer_has_not_seen_val(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("aaaa bbbb " * 50)
    (tmp_path / "b.txt").write_text("zqzqzqzq " * 20)
    data = prepare(str(tmp_path), "bpe", 300, 0.3, say=lambda _: None)
    tokens = {data.tokenizer.token_bytes(i) for i in range(256, data.tokenizer.n_vocab - 1)}
    assert b"aa" in tokens
    assert not any(b"z" in token for token in tokens)


def test_a_tokenizer_from_a_folder_is_used_as_it_is(corpus_file: Path, tmp_path: Path) -> None:
    first = prepare(str(corpus_file), "bpe", 280, 0.1, say=lambda _: None)
    first.tokenizer.save(tmp_path / "mine")
    again = prepare(str(corpus_file), str(tmp_path / "mine"), 999, 0.1, say=lambda _: None)
    assert again.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert again.train.tolist() == first.train.tolist()
    assert load_tokenizer(again.folder).n_vocab == 280


def test_a_damaged_cache_is_made_again(corpus_file: Path) -> None:
    first = prepare(str(corpus_file), "bpe", 280, 0.1, say=lambda _: None)
    expected = first.train.tolist()
    for name, content in [("report.json", b"{"), ("train.bin", b"GPT"), ("tokenizer.json", b"")]:
        (first.folder / name).write_bytes(content)
        logged: list[str] = []
        again = prepare(str(corpus_file), "bpe", 280, 0.1, say=logged.append)
        assert "is damaged: making it again" in logged[0]
        assert again.train.tolist() == expected


def test_the_same_text_under_another_name_keeps_the_name_given(
    corpus_file: Path, tmp_path: Path
) -> None:
    first = prepare(str(corpus_file), "char", 0, 0.1, say=lambda _: None)
    twin = tmp_path / "twin.txt"
    twin.write_bytes(corpus_file.read_bytes())
    second = prepare(str(twin), "char", 0, 0.1, say=lambda _: None)
    assert second.folder == first.folder
    assert second.report.corpus == str(twin)


def test_a_vocabulary_larger_than_the_text_allows_is_said(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("abab " * 20)
    logged: list[str] = []
    data = prepare(str(path), "bpe", 1000, 0.2, say=logged.append)
    assert data.tokenizer.n_vocab < 300
    assert any(f"has {data.tokenizer.n_vocab} ids" in line for line in logged)


def test_a_corpus_too_short_to_split_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("x")
    with pytest.raises(UserError, match="too short to be split"):
        prepare(str(path), "char", 300, 0.1, say=lambda _: None)
