"""Files that can't be read as text: what they are, and the command that helps."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import Counter

from gptfast.data.documents.names import bare_name, family_of, promised_format, suffix_of
from gptfast.data.documents.unpack import HEAD_BYTES
from gptfast.tokenizer.rust import utf8_error

_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")

# What can't be read, by the bytes that it begins with: what it is, and what to do.
_LFS = "run `git lfs pull` in its folder"
_TEXT_TOOLS = "extract its text first, for example with `pandoc -t plain`"
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF-", "a PDF file", "extract its text first, for example with `pdftotext`"),
    (b"{\\rtf", "an RTF file", _TEXT_TOOLS),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself", _LFS),
    (b"version https://hawser.github.com/spec/", "a Git LFS pointer, not the file itself", _LFS),
    (b"version http://git-media.io/v/", "a Git LFS pointer, not the file itself", _LFS),
    (b"/annex/objects/", "a git-annex pointer, not the file itself", "run `git annex get` on it"),
    (b"WARC/1.", "a web crawl (WARC)", "extract the text of its pages first"),
    (b"outs:\n- md5:", "a DVC pointer, not the file itself", "run `dvc pull` in its folder"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first with `unrar x`"),
)  # fmt: skip
_FOREIGN_BINARY: tuple[tuple[bytes, str, str], ...] = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Word, Excel or PowerPoint file",
     "convert it first, for example with `libreoffice --convert-to txt`"),
    (b"SQLite format 3\x00", "an SQLite database",
     "export its table first with `sqlite3 -csv -header`"),
    (b"ARROW1", "an Arrow file", "write it as Parquet first"),
    (b"\xff\xff\xff\xff", "an Arrow stream or other binary data",
     "write it as Parquet first (`datasets`: to_parquet)"),
    (b"FEA1", "a Feather file", "write it as Parquet first"),
    (b"Obj\x01", "an Avro file", "write it as Parquet or JSON lines first"),
    (b"ORC", "an ORC file", "write it as Parquet first"),
    (b"\x89HDF", "an HDF5 file", "write its text as Parquet or JSON lines first"),
    (b"\x93NUMPY", "a NumPy array", "decode ids to text first"),
    (b"GPTFAST\x00", "a token shard of gptfast",
     "give `gptfast train --corpus` the folder of `gptfast data prepare`, or decode it first with "
     "`gptfast tokenizer decode --shard`"),
    (b"GGUF", "a model (GGUF)", "expected text"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first with `7z x`"),
    (b"\x1f\x9d", "a file of `compress`", "unpack it first with `uncompress`"),
    (b"\x02\x21\x4c\x18", "a file of an old lz4", "unpack it first with `lz4 -d`"),
    (b"\x89PNG", "a PNG image", "expected text"),
    (b"\xff\xd8\xff", "a JPEG image", "expected text"),
    (b"GIF8", "a GIF image", "expected text"),
    (b"RIFF", "an image, sound or film", "expected text"),
    (b"ID3", "a sound file", "expected text"),
    (b"OggS", "a sound file", "expected text"),
    (b"fLaC", "a sound file", "expected text"),
    (b"\x7fELF", "a program", "expected text"),
    (b"MZ", "a program", "expected text"),
)  # fmt: skip

_MESSAGE_PACK = "is MessagePack: write it as JSON lines first"
_BINARY_SUFFIXES = {
    ".br": "is compressed by Brotli: unpack it first with `brotli -d`",
    ".msgpack": _MESSAGE_PACK,
    ".mpk": _MESSAGE_PACK,
}


def foreign(name: str, head: bytes) -> str | None:
    """Return what a file is that can't be read, and what helps; None if it may be text."""
    for magic, what, remedy in _FOREIGN:
        if head.startswith(magic):
            return f"is {what}: {remedy}"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        is_32 = head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE))
        return _encoded("UTF-32" if is_32 else "UTF-16", has_mark=True)
    has_nul = b"\x00" in head
    is_utf8 = _is_utf8(head, len(head) == HEAD_BYTES)
    if has_nul or not is_utf8:
        for magic, what, remedy in _FOREIGN_BINARY:
            if head.startswith(magic) and (has_nul or not magic.isascii()):
                return f"is {what}: {remedy}"
        if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            return "is a Python pickle: write its text as JSON lines or Parquet first"
        if head[:1] == b"\x0a" and b"<unk>" in head[:64]:
            return "is a SentencePiece model, the vocabulary of a tokenizer: expected text"
        if head[4:8] == b"ftyp":
            return "is a film, sound or image: expected text"
        if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 30:
            return "is the weights of a model (safetensors): expected text"
        if suffix_of(bare_name(name)) in _BINARY_SUFFIXES:
            return _BINARY_SUFFIXES[suffix_of(bare_name(name))]
    # What a name promises to be packed is damaged, if it isn't.
    if _CONTROL.search(head) and not promised_format(name):
        binary = _with_control_characters(head)
        if binary is not None:
            return binary
    if is_markup(head) and family_of(name) not in (None, "text"):
        return "is a web page or XML, perhaps a server's error message: download it again"
    return None


def is_markup(head: bytes) -> bool:
    """Return whether a web page or a file of XML begins here."""
    return (
        re.match(rb"\s*<(\?xml|!doctype|html|mediawiki|error)\b", head, re.IGNORECASE) is not None
    )


def _with_control_characters(head: bytes) -> str | None:
    """Return what a file with control characters is; None if it is text that has a few."""
    without = head.replace(b"\x00", b"")
    n_nuls, n_others = len(head) - len(without), len(_CONTROL.findall(without))
    is_utf8 = _is_utf8(without, len(head) == HEAD_BYTES)
    is_text_otherwise = is_utf8 and n_nuls < len(head) / 8 and n_others < len(head) / 20
    # In UTF-16, the NULs are the upper halves of ASCII, all at even offsets or all at odd ones.
    halves = head[::2].count(0), head[1::2].count(0)
    # A text in another encoding has few control characters, and one in UTF-16 many.
    if n_nuls + n_others > len(head) / 100 and (
        not is_text_otherwise or (n_nuls >= 8 and 0 in halves)
    ):
        for encodings in (("UTF-32LE", "UTF-32BE"), ("UTF-16LE", "UTF-16BE")):
            if found := [(n, e) for e in encodings if (n := _n_blocks(head, e)) is not None]:
                return _encoded(min(found)[1], has_mark=False)
    if is_text_otherwise or (n_nuls == 0 and n_others < len(head) / 20):
        return None
    share = (n_nuls + n_others) / len(head)
    return f"is binary data: expected text ({share:.0%} of its first bytes are control characters)"


def is_text(head: bytes) -> bool:
    """Return whether the bytes can be the beginning of a text: UTF-8 without control characters."""
    return _is_utf8(head, len(head) == HEAD_BYTES) and not _CONTROL.search(head)


def _is_utf8(data: bytes, is_cut: bool) -> bool:
    bad = utf8_error(data)
    return bad is None or (is_cut and bad > len(data) - 4)  # a character cut in two


def _encoded(encoding: str, *, has_mark: bool) -> str:
    mark = "" if has_mark else ", without a byte order mark"
    return f"is {encoding} text{mark}: convert it with `iconv -f {encoding} -t UTF-8`"


def _n_blocks(head: bytes, encoding: str) -> int | None:
    """Return of how many blocks of 256 characters a text in UTF-16 or UTF-32 is, None if it's none.

    A text is printable, in one script or two; bytes in the wrong order are of more blocks. Numbers,
    such as the ids of tokens, give characters of many scripts. Text in another encoding gives
    Chinese ones, but consists of printable ASCII characters for the most part.
    """
    most = 0.6 if _is_utf8(head, is_cut=True) else 0.9
    width = 4 if "32" in encoding else 2
    data = head[: len(head) // width * width]
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if error.start < len(data) - width:  # else a pair of surrogates cut in two
            return None
        text = data[: error.start].decode(encoding)
    if not text or "\x00" in text or len(re.findall(rb"[ -~]", head)) > most * len(head):
        return None
    n_printable = sum(map(str.isprintable, text)) + len(re.findall(r"[\s\ufeff]", text))
    letters = Counter(_script_of(c) for c in text if c.isalpha())
    n_usual = sum(n for _, n in letters.most_common(2))
    if n_printable <= 0.95 * len(text) or n_usual < 0.95 * letters.total():
        return None
    return len({ord(c) >> 8 for c in text})


def _script_of(letter: str) -> str:
    """Return the first word of a letter's name, such as LATIN; one word for Chinese, Japanese."""
    script = unicodedata.name(letter, "").partition(" ")[0]
    return "CJK" if script in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "FULLWIDTH") else script
