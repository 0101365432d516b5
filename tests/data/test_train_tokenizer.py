"""Training a tokenizer on files: the same as on their documents as texts."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from gptfast.data.documents import ReadOptions
from gptfast.data.train_tokenizer import train_tokenizer
from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer
from tricky_text import ATOMS


@pytest.fixture(scope="module")
def documents(nursery_text: str) -> list[str]:
    """Different enough that it matters which ones are learned from."""
    rng = random.Random(0)
    words = [*nursery_text.split(" "), *ATOMS]
    return ["".join(rng.choices([*words, " "], k=200)) for _ in range(40)]


def learned(tokenizer: BPETokenizer) -> tuple[list[tuple[bytes, bytes]], dict[str, int]]:
    return tokenizer.merges, tokenizer.special_tokens


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", "none", r"\w+|\s+"])
def test_training_from_files_equals_training_from_texts(
    tmp_path: Path, documents: list[str], pattern: str
) -> None:
    (tmp_path / "corpus").mkdir()
    for i, document in enumerate(documents[:10]):
        (tmp_path / "corpus" / f"{i}.txt").write_bytes(document.encode())
    lines = "".join(json.dumps({"text": document}) + "\n" for document in documents[10:30])
    (tmp_path / "corpus" / "lines.jsonl").write_text(lines)
    with gzip.open(tmp_path / "more.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": document}) + "\n" for document in documents[30:])
    from_files = train_tokenizer(
        [tmp_path / "corpus", tmp_path / "more.jsonl.gz"], 500, pattern, progress=False
    )
    from_texts = BPETokenizer.train(documents, 500, pattern)
    assert learned(from_files) == learned(from_texts)
    assert len(from_texts.merges) == 243
    assert learned(BPETokenizer.train(documents[:20], 500, pattern)) != learned(from_texts)


def test_training_from_nothing_or_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no files were given"):
        train_tokenizer([], 300)
    with pytest.raises(MissingFileError, match="nowhere"):
        train_tokenizer(tmp_path / "nowhere.txt", 300)


def test_warnings_name_the_line_that_called(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "ab"}\nbroken\n')
    lines = []
    for _ in range(2):  # however often
        with pytest.warns(UserWarning, match="left out 1") as warned:
            train_tokenizer(tmp_path, 257, options=ReadOptions(on_error="skip"))
        lines += [(warning.filename, warning.lineno) for warning in warned]
    (line, again), source = lines, Path(__file__).read_text().splitlines()
    assert line == again
    assert line[0] == __file__
    assert "train_tokenizer(" in source[line[1] - 1]


def test_training_reads_files_as_it_is_told(tmp_path: Path) -> None:
    lines = ['{"content": "abab abab"}', "broken", '{"content": "abab"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    expected = BPETokenizer.train(["abab abab", "abab"], 259)
    options = ReadOptions(field="content", on_error="skip")
    with pytest.warns(UserWarning, match="left out 1 that could not be read, first: .*line 2"):
        learned = train_tokenizer(tmp_path, 259, options=options)
    assert learned.fingerprint == expected.fingerprint
    with pytest.raises(UserError, match="line 1 has no string under 'text'"):
        train_tokenizer(tmp_path, 259)
