"""What stands in for Rust in a plain checkout does the same."""

from __future__ import annotations

import importlib.util
import io
import random
import sys
from types import ModuleType

import numpy as np
import pytest

from gptfast.data.documents import Documents, json_lines
from gptfast.data.documents.json_lines import JsonLines
from gptfast.data.documents.unpack import Stream
from gptfast.tokenizer import rust


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it is without the extension."""
    monkeypatch.setitem(sys.modules, "gptfast._rust", None)
    assert rust.__file__ is not None
    spec = importlib.util.spec_from_file_location("plain_rust", rust.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("Names", "hash_documents", "json_texts", "shared_windows", "utf8_error"):
        assert getattr(module, name) is not getattr(rust, name)
    return module


def test_names(plain: ModuleType) -> None:
    names = [b"<|", b"</s>", b"[CLS]", "é".encode()]
    texts = [b"", b"a<|b", b"<a|>", b"</s", b"</s>", b"[CLS", b"CLS]", b"x[CLS]", "é".encode()]
    for text in texts:
        expected = any(name in text for name in names)
        assert rust.Names(names).are_in(text) == plain.Names(names).are_in(text) == expected


def test_hashes(plain: ModuleType) -> None:
    data = random.Random(0).randbytes(5000)
    ends = np.array([0, 1, 100, 300, 300, 5000], np.int64)
    documents = (data, np.concatenate([[0], ends[:-1]]), ends)
    assert rust.hash_documents(documents) == plain.hash_documents(documents)
    assert len(rust.hash_documents(documents)) == 16 * len(ends)


@pytest.mark.parametrize("text", ["", "é€😀", "a" * 99])
def test_errors_of_utf8(plain: ModuleType, text: str) -> None:
    data = text.encode()
    for damaged in (data, data[:-1], data + b"\xff", data + b"\xc3", b"\x80" + data):
        assert rust.utf8_error(damaged) == plain.utf8_error(damaged)


def test_windows(plain: ModuleType) -> None:
    rng = random.Random(0)
    train, val = (["".join(rng.choices("aé", k=n)) for n in (0, 3, 90)] for _ in range(2))
    for n_bytes in (1, 4, 7, 99, 500):
        expected = plain.shared_windows(train, val, n_bytes, 1)
        assert rust.shared_windows(train, val, n_bytes, 1) == expected


def texts(data: bytes) -> list[tuple[int, object]]:
    found: list[tuple[int, object]] = []
    lines = JsonLines("text", "strict", 40, 64, 2)
    for record in lines.read(Stream(io.BytesIO(data)), "file"):
        if isinstance(record, Documents):
            found += [(b.place.number, b.data) for b in record.blocks() if b.place is not None]
        else:
            number, text = record
            found.append((number, text if isinstance(text, bytes) else str(text)))
    return [(number, text) for number, text in found if text != b""]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \n"])
def test_lines_of_json(plain: ModuleType, monkeypatch: pytest.MonkeyPatch, end: bytes) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "a"}', b'{"text": ""}', b"", b" \x0b\r", b'{"text": 1}', b"{",
        b'{"text": "\xff"}', b'{"text": "%s"}' % (b"a" * 30), b'{"text": "\\ud800"}',
        b'{"text": "a", "b": NaN}', b'{"text": "last"}',
    ]  # fmt: skip
    in_rust = texts(b"\n".join(lines) + end)
    assert [number for number, _ in in_rust] == [1, 5, 6, 7, 8, 9, 10, 11]
    monkeypatch.setattr(json_lines, "json_texts", plain.json_texts)
    assert texts(b"\n".join(lines) + end) == in_rust
