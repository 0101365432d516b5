"""Token files of nanoGPT and llm.c, against files written by hand as those programs write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gptfast.data.__main__ import main
from gptfast.data.manifest import open_prepared
from gptfast.data.raw_bin import import_bin, read_bin
from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer

TEXT = "one text\nand another\n"


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train([TEXT], 270, progress=False)


def llmc(ids: list[int], magic: int = 20240520, version: int = 1) -> bytes:
    header: NDArray[np.int32] = np.zeros(256, np.int32)
    header[:3] = magic, version, len(ids)
    dtype = np.uint32 if magic == 20240801 else np.uint16
    return header.tobytes() + np.array(ids, dtype).tobytes()


def documents(tokenizer: BPETokenizer) -> list[int]:
    return [
        *tokenizer.encode_ordinary("one text"), 269, *tokenizer.encode_ordinary("and another"), 269
    ]  # fmt: skip


def ids_of(folder: Path, part: str) -> list[int]:
    source = getattr(open_prepared(folder), part)
    return [int(token) for token in source[np.arange(len(source))]]


@pytest.mark.parametrize("kind", ["nanogpt", "llmc", "llmc-llama3"])
def test_in_and_out(
    kind: str, tokenizer: BPETokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, val = documents(tokenizer), documents(tokenizer)[:5]
    writers: dict[str, Callable[[list[int]], bytes]] = {
        "nanogpt": lambda ids: np.array(ids, np.uint16).tobytes(),
        "llmc": llmc,
        "llmc-llama3": lambda ids: llmc(ids, 20240801, 7),
    }
    write = writers[kind]
    (tmp_path / "train.bin").write_bytes(write(train))
    (tmp_path / "val.bin").write_bytes(write(val))
    tokenizer.save(tmp_path / "tokenizer")
    arguments = ["import-bin", str(tmp_path / "train.bin"), "--val", str(tmp_path / "val.bin")]
    arguments += ["--tokenizer", str(tmp_path / "tokenizer"), "--out", str(tmp_path / "data")]
    assert main(arguments) == 0
    assert f"train: {len(train)} tokens, 19 bytes of text" in capsys.readouterr().out
    assert ids_of(tmp_path / "data", "train") == train
    assert ids_of(tmp_path / "data", "val") == val
    report = open_prepared(tmp_path / "data").report
    assert (report.train_documents, report.train_bytes) == (2, len("one textand another"))

    export = ["export-bin", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main([*export, "--format", kind]) == 0
    for name in ("train.bin", "val.bin"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()
    with pytest.raises(UserError, match=r"train\.bin exists already"):
        main(export)


def test_several_files_follow_one_another(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(llmc([1, 2]))
    (tmp_path / "b.bin").write_bytes(np.array([3, 4, 5], np.uint16).tobytes())
    import_bin([tmp_path / "a.bin", tmp_path / "b.bin"], [], tokenizer, tmp_path / "data")
    assert ids_of(tmp_path / "data", "train") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\1\0\2", "has 3 bytes: expected ids of 2 bytes"),
        (b"", "has 0 bytes"),
        (llmc([1, 2, 3])[:-2], "its header says 3 ids, which take 1,030"),
        (llmc([1, 2]) + b"\0\0", "its header says 2 ids"),
        (llmc([1], version=2), "of version 2: expected version 1"),
        (llmc([1], 20240801, 1), "of version 1: expected version 7"),
        (
            llmc([1, 270]),
            r"the id 270 at position 1, which stands for no token: .* this one has 270",
        ),
    ],
)
def test_what_is_refused(data: bytes, why: str, tokenizer: BPETokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    path.write_bytes(data)
    with pytest.raises(UserError, match=why):
        import_bin([path], [], tokenizer, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_other_files_are_refused(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no file .*tokens\.bin"):
        read_bin(tmp_path / "tokens.bin")
    with pytest.raises(UserError, match="is a folder or a pipe"):
        read_bin(tmp_path)
    (tmp_path / "tokens.bin").write_bytes(llmc([1]))
    import_bin([tmp_path / "tokens.bin"], [], tokenizer, tmp_path / "data")
    with pytest.raises(UserError, match="already holds something"):
        import_bin([tmp_path / "tokens.bin"], [], tokenizer, tmp_path / "data")
    with pytest.raises(UserError, match="a shard of gptfast already"):
        read_bin(tmp_path / "data" / "train" / "00000.bin")


def test_an_id_in_a_gap_is_refused(tmp_path: Path) -> None:
    ranks = {bytes([i]): i for i in range(256)} | {b"ab": 300}
    (tmp_path / "tokens.bin").write_bytes(llmc([97, 300, 299]))
    with pytest.raises(UserError, match="the id 299 at position 2, which stands for no token"):
        import_bin([tmp_path / "tokens.bin"], [], BPETokenizer(ranks), tmp_path / "data")


def test_a_large_vocabulary_needs_32_bits(tmp_path: Path) -> None:
    ranks = {bytes([i]): i for i in range(256)} | {b"ab": 70_000}
    (tmp_path / "tokens.bin").write_bytes(llmc([97, 70_000], 20240801, 7))
    import_bin([tmp_path / "tokens.bin"], [], BPETokenizer(ranks), tmp_path / "data")
    export = ["export-bin", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="70,001 ids, and nanogpt holds ids of 16 bits"):
        main(export)
    assert main([*export, "--format", "llmc-llama3"]) == 0
    assert (tmp_path / "out" / "train.bin").read_bytes() == (tmp_path / "tokens.bin").read_bytes()
    assert not (tmp_path / "out" / "val.bin").exists()
