"""Find files, and read each as pages of text."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from gptfast.data.documents import ReadOptions, read_blocks
from gptfast.data.documents.names import bare_name, family_of, packing_of, suffix_of
from gptfast.errors import MissingFileError, UserError
from gptfast.rag.chunks import RECORDS_END, Layout
from gptfast.rag.passages import Page

MARKDOWN = (".md", ".markdown")
HTML = (".html", ".htm", ".xhtml")
PDF = (".pdf",)


@dataclass(frozen=True)
class Document:
    """What a file holds."""

    pages: tuple[Page, ...] = ()
    problem: str | None = None
    """Why there is no text of it, or of some of its pages; None if there is nothing to say."""
    layout: Layout = "plain"


def find(paths: Sequence[Path]) -> tuple[dict[str, Path], dict[str, str]]:
    r"""Return the files below paths, and why folders below them can't be read.

    Both go by their path within the folder that holds all paths. Bytes of a name that are not UTF-8
    are written as `\udcff`, because an index holds UTF-8.

    The files of a folder are those with a suffix of text, Markdown, HTML, PDF, and of the records
    that `gptfast.data` reads; hidden ones are left out, and links to folders are not followed. A
    file that is named itself is taken whatever it is. Raises MissingFileError if a path does not
    exist, UserError if there is no file to index.
    """
    if not paths:
        raise UserError("no files were given: expected at least one file or folder")
    files: list[Path] = []
    errors: list[OSError] = []
    for path in paths:
        if path.is_file():
            files.append(path)
        elif path.is_dir():
            files.extend(_inside(path, errors))
        else:
            raise MissingFileError(f"there is no {path}: expected a file or a folder")
    if not files and not errors:
        suffixes = " ".join((*PDF, *HTML, ".md", ".txt", ".jsonl", ".csv", ".parquet"))
        raise MissingFileError(
            f"no file in {' '.join(map(str, paths))} ends in one of {suffixes}: expected documents"
        )
    roots = [os.path.abspath(path if path.is_dir() else path.parent) for path in paths]
    root = Path(os.path.commonpath(roots))
    problems = {
        _within(root, Path(error.filename)): f"can't be opened ({error.strerror})"
        for error in errors
    }
    return {_within(root, file): file for file in files}, problems


def _within(root: Path, path: Path) -> str:
    name = Path(os.path.abspath(path)).relative_to(root).as_posix()
    return name.encode(errors="backslashreplace").decode()


def _inside(folder: Path, errors: list[OSError]) -> Iterator[Path]:
    for place, folders, names in os.walk(folder, onerror=errors.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            suffix = suffix_of(name)
            is_known = family_of(name) is not None or suffix in (*HTML, *PDF, ".rst")
            if is_known and not name.startswith(".") and os.path.isfile(os.path.join(place, name)):
                yield Path(place, name)


def kind_of(file: Path, data: bytes) -> str:
    """Return how the bytes of a file are read: "pdf", "html", "markdown", "text", or as records.

    That is by its first bytes, or its name. Of records, the kind is what the name ends in.
    """
    suffix, family, packing = suffix_of(file.name), family_of(file.name), packing_of(file.name)
    if data.startswith(b"%PDF-") or suffix in PDF:
        return "pdf"
    if family not in (None, "text") or packing:
        return suffix_of(bare_name(file.name)) + packing
    return "html" if suffix in HTML else "markdown" if suffix in MARKDOWN else "text"


def read(file: Path, data: bytes) -> Document:
    """Return the pages of a file, without spans.

    data: the bytes of the file. Records (lines of JSON, rows) are separated by RECORDS_END in the
    text. A file that can't be read has a problem instead of pages.

    Raises UserError if the library for PDF files is not installed.
    """
    kind = kind_of(file, data)
    if kind == "pdf":
        return _read_pdf(data)
    if kind not in ("html", "markdown", "text"):
        return _read_records(file)
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = _normal(data.decode(encoding))
    except UnicodeDecodeError as error:
        return Document(problem=f"is not UTF-8 text (byte {error.start}): convert it")
    if "\x00" in text:
        return Document(problem="is not text: it has NUL characters")
    if kind == "html":
        text = html_to_text(text)
    return Document((Page(None, None, text),), layout="plain" if kind == "text" else "markdown")


def _normal(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_records(file: Path) -> Document:
    """Read what `gptfast.data` reads: JSON, tables, Parquet, archives, compressed text."""
    records: list[str] = []
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:  # what it says is told as a problem
            whole = bytearray()
            for block in read_blocks(file, ReadOptions(document_separator="")):
                whole += block.data
                if block.ends_document:
                    records.append(_normal(whole.decode()).strip("\n"))
                    whole.clear()
    except UserError as error:
        return Document(problem=f"can't be read: {error}")
    notes = said.getvalue().strip().replace("\n", "; ")
    text = RECORDS_END.join(re.sub(r"\n{3,}", "\n\n", record) for record in records)
    return Document((Page(None, None, text),), notes or None, "records")


def _read_pdf(data: bytes) -> Document:
    try:
        import pypdfium2
    except ImportError:
        raise UserError(
            "a PDF file needs pypdfium2: install it with `pip install 'gptfast[rag]'`"
        ) from None
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        return Document(problem=f"can't be read as PDF: {error}")
    pages: list[Page] = []
    empty: list[int] = []
    broken: list[int] = []
    with contextlib.closing(pdf):
        for number in range(1, len(pdf) + 1):
            text = ""
            try:
                page = pdf[number - 1]
                # U+FFFE stands for a hyphen at the end of a line, and joins the parts of the word.
                text = _normal(page.get_textpage().get_text_range()).replace("\ufffe", "")
                if not text.strip() and next(page.get_objects(), None) is not None:
                    empty.append(number)
                page.close()
            except pypdfium2.PdfiumError:
                broken.append(number)
            pages.append(Page(number, pdf.get_page_label(number - 1) or None, text))
    problems = []
    if broken:
        problems.append(f"pages that can't be read: {_numbers(broken)}")
    if empty:
        problems.append(
            f"pages without text, which may be scans to be recognised (OCR) first: "
            f"{_numbers(empty)}"
        )
    has_text = any(page.text.strip() for page in pages)
    if not has_text and not problems:
        problems = ["has no text"]
    return Document(tuple(pages) if has_text else (), "; ".join(problems) or None)


def _numbers(pages: list[int]) -> str:
    return ", ".join(map(str, pages[:10])) + (f" and {len(pages) - 10:,} more" * (len(pages) > 10))


# Elements that begin and end a paragraph, and those whose text is not shown.
_BLOCKS = frozenset(
    re.findall(
        r"\w+",
        "address article aside blockquote body br caption dd details div dl dt fieldset figcaption "
        "figure footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre section summary table "
        "tr ul",
    )
)
_HIDDEN = frozenset(["title", "script", "style", "template", "noscript", "svg"])
_TIGHT = frozenset(("br", "li", "tr", "dt", "dd"))  # a new line, but no empty one


class _Text(HTMLParser):
    """Collects the text that a browser would show, headings as Markdown's."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = self._pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        if tag in _BLOCKS:
            self._end_line(tag)
        if re.fullmatch("h[1-6]", tag):
            self.parts.append("#" * int(tag[1]) + " ")
        elif tag == "li":
            self.parts.append("- ")
        elif tag in ("td", "th") and self.parts[-1:] != ["\n"]:
            self.parts.append(" ")
        self._pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(self._hidden - 1, 0)
        if tag in _BLOCKS:
            self._end_line(tag)
        self._pre = max(self._pre - (tag == "pre"), 0)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag in _HIDDEN:
            self._hidden -= 1

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if not self._pre:
            data = re.sub(r"\s+", " ", data)
            if not self.parts or self.parts[-1].endswith((" ", "\n")):
                data = data.lstrip()
        self.parts.append(data)

    def _end_line(self, tag: str) -> None:
        self.parts.append("\n" if tag in _TIGHT else "\n\n")


def html_to_text(html: str) -> str:
    """Return the text that a page of HTML shows. Headings begin with Markdown's `#`."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    text = "".join(parser.parts)
    text = re.sub(r"[ \t]+(?=\n|\Z)", "", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"
