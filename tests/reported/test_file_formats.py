"""What users of other loaders ran into: files that are not what their names say.

Right values come from the standard library's writers (csv, json, tarfile, zipfile, bz2, lzma), from
pyarrow, lz4 and zstd, and from texts that are written out here.
"""

from __future__ import annotations

import bz2
import csv
import functools
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gptfast.data.documents import ReadOptions, ReadReport, find_files, notes, read_blocks
from gptfast.data.encode import encode_files
from gptfast.data.prepare_shards import prepare_files
from gptfast.data.sources import load_corpus
from gptfast.data.train_tokenizer import train_tokenizer
from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer

TEXTS = ['one,\n"two"\tthree', "zwei ö 🙂", "a\u2028b|;c", "last"]


@pytest.fixture(autouse=True)
def _said_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_said", set())


def documents(
    path: str | Path | list[Path], report: ReadReport | None = None, **o: Any
) -> list[str]:
    texts: list[str] = []
    parts: list[bytes] = []
    for block in read_blocks(path, ReadOptions(**o), report=report):
        parts.append(block.data)
        if block.ends_document:
            texts.append(b"".join(parts).decode())
            parts = []
    return texts


def json_lines(texts: list[str] = TEXTS) -> bytes:
    return "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)).encode()


def json_array(indent: int | None = None) -> bytes:
    return json.dumps([{"text": t, "n": [1, {}]} for t in TEXTS], indent=indent).encode()


def table(delimiter: str = ",", **options: Any) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, **options)
    writer.writerows([["id", "text", "n"], *([i, t, ""] for i, t in enumerate(TEXTS))])
    return file.getvalue().encode()


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'gptfast[files]'")
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file, **options)
    return file.getvalue()


def tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def encrypted() -> bytes:
    data = bytearray(zipped({"a.txt": b"secret"}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def zstd_module() -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return pytest.importorskip(name)


def zstd(data: bytes, **options: Any) -> bytes:
    packed: bytes = zstd_module().compress(data, **options)
    return packed


def lz4(data: bytes) -> bytes:
    packed: bytes = pytest.importorskip("lz4.frame").compress(data)
    return packed


# datasets#5088 mead-baseline#846 tokenizers#1170
AS_PROMISED: dict[str, Callable[[], bytes]] = {
    "c4-train.00000-of-01024.json.gz": lambda: gzip.compress(json_lines()),
    "array.json": json_array,
    "pretty.json": lambda: json_array(indent=2),
    "bom.json": lambda: b"\xef\xbb\xbf" + json_array(),
    "one-after-another.json": lambda: b"\n".join(
        json.dumps({"text": t}, indent=1).encode() for t in TEXTS
    ),
    "lines.ndjson": json_lines,
    "array.jsonl": lambda: json_array(indent=2),
    "a.csv": table,
    "bom.csv": lambda: b"\xef\xbb\xbf" + table(),
    "quoted.csv": lambda: table(quoting=csv.QUOTE_ALL, lineterminator="\n"),
    "semicolons.csv": lambda: table(";"),
    "a.tsv": lambda: table("\t"),
    "tabs.csv.gz": lambda: gzip.compress(table("\t")),
    "a.tar": lambda: tar({"x/a.jsonl": json_lines()}),
    "a.tar.gz": lambda: gzip.compress(
        tar({"a.csv": table(), "empty.txt": b""})
    ),
    "a.tgz": lambda: gzip.compress(
        tar({"./b.json.gz": gzip.compress(json_lines(TEXTS[:2])), "./a.txt": TEXTS[2].encode(),
             "c.md": TEXTS[3].encode()})
    ),
    "a.tar.zst": lambda: zstd(tar({"a.jsonl": json_lines()})),
    "in-a-tar.tar.xz": lambda: lzma.compress(tar({"in.tar": tar({"a.jsonl": json_lines()})})),
    "a.jsonl.xz": lambda: lzma.compress(json_lines()),
    "a.jsonl.lzma": lambda: lzma.compress(json_lines(), format=lzma.FORMAT_ALONE),
    "a.jsonl.bz2": lambda: bz2.compress(json_lines()[:40]) + bz2.compress(json_lines()[40:]),
    "a.jsonl.lz4": lambda: lz4(json_lines()[:40]) + lz4(json_lines()[40:]),
    "a.zip": lambda: zipped({"x/a.jsonl": json_lines()}),
    "in-a-zip.zip": lambda: zipped({"a.zip": zipped({"a.csv": table()})}),
    "a.parquet.gz": lambda: gzip.compress(parquet({"text": TEXTS})),
    "of-parquet.tar": lambda: tar({"a.parquet": parquet({"text": TEXTS})}),
    "of-parquet.zip": lambda: zipped({"a.parquet": parquet({"text": TEXTS})}),
    "parquet": lambda: parquet({"text": TEXTS}),
    "parquet.txt": lambda: parquet({"text": TEXTS}),
    "twice.jsonl.gz": lambda: gzip.compress(gzip.compress(json_lines())),
    "gzip.jsonl": lambda: gzip.compress(json_lines()),
    "zip.jsonl.gz": lambda: zipped({"a.jsonl": json_lines()}),
}  # fmt: skip


@pytest.mark.parametrize("name", AS_PROMISED)
def test_a_suffix_is_a_guess(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(AS_PROMISED[name]())
    report = ReadReport()
    assert documents(tmp_path / name, report) == TEXTS
    assert report.bytes_read == (tmp_path / name).stat().st_size
    assert capsys.readouterr().err == ""
    if name.count(".") and not name.startswith(("zip", "parquet")):
        assert documents(tmp_path) == TEXTS  # found in a folder, too


UNPROMISED: dict[str, tuple[Callable[[], bytes], str]] = {
    "lines.txt": (json_lines, "JSON lines"),
    "lines": (json_lines, "JSON lines"),
    "lines.csv": (json_lines, "JSON lines"),
    "packed.txt": (lambda: gzip.compress(json_lines()), "JSON lines"),
    "array.txt": (json_array, "holds JSON: "),
    "array": (lambda: json_array(indent=1), "holds JSON: "),
    "pretty.txt": (
        lambda: b"\n".join(json.dumps({"text": t}, indent=1).encode() for t in TEXTS),
        "holds JSON: ",
    ),
    "table.txt": (table, "a table"),
    "table": (lambda: table("\t"), "a table"),
    "unpacked.jsonl.gz": (json_lines, "is no gzip file"),
    "unpacked.csv.zst": (table, "is no zstd file"),
}


@pytest.mark.parametrize("name", UNPROMISED)
def test_content_that_the_name_hides_is_said_once(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, what = UNPROMISED[name]
    (tmp_path / name).write_bytes(data())
    (tmp_path / f"b{name}").write_bytes(data())
    assert documents([tmp_path / name, tmp_path / f"b{name}"]) == 2 * TEXTS
    said = capsys.readouterr().err.splitlines()
    assert what in said[0]
    assert said[0].startswith(f"note: {tmp_path / name} ")
    assert len(said) <= 2


def test_a_long_first_document_is_known(tmp_path: Path) -> None:
    texts = ["x" * 100_000, "y"]
    objects = [{"id": 0, "text": t} for t in texts]
    for name, data in {
        "a.txt": json_lines(texts),
        "b": json_lines(texts),
        "c.json": json.dumps(objects).encode(),
        "d.txt": json.dumps(objects).encode(),
        "e": json.dumps(objects, indent=1).encode(),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert documents(tmp_path / name) == texts


@pytest.mark.parametrize(
    "text",
    [
        "{braces} are text\n",
        "[1] A footnote\n",
        'a "quoted" text, no table\n',
        "text, more text\nand so on\n",
        '{"text": "only the first line"}\nis JSON\n',
        '[{"text": broken}]\n',
        "{\n  body { color: red }\n}\n",
        "PK is text, BZh too\n",
        "MZ\nORC\n",
        "text\n",
    ],
)
def test_a_text_that_looks_like_something_else_is_text(tmp_path: Path, text: str) -> None:
    for name in ("a.txt", "a"):
        (tmp_path / name).write_text(text)
        assert documents(tmp_path / name) == [text]


def test_json_without_the_field_is_text_only_in_a_text_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = '{"content": "x", "id": 1}\n'
    for name in ("a.txt", "a.json", "a"):
        (tmp_path / name).write_text(line)
    (tmp_path / "b.txt").write_text(f"[{line}]")
    (tmp_path / "c.txt").write_text(line + '{"text": "y"}\n')
    assert documents(tmp_path / "a.txt") == [line]
    assert documents(tmp_path / "b.txt") == [f"[{line}]"]
    with pytest.raises(UserError, match="line 1 has no string under 'text'"):
        documents(tmp_path / "c.txt")
    assert "without a string under 'text' (its keys are 'content', 'id')" in capsys.readouterr().err
    for name in ("a.json", "a"):
        with pytest.raises(UserError, match=r"a[^ ]*, line 1 has no string under 'text': its keys"):
            documents(tmp_path / name)
        assert documents(tmp_path / name, field="content") == ["x"]


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_nested_fields(tmp_path: Path, suffix: str) -> None:
    value = {"meta": {"text": "A", "turns": [{"text": "B"}]}, "a.b": "C", "a": {"b": "D"}}
    path = tmp_path / f"a.{suffix}"
    path.write_text(json.dumps([value] if suffix == "json" else value))
    assert documents(path, field="meta.text") == ["A"]
    assert documents(path, field="meta.turns.0.text") == ["B"]
    assert documents(path, field="a.b") == ["C"]
    for field in ("meta.turns.1.text", "meta.turns", "meta.turns.x.text", "meta.text.x"):
        with pytest.raises(UserError, match="has no string under"):
            documents(path, field=field)


def test_nested_columns_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet({"meta": [{"text": t} for t in TEXTS], "n": range(len(TEXTS))}))
    assert documents(path, column="meta.text") == TEXTS
    with pytest.raises(UserError, match=r"expected a column 'meta\.body', it has \['meta', 'n'\]"):
        documents(path, column="meta.body")


def test_conversations_are_refused_with_the_keys_that_there_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "messages": [{"role": "user", "content": "hi"}]}\n')
    with pytest.raises(UserError, match=r"keys are 'id', 'messages'; 'messages' .*--field"):
        documents(path)
    path.write_text('{"data": [{"text": "a"}], "version": 2}\n')
    with pytest.raises(UserError, match=r"keys are 'data', 'version'; .*`jq -c '\.data\[\]'`"):
        documents(path)


BAD_RECORDS: dict[str, tuple[bytes, str, list[str]]] = {
    "a.json": (
        b'[{"text": "a"},\n {"text": 5},\n {"text": "b"}]',
        r"a\.json, value 2 \(line 2\) has no string under 'text' but a number",
        ["a", "b"],
    ),
    "bytes.json": (
        b'[{"text": "a"}, {"text": "caf\xe9"}, {"text": "b"}]',
        r"value 2 \(line 1\) is not UTF-8 text, or has the lone surrogate",
        ["a", "b"],
    ),
    "comma.json": (
        b'[{"text": "a"}\n {"text": "b"}]',
        r"value 2 \(line 2\) is broken JSON \(expected , or \] before '\{'\), so what follows",
        ["a"],
    ),
    "broken.json": (
        b'[{"text": "a"},\n {"text": b}, {"text": "' + b"c" * 300 + b'"}]',
        r"value 2 \(line 2\) is broken JSON \(Expecting value\), so what follows",
        ["a"],
    ),
    "truncated.json": (
        b'[{"text": "a"},\n {"text": "b',
        r"value 2 \(line 2\) ends inside a value: it is truncated",
        ["a"],
    ),
    "trailing.json": (b'[{"text": "a"},]', r"value 2 \(line 1\) is broken JSON", ["a"]),
    "after.json": (b'[{"text": "a"}] {}', "has more after the end of its array", ["a"]),
    "strings.json": (b'["a"]', r"value 1 \(line 1\) has no string under .*, it is a string", []),
    "ragged.csv": (
        b'id,text\n1,"a\n"\n2,b,c\n3,d\n',
        r"ragged\.csv, line 4 begins a row of 3 columns: expected 2",
        ["a\n", "d"],
    ),
    "bytes.csv": (
        b"id,text\n1,a\n2,caf\xe9\n3,b\n",
        r"bytes\.csv, line 3 begins a row that is not UTF-8",
        ["a", "b"],
    ),
    "open.csv": (b'text,id\na,1\n"b,2\nc,3\n', "line 3 is no row of a table", ["a"]),
    "header.csv": (b"id,body\n1,a\n", r"no column 'text' .* names 'id', 'body': .*--column", []),
    "twice.csv": (b"text,text\n1,a\n", "more than one column 'text'", []),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_bad_records_are_named_with_their_place(tmp_path: Path, name: str) -> None:
    data, complaint, others = BAD_RECORDS[name]
    for path, content in (
        (tmp_path / name, data),
        (tmp_path / "a.tar", tar({name: data})),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=complaint) as error:
            documents(path)
        assert path.name == name or f"a.tar, member {name}" in str(error.value)
        report = ReadReport()
        assert documents(path, report, on_error="skip") == others
        assert report.skipped == 1


def test_large_fields_and_values_are_read_whole(tmp_path: Path) -> None:
    texts = ['"' + "x\n" * 400_000, "y"]
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["text"], *([t] for t in texts)])
    (tmp_path / "a.csv").write_bytes(file.getvalue().encode())
    (tmp_path / "a.json").write_bytes(json.dumps([{"text": t} for t in texts]).encode())
    assert documents(tmp_path / "a.csv") == texts
    assert documents(tmp_path / "a.json") == texts


def test_values_that_the_end_of_a_chunk_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptfast.data.documents import json_records

    monkeypatch.setattr(json_records, "_CHUNK_BYTES", 1)
    values = [{"n": -1.5e10, "b": [True, None, {}], "text": '\\"\ud83d\ude42é\n'}, {"text": "b"}]
    (tmp_path / "a.json").write_text(json.dumps(values))
    assert documents(tmp_path / "a.json") == [
        '\\"🙂é\n'.encode("utf-16", "surrogatepass").decode("utf-16"),
        "b",
    ]


def test_arrays_and_archives_take_no_memory_for_what_was_read(tmp_path: Path) -> None:
    import tracemalloc

    n, text = 300, "word " * 4000
    (tmp_path / "a.json").write_text(json.dumps([{"text": text}] * n))
    (tmp_path / "a.tar.gz").write_bytes(
        gzip.compress(tar({f"{i}.txt": text.encode() for i in range(n)}), 1)
    )
    (tmp_path / "a.csv").write_text("text,n\n" + f"{text},1\n" * n)
    for name in ("a.json", "a.tar.gz", "a.csv"):
        tracemalloc.start()
        found = sum(len(block.data) for block in read_blocks(tmp_path / name))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found == n * len(text)
        assert peak < found / 2, name


@pytest.mark.parametrize("with_size", [True, False])
def test_large_windows_of_zstd(
    tmp_path: Path, with_size: bool, capsys: pytest.CaptureFixture[str]
) -> None:  # python-zstandard#157
    module = zstd_module()
    path = tmp_path / "a.jsonl.zst"
    options = {
        module.CompressionParameter.window_log: 31,
        module.CompressionParameter.enable_long_distance_matching: 0,
        module.CompressionParameter.hash_log: 10,
        module.CompressionParameter.chain_log: 10,
        module.CompressionParameter.strategy: int(module.Strategy.fast),
    }
    if with_size:
        path.write_bytes(module.compress(json_lines(), options=options))
        assert documents(path) == TEXTS
        return
    # Written by hand (RFC 8878): a window of 2 GiB, no size, and one raw block.
    data = json_lines()
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3])
    block = (len(data) << 3 | 1).to_bytes(3, "little")
    path.write_bytes(header + block + data)
    assert documents(path) == TEXTS
    assert "takes 2,147 MB of memory to read" in capsys.readouterr().err
    with pytest.raises(UserError, match="more than the memory_limit of 300,000,000"):
        documents(path, memory_limit="300MB")


def test_empty_parts_are_read_as_nothing(tmp_path: Path) -> None:  # beam#30038 arrow#45009
    pyarrow = pytest.importorskip("pyarrow")
    parts = {
        "0.parquet": parquet({"text": pyarrow.array([], pyarrow.string())}),
        "1.parquet": parquet({"text": pyarrow.array([], pyarrow.null())}),
        "2.parquet": parquet({}),
        "3.jsonl": b"",
        "4.json": b"[]",
        "5.csv": b"text,id\n",
        "6.csv": b"",
        "7.tar": tar({}),
        "8.zip": zipped({}),
        "9.txt": b"",
        "9.jsonl.gz": gzip.compress(b""),
    }
    for name, data in parts.items():
        (tmp_path / name).write_bytes(data)
    assert documents(tmp_path) == []
    (tmp_path / "a.parquet").write_bytes(parquet({"text": ["a"]}))
    assert documents(tmp_path) == ["a"]


def test_files_that_are_no_data_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # gluonts#2263 datasets#6230
    for name in (
        *("data/train.jsonl", "data/.ipynb_checkpoints/train.jsonl", ".git/config.txt"),
        *(".gitattributes", "README.md", "LICENSE.txt", "dataset_infos.json", "data/model.bin"),
        *("__MACOSX/x.txt", "data/__pycache__/x.txt", "_SUCCESS"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(json_lines())
    for paths in (tmp_path, str(tmp_path), f"{tmp_path}/**/*.jsonl", f"{tmp_path}/data/*l"):
        assert find_files(paths) == [tmp_path / "data/train.jsonl"]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"note: left out of {tmp_path}: 5 hidden files and folders (.git, .gitattributes, "
        f"__MACOSX, ...), 4 files about the data (LICENSE.txt, README.md, _SUCCESS, ...), 1 file "
        f"of another kind (model.bin); a file that is named itself is read"
    ]
    find_files(f"{tmp_path}/**/*.txt")
    assert "2 hidden files and folders" in capsys.readouterr().err
    # What is named itself is read, and so is what lies in a hidden folder that is named.
    assert find_files(tmp_path / "README.md") == [tmp_path / "README.md"]
    assert find_files(tmp_path / ".git") == [tmp_path / ".git/config.txt"]
    assert find_files(f"{tmp_path}/.git/*.txt") == [tmp_path / ".git/config.txt"]
    assert find_files(f"{tmp_path}/__*/*.txt") == [tmp_path / "__MACOSX/x.txt"]


def test_notes_of_ones_own_are_data(tmp_path: Path) -> None:
    for name in ("README.md", "a.md", "b/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert documents(tmp_path) == ["README.md", "a.md", "b/README.md"]


def test_hidden_members_of_archives_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {
        "./data/a.jsonl": json_lines(),
        "__MACOSX/data/._a.jsonl": b"\x00\x05\x16\x07",
        "data/.DS_Store": b"\x00",
        "README.md": b"# About",
        "data/image.png": b"\x89PNG\x00",
    }
    for name, data in {"a.tar": tar(members), "a.zip": zipped(members)}.items():
        (tmp_path / name).write_bytes(data)
        assert documents(tmp_path / name) == TEXTS
        assert capsys.readouterr().err == (
            f"note: left out of {tmp_path / name}: 2 hidden files and folders (__MACOSX/data/._a."
            f"jsonl, data/.DS_Store), 1 file about the data (README.md), 1 file of another kind "
            f"(data/image.png); a file that is named itself is read\n"
        )


def test_names_without_a_suffix_are_data_if_the_content_is(tmp_path: Path) -> None:
    (tmp_path / "part-00000").write_bytes(json_lines())
    (tmp_path / "train.00000-of-00002").write_bytes(gzip.compress(json_lines()))
    (tmp_path / "Makefile").write_text("all:\n\techo\n")
    names = [path.name for path in find_files(tmp_path)]
    assert names == ["part-00000", "train.00000-of-00002"]
    assert documents(tmp_path) == 2 * TEXTS


HINDI = "यह हिन्दी में एक वाक्य है।\n" * 9
NOT_TEXT: dict[str, tuple[bytes, str]] = {  # nanoGPT#711 #360 datasets#4077
    "mark.txt": ("Hello\n".encode("utf-16"), r"UTF-16 text: .*`iconv -f UTF-16 -t UTF-8`"),
    "le.txt": ("Hello\n".encode("utf-16-le"), r"UTF-16LE text, without .*iconv -f UTF-16LE -t"),
    "be.txt": ("Grüße\n".encode("utf-16-be"), r"UTF-16BE text, without"),
    "russian.txt": ("Привет, мир\n".encode("utf-16-le"), "UTF-16LE text, without"),
    "chinese.txt": ("你好，世界。\n".encode("utf-16-be") * 9, "UTF-16BE text, without"),
    "hindi.txt": (HINDI.encode("utf-16-le"), "UTF-16LE text, without"),
    "u.jsonl": (json_lines().decode().encode("utf-16-le"), "UTF-16LE text"),
    "u.csv": (table().decode().encode("utf-16"), "UTF-16 text"),
    "u32.txt": ("Hello\n".encode("utf-32"), "UTF-32 text: .*iconv -f UTF-32 -t"),
    "u32be.txt": ("Hello\n".encode("utf-32-be"), "UTF-32BE text, without"),
    "latin.txt": ("café\n".encode("latin-1"), r"line 1\): .*`iconv -f WINDOWS-1252 -t UTF-8`"),
    "a.json.gz": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        r"a\.json\.gz is a Git LFS pointer, .*`git lfs pull`",
    ),
    "lfs.parquet": (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
    "a.docx": (zipped({"word/document.xml": b"<w/>"}), "is a Word file: .*`pandoc"),
    "word.txt": (zipped({"word/document.xml": b"<w/>"}), "is a Word file"),
    "a.xlsx": (zipped({"xl/workbook.xml": b""}), "is an Excel workbook: save its sheet as CSV"),
    "a.odt": (zipped({"mimetype": b"application/vnd.oasis.opendocument.text"}), "OpenDocument"),
    "old.doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "old Word.*libreoffice"),
    "a.pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "is a PDF file: .*`pdftotext`"),
    "tokenizer.model": (
        b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\n\x0c\n\x03<s>\x15",
        "is a SentencePiece model",
    ),
    "a.pkl": (pickle.dumps(TEXTS), "is a Python pickle"),
    "a.sqlite": (b"SQLite format 3\x00" + bytes(84), "is an SQLite database: .*sqlite3 -csv"),
    "a.arrow": (b"ARROW1\x00\x00" + bytes(50), "is an Arrow file: write it as Parquet"),
    "png.txt": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "is a PNG image"),
    "jpg": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "is a JPEG image"),
    "ids.bin": (struct.pack("<400H", *range(1, 401)), "is binary data|UTF-16LE"),
    "a.safetensors": (struct.pack("<Q", 60) + b'{"wte": {"dtype"', "is the weights of a model"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c\x00\x04", "is a 7-Zip archive: .*`7z x`"),
    "page.jsonl": (b"<!DOCTYPE html>\n<html>", "is a web page, perhaps a server's error"),
    "a.tar": (b"no archive\n" * 99, "truncated or corrupt .*doesn't begin as a tar file"),
    "a.zip": (zipped({"a.txt": b"x" * 99})[:-9], "truncated or corrupt .*not a zip file"),
    "cut.parquet.gz": (gzip.compress(b"PAR1" + os.urandom(999))[:500], "is truncated or corrupt"),
    "cut.zip.gz": (gzip.compress(zipped({"a.txt": os.urandom(999)}))[:500], "truncated or corrupt"),
    "secret.zip": (encrypted(), "has an encrypted member a.txt: unpack it first with `unzip`"),
    "deep.gz": (functools.reduce(gzip.compress, [1] * 9, b"x"), "compressed more than 8 times"),
    "joined.tar": (2 * tar({"a.txt": b"a"}), "has more after its end: .*--ignore-zeros"),
    "short.tar": (tar({"a.txt": b"x" * 9999})[:3000], "member a.txt is truncated or corrupt"),
    "zeros.txt": (bytes(1000), "is binary data"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_TEXT)
def test_what_is_not_text_is_named_as_what_it_is(tmp_path: Path, name: str) -> None:
    data, complaint = NOT_TEXT[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=complaint) as error:
        documents(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    report = ReadReport()
    (tmp_path / "good.txt").write_text("good")
    assert documents([path, tmp_path / "good.txt"], report, on_error="skip")[-1] == "good"
    assert report.skipped == (2 if name == "short.tar" else 1)  # its last member, and the rest


def test_a_few_nuls_in_a_text_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a text\nwith a\x00NUL, and more after it\n")
    assert documents(tmp_path / "a.txt") == ["a text\nwith a\x00NUL, and more after it\n"]
    assert "NUL characters, which are read as text: its first NUL is byte 13, in line 2" in (
        capsys.readouterr().err
    )


def test_lines_in_members_of_archives(tmp_path: Path) -> None:
    good = ("x" * 99 + "\n").encode() * 3000
    data = good + b"caf\xe9\n"
    for name, content in (
        ("a.tar.gz", gzip.compress(tar({"b.txt": b"b\n", "a.txt": data}), 1)),
        ("a.zip", zipped({"b.txt": b"b\n", "a.txt": data})),
    ):
        (tmp_path / name).write_bytes(content)
        complaint = rf"{name}, member a\.txt is not UTF-8 text \(byte 300003, line 3001\)"
        with pytest.raises(UserError, match=complaint):
            documents(tmp_path / name)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Callable[[bytes], str]]:
    """Return the path of a pipe, as `<(command)` gives it, that holds some bytes."""
    descriptors = []

    def of(data: bytes) -> str:
        reader, writer = os.pipe()
        descriptors.append(reader)

        def write() -> None:
            with open(writer, "wb") as file:
                file.write(data)

        threading.Thread(target=write, daemon=True).start()
        return f"/dev/fd/{reader}"

    yield of
    for descriptor in descriptors:
        os.close(descriptor)


needs_dev_fd = pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="no /dev/fd here")


@needs_dev_fd
def test_pipes_are_read_as_often_as_needed(pipe: Callable[[bytes], str]) -> None:
    path = pipe(gzip.compress(json_lines() * 5000))  # more than a pipe's buffer
    files = find_files(path)
    for _ in range(2):
        assert documents(files) == 5000 * TEXTS
    assert find_files(path) == files
    bad = pipe(b"caf\xe9\n")
    with pytest.raises(UserError, match=rf"{bad} is not UTF-8 text \(byte 3, line 1\)"):
        documents(bad)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input(
    name: str, pipe: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:  # sentencepiece#826
    with open(pipe(b"one\ntwo\n"), "rb") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert documents(name) == ["one\ntwo\n"]
        assert documents(name) == ["one\ntwo\n"]
    with open(pipe(b"caf\xe9"), "rb") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(UserError, match=r"^standard input is not UTF-8 text"):
            documents(name)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match=r"standard input was given .*, but it is closed"):
        documents(name)


@needs_dev_fd
def test_every_command_reads_the_same(
    tmp_path: Path, pipe: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"Document {i} of {n * i} words." for i in range(40) for n in (7, 9)]
    plain, c4 = tmp_path / "a.jsonl", tmp_path / "c4.json.gz"
    plain.write_bytes(json_lines(texts))
    c4.write_bytes(gzip.compress(json_lines(texts)))
    tokenizer = BPETokenizer.train(texts, 300)
    expected = encode_files(tokenizer, plain, tmp_path / "plain.bin").path.read_bytes()

    def paths() -> Iterator[str | Path]:
        yield c4
        yield pipe(json_lines(texts))
        with open(pipe(c4.read_bytes()), "rb") as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            yield "-"

    for path in paths():
        assert train_tokenizer(path, 300).fingerprint == tokenizer.fingerprint
        assert load_corpus(str(path)).documents == tuple(texts)
        assert encode_files(tokenizer, path, tmp_path / "a.bin").path.read_bytes() == expected
    made = [prepare_files(tokenizer, path, tmp_path / "out", 0.1).report for path in [plain]]
    for path in paths():
        out = tmp_path / f"out-{len(made)}"
        made.append(prepare_files(tokenizer, path, out, 0.1).report)
        assert made[-1].corpus_sha256 == made[0].corpus_sha256
    # Another pipe with the same content is the same source.
    prepare_files(tokenizer, pipe(json_lines(texts)), tmp_path / "out-2", 0.1)
    with pytest.raises(UserError, match="another source"):
        prepare_files(tokenizer, pipe(json_lines(texts[1:])), tmp_path / "out-2", 0.1)


def test_a_named_pipe(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[json_lines()], daemon=True)
    writer.start()
    assert documents(path) == TEXTS


def test_what_is_not_there_is_still_missing(tmp_path: Path) -> None:
    (tmp_path / ".hidden.txt").write_text("x")
    with pytest.raises(MissingFileError, match=r"no file in the folder .* ends in one of \.txt"):
        find_files(tmp_path)
    with pytest.raises(MissingFileError, match="there is no /dev/fd/987"):
        find_files("/dev/fd/987")
