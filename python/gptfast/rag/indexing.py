"""Bring an index up to date with files: only what is new or has changed costs anything."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from gptfast.cli.units import count
from gptfast.errors import UserError
from gptfast.rag import lsa
from gptfast.rag.chunks import chunk
from gptfast.rag.embeddings import NAME as MINILM
from gptfast.rag.embeddings import MiniLM
from gptfast.rag.passages import Page
from gptfast.rag.readers import find, kind_of, read
from gptfast.rag.store import VERSION, Index
from gptfast.system.files import make_folder
from gptfast.system.locking import folder_lock

Embeddings: TypeAlias = Literal["auto", "minilm", "none"]


@dataclass
class Summary:
    """What indexing has done."""

    notes: list[str] = field(default_factory=list)
    """What to tell the user, in lines."""
    n_new: int = 0
    """Files that were read, because they are new or have changed."""
    n_unchanged: int = 0
    n_removed: int = 0
    n_same: int = 0
    """Files whose bytes are those of another."""
    n_embedded: int = 0
    """Chunks for which MiniLM made vectors."""
    n_files: int = 0
    n_chunks: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    """What can't be read, in whole or in part, and why, by path."""


def index_files(
    paths: Sequence[Path],
    folder: Path,
    embeddings: Embeddings = "auto",
    progress: Callable[[int], object] = lambda done: None,
) -> Summary:
    """Make the index in a folder hold what the paths hold now, and nothing else.

    embeddings: "minilm" stores vectors of MiniLM, "none" removes them; "auto" stores them if MiniLM
    can be loaded. progress: is called with the number of bytes that are done.

    Raises UserError if another process writes the index, a path does not exist, MiniLM is asked for
    and can't be loaded, or the index has its vectors and "auto" can't make more. Each file is
    written in one transaction: killed at any moment, the next call completes the index.
    """
    files, problems = find(paths)
    make_folder(folder, "choose another --out")
    with folder_lock(folder):
        summary = Summary(problems=problems)
        index = _open(folder, summary)
        try:
            encoder = _encoder(index, embeddings, summary)
            _Run(index, encoder, summary, progress).update(files)
        finally:
            index.close()
    return summary


def _open(folder: Path, summary: Summary) -> Index:
    index = Index.find(folder)
    if index is not None and (found := index.get("version")) != VERSION:
        index.close()
        index = None
        summary.notes.append(
            f"the index is of version {found!s}, and this gptfast makes version {VERSION}: all "
            f"files are indexed again"
        )
    return index or Index.create(folder)


def _encoder(index: Index, embeddings: Embeddings, summary: Summary) -> MiniLM | None:
    had = index.embedders() - {"lsa"}
    for name in had if embeddings == "none" else had - {MINILM}:
        index.drop_vectors(name)
        summary.notes.append(f"removed the vectors of {name}")
    if embeddings == "none":
        return None
    try:
        return MiniLM()
    except UserError as error:
        if embeddings == "minilm":
            raise
        if MINILM in had:
            raise UserError(
                f"the index has vectors of MiniLM, and new files need them, too: {error}; or "
                f"remove them with --embeddings none"
            ) from error
        summary.notes.append(f"no embeddings, searching by words and LSA alone: {error}")
        return None


@dataclass
class _Run:
    index: Index
    encoder: MiniLM | None
    summary: Summary
    progress: Callable[[int], object]

    def update(self, files: dict[str, Path]) -> None:
        index, summary = self.index, self.summary
        known = index.files()
        n_done = 0
        for path in sorted(files):
            n_done += self._file(path, files[path], known.get(path), n_done)
            self.progress(n_done)
        for path in known.keys() - files.keys():  # last: a file may only have another name now
            index.remove(path)
            summary.n_removed += 1
        self._embed_rest(n_done)
        if index.get("lsa_basis") is None:
            lsa.learn(index)
        summary.n_files, summary.n_chunks = len(index.files()), len(index.chunks())
        summary.problems |= index.problems()

    def _file(self, path: str, file: Path, before: str | None, n_done: int) -> int:
        """Index a file and return its size in bytes."""
        index, summary = self.index, self.summary
        try:
            data = file.read_bytes()
        except OSError as error:
            summary.problems[path] = f"can't be opened ({error.strerror})"
            if before is not None:
                index.remove(path)
            return 0
        # The same bytes are another document where they are read in another way.
        sha256 = hashlib.sha256(kind_of(file, data).encode() + b"\0" + data).hexdigest()
        if sha256 == before:
            summary.n_unchanged += 1
        elif index.holds(sha256):
            index.link(path, sha256)
            summary.n_same += 1
        else:
            document = read(file, data)
            pages, n_long = [], 0
            for page in document.pages:
                spans, n_here = chunk(page.text, document.layout)
                pages.append(replace(page, spans=spans))
                n_long += n_here
            problem = document.problem
            if n_long:
                said = f"{count(n_long, 'sentence')} kept whole, beyond the size of a chunk"
                problem = f"{problem}; {said}" if problem else said
            vectors = None
            if self.encoder is not None:
                texts = [text for page in pages for text in _searched(page)]
                size = len(data)
                embedded = self.encoder.embed(
                    texts, lambda share: self.progress(n_done + int(share * size))
                )
                vectors = MINILM, embedded
                summary.n_embedded += len(texts)
            index.add(path, sha256, pages, problem, vectors)
            summary.n_new += 1
        return len(data)

    def _embed_rest(self, n_bytes: int) -> None:
        """Make vectors of chunks that were indexed without, some hundreds at a time.

        n_bytes: of all files, whose share that is done is shown.
        """
        if self.encoder is None:
            return
        rest = self.index.without_vectors(MINILM)
        for first in range(0, len(rest), 256):
            part = rest[first : first + 256]
            vectors = self.encoder.embed([chunk.searched for chunk in part])
            self.index.add_vectors(MINILM, [chunk.id for chunk in part], vectors)
            self.progress(n_bytes * (first + len(part)) // len(rest))
        self.summary.n_embedded += len(rest)


def _searched(page: Page) -> list[str]:
    """Return what an encoder reads of each chunk, as `Chunk.searched` does."""
    return [
        f"{span.heading}\n{text}" if span.heading else text
        for span in page.spans
        for text in [page.text[span.char_start : span.char_end]]
    ]
