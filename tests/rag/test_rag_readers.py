from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pdfs import pdf

from gptfast.errors import MissingFileError, UserError
from gptfast.rag.chunks import RECORDS_END
from gptfast.rag.readers import Document, find, html_to_text, read


def read_bytes(tmp_path: Path, name: str, data: bytes) -> Document:
    path = tmp_path / name
    path.write_bytes(data)
    return read(path, data)


def text_of(document: Document) -> str:
    (page,) = document.pages
    assert (page.number, page.label) == (None, None)
    return page.text


def test_text(tmp_path: Path) -> None:
    document = read_bytes(tmp_path, "a.txt", "\ufeffé\r\nb\rc".encode())
    assert text_of(document) == "é\nb\nc"
    assert (document.problem, document.layout) == (None, "plain")
    assert text_of(read_bytes(tmp_path, "a.txt", "né".encode("utf-16"))) == "né"
    assert read_bytes(tmp_path, "a.md", b"# a").layout == "markdown"


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.txt", b"caf\xe9", "is not UTF-8 text (byte 3): convert it"),
        ("a.py", b"a\x00b", "is not text: it has NUL characters"),
        ("a.jsonl", b'{"text": "a"}\n{"text"\n', "can't be read: "),
        ("a.json", b'{"other": "a"}\n', "can't be read: "),
        ("a.txt.gz", b"\x1f\x8b no gzip", "can't be read: "),
        ("a.pdf", b"no PDF", "can't be read as PDF: "),
        (
            "a.pdf",
            pdf([None, None]),
            "pages without text, which may be scans to be recognised (OCR) first: 1, 2",
        ),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    document = read_bytes(tmp_path, name, data)
    assert document.pages == ()
    assert document.problem is not None
    assert document.problem.startswith(problem)
    assert "\n" not in document.problem


def test_pdf_pages_with_their_labels(tmp_path: Path) -> None:
    document = read_bytes(tmp_path, "a.PDF", pdf(["First line\nsecond line", None, "Third"], 7))
    assert [(p.number, p.label, p.text) for p in document.pages] == [
        (1, "7", "First line\nsecond line"),
        (2, "8", ""),
        (3, "9", "Third"),
    ]
    assert document.problem == (
        "pages without text, which may be scans to be recognised (OCR) first: 2"
    )
    # By what it is, whatever its name.
    assert len(read_bytes(tmp_path, "a.txt", pdf(["One"])).pages) == 1


def test_a_broken_page_is_named(tmp_path: Path) -> None:
    data = pdf(["One", "Two", "Three"])
    assert b"[4 0 R 6 0 R 8 0 R]" in data
    # The second page is the font.
    data = data.replace(b"[4 0 R 6 0 R 8 0 R]", b"[4 0 R 3 0 R 8 0 R]")
    document = read_bytes(tmp_path, "a.pdf", data)
    assert [page.text for page in document.pages] == ["One", "", "Three"]
    assert document.problem == "pages that can't be read: 2"


def test_an_empty_page_is_no_scan(tmp_path: Path) -> None:
    assert read_bytes(tmp_path, "a.pdf", pdf(["One", ""])).problem is None


def test_pdf_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(UserError, match=r"gptfast\[rag\]"):
        read_bytes(tmp_path, "a.pdf", pdf(["One"]))


def test_html() -> None:
    page = (
        "<!DOCTYPE html><html><head><title>no</title><style>p {}</style>"
        "<script>if (a < b) {}</script></head><body><h2>Head &amp; more</h2><p>One\n  <b>two</b>"
        "<br/>three<ul><li>x<li>y</ul><pre>a\n    b</pre><table><tr><td>1<td>2</table>"
    )
    assert html_to_text(page).split("\n") == [
        "## Head & more", "", "One two", "three", "", "- x", "- y", "", "a", "    b", "", "1 2", ""
    ]  # fmt: skip


def test_html_without_body_or_ends() -> None:
    assert html_to_text("<head><meta charset=utf-8><p>a<p>b <svg>c</svg>") == "a\n\nb\n"
    assert html_to_text("") == "\n"


def test_records(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in ("a\n\n\n\nb", "c"))
    for name, data in (("a.jsonl", lines.encode()), ("a.jsonl.gz", gzip.compress(lines.encode()))):
        document = read_bytes(tmp_path, name, data)
        assert text_of(document) == f"a\n\nb{RECORDS_END}c"
        assert (document.layout, document.problem) == ("records", None)
    assert text_of(read_bytes(tmp_path, "a.csv", b"text,n\nx,1\ny,2\n")) == f"x{RECORDS_END}y"
    # A compressed text is a record, too.
    assert text_of(read_bytes(tmp_path, "a.txt.gz", gzip.compress(b"one\n"))) == "one"


def test_find(tmp_path: Path) -> None:
    for name in ("b/x.md", "b/.hidden.md", "b/.git/y.md", "b/z.png", "a.html", "b/c/d.PDF"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files, problems = find([tmp_path])
    assert not problems
    assert files["b/x.md"] == tmp_path / "b" / "x.md"
    assert sorted(files) == ["a.html", "b/c/d.PDF", "b/x.md"]
    # The paths are relative to the folder that holds all that was given.
    files, _ = find([tmp_path / "b" / "c", tmp_path / "b" / "z.png"])
    assert sorted(files) == ["c/d.PDF", "z.png"]
    files, _ = find([tmp_path / "a.html"])
    assert list(files) == ["a.html"]


def test_find_names_a_folder_that_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.md").touch()
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    files, problems = find([tmp_path])
    assert list(files) == ["a.md"]
    assert problems == {"closed": "can't be opened (Permission denied)"}


def test_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no"):
        find([tmp_path / "none"])
    with pytest.raises(MissingFileError, match=r"no file in .* ends in one of \.pdf"):
        find([tmp_path])
    with pytest.raises(UserError, match="no files were given"):
        find([])
