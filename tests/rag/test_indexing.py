from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from pdfs import pdf

from gptfast.errors import MissingFileError, UserError
from gptfast.rag import store
from gptfast.rag.indexing import Summary, index_files
from gptfast.rag.store import FILE, Index
from gptfast.system.locking import folder_lock

# Indexes argv[1] into argv[2], and is killed before its argv[3]-th statement. A cache of a few
# pages makes SQLite write in the middle of transactions.
KILLED = """
import os, signal, sys
from pathlib import Path
from gptfast.rag import store
from gptfast.rag.indexing import index_files

left = int(sys.argv[3])
connect = store._connect

def count(statement):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def connect_to_be_killed(file):
    connection = connect(file)
    connection.execute("PRAGMA cache_size = 2")
    connection.set_trace_callback(count)
    return connection

store._connect = connect_to_be_killed
index_files([Path(sys.argv[1])], Path(sys.argv[2]), "none")
"""


def write(folder: Path, n: int, seed: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefgh", k=4)) for _ in range(200)]
    for name in range(n):
        text = "\n\n".join(
            " ".join(rng.choices(words, k=60)) + "." for _ in range(rng.randint(1, 9))
        )
        (folder / f"{name:03}.txt").write_text(text)


def update(texts: Path, **options: object) -> Summary:
    return index_files([texts], texts.parent / "index", "none", **options)  # type: ignore[arg-type]


def rows(folder: Path) -> list[object]:
    """Everything in an index, table by table."""
    connection = sqlite3.connect(folder / FILE)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    found: list[object] = []
    for table in ("meta", "contents", "files", "pages", "chunks", "vectors"):
        found += connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
    connection.close()
    return found


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    write(folder, 12)
    return folder


def test_stored_text_at_the_offsets_is_the_chunk(texts: Path) -> None:
    (texts / "a.pdf").write_bytes(pdf(["One line.\nTwo lines.", "Page two."], 5))
    (texts / "b.html").write_text("<h1>Title</h1><p>Some text.</p>")
    update(texts)
    index = Index.open(texts.parent / "index")
    chunks = index.chunks()
    for chunk in chunks:
        text = index.text_of(chunk.file, chunk.page)
        assert chunk.text == text[chunk.char_start : chunk.char_end] != ""
        lines = text.split("\n")[chunk.line_start - 1 : chunk.line_end]
        assert chunk.text in "\n".join(lines)
    assert {chunk.file for chunk in chunks} == {path.name for path in texts.iterdir()}
    found = [(c.page, c.page_label, c.text) for c in chunks if c.file == "a.pdf"]
    assert found == [(1, "5", "One line.\nTwo lines."), (2, "6", "Page two.")]
    with pytest.raises(UserError, match=r"holds no page 3 of a\.pdf"):
        index.text_of("a.pdf", 3)


def test_only_changes_cost_anything(texts: Path) -> None:
    first = update(texts)
    assert (first.n_new, first.n_unchanged, first.n_files) == (12, 0, 12)
    before = rows(texts.parent / "index")
    again = update(texts)
    assert (again.n_new, again.n_unchanged, again.n_removed) == (0, 12, 0)
    assert rows(texts.parent / "index") == before
    (texts / "003.txt").write_text("Something new.")
    (texts / "004.txt").unlink()
    (texts / "new.txt").write_text("Also new.")
    third = update(texts)
    assert (third.n_new, third.n_unchanged, third.n_removed) == (2, 10, 1)
    index = Index.open(texts.parent / "index")
    assert index.text_of("003.txt", None) == "Something new."
    assert {chunk.file for chunk in index.chunks()} == {path.name for path in texts.iterdir()}


def test_the_same_bytes_are_one_until_both_are_gone(texts: Path) -> None:
    (texts / "copy.txt").write_bytes((texts / "000.txt").read_bytes())
    assert update(texts).n_same == 1
    folder = texts.parent / "index"
    n_chunks = len(Index.open(folder).chunks())
    (texts / "000.txt").unlink()
    update(texts)
    index = Index.open(folder)
    assert len(index.chunks()) == n_chunks
    assert {chunk.file for chunk in index.chunks()} == {path.name for path in texts.iterdir()}
    assert "copy.txt" in index.files()
    (texts / "copy.txt").unlink()
    update(texts)
    assert len(Index.open(folder).chunks()) < n_chunks


def test_the_same_bytes_of_another_kind_are_another_document(texts: Path) -> None:
    (texts / "a.txt").write_text("<p>One &amp; two.</p>")
    (texts / "b.html").write_text("<p>One &amp; two.</p>")
    assert update(texts).n_same == 0
    (texts / "a.txt").rename(texts / "c.html")
    assert update(texts).n_same == 1
    index = Index.open(texts.parent / "index")
    for name in ("b.html", "c.html"):
        assert index.text_of(name, None) == "One & two.\n"


def test_a_renamed_file_keeps_its_chunks(texts: Path) -> None:
    update(texts)
    folder = texts.parent / "index"
    ids = [chunk.id for chunk in Index.open(folder).chunks()]
    (texts / "005.txt").rename(texts / "zzz.txt")
    done = update(texts)
    assert (done.n_new, done.n_same, done.n_removed) == (0, 1, 1)
    assert [chunk.id for chunk in Index.open(folder).chunks()] == ids


@pytest.mark.skipif(sys.platform != "linux", reason="names elsewhere are Unicode")
def test_a_name_that_is_not_utf8(texts: Path) -> None:
    with open(os.fsencode(texts) + b"/caf\xe9.txt", "w") as file:
        file.write("A text with such a name.")
    update(texts)
    index = Index.open(texts.parent / "index")
    assert index.text_of(r"caf\udce9.txt", None) == "A text with such a name."
    assert update(texts).n_unchanged == 13


def test_what_cannot_be_read_is_named_every_time(texts: Path) -> None:
    (texts / "scan.pdf").write_bytes(pdf([None]))
    (texts / "latin.txt").write_bytes(b"caf\xe9")
    (texts / "long.txt").write_text("X" * 2000)
    for n_new in (15, 0):
        done = update(texts)
        assert done.n_new == n_new
        assert sorted(done.problems) == ["latin.txt", "long.txt", "scan.pdf"]
        assert "scan" in done.problems["scan.pdf"]
        assert done.problems["long.txt"].startswith("1 sentence")


def test_a_file_that_cannot_be_opened_is_named(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(texts)
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "000.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    done = update(texts)
    assert done.problems == {"000.txt": "can't be opened (Permission denied)"}
    assert done.n_files == 11


@pytest.mark.parametrize("n_statements", [2, 25, 60, 90, 140, 180])
def test_a_killed_run_is_completed(texts: Path, n_statements: int) -> None:
    update(texts)
    folder = texts.parent / "killed"
    command = [sys.executable, "-c", KILLED, str(texts), str(folder), str(n_statements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    index_files([texts], folder, "none")
    assert rows(folder) == rows(texts.parent / "index")


def test_a_second_writer_is_refused(texts: Path) -> None:
    update(texts)
    with folder_lock(texts.parent / "index"), pytest.raises(UserError, match="another run") as said:
        update(texts)
    assert "\n" not in str(said.value)


def test_another_version_is_made_anew_and_said(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(texts)
    monkeypatch.setattr(store, "VERSION", "2")
    with pytest.raises(UserError, match="is of version 1, but this gptfast reads version 2"):
        Index.open(texts.parent / "index")
    monkeypatch.setattr("gptfast.rag.indexing.VERSION", "2")
    done = update(texts)
    assert done.n_new == 12
    assert "all files are indexed again" in done.notes[0]
    assert len(Index.open(texts.parent / "index").files()) == 12


def test_what_is_no_index_is_refused(tmp_path: Path, texts: Path) -> None:
    with pytest.raises(MissingFileError, match="gptfast rag index"):
        Index.open(tmp_path)
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / FILE).write_text("a poem, and long enough to be read as a database")
    with pytest.raises(UserError, match="is not an index"):
        update(texts)
    (tmp_path / "index" / FILE).write_text("")  # as a killed run may leave it
    with pytest.raises(MissingFileError):
        Index.open(tmp_path / "index")
    assert update(texts).n_new == 12


def test_an_error_leaves_the_file_out(texts: Path) -> None:
    def fail(done: int) -> None:
        if done > 5000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update(texts, progress=fail)
    n_before = len(Index.open(texts.parent / "index").files())
    assert 0 < n_before < 12
    assert update(texts).n_new == 12 - n_before
