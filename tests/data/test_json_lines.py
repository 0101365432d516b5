"""Lines of JSON that Rust reads, against Python's json: the same texts, the same lines refused."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from gptfast.data.documents import Documents
from gptfast.data.documents import json_lines as module
from gptfast.data.documents.json_lines import JsonLines
from gptfast.data.documents.records import BadRecordError
from gptfast.data.documents.unpack import DamagedFileError, Stream

BROKEN = "broken"
TOO_LONG = "is longer than 31 bytes"


def read(
    data: bytes, field: str = "text", longest: int = 1 << 62, part: int = 64, **options: Any
) -> list[tuple[int, bytes | str]]:
    """Return (line, text or message), leaving out empty texts as `read_documents` does."""
    stream = Stream(io.BytesIO(data))
    lines = JsonLines(
        field, options.get("errors", "strict"), longest, part, options.get("n_threads", 2)
    )
    found: list[tuple[int, bytes | str]] = []
    for record in lines.read(stream, "file"):
        if isinstance(record, Documents):
            assert record.data.count(b"\xff") == len(record.lines) > 0
            found += [(b.place.number, b.data) for b in record.blocks() if b.place is not None]
        elif record[1] != b"":
            number, text = record
            found.append((number, text if isinstance(text, bytes) else str(text)))
    return found


def by_json(line: bytes, path: list[str]) -> bytes | str | None:
    """Return the text, None for a blank line, BROKEN if there is no text that UTF-8 can hold."""
    if not line.strip():
        return None
    try:
        value = json.loads(line.rstrip().decode().lstrip(), parse_int=float)  # of any length
        if not isinstance(value, dict):
            return BROKEN
        if (whole := ".".join(path)) in value:
            value, path = value[whole], []
        for key in path:
            value = value[int(key) if isinstance(value, list) and key.isdecimal() else key]
        text: bytes = value.encode()
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return BROKEN
    return text


def check(lines: list[bytes], field: str = "text", **options: Any) -> None:
    expected = [
        (number, found)
        for number, line in enumerate(lines, 1)
        if (found := by_json(line, field.split("."))) not in (None, b"")
    ]
    data = b"\n".join(lines)
    found = read(data, field, **options)
    assert [(n, t if isinstance(t, bytes) else BROKEN) for n, t in found] == expected
    # Each message, too, is that of Python's json.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "json_texts", leave_all)
        assert found == read(data, field, **options)


def leave_all(lines: bytes, *_: Any) -> Any:
    others, at = [], 0
    split = lines.split(b"\n")[: None if not lines.endswith(b"\n") else -1]
    for number, line in enumerate(split):
        if line.strip():
            others.append((number, at, at + len(line)))
        at += len(line) + 1
    return [], others, len(split)


# Values and what is none, by the grammar of RFC 8259, and what parsers are known to differ in.
VALUES = [
    "null", "true", "false", "nul", "True", "tru e", "nan", "NaN", "Infinity", "-Infinity",
    "-NaN", "0", "-0", "-", "+1", "01", "-01", "1.", ".5", "-.5", "1.0", "0.1e1", "1e5", "1E+5",
    "1e-5", "1e", "1e+", "0x10", "1_000", "1e999", "-1e999", "1e-999",
    "123456789012345678901234567890", "2.", "0e1", "0E", "1eE2", "--1", "1-2", "1 2", "\uff11",
    '""', '"a"', "'a'", '"a', 'a"', '"\\"', '"\\\\"', '"\\/\\b\\f\\n\\r\\t\\""', '"\\a"',
    '"\\x41"', '"\\u0041"', '"\\u004"', '"\\u00e9\\u20ac"', '"\\uD83D\\uDE00"', '"\\ud800"',
    '"\\udc00"', '"\\U0041"', '"\\ud83d\\u0041"', '"\\ud83dx"', '"\\ude00\\ud83d"',
    '"\\ud800\\ud800\\udc00"', '"\\u 041"', '"\\u0000"', '"\x00"', '"\x1f"', '"\t"', '"\x7f"',
    '"\u2028"', '"\ufeff"', '"\\u+041"', '"\\u-041"', '"\\uDFFF"', '"é€😀"', '"\\u00_1"',
    '"a" "b"', '"a""b"', '"<|endoftext|>"', '"a\\', '"\\u12', '"\\ud83d\\', "[]", "[1]", "[1,]",
    "[,1]", "[1 2]", "[1,,2]", "[", "]", "[[]", "[]]", "[}", '["a", "b"]', "[\t]", "{}",
    '{"a": 1}', '{"a": 1,}', '{"a"}', '{"a":}', "{a: 1}", "{1: 1}", '{"a" 1}', '{"a": 1 "b": 2}',
    '{"text": "in"}', '{"b": {"text": "deep"}}', "{,}", "{", "}", '{"\\ud800": 1}',
    '{"a": 1, "a": 2}', "/**/1", "1 // x", "#1", "", " ", "\x0b1", "\x0c1", "\xa01", "\u30001",
    "\xa0", "1\x0b", "\u2003",
    "9" * 5000, "-" + "9" * 5000, "1." + "9" * 5000,
    *("[" * n + "]" * n for n in (2, 100, 127, 128, 129, 300)),
    *('{"a":' * n + "1" + "}" * n for n in (2, 100, 127, 128, 129, 300)),
    "[" * 300, '"' + "[" * 300 + '"', "[" + "{}," * 300 + "1]",
]  # fmt: skip
SHAPES = [
    '{"text": "plain", "a": VALUE}', '{"a": VALUE, "text": "plain"}', '{"text": VALUE}', "VALUE",
    '{"text": "first", "text": VALUE}', '{"text": VALUE, "text": "last"}', '{"text": {"b": VALUE}}',
    'VALUE {"text": "x"}', '{"text": "x"}VALUE', '{"text": "x"} VALUE', '{"text"VALUE: "x"}',
    '{VALUE: "x", "text": "y"}', '[{"text": VALUE}]', '{"text": [VALUE, "x"]}',
    '{"te\\u0078t": VALUE}',
    '{"text.b": VALUE, "text": {"b": "x"}}', '{"text": {"b": "x"}, "text.b": VALUE}',
    '{"text": {"b": "x"}, "text": {"b": VALUE}}', '{"text": {"b": "x"}, "text": VALUE}',
    '{"text": {"c": "x", "b": [VALUE, {"text": VALUE}]}}',
]  # fmt: skip


@pytest.mark.parametrize("field", ["text", "text.b", "text.0", "text.1", "text.b.1.text", ""])
def test_every_shape_of_every_value(field: str) -> None:
    lines = [shape.replace("VALUE", value).encode() for shape in SHAPES for value in VALUES]
    check(lines, field, part=1 << 14)


NOT_UTF8 = [
    b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80",
    b"\xf8\x88\x80\x80\x80", b"\xfe\xff\x00{", b"\xff\xfe{\x00", b"\xc3", b"\xf0\x9f\x98",
]  # fmt: skip


@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_what_is_not_utf8(errors: str) -> None:
    lines = [
        shape.encode().replace(b"VALUE", value)
        for shape in (
            '{"text": "x", "a": "VALUE"}',
            '{"text": "VALUE"}',
            '{"VALUE": 1, "text": "x"}',
        )
        for value in (*NOT_UTF8, b"fine", "\u20ac".encode())
    ]
    if errors == "strict":
        check(lines)
        check(lines, part=1 << 14)
        return
    expected = [by_json(line.decode(errors="replace").encode(), ["text"]) for line in lines]
    found = [text for _, text in read(b"\n".join(lines), errors="replace")]
    assert [text if isinstance(text, bytes) else BROKEN for text in found] == expected


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n", b" \x0b\x0c\r\n", b"\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks(end: bytes, bom: bytes) -> None:
    one = b'{"text": "\xc3\xa9"}'
    data = bom + end.join([one, b"", b" ", bom + one, one]) + end
    lines = data.removeprefix(bom).split(b"\n")
    expected = [(n, found) for n, line in enumerate(lines, 1) if (found := by_json(line, ["text"]))]
    found = read(data)
    assert [(n, t if isinstance(t, bytes) else BROKEN) for n, t in found] == expected
    assert read(bom) == read(bom + b"\n \n") == read(b"") == []


DAMAGE = b'"\\{}[]:,.0eu \t\xff\xc3'


def generated(rng: random.Random) -> bytes:
    """Return an object, which may be damaged."""

    def value(depth: int) -> Any:
        kind = rng.randrange(8 if depth else 5)
        if kind < 3:
            return "".join(rng.choice('ab"\\/\n\t\0é€😀\u2028<') for _ in range(rng.randrange(12)))
        if kind < 5:
            return rng.choice([None, True, 0, -1.5, 1e300, 10**30, float("nan"), float("inf")])
        if kind < 6:
            return [value(depth - 1) for _ in range(rng.randrange(3))]
        return {rng.choice(["text", "a", "text.a", ""]): value(depth - 1) for _ in range(3)}

    record = {key: value(2) for key in rng.sample(["text", "a", "text.a", "b"], 3)}
    line = bytearray(json.dumps(record, ensure_ascii=rng.random() < 0.5).encode())
    for _ in range(rng.choice([0, 0, 1, 2])):
        at = rng.randrange(len(line))
        how = rng.randrange(3)
        line[at : at + (how < 2)] = bytes([rng.choice(DAMAGE)] * (how > 0))
    return bytes(line.replace(b"\n", b" "))


@pytest.mark.parametrize("field", ["text", "text.a", "a.text.0"])
def test_generated_objects(field: str) -> None:
    rng = random.Random(field)
    for _ in range(40):
        check([generated(rng) for _ in range(50)], field, part=rng.choice([1, 50, 500, 5000]))


class Pieces:
    """A file that returns a few bytes at a time, and is damaged at its end."""

    def __init__(self, data: bytes, n: int, is_damaged: bool) -> None:
        self._data, self._n, self._is_damaged, self._at = data, n, is_damaged, 0

    def read1(self, n_bytes: int) -> bytes:
        piece = self._data[self._at : self._at + min(self._n, n_bytes)]
        self._at += len(piece)
        if not piece and self._is_damaged:
            raise OSError("damage")
        return piece


def records(pieces: Pieces, longest: int, part: int) -> Iterator[tuple[int, object]]:
    lines = JsonLines("text", "strict", longest, part, 2)
    for record in lines.read(Stream(pieces, (OSError,)), "file"):
        if isinstance(record, Documents):
            yield from ((b.place.number, b.data) for b in record.blocks() if b.place is not None)
        else:
            yield record


@pytest.mark.parametrize("is_damaged", [False, True])
@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("part", [1, 20, 1000])
def test_lines_in_pieces(piece: int, part: int, is_damaged: bool) -> None:
    texts = [b"a" * n for n in (1, 30, 1, 19, 20, 21, 100, 1, 2)]
    data = b"\n".join(b'{"text":"%b"}' % text for text in texts)
    longest = 31  # bytes of a line; one of 20 letters has 31
    found = list(records(Pieces(data, piece, is_damaged), longest, part))
    expected = [
        (n, t if len(t) < 20 else "is longer than 31 bytes") for n, t in enumerate(texts, 1)
    ]
    shown = [(n, str(t) if isinstance(t, BadRecordError) else t) for n, t in found]
    if is_damaged:  # the last line may be cut
        assert shown[:-1] == expected[:-1]
        assert isinstance(shown[-1][1], DamagedFileError)
        assert shown[-1][0] == len(texts)
    else:
        assert shown == expected


def test_compressed_lines_with_bad_ones_between_stay_in_order() -> None:
    lines = [b'{"text": "%d"}' % i if i % 7 else b'{"text": NaN}' for i in range(3000)]
    with gzip.open(io.BytesIO(gzip.compress(b"\n".join(lines)))) as file:
        found = read(file.read(), part=1000)
    assert [number for number, _ in found] == list(range(1, 3001))
    assert all(isinstance(text, str) == (n % 7 == 1) for n, text in found)


def test_a_key_that_no_utf8_spells() -> None:
    line = b'{"\\udcff": "x", "?": "y", "": "z"}'
    assert read(line, "\udcff") == [(1, b"x")]
