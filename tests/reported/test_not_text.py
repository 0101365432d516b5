"""What users of other loaders ran into: files that are not text, and records that can't be read."""

from __future__ import annotations

import bz2
import functools
import gzip
import json
import lzma
import os
import pickle
import struct
from pathlib import Path

import pytest
from written import (
    TEXTS,
    documents,
    encrypted,
    json_lines,
    table,
    tar,
    zipped,
    zstd_module,
)

from gptfast.data.documents import ReadReport
from gptfast.errors import UserError


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
    "deep.json": (
        b'[{"text": "a"}, {"n": ' + b"[" * 99_999 + b'"]"' + b"]" * 99_999 + b'}, {"text": "b"}]',
        r"value 2 \(line 1\) can't be read as JSON \(it is nested too deeply\)",
        ["a", "b"],
    ),
    "deep.jsonl": (
        b'{"text": "a"}\n' + b"[" * 99_999 + b'\n{"text": "b"}\n',
        r"line 2 can't be read as JSON \(it is nested too deeply\)",
        ["a", "b"],
    ),
    "lines.json": (
        b'{"text": "' + b"a" * 80_000 + b'"}\n{"text": "b\n{"text": "c"}\n',
        r"value 2 \(line 2\) is broken JSON",
        ["a" * 80_000, "c"],
    ),
    "first-line.json": (b'{"text": "b\n{"text": "c"}\n', "line 1 is broken JSON", ["c"]),
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
    "open.csv": (b'text,id\na,1\n"b,2\nc,3\n', "line 3 is no row .*the lines up to 4", ["a"]),
    "quoted.tsv": (b'text\tid\n"a"b" c"\tc\td\ne\t1\n', "line 2 is no row of a table", ["e"]),
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


HINDI = "यह हिन्दी में एक वाक्य है।\n" * 9
JAPANESE = "国境の長いトンネルを抜けると雪国であった。夜の底が白くなった。信号所に汽車が止まった。"
NOT_TEXT: dict[str, tuple[bytes, str]] = {  # nanoGPT#711 #360 datasets#4077
    "mark.txt": ("Hello\n".encode("utf-16"), r"UTF-16 text: .*`iconv -f UTF-16 -t UTF-8`"),
    "le.txt": ("Hello\n".encode("utf-16-le"), r"UTF-16LE text, without .*iconv -f UTF-16LE -t"),
    "be.txt": ("Grüße\n".encode("utf-16-be"), r"UTF-16BE text, without"),
    "russian.txt": ("Привет, мир\n".encode("utf-16-le"), "UTF-16LE text, without"),
    "chinese.txt": ("你好，世界。\n".encode("utf-16-be") * 9, "UTF-16BE text, without"),
    "hindi.txt": (HINDI.encode("utf-16-le"), "UTF-16LE text, without"),
    "japanese.txt": (((JAPANESE * 4 + "\n") * 9).encode("utf-16-le"), "is UTF-16LE text, without"),
    "japanese-line.txt": (JAPANESE.encode("utf-16-be"), "is UTF-16BE text, without"),
    "hiragana.txt": ("むかしむかしあるところに、おじいさんが。".encode("utf-16-be"), "UTF-16BE"),
    "thai.txt": ("วันนี้อากาศดีมากเราจึงไปเดินเล่น".encode("utf-16-le"), "is UTF-16LE text"),
    "arabic.txt": ("فيالبدءكانالكلمة".encode("utf-16-be"), "is UTF-16BE text"),
    "korean.txt": ("대한민국은민주공화국이다".encode("utf-16-le"), "is UTF-16LE text"),
    "english.txt": ("The end".encode("utf-16-be"), "is UTF-16BE text"),
    "gpt2.bin": (struct.pack("<999H", *range(0, 49950, 50)), "is binary data"),
    "hive.txt": (b"abcdef\x01bcdefgh\x01cccccc\n" * 50, "is binary data"),
    "controls.txt": (bytes([1, 2, 6, 127, 16]) * 99, "is binary data: .*80% of its first bytes"),
    "a.jsonl.br": (b"\x8b\x02\x80{}\n\x03", "compressed by Brotli: .*`brotli -d`"),
    "a.msgpack": (b"\x82\xa4text\xa1a\xa2id\x01", "is MessagePack"),
    "a.txt.dvc": (b"outs:\n- md5: 4d7a\n  size: 12\n  path: a.txt\n", "is a DVC pointer"),
    "hawser.txt": (b"version https://hawser.github.com/spec/v1\noid 4d7a\n", "Git LFS pointer"),
    "page.txt.gz": (b"<html><h1>403</h1>", "begin as a gzip file does, but as a server's error"),
    "s3.txt.zst": (
        b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "server's error message"
    ),
    "answer.txt.gz": (b'{"message": "Not Found"}', "server's error message"),
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
    "a.xlsb": (zipped({"xl/workbook.bin": b""}), "is an Excel workbook"),
    "a.pages": (zipped({"Index/Document.iwa": b"", "preview.jpg": b""}), "is a Pages, Numbers"),
    "images.zip": (
        zipped({"a.jpg": b"", "README.md": b"x", ".b": b""}),
        r"no files to read but 1 hidden .*1 file about .*1 file of another kind \(a\.jpg\)",
    ),
    "0.tar": (b"", "it has 0 bytes"),
    "0.zip": (b"", "it has 0 bytes"),
    "0.parquet": (b"", "it has 0 bytes"),
    "0.tar.gz": (gzip.compress(b""), "it has 0 bytes"),
    "images.tar": (tar({"a.jpg": b""}), "no files to read but 1 file of another kind"),
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
    "ids.bin": (struct.pack("<400H", *range(1, 401)), "is binary data"),
    "a.safetensors": (struct.pack("<Q", 60) + b'{"wte": {"dtype"', "is the weights of a model"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c\x00\x04", "is a 7-Zip archive: .*`7z x`"),
    "page.jsonl": (b"<!DOCTYPE html>\n<html>", "is a web page or XML, perhaps a server's error"),
    "a.tar": (b"no archive\n" * 99, "truncated or corrupt .*doesn't begin as a tar file"),
    "a.zip": (zipped({"a.txt": b"x" * 99})[:-9], "truncated or corrupt .*not a zip file"),
    "cut.parquet.gz": (gzip.compress(b"PAR1" + os.urandom(999))[:500], "is truncated or corrupt"),
    "cut.zip.gz": (gzip.compress(zipped({"a.txt": os.urandom(999)}))[:500], "truncated or corrupt"),
    "secret.zip": (encrypted(), r"secret\.zip, member a\.txt is encrypted: unpack .*`7z x`"),
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


A, B = json_lines(TEXTS[:2]), json_lines(TEXTS[2:])
TAR = tar({f"{i}.txt": b"a text" for i in range(30)})  # 1 kB for each: header and content
ENDS_EARLY: dict[str, tuple[bytes, int, str]] = {
    "gzip-after.jsonl.xz": (lzma.compress(A) + gzip.compress(B), 2, "corrupt at line 3"),
    "text-after.jsonl.xz": (lzma.compress(A) + B, 2, "corrupt at line 3"),
    "cut.jsonl.xz": (lzma.compress(A) + lzma.compress(B)[:20], 2, "corrupt at line 3"),
    "broken.jsonl.bz2": (bz2.compress(A) + b"BZx" + bz2.compress(B)[3:], 2, "corrupt at line 3"),
    "text-after.jsonl.bz2": (bz2.compress(A) + B, 2, "corrupt at line 3"),
    "text-after.jsonl.gz": (gzip.compress(A) + B, 2, "corrupt at line 3"),
    "at-a-header.tar": (TAR[:10240], 10, "before its end is marked"),
    "in-a-header.tar": (TAR[:10300], 10, "truncated header"),
    "at-a-header.tgz": (gzip.compress(TAR[:20480]), 20, "before its end is marked"),
    "header.tar": (TAR[:7168] + b"x" * 512 + TAR[7680:], 7, "corrupt .*header"),
    "last-header.tar": (TAR[:29696] + b"x" * 512 + TAR[30208:], 29, "corrupt .*header"),
    "zeros.tar": (TAR[:3072] + bytes(512) + TAR[3072:], 3, "has more after its end"),
    "joined.zip": (zipped({"a.txt": b"a"}) + zipped({"b.txt": b"b"}), 0, "more before or after"),
    "empty-first.zip": (zipped({}) + zipped({"b.txt": b"b"}), 0, "more before or after"),
    "text-after.zip": (zipped({"a.txt": b"a"}) + B, 0, "more before or after its archive"),
}


@pytest.mark.parametrize("name", ENDS_EARLY)
def test_what_follows_a_false_end_is_not_lost_unsaid(tmp_path: Path, name: str) -> None:
    data, n_documents, complaint = ENDS_EARLY[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"{name} .*{complaint}"):
        documents(tmp_path / name)
    report = ReadReport()
    assert len(documents(tmp_path / name, report, on_error="skip")) == n_documents
    assert report.skipped == 1


def test_a_few_nuls_in_a_text_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a text\nwith a\x00NUL, and more after it\n")
    assert documents(tmp_path / "a.txt") == ["a text\nwith a\x00NUL, and more after it\n"]
    assert "NUL characters, which are read as text: its first NUL is byte 13, in line 2" in (
        capsys.readouterr().err
    )


def test_a_number_of_thousands_of_digits_is_no_obstacle(tmp_path: Path) -> None:
    value = b'{"n": ' + b"9" * 5000 + b', "text": "a"}'
    for name, data in (("a.json", b"[" + value + b"]"), ("a.jsonl", value), ("a.txt", value)):
        (tmp_path / name).write_bytes(data)
        assert documents(tmp_path / name) == ["a"]


def test_a_member_that_is_corrupt_does_not_end_its_archive(tmp_path: Path) -> None:
    data = zipped({"a.txt": b"a", "b.txt": b"b", "c.txt": b"c"})
    (tmp_path / "a.zip").write_bytes(data.replace(b"b.txt", b"x.txt", 1))
    report = ReadReport()
    assert documents(tmp_path / "a.zip", report, on_error="skip") == ["a", "c"]
    assert report.skipped == 1


def test_a_member_that_is_encrypted_does_not_end_its_archive(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.txt": b"a", "b.txt": b"secret", "c.txt": b"c"}))
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        for _ in range(2):  # the second member
            at = data.index(magic, at + 1)
        data[at + flags] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    report = ReadReport()
    assert documents(tmp_path / "a.zip", report, on_error="skip") == ["a", "c"]
    assert report.skipped == 1
    assert "a.zip, member b.txt is encrypted" in report.complaints[0]


def test_a_dictionary_of_zstd_is_named(tmp_path: Path) -> None:
    module = zstd_module()
    lines = [json.dumps({"text": f"document {i} of {i * 7} words"}).encode() for i in range(500)]
    dictionary = module.train_dict(lines, 2000)
    (tmp_path / "a.jsonl.zst").write_bytes(module.compress(lines[0], zstd_dict=dictionary))
    with pytest.raises(UserError, match=r"compressed with a dictionary: .*`zstd -d -D"):
        documents(tmp_path / "a.jsonl.zst")


def test_nuls_far_in_a_text_are_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    english = "English\n".encode("utf-16-le") * 40_000
    (tmp_path / "a.txt").write_bytes(b"x" * 99_999 + b"\n" + english)
    assert len(documents(tmp_path / "a.txt")) == 1
    said = capsys.readouterr().err
    assert said.count("note:") == 1
    assert "its first NUL is byte 100001, in line 2" in said


def test_markup_that_is_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in {
        "a.html": b"<!DOCTYPE html>\n<html>",
        "dump.xml.bz2": bz2.compress(b'<mediawiki xmlns="x">\n<page>'),
        "page.txt": b"<html>",
    }.items():
        (tmp_path / name).write_bytes(data)
        assert len(documents(tmp_path / name)) == 1
        assert f"{name} is a web page or XML, and its markup is read as text" in (
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
