"""What users of other loaders ran into: files that are not what their names say."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
from written import (
    TEXTS,
    documents,
    json_array,
    json_lines,
    lz4,
    parquet,
    table,
    tar,
    zipped,
    zstd,
    zstd_module,
)

from gptfast.data.documents import ReadReport, read_blocks
from gptfast.errors import UserError

# datasets#5088 mead-baseline#846 tokenizers#1170
AS_PROMISED: dict[str, Callable[[], bytes]] = {
    "c4-train.00000-of-01024.json.gz": lambda: gzip.compress(json_lines()),
    "array.json": json_array,
    "pretty.json": lambda: json_array(indent=2),
    "bom.json": lambda: b"\xef\xbb\xbf" + json_array(),
    "one-after-another.json": lambda: b"\n".join(
        json.dumps({"text": t}, indent=1).encode() for t in TEXTS
    ),
    "on-one-line.json": lambda: "".join(json.dumps({"text": t}) for t in TEXTS).encode(),
    "one-then-pretty.json": lambda: b"".join(
        json.dumps({"text": t}, indent=i or None).encode() + b"\n" for i, t in enumerate(TEXTS)
    ),
    "long-then-break.json": lambda: b"\n".join(
        json.dumps({"id": "x" * 80_000, "text": t}).encode().replace(b", ", b",\n") for t in ["a"]
    ).replace(b'"a"', json.dumps(TEXTS[0]).encode()) + b"\n" + json_lines(TEXTS[1:]),
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
    "padded.jsonl.bz2": lambda: bz2.compress(json_lines()[:9]) + bz2.compress(json_lines()[9:])
    + bytes(512),
    "padded.jsonl.xz": lambda: lzma.compress(json_lines()[:40]) + bytes(8)
    + lzma.compress(json_lines()[40:]) + bytes(4),
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


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (b"id,body\n1,a\n2,b\n", "looks like a table without a column 'text'"),
        (b"id\tbody\n1\ta\n2\tb\n", "(its columns are 'id', 'body')"),
        (b'["a", "b"]\n', "holds JSON without a string under 'text'"),
        (b'{"text": "a"}\n{"text": "b\n', "begins with JSON but holds something else"),
        (b"[\n1,\n2]", "holds JSON without a string under 'text'"),
    ],
)
def test_records_without_the_text_are_no_text_unsaid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, note: str
) -> None:
    for name in ("a.txt", "a.txt.gz", "o.gz", "o"):
        path = tmp_path / name / name
        path.parent.mkdir()
        path.write_bytes(gzip.compress(data) if ".gz" in name else data)
        if "holds JSON" in note and name[0] == "o":
            with pytest.raises(UserError, match=r"value 1 .* has no string under 'text'"):
                documents(path)
        else:
            assert documents(path) == [data.decode()]
            assert note in capsys.readouterr().err


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
        "|text|id|\n|---|---|\n|a|1|\n",
        "text|id\n---|---\na|1\n",
        "text | id\n--- | ---\na | 1\n",
        "text,verse\nfoo,bar\n",
        "[]\n",
        '{"text": "a"} and more\n',
        '["a", "b"] and more\n',
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


@pytest.mark.parametrize(
    ("rows", "texts"),
    [
        # As text: IANA's text/tab-separated-values knows no quotation.
        ('1\t"Open quote\n2\tclose here"\n3\tthird\n', ['"Open quote', 'close here"', "third"]),
        ('1\t"Hello" he said\n2\tb\n', ['"Hello" he said', "b"]),
        ('1\t"Hello" and "bye"\n', ['"Hello" and "bye"']),
        ('1\t5" disk\n2\t"\n', ['5" disk', '"']),
        ('1\t"never closed\n2\tb\n' + "3\tc\n" * 999, ['"never closed', "b", *["c"] * 999]),
        # Quoted, as by pandas and Excel.
        ('1\t"say ""hi"""\r\n2\t"b"\r\n', ['say "hi"', "b"]),
        ('1\t"one\ntwo"\n2\tb\n', ["one\ntwo", "b"]),
        ('1\t"one\n\ntwo\nthree ""3"""\n2\tb\n', ['one\n\ntwo\nthree "3"', "b"]),
        ('"1"\t"a\tb"\n', ["a\tb"]),
    ],
)
def test_quotation_marks_between_tabs(tmp_path: Path, rows: str, texts: list[str]) -> None:
    (tmp_path / "a.tsv").write_bytes(b"id\ttext\n" + rows.encode())
    assert documents(tmp_path / "a.tsv") == texts


def test_quotation_marks_around_lines_of_one_column(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b'text\n"a\nb"\n"c"\nd\n')
    assert documents(tmp_path / "a.tsv") == ["a\nb", "c", "d"]


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
    # As pzstd writes it: a frame to skip goes first.
    path.write_bytes(b"\x50\x2a\x4d\x18\x04\x00\x00\x00size" + path.read_bytes())
    assert documents(path) == TEXTS
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
