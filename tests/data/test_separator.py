"""Documents inside a text file, against Python's own split of the whole text."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gptfast.data.documents import ReadOptions, ReadReport, read_blocks, separator
from gptfast.data.documents.separator import Separated, unescape
from gptfast.errors import UserError

EOT = "<|endoftext|>"


def split_by_hand(text: str, mark: str) -> list[str]:
    pieces = text.split(mark)
    if len(pieces) == 1:
        return [text]
    if mark[0] == "\n":  # of which a line break of Windows is a part as a whole
        pieces[:-1] = [piece.removesuffix("\r") for piece in pieces[:-1]]
    after = [re.sub(r"\A(?:[ \t]*\r?\n)*", "", piece) for piece in pieces[1:]]
    trimmed = [re.sub(r"\r?\n[ \t\r\n]*\Z", "", piece) for piece in [pieces[0], *after]]
    return [piece for piece in trimmed if piece.strip(" \t\r\n")]


def read_by(size: int, data: bytes) -> Callable[[memoryview], int]:
    stream = io.BytesIO(data)
    return lambda view: stream.readinto(view[:size])


def separate(data: bytes, mark: bytes, size: int) -> list[str]:
    texts = []
    for piece in Separated(read_by(size, data), mark):
        whole, chunk = piece.data or b"", bytearray(11)
        while piece.data is None and (n := piece.readinto(memoryview(chunk))):
            whole += chunk[:n]
        texts.append(whole.decode())
        assert data[piece.offset :].startswith(whole)
    return texts


@pytest.mark.parametrize(
    "mark", [EOT, "\n\n\n", "</s>", "ab", "aab", "\n##\n", "\n", "=" * 9, "日本", "x"]
)
def test_documents_are_those_of_a_split_of_the_whole_text(
    mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(mark)
    monkeypatch.setattr(separator, "BLOCK_BYTES", 64)  # so that marks cross the buffer's border
    monkeypatch.setattr(separator, "_MARGIN_BYTES", 24)
    atoms = [mark, mark, mark[:-1], "\n", "\n", "\r\n", " ", "\t", "a", "b", "é", "The king.", "#"]
    for n in range(300):
        few = rng.choice([1, 5, 40])
        text = "".join(rng.choices([*atoms, *["word " * few] * 3], k=rng.randint(0, 60)))
        text = re.sub(r"\s{12,}", "\n", text)  # longer than the margin
        found = separate(text.encode(), mark.encode(), rng.choice([1, 7, 1000]))
        assert found == split_by_hand(text, mark), (n, text)


def test_what_has_not_been_read_of_a_document_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separator, "BLOCK_BYTES", 8)
    monkeypatch.setattr(separator, "_MARGIN_BYTES", 8)
    documents = Separated(read_by(5, b"a" * 100 + b"##b##" + b"c" * 100 + b"##d"), b"##")
    assert [piece.data for piece in documents] == [None, b"b", None, b"d"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [(r"\n\n\n", "\n\n\n"), ("\n", "\n"), (r"\\n", r"\n"), (r"\t|\x41\u65e5\r\0", "\t|A日\r\0")],
)
def test_escapes(given: str, meant: str) -> None:
    assert unescape(given) == meant
    assert ReadOptions(document_separator=given).separator == meant.encode()


@pytest.mark.parametrize("given", [r"\d+", "a\\", r"\x4", r"\ud800", "\ud800", "x" * 501, 5])
def test_separators_that_can_not_be_meant(given: str) -> None:
    with pytest.raises(UserError, match="document_separator is "):
        ReadOptions(document_separator=given)


def test_a_long_document_is_cut_and_a_broken_one_does_not_end_the_file(tmp_path: Path) -> None:
    path, long = tmp_path / "a.txt", "The king sees.\n" * 30_000
    path.write_bytes(f"one\n{EOT}\n{long}{EOT}tw".encode() + b"\xff" + f"o{EOT}three".encode())
    options = ReadOptions(document_separator=EOT, on_error="skip")
    report, logged = ReadReport(), []
    report.log = logged.append
    documents, parts = [], []
    for block in read_blocks(
        path, options, safe_cut=lambda data: data.rfind(b"\n") + 1, report=report
    ):
        assert len(block.data) <= 1 << 18
        parts.append(block.data.decode())
        if block.ends_document:
            documents.append("".join(parts))
            parts = []
    assert documents == ["one", long[:-1], "three"]
    assert (report.split_files, report.split_documents, report.skipped) == (1, 4, 1)
    assert f'{{"file": "{path}", "line": 30003, "reason": "{path} is not UTF-8' in logged[0]
