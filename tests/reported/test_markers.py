"""Markers between documents inside a file, as users of other loaders met them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stories import EOT, STORIES

from gptfast.cli import cli
from gptfast.data.__main__ import main as data_command
from gptfast.data.documents import ReadOptions, ReadReport, TextOptions
from gptfast.data.encode import encode_files
from gptfast.data.manifest import Manifest
from gptfast.data.prepare import prepare
from gptfast.data.prepare_shards import prepare_files
from gptfast.data.train_tokenizer import train_tokenizer
from gptfast.eval.__main__ import main as eval_command
from gptfast.ladder.__main__ import LadderConfig
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.__main__ import main as tokenizer_command
from gptfast.tokenizer.options import Audit
from gptfast.train.__main__ import main as train_command


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(STORIES, 300)


def documents_in(path: Path, tokenizer: BPETokenizer, **options: Any) -> list[str]:
    """What a shard holds, by its end-of-text ids."""
    shard = encode_files(tokenizer, path, path.with_suffix(".bin"), ReadOptions(**options))
    ids = shard.tokens(tokenizer)
    ends = np.flatnonzero(ids == tokenizer.eot_token)
    assert ends[-1] == len(ids) - 1
    starts = [0, *(ends[:-1] + 1)]
    return [tokenizer.decode(ids[i:j]) for i, j in zip(starts, ends, strict=True)]


MARKED = {
    "on a separate line": f"\n{EOT}\n".join(STORIES),
    "before and after everything": f"{EOT}\n" + f"\n{EOT}\n".join(STORIES) + f"\n{EOT}\n",
    "inline": EOT.join(STORIES),
    "with empty lines": f"\n\n{EOT}\n\n\n".join(STORIES) + "\n",
    "on Windows": f"\n{EOT}\n".join(STORIES).replace("\n", "\r\n") + "\r\n",
    "with blanks around it": f"\n {EOT} \n".join(STORIES),
}


# nanoGPT#308, minbpe#44, dolma#176, tokenizers#1345
@pytest.mark.parametrize("layout", MARKED)
def test_a_marker_between_documents_inside_a_file_divides_them(
    tmp_path: Path, tokenizer: BPETokenizer, layout: str
) -> None:
    path = tmp_path / "stories.txt"
    path.write_bytes(MARKED[layout].encode())
    expected = [s.replace("\n", "\r\n") for s in STORIES] if "Windows" in layout else STORIES
    assert documents_in(path, tokenizer) == expected


def test_all_commands_find_the_marker_and_say_so_once(
    tmp_path: Path, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    path, said = tmp_path / "stories.txt", f"split 1 file into 3,000 documents at {EOT}\n"
    path.write_text(MARKED["inline"], encoding="utf-8")
    tokenizer.save(tmp_path / "bpe")
    of_files = ["--tokenizer", str(tmp_path / "bpe"), "--out"]
    encode = ["encode", str(path), *of_files, str(tmp_path / "a.bin")]
    assert cli.run(tokenizer_command, encode) == 0
    assert capsys.readouterr().err == said
    learn = ["train", str(path), "--vocab-size", "300", "--out", str(tmp_path / "t")]
    assert cli.run(tokenizer_command, learn) == 0
    assert capsys.readouterr().err == said
    assert BPETokenizer.load(tmp_path / "t").fingerprint == tokenizer.fingerprint
    out = tmp_path / "out"
    assert cli.run(data_command, ["prepare", str(path), *of_files, str(out)]) == 0
    assert capsys.readouterr().err == said
    data = Manifest.read(out).report
    assert data.train_documents + data.val_documents == 3000
    logged: list[str] = []
    for name in ("bpe", "char", str(tmp_path / "bpe")):
        logged.clear()
        corpus = prepare(str(path), name, 300, 0.1, logged.append)
        assert logged.count(said[:-1]) == 1
        report = corpus.report
        assert report.train_documents + report.val_documents == 3000
        # The mark is one id, with which each document ends, and nowhere spelled.
        assert (corpus.val[:] == corpus.tokenizer.eot_token).sum() == report.val_documents
        assert "|" not in corpus.tokenizer.decode(corpus.val.tolist()).replace(EOT, "")


@pytest.mark.parametrize(
    ("separator", "given"),
    [
        ("\n\n\n", r"\n\n\n"),
        ("\n\n\n", "\n\n\n"),
        ("---", "---"),
        ("</s>", "</s>"),
        ("※", r"\u203b"),
    ],
)
def test_another_text_may_divide_documents(
    tmp_path: Path, tokenizer: BPETokenizer, separator: str, given: str
) -> None:
    path = tmp_path / "stories.txt"
    path.write_text(separator.join(STORIES[:50]), encoding="utf-8", newline="")
    assert documents_in(path, tokenizer, document_separator=given) == STORIES[:50]
    options = ReadOptions(document_separator=given)
    corpus = prepare(str(path), "char", 0, 0.5, lambda _: None, options)
    assert corpus.report.train_documents + corpus.report.val_documents == 50


@pytest.mark.parametrize("by", ["encode_files", "prepare_files", "train_tokenizer", "prepare"])
@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("\n\n".join(STORIES[:50]), r"\n\n\n"),
        ("\r\n\r\n".join(STORIES[:50]), r"\n\n"),
        (EOT.join(STORIES[:50]), "<|end|>"),
    ],
)
def test_a_separator_that_is_never_found_is_said(
    tmp_path: Path,
    tokenizer: BPETokenizer,
    capsys: pytest.CaptureFixture[str],
    text: str,
    given: str,
    by: str,
) -> None:
    for name in ("a.txt", "b.txt", "c.jsonl", "empty.txt"):
        content = text if name in ("a.txt", "b.txt") else ""
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n{"text": "two"}')
    files, options = str(tmp_path / "*.*"), ReadOptions(document_separator=given)
    if by == "encode_files":
        encode_files(tokenizer, files, tmp_path / "out.bin", options)
        said = capsys.readouterr().err
    elif by == "prepare_files":
        prepare_files(tokenizer, files, tmp_path / "out", 0, options)
        said = capsys.readouterr().err
    elif by == "train_tokenizer":
        with pytest.warns(UserWarning, match="the document") as warned:
            train_tokenizer(files, 300, options=options)
        said = "\n".join(f"warning: {w.message}" for w in warned)
    else:
        lines: list[str] = []
        prepare(files, "bpe", 300, 0.3, lines.append, options)
        said = "\n".join(lines)
    assert f"warning: the document separator {given} is nowhere in 2 text files, and each" in said
    assert (r"\r\n)" in said) == ("n" in given and "<" not in given)


TEXTS = [f"the king {i} was a fool" for i in range(40)]
TINY = [
    *("--block-size", "8", "--n-layer", "1", "--n-head", "1", "--n-embd", "8", "--batch-size", "1"),
    *("--max-steps", "1", "--warmup-steps", "0", "--dtype", "float32", "--tokenizer", "char"),
]


# Every command that takes files has the options that its errors name.
@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.csv", "id,story\n" + "".join(f"{i},{t}\n" for i, t in enumerate(TEXTS)),
         ["--column", "story"]),
        ("a.jsonl", "".join(json.dumps({"meta": {"story": t}}) + "\n" for t in TEXTS),
         ["--field", "meta.story"]),
        ("a.txt", "---".join(TEXTS), ["--document-separator", "---"]),
    ],
)  # fmt: skip
def test_every_command_that_takes_files_reads_them_in_the_same_way(
    tmp_path: Path,
    name: str,
    content: str,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, run = str(tmp_path / name), tmp_path / "run"
    Path(path).write_text(content)
    assert cli.run(data_command, ["describe", path, *options]) == 0
    sha256 = capsys.readouterr().out.split("sha256 ")[1].split("\n")[0]
    digest = hashlib.sha256()
    for text in TEXTS:
        digest.update(len(text).to_bytes(8, "little") + text.encode())
    assert sha256 == digest.hexdigest()
    train = ["--corpus", path, "--out", str(run), *TINY]
    if name != "a.txt":
        assert cli.run(data_command, ["describe", path]) == 2
        assert cli.run(train_command, train) == 2
        assert capsys.readouterr().err.count(f"{options[0]} names another") == 2
    assert cli.run(train_command, [*train, *options]) == 0
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["corpus_sha256"] == sha256
    # The checksum decides what may be resumed, not how the options are spelled.
    same = {"---": r"\x2d--"}.get(options[1], options[1])
    resume = [*train, "--resume", "--max-steps", "2", options[0]]
    assert cli.run(train_command, [*resume, same]) == 0
    capsys.readouterr()
    assert cli.run(train_command, [*resume, "king"]) == 2
    capsys.readouterr()
    # A run's own reading is the default of `eval`.
    loss = json.loads((run / "run.json").read_text())["result"]["val_loss"]
    measure = [str(run), "--corpus", path]
    for given in ([], options):
        assert cli.run(eval_command, [*measure, *given]) == 0
        said, notes = capsys.readouterr()
        assert re.search(rf"loss, nats/token +│ +{loss:.4f} ", said)
        assert ("as the model's run did" in notes) == (given == [])
    assert cli.run(eval_command, [*measure, options[0], "nowhere"]) == 2
    # The other commands parse the same options.
    for config in (LadderConfig, Audit):
        assert issubclass(config, TextOptions)


def test_a_separator_that_some_files_lack_is_said_and_the_usual_one_may_be_missing(
    tmp_path: Path, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name, text in (("a", "one---two"), ("b", "three"), ("c", "four")):
        (tmp_path / "in" / f"{name}.txt").write_text(text)
    for given, said in (
        ("---", "split 1 file into 2 documents at ---; 2 text files without it stayed whole\n"),
        ("", ""),
        (None, ""),
    ):
        options = ReadOptions(document_separator=given)
        encode_files(tokenizer, tmp_path / "in", tmp_path / "out.bin", options)
        assert capsys.readouterr().err == said


@pytest.mark.parametrize("given", [r"\n", r"\n\n", r"\r\n", r"\n---\n"])
@pytest.mark.parametrize("n_long", [0, 300_000])
def test_a_line_break_of_windows_beside_a_separator_belongs_to_it(
    tmp_path: Path, tokenizer: BPETokenizer, given: str, n_long: int
) -> None:
    path, documents = tmp_path / "a.txt", ["one", "two " * n_long + "x", "three"]
    between = {r"\n\n": "\r\n\n", r"\n---\n": "\r\n---\n"}.get(given, "\r\n")
    path.write_text(between.join(documents) + "\r\n", encoding="utf-8", newline="")
    assert documents_in(path, tokenizer, document_separator=given) == documents


def test_without_a_separator_a_file_is_one_document(
    tmp_path: Path, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stories.txt"
    path.write_text(MARKED["inline"], encoding="utf-8")
    assert documents_in(path, tokenizer, document_separator="") == [MARKED["inline"]]
    said = capsys.readouterr().err
    assert said.startswith(f"warning: the documents spell {EOT} 2,999 times in ")
    assert said.count("\n") == 1


def test_a_marker_far_into_a_file_and_across_blocks_is_found(
    tmp_path: Path, tokenizer: BPETokenizer
) -> None:
    long = [" ".join(STORIES[i : i + 1500]) for i in (0, 1500)]  # 80 kB each
    documents = [*long, "x" * 262_100 + " a", *STORIES[:100], long[1]]
    path = tmp_path / "stories.txt"
    for before in range(14):  # so that a marker is at each place of the reader's buffer
        shifted = ["y" * (before + 1), *documents]
        path.write_text(EOT.join(shifted), encoding="utf-8")
        report = ReadReport()
        shard = encode_files(tokenizer, path, tmp_path / "x.bin", report=report, progress=False)
        assert report.split_documents == len(shifted)
        assert (shard.tokens(tokenizer) == tokenizer.eot_token).sum() == len(shifted)
    assert documents_in(path, tokenizer) == shifted


def test_equal_documents_of_a_file_are_duplicates(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    path = tmp_path / "stories.txt"
    path.write_text(f"\n{EOT}\n".join(STORIES[:100] * 2), encoding="utf-8")
    made = prepare_files(tokenizer, path, tmp_path / "out", 0.2, progress=False)
    n_val = sum(
        hashlib.blake2b(story.encode(), digest_size=16).digest()[:8] < bytes([0x33] * 8)
        for story in STORIES[:100]
    )
    assert (made.report.train_documents, made.report.val_documents) == (100 - n_val, n_val)
    assert made.duplicates == 100


@pytest.mark.parametrize("name", [EOT, "<|im_start|>", "[SEP]"])
def test_a_special_token_that_is_spelled_often_is_said(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = BPETokenizer.train(STORIES[:10], 260, special_tokens=[EOT, "[SEP]"])
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{name} {s}"}) + "\n" for s in STORIES[:20]))
    for run in (
        lambda: encode_files(tokenizer, path, tmp_path / "a.bin"),
        lambda: prepare_files(tokenizer, path, tmp_path / "out", 0.5),
    ):
        run()
        said = capsys.readouterr().err
        assert said.startswith(f"warning: the documents spell {name} 20 times in 0.00 MB, which ")
        assert said.count("\n") == 1
    with pytest.warns(UserWarning, match="the documents spell "):
        train_tokenizer(path, 300, special_tokens=[EOT, "[SEP]"])
    path.write_text(json.dumps({"text": f"{name} is a token. " + STORIES[0] * 10}))
    encode_files(tokenizer, path, tmp_path / "a.bin")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["</s>", "<s>", "<eos>", "<EOS>", "[EOS]", "[SEP]", "<bos>"])
def test_a_marker_of_another_tokenizer_is_said_where_it_is_spelled_often(
    tmp_path: Path, tokenizer: BPETokenizer, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert name not in tokenizer.special_tokens
    (tmp_path / "a.txt").write_text(f"\n{name}\n".join(STORIES[:50]), encoding="utf-8")
    encode_files(tokenizer, tmp_path / "a.txt", tmp_path / "a.bin")
    assert f"warning: the documents spell {name} 49 times in " in capsys.readouterr().err


# A tokenizer's own are counted when a text is trained on, as when it is prepared.
@pytest.mark.parametrize("name", ["</s>", "%%%", "<|endoftext|>"])
def test_a_corpus_to_train_on_that_spells_a_special_token_is_said(
    tmp_path: Path, name: str
) -> None:
    BPETokenizer.train(STORIES[:10], 260, special_tokens=[name]).save(tmp_path / "bpe")
    lines = [json.dumps({"text": f"{story} {name}"}) + "\n" for story in STORIES[:60]]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    said: list[str] = []
    prepare(str(tmp_path / "a.jsonl"), str(tmp_path / "bpe"), 0, 0.1, said.append)
    assert any(f"warning: the documents spell {name} 60 times in " in line for line in said)
