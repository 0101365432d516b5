"""The index: one SQLite file with the text of the documents, its chunks, words and vectors.

The same document under several paths is stored once: `sha256` is that of its kind and bytes. Each
is written in one transaction: a killed process leaves it in the index whole, or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gptfast.errors import MissingFileError, UserError
from gptfast.rag.passages import Chunk, Page

FILE = "index.sqlite"
VERSION = "1"
"""Version of the tables below and of the chunks. An index of another version is made anew."""

Vectors: TypeAlias = npt.NDArray[np.float32]

# `heading` is the path of headings above a chunk, which is searched but not part of its text.
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE contents (id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, problem TEXT);
CREATE TABLE files (
    path TEXT PRIMARY KEY, content INTEGER NOT NULL REFERENCES contents
) WITHOUT ROWID;
CREATE INDEX files_of_content ON files (content);
CREATE TABLE pages (
    id INTEGER PRIMARY KEY, content INTEGER NOT NULL REFERENCES contents ON DELETE CASCADE,
    number INTEGER, label TEXT, text TEXT NOT NULL
);
CREATE INDEX pages_of_content ON pages (content);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY, page INTEGER NOT NULL REFERENCES pages ON DELETE CASCADE,
    line_start INTEGER, line_end INTEGER, char_start INTEGER, char_end INTEGER,
    heading TEXT NOT NULL, text TEXT NOT NULL
);
CREATE INDEX chunks_of_page ON chunks (page);
CREATE TABLE vectors (
    chunk INTEGER NOT NULL REFERENCES chunks ON DELETE CASCADE, embedder TEXT NOT NULL,
    vector BLOB NOT NULL, PRIMARY KEY (embedder, chunk)
) WITHOUT ROWID;
CREATE INDEX vectors_of_chunk ON vectors (chunk);
CREATE VIRTUAL TABLE words USING fts5 (
    heading, text, content='chunks', content_rowid='id', tokenize='porter unicode61'
);
CREATE TRIGGER words_in AFTER INSERT ON chunks BEGIN
    INSERT INTO words (rowid, heading, text) VALUES (new.id, new.heading, new.text);
END;
CREATE TRIGGER words_out AFTER DELETE ON chunks BEGIN
    INSERT INTO words (words, rowid, heading, text)
    VALUES ('delete', old.id, old.heading, old.text);
END;
"""


class Index:
    """An index that is open for reading and writing."""

    def __init__(self, connection: sqlite3.Connection, folder: Path) -> None:
        """Use `open` or `create` instead."""
        self.connection, self.folder = connection, folder

    @classmethod
    def open(cls, folder: Path) -> Index:
        """Open the index in a folder.

        Raises MissingFileError if there is none, UserError if it was made by another version.
        """
        index = cls.find(folder)
        if index is None:
            raise MissingFileError(
                f"no index in {folder}: make one with `gptfast rag index PATH --out {folder}`"
            )
        if (found := index.get("version")) != VERSION:
            index.close()
            raise UserError(
                f"the index in {folder} is of version {found!s}, but this gptfast reads version "
                f"{VERSION}: run `gptfast rag index` again"
            )
        return index

    @classmethod
    def find(cls, folder: Path) -> Index | None:
        """Open the index of any version; None if there is none, or one that was never begun.

        Raises UserError if the file is something else.
        """
        if not (folder / FILE).is_file():
            return None
        index = cls(_connect(folder / FILE), folder)
        try:
            tables = {row[0] for row in index.connection.execute("SELECT name FROM sqlite_master")}
        except sqlite3.DatabaseError as error:
            index.close()
            said = f"{folder / FILE} is not an index ({error})"
            raise UserError(f"{said}: delete it, or choose another folder") from None
        if "meta" in tables:
            return index
        index.close()  # it was killed before its first transaction
        return None

    @classmethod
    def create(cls, folder: Path) -> Index:
        """Make an empty index in a folder, in the place of any other."""
        for name in (FILE, f"{FILE}-journal"):
            (folder / name).unlink(missing_ok=True)
        connection = _connect(folder / FILE)
        connection.executescript(
            f"BEGIN; {_TABLES} INSERT INTO meta VALUES ('version', '{VERSION}'); COMMIT;"
        )
        return cls(connection, folder)

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write all changes of the block to disk together, or none of them after an error."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def get(self, key: str) -> str | bytes | None:
        """Return a value about the whole index; None if it isn't set."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def text_of(self, file: str, page: int | None) -> str:
        """Return the stored text of a page, or of a file without pages (page None).

        Raises UserError if the index has no such file or page.
        """
        row = self.connection.execute(
            "SELECT text FROM pages JOIN files USING (content) WHERE path = ? AND number IS ?",
            (file, page),
        ).fetchone()
        if row is None:
            where = file if page is None else f"page {page} of {file}"
            raise UserError(f"the index in {self.folder} holds no {where}: expected a file of it")
        return str(row[0])

    def chunks(self) -> list[Chunk]:
        """Return all chunks, ordered by id. A file with several paths goes by the first of them."""
        rows = self.connection.execute(
            "SELECT chunks.id, (SELECT min(path) FROM files WHERE files.content = pages.content), "
            "number, label, line_start, line_end, char_start, char_end, chunks.text, heading "
            "FROM chunks JOIN pages ON pages.id = chunks.page ORDER BY chunks.id"
        )
        return [Chunk(*row) for row in rows]

    def files(self) -> dict[str, str]:
        """Return the SHA-256 of each file by its path, also of those that couldn't be read."""
        rows = self.connection.execute(
            "SELECT path, sha256 FROM files JOIN contents ON contents.id = content ORDER BY path"
        )
        return dict(rows.fetchall())

    def holds(self, sha256: str) -> bool:
        """Return whether the index has a file with these bytes, under any path."""
        rows = self.connection.execute("SELECT 1 FROM contents WHERE sha256 = ?", (sha256,))
        return rows.fetchone() is not None

    def problems(self) -> dict[str, str]:
        """Return why files, or pages of them, have no text, by their paths."""
        rows = self.connection.execute(
            "SELECT path, problem FROM files JOIN contents ON contents.id = content "
            "WHERE problem IS NOT NULL ORDER BY path"
        )
        return dict(rows.fetchall())

    def vectors(self, embedder: str) -> tuple[list[int], Vectors]:
        """Return the ids of the chunks that have vectors of an embedder, and the vectors (N, C).

        The vectors are stored as float16 and returned as float32.
        """
        rows = self.connection.execute(
            "SELECT chunk, vector FROM vectors WHERE embedder = ? ORDER BY chunk", (embedder,)
        ).fetchall()
        if not rows:
            return [], np.zeros((0, 0), np.float32)
        flat = np.frombuffer(b"".join(row[1] for row in rows), np.float16)
        return [row[0] for row in rows], flat.reshape(len(rows), -1).astype(np.float32)

    def add(
        self,
        path: str,
        sha256: str,
        pages: Sequence[Page],
        problem: str | None,
        vectors: tuple[str, Vectors] | None,
    ) -> None:
        """Store a file in one transaction, in the place of what the path held before.

        vectors: name of the embedder, and a vector for each span of the pages in order (N, C).
        """
        with self.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO contents (sha256, problem) VALUES (?, ?)", (sha256, problem)
            )
            content, chunks = cursor.lastrowid, []
            for page in pages:
                cursor.execute(
                    "INSERT INTO pages (content, number, label, text) VALUES (?, ?, ?, ?)",
                    (content, page.number, page.label, page.text),
                )
                page_id = cursor.lastrowid
                for span in page.spans:
                    cursor.execute(
                        "INSERT INTO chunks (page, line_start, line_end, char_start, char_end, "
                        "heading, text) VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (page_id, span.line_start, span.line_end, span.char_start, span.char_end,
                         span.heading, page.text[span.char_start : span.char_end]),
                    )  # fmt: skip
                    chunks.append(cursor.lastrowid)
            if vectors is not None:
                _insert_vectors(connection, vectors[0], chunks, vectors[1])
            _point(connection, path, content)

    def link(self, path: str, sha256: str) -> None:
        """Let a path name bytes that the index holds already."""
        with self.transaction() as connection:
            rows = connection.execute("SELECT id FROM contents WHERE sha256 = ?", (sha256,))
            _point(connection, path, rows.fetchone()[0])

    def remove(self, path: str) -> None:
        """Remove a path, and its text if no other path has it."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM files WHERE path = ?", (path,))
            _drop_unnamed(connection)

    def without_vectors(self, embedder: str) -> list[Chunk]:
        """Return the chunks that have no vector of an embedder."""
        done = set(self.vectors(embedder)[0])
        return [chunk for chunk in self.chunks() if chunk.id not in done]

    def embedders(self) -> set[str]:
        """Return the names of the embedders that vectors are of."""
        return {row[0] for row in self.connection.execute("SELECT DISTINCT embedder FROM vectors")}

    def add_vectors(self, embedder: str, chunks: Sequence[int], vectors: Vectors) -> None:
        """Store vectors (N, C) of chunks in one transaction."""
        with self.transaction() as connection:
            _insert_vectors(connection, embedder, chunks, vectors)

    def drop_vectors(self, embedder: str) -> None:
        """Remove all vectors of an embedder."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM vectors WHERE embedder = ?", (embedder,))

    def set_lsa(self, terms: str, idf: bytes, basis: bytes, vectors: Vectors) -> None:
        """Store what LSA has learned from all chunks, and their vectors, in one transaction."""
        ids = [row[0] for row in self.connection.execute("SELECT id FROM chunks ORDER BY id")]
        with self.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                [("lsa_terms", terms), ("lsa_idf", idf), ("lsa_basis", basis)],
            )
            connection.execute("DELETE FROM vectors WHERE embedder = 'lsa'")
            _insert_vectors(connection, "lsa", ids, vectors)


def _connect(file: Path) -> sqlite3.Connection:
    # Transactions are begun and ended by hand. A server reads from other threads than it opens in.
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _insert_vectors(
    connection: sqlite3.Connection, embedder: str, chunks: Sequence[int | None], vectors: Vectors
) -> None:
    rows = zip(chunks, vectors.astype(np.float16), strict=True)
    connection.executemany(
        "INSERT OR REPLACE INTO vectors (embedder, chunk, vector) VALUES (?, ?, ?)",
        [(embedder, chunk, vector.tobytes()) for chunk, vector in rows],
    )


def _point(connection: sqlite3.Connection, path: str, content: int | None) -> None:
    connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (path, content))
    _drop_unnamed(connection)


def _drop_unnamed(connection: sqlite3.Connection) -> None:
    """Remove the texts that no path has, and what LSA has learned of the texts before."""
    connection.execute("DELETE FROM contents WHERE id NOT IN (SELECT content FROM files)")
    connection.execute("DELETE FROM meta WHERE key = 'lsa_basis'")
