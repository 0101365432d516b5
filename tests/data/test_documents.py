from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptfast.data.documents import ReadOptions, ReadReport, read_blocks
from gptfast.errors import MissingFileError, UserError

TEXT = "Zwei Wörter.\nund 🙂 noch mehr\n\n" * 50


def after_newline(data: bytes) -> int:
    """A place to cut that anyone can check."""
    return data.rfind(b"\n") + 1


def documents(
    *paths: Path,
    safe_cut: Any = None,
    block_bytes: int = 1 << 18,
    report: Any = None,
    **options: Any,
) -> list[str]:
    texts, parts = [], []
    for block in read_blocks(
        paths, ReadOptions(**options), safe_cut=safe_cut, block_bytes=block_bytes, report=report
    ):
        parts.append(block.data)
        if block.ends_document:
            texts.append(b"".join(parts).decode())
            parts = []
    assert not parts
    return texts


def zstd() -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return pytest.importorskip(name)


def arrow() -> Any:
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'gptfast[files]'")
    import pyarrow.parquet

    return pyarrow


def plain(data: bytes) -> bytes:
    return data


def zstd_compress(data: bytes) -> bytes:
    packed: bytes = zstd().compress(data)
    return packed


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": plain, ".gz": gzip.compress, ".zst": zstd_compress
}  # fmt: skip
packed = pytest.mark.parametrize("packing", PACKERS)


@packed
@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1 << 20])
def test_a_text_is_one_document_whatever_the_blocks(
    tmp_path: Path, packing: str, block_bytes: int
) -> None:
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(PACKERS[packing](TEXT.encode()))
    blocks = list(read_blocks(path, safe_cut=after_newline, block_bytes=block_bytes))
    assert b"".join(block.data for block in blocks) == TEXT.encode()
    assert [block.ends_document for block in blocks] == [False] * (len(blocks) - 1) + [True]
    assert all(block.data.endswith(b"\n") for block in blocks[:-1])
    assert len(blocks) == 1 or block_bytes < len(TEXT.encode()) // 2
    assert documents(path) == [TEXT]


@pytest.mark.parametrize(("asked", "given"), [(105, 100), (200_009, 200_000)])
def test_blocks_have_the_size_asked_for_where_they_can_be_cut(
    tmp_path: Path, asked: int, given: int
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"123456789\n" * 100_000)
    blocks = list(read_blocks(path, safe_cut=after_newline, block_bytes=asked))
    assert b"".join(block.data for block in blocks) == path.read_bytes()
    assert {len(block.data) for block in blocks[:-1]} == {given}


def test_rare_places_to_cut_cost_no_more_than_a_few_copies(tmp_path: Path) -> None:
    rng = random.Random(0)
    path = tmp_path / "a.txt"
    lines = [b"x" * rng.choice([0, 5, 5000, 60_000]) + b"\n" for _ in range(40)]
    path.write_bytes(b"".join(lines))
    looked_at = 0

    def counted(data: bytes) -> int:
        nonlocal looked_at
        looked_at += len(data)
        return after_newline(data)

    blocks = list(read_blocks(path, safe_cut=counted, block_bytes=16))
    assert b"".join(block.data for block in blocks) == path.read_bytes()
    assert all(block.data.endswith(b"\n") for block in blocks)
    assert looked_at < 4 * path.stat().st_size


@packed
def test_jsonl_has_a_document_on_each_line(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.jsonl{packing}"
    texts = ["one", "two ö 🙂", TEXT, "a\u2028b\nc\u0000", "last"]
    ascii_only = [True, False, True, False, True]
    lines = [
        json.dumps({"text": t, "n": 1}, ensure_ascii=a)
        for t, a in zip(texts, ascii_only, strict=True)
    ]
    path.write_bytes(PACKERS[packing]("\r\n".join([*lines[:2], "", *lines[2:]]).encode()))
    assert documents(path) == texts
    assert documents(path, safe_cut=after_newline, block_bytes=50) == texts
    with pytest.raises(UserError, match=r"line 1 has no string under 'body'"):
        documents(path, field="body")


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_parquet_has_a_document_in_each_row(tmp_path: Path, kind: str) -> None:
    pa = arrow()
    types = {
        "string": pa.string(),
        "large_string": pa.large_string(),
        "dictionary": pa.dictionary(pa.int32(), pa.string()),
    }
    path = tmp_path / "a.parquet"
    texts = [f"row {i} ö" * i for i in range(1, 300)]
    table = pa.table({"n": range(1, 300), "text": pa.array(texts, pa.string()).cast(types[kind])})
    pa.parquet.write_table(table, path, row_group_size=100)
    assert documents(path) == texts
    assert documents(path, safe_cut=lambda data: data.rfind(b"row"), block_bytes=50) == texts
    with pytest.raises(UserError, match=r"a\.parquet .*a column 'body', it has \['n', 'text'\]"):
        documents(path, column="body")
    with pytest.raises(UserError, match=r"a\.parquet .*'n' is of the type int64, expected string"):
        documents(path, column="n")


def test_parquet_rows_that_cannot_be_used(tmp_path: Path) -> None:
    pa = arrow()
    invalid = pa.Array.from_buffers(
        pa.string(), 3, [None, *pa.array(["ok", "caf\xe9"[:3], "more"]).buffers()[1:]]
    )
    bad_bytes = pa.array([b"ok", b"caf\xe9", b"more"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 3, bad_bytes.buffers())
    assert invalid.to_pylist() == ["ok", "caf", "more"]
    path = tmp_path / "bytes.parquet"
    pa.parquet.write_table(pa.table({"text": bad}), path)
    with pytest.raises(UserError, match=r"bytes\.parquet, row 2 is not UTF-8 text \(byte 3 of"):
        documents(path)
    assert documents(path, errors="replace") == ["ok", "caf\ufffd", "more"]
    report = ReadReport()
    assert documents(path, on_error="skip", report=report) == ["ok", "more"]
    assert (report.skipped, report.documents) == (1, 2)
    null = tmp_path / "null.parquet"
    pa.parquet.write_table(pa.table({"text": ["a", None, "b"]}), null)
    with pytest.raises(UserError, match=r"null\.parquet, row 2 is null"):
        documents(null)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"bytes\.parquet can't be read as Parquet \("):
        documents(path)
    assert documents(path, null, on_error="skip", report=report) == ["a", "b"]


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 5, 1 << 20])
def test_invalid_bytes_are_named_or_replaced(tmp_path: Path, block_bytes: int) -> None:
    path = tmp_path / "latin.txt"
    data = "é\n🙂\n\n".encode() + b"caf\xe9 \xf0\x9f\x99 x\n\xff"
    path.write_bytes(data)
    options: dict[str, Any] = {"safe_cut": after_newline, "block_bytes": block_bytes}
    with pytest.raises(UserError, match=r"latin\.txt is not UTF-8 text \(byte 12, line 4\)"):
        documents(path, **options)
    assert documents(path, errors="replace", **options) == [data.decode(errors="replace")]
    report = ReadReport()
    assert documents(path, on_error="skip", report=report, **options) == ["é\n🙂\n\ncaf"]
    assert report.skipped == 1
    assert "line 4" in report.complaints[0]


def test_a_character_cut_off_by_the_end_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x\n" + "🙂".encode()[:3])
    with pytest.raises(UserError, match=r"byte 2, line 2"):
        documents(path)
    assert documents(path, errors="replace") == ["x\n\ufffd"]


BAD_LINES = {
    b'{"text": "a"': r"is broken JSON \(.*, column 13\)",
    b"[1, 2]": r"has no string under 'text'",
    b"null": r"has no string under 'text'",
    b'{"texts": "a"}': r"has no string under 'text'",
    b'{"text": ["a"]}': r"has no string under 'text'",
    b'{"text": "\\ud800"}': r"has the lone surrogate U\+D800",
    b'{"text": "\xed\xa0\x80"}': r"is not UTF-8 text \(byte 10 of the line\)",
    b'{"text": "caf\xe9"}': r"is not UTF-8 text \(byte 13 of the line\)",
    b"[" * 100_000: r"(broken|can't be read as) JSON",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_bad_lines_of_json_are_named_or_skipped(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n\n' + line + b'\n{"text": "two"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 3 " + BAD_LINES[line]):
        documents(path)
    report = ReadReport()
    assert documents(path, on_error="skip", report=report) == ["one", "two"]
    assert report.skipped == 1


def test_invalid_characters_in_json_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "\\ud800!"}\n{"text": "caf\xe9"}\n{"text": "\\ud83d\\ude42"}\n')
    assert documents(path, errors="replace") == ["\ufffd!", "caf\ufffd", "🙂"]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["truncated", "corrupt", "foreign"])
def test_damaged_archives_give_what_comes_before(tmp_path: Path, packing: str, damage: str) -> None:
    rng = random.Random(0)
    lines = [f"{number} {rng.random()} ö" for number in range(1, 30_001)]
    everything = "\n".join(lines)
    whole = PACKERS[packing](everything.encode())
    middle = len(whole) // 2
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(
        {
            "truncated": whole[:middle],
            "corrupt": whole[:middle] + bytes(100) + whole[middle + 100 :],
            "foreign": bytes(range(1, 256)) * 10,
        }[damage]
    )
    with pytest.raises(
        UserError, match=r"a\.txt\.\w+ is truncated or corrupt at line (\d+) "
    ) as error:
        documents(path)
    report = ReadReport()
    found = documents(path, on_error="skip", report=report)
    assert report.skipped == 1
    if damage == "foreign":
        assert found == []
    elif damage == "truncated":
        (before,) = found
        assert everything.startswith(before)
        assert 0.4 < len(before) / len(everything) < 0.6
        assert f"at line {before.count(chr(10)) + 1} " in str(error.value)


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_truncated_lines_of_json_give_the_whole_ones(tmp_path: Path, packing: str) -> None:
    rng = random.Random(0)
    lines = [f"{number} {rng.random()} ö" for number in range(1, 30_001)]
    whole = PACKERS[packing]("\n".join(json.dumps({"text": t}) for t in lines).encode())
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(whole[: len(whole) // 2])
    report = ReadReport()
    found = documents(path, on_error="skip", report=report)
    assert found == lines[: len(found)]
    assert 10_000 < len(found) < 20_000
    assert report.skipped == 1
    with pytest.raises(UserError, match=rf"truncated or corrupt at line {len(found) + 1} "):
        documents(path)


def test_a_long_stretch_without_a_place_to_cut_is_refused_if_asked(tmp_path: Path) -> None:
    path, jsonl = tmp_path / "a.txt", tmp_path / "a.jsonl"
    path.write_text("short\n" * 100 + "x" * 10_000)
    jsonl.write_text(f'{{"text": "{"x" * 10_000}"}}\n{{"text": "good"}}\n')
    options: dict[str, Any] = {"safe_cut": after_newline, "block_bytes": 64, "memory_limit": 16_000}
    with pytest.raises(UserError, match=r"a\.txt, line 1 can't be cut within \d+ bytes"):
        documents(path, **options)
    with pytest.raises(UserError, match=r"a\.jsonl, line 1 is longer than 1,000 bytes"):
        documents(jsonl, **options)
    report = ReadReport()
    first, second = documents(path, jsonl, on_error="skip", report=report, **options)
    assert first.startswith("short\n" * 100)
    assert second == "good"
    assert report.skipped == 2
    assert documents(path, safe_cut=after_newline, block_bytes=64) == [path.read_text()]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_an_archive_of_no_bytes_is_damaged(tmp_path: Path, packing: str) -> None:
    if packing == ".zst":
        zstd()
    for name in ("a.txt", "a.jsonl"):
        path = tmp_path / f"{name}{packing}"
        path.touch()
        with pytest.raises(UserError, match=r"is truncated or corrupt at line 1 "):
            documents(path)
        report = ReadReport()
        assert documents(path, on_error="skip", report=report) == []
        assert report.skipped == 1


@packed
@pytest.mark.parametrize("block_bytes", [1, 3, 1 << 20])
def test_a_byte_order_mark_at_the_beginning_is_no_text(
    tmp_path: Path, packing: str, block_bytes: int
) -> None:
    # As "utf-8-sig" reads it: one at the beginning is a mark, any other is text.
    data = "\ufeff\ufeffone\n\ufefftwo\n".encode()
    text, lines = tmp_path / f"a.txt{packing}", tmp_path / f"a.jsonl{packing}"
    text.write_bytes(PACKERS[packing](data))
    lines.write_bytes(PACKERS[packing]('\ufeff{"text": "\ufeffone"}\n{"text": "two"}'.encode()))
    options: dict[str, Any] = {"safe_cut": after_newline, "block_bytes": block_bytes}
    assert documents(text, **options) == [data.decode("utf-8-sig")]
    assert documents(lines, **options) == ["\ufeffone", "two"]
    text.write_bytes(PACKERS[packing]("\ufeff".encode()))
    assert documents(text, **options) == []
    text.write_bytes(PACKERS[packing]("\ufeffa\n".encode() + b"\xff"))
    with pytest.raises(UserError, match=r"\(byte 5, line 2\)"):
        documents(text, **options)


def test_empty_documents_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "c.jsonl").write_text('{"text": ""}\n{"text": "c"}\n')
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b""))
    assert documents(tmp_path) == ["b", "c"]


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingFileError, match=r"there is no .*nowhere\.txt: expected a file, a"):
        read_blocks(tmp_path / "nowhere.txt")
    with pytest.raises(MissingFileError, match=r"no file in the folder .* ends in one of \.txt"):
        read_blocks(tmp_path)
    with pytest.raises(UserError, match=r"errors is 'ignore': expected 'strict' or 'replace'"):
        ReadOptions(errors="ignore")  # type: ignore[arg-type]
    for name, module in {"a.txt.zst": "backports", "a.parquet": "pyarrow", "a.lz4": "lz4"}.items():
        magic = {"backports": b"\x28\xb5\x2f\xfd", "pyarrow": b"PAR1", "lz4": b"\x04\x22\x4d\x18"}
        (tmp_path / name).write_bytes(magic[module])
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, "compression", None)
        with pytest.raises(
            UserError, match=r"reading .* needs a library .*pip install 'gptfast\[files\]'"
        ):
            documents(tmp_path / name, on_error="skip")


def test_reading_says_how_far_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"123456789\n" * 100_000)
    other = tmp_path / "b.jsonl.gz"
    other.write_bytes(gzip.compress(b'{"text": "x"}\n' * 10))
    report = ReadReport()
    seen = [
        report.bytes_read
        for _ in read_blocks([path, other], safe_cut=after_newline, block_bytes=1000, report=report)
    ]
    assert seen == sorted(seen)
    assert 1000 <= seen[0] <= 1 << 18
    assert report.bytes_read == path.stat().st_size + other.stat().st_size
    assert report.documents == 11
