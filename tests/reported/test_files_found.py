"""What users of other loaders ran into: files that are no data, and pipes."""

from __future__ import annotations

import gzip
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from written import (
    TEXTS,
    documents,
    json_lines,
    tar,
    zipped,
)

from gptfast.data.documents import find_files
from gptfast.data.encode import encode_files
from gptfast.data.prepare_shards import prepare_files
from gptfast.data.sources import load_corpus
from gptfast.data.train_tokenizer import train_tokenizer
from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer


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
        f"__MACOSX, ...), 4 files about the data or backups (LICENSE.txt, README.md, "
        f"_SUCCESS, ...), 1 file of another kind (model.bin); a file that is named itself is read"
    ]
    find_files(f"{tmp_path}/**/*.txt")
    assert "2 hidden files and folders" in capsys.readouterr().err
    # What is named itself is read, and so is what lies in a hidden folder that is named.
    assert find_files(tmp_path / "README.md") == [tmp_path / "README.md"]
    assert find_files(tmp_path / ".git") == [tmp_path / ".git/config.txt"]
    assert find_files(f"{tmp_path}/.git/*.txt") == [tmp_path / ".git/config.txt"]
    assert find_files(f"{tmp_path}/__*/*.txt") == [tmp_path / "__MACOSX/x.txt"]


ABOUT = (
    *(
        "README.txt",
        "readme",
        "README_de.md",
        "LICENSE",
        "LICENSE-MIT.txt",
        "NOTICE",
        "CITATION.cff",
    ),
    *("CHANGELOG.md", "dataset_infos.json", "dataset_dict.json", "config.json", "metadata.json"),
    *("croissant.json", "state.json", "README.md.gz"),
    *("train.jsonl~", "train.jsonl.~1~", "#train.jsonl#", "train.bak", "a.tmp"),
)
DATA = (
    *("readmes.jsonl", "license-texts.csv", "config.jsonl", "my-config.json", "authors-of-old.txt"),
    *("README-corpus.parquet", "notices.txt", "_a.txt", "train#1.jsonl", "#1.txt"),
)


def test_files_about_the_data_are_known_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*ABOUT, *DATA):
        (tmp_path / name).write_bytes(json_lines())
    assert [file.name for file in find_files(tmp_path)] == sorted(DATA)
    assert f"{len(ABOUT)} files about the data or backups (" in capsys.readouterr().err
    for name in DATA:
        (tmp_path / name).unlink()
    assert find_files(tmp_path / "train.jsonl~") == [tmp_path / "train.jsonl~"]
    # Without anything else, they are the data.
    assert tmp_path / "README.txt" in find_files(tmp_path)
    assert find_files(f"{tmp_path}/*.bak") == [tmp_path / "train.bak"]


def test_work_of_spark_and_delta_is_hidden(tmp_path: Path) -> None:
    names = ("_temporary/0/part-0.json", "_delta_log/0.json", "part-0.json")
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(json_lines())
    (tmp_path / "a.tar").write_bytes(tar(dict.fromkeys(names, json_lines())))
    assert documents(tmp_path / "in") == documents(f"{tmp_path}/in/**/*.json") == TEXTS
    assert documents(tmp_path / "a.tar") == TEXTS
    assert documents(tmp_path / "in/_delta_log") == TEXTS  # named itself


def test_a_file_with_several_names_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots/main/data").mkdir(parents=True)
    for name, data in (("data/a.jsonl", json_lines()), ("config.json", b"{}")):
        (tmp_path / "blobs" / Path(name).stem).write_bytes(data)
        (tmp_path / "snapshots/main" / name).symlink_to(tmp_path / "blobs" / Path(name).stem)
    assert find_files(tmp_path) == [tmp_path / "snapshots/main/data/a.jsonl"]
    assert documents(tmp_path) == TEXTS
    named = [tmp_path / "blobs/a", tmp_path, tmp_path / "snapshots/../blobs/a"]
    assert find_files(named) == [tmp_path / "blobs/a"]


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
            f"jsonl, data/.DS_Store), 1 file about the data or backup (README.md), 1 file of "
            f"another kind (data/image.png); a file that is named itself is read\n"
        )


def test_names_without_a_suffix_are_data_if_the_content_is(tmp_path: Path) -> None:
    (tmp_path / "part-00000").write_bytes(json_lines())
    (tmp_path / "train.00000-of-00002").write_bytes(gzip.compress(json_lines()))
    (tmp_path / "Makefile").write_text("all:\n\techo\n")
    names = [path.name for path in find_files(tmp_path)]
    assert names == ["part-00000", "train.00000-of-00002"]
    assert documents(tmp_path) == 2 * TEXTS


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


def test_a_named_pipe_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    for texts in (TEXTS, TEXTS[:2]):
        writer = threading.Thread(target=path.write_bytes, args=[json_lines(texts)], daemon=True)
        writer.start()
        assert documents(path) == texts
        writer.join()


def test_standard_input_of_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("text"))
    with pytest.raises(UserError, match=r"standard input was given \(-\), but there is none here"):
        documents("-")


def test_what_is_neither_file_nor_folder_is_named() -> None:
    with pytest.raises(UserError, match="/dev/null is neither a file, a folder nor a pipe"):
        documents("/dev/null")


def test_a_name_of_two_lines_is_one_line_in_messages(tmp_path: Path) -> None:
    (tmp_path / "a\nb.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"a\\nb\.jsonl, line 1 is broken JSON") as error:
        documents(tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_not_there_is_still_missing(tmp_path: Path) -> None:
    (tmp_path / ".hidden.txt").write_text("x")
    with pytest.raises(MissingFileError, match=r"no file in the folder .* ends in one of \.txt"):
        find_files(tmp_path)
    with pytest.raises(MissingFileError, match="there is no /dev/fd/987"):
        find_files("/dev/fd/987")
