"""A prepared folder is what training opens, unless it is damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from by_hand import Source, kill_in_third_shard

from gptfast.cli import cli
from gptfast.data.manifest import Manifest, open_prepared
from gptfast.data.prepare import prepare
from gptfast.data.prepare_shards import prepare_files
from gptfast.data.shard import write_shard
from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer
from gptfast.train.__main__ import main as train

TINY = [
    "--block-size", "16", "--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--max-steps", "6",
    "--batch-size", "2", "--eval-windows", "2",
]  # fmt: skip


def test_training_opens_a_prepared_folder(
    prepared: Path, tmp_path: Path, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.run(train, ["--corpus", str(prepared), "--out", str(out), *TINY]) == 0
    printed = capsys.readouterr().out
    report = Manifest.read(prepared).report
    assert f"corpus {prepared}: train on {report.train_bytes:,} bytes" in printed
    assert BPETokenizer.load(out).fingerprint == tokenizer.fingerprint
    assert json.loads((out / "config.json").read_text())["vocab_size"] == tokenizer.n_vocab
    record = json.loads((out / "run.json").read_text())
    assert record["data"]["corpus_sha256"] == report.corpus_sha256
    assert record["result"]["steps"] == 6


def test_a_prepared_folder_has_its_own_tokenizer(
    prepared: Path, tmp_path: Path, tokenizer: BPETokenizer
) -> None:
    tokenizer.save(tmp_path / "same")
    BPETokenizer.train("the king", 260).save(tmp_path / "other")
    for name in ("bpe", str(tmp_path / "same")):
        data = prepare(str(prepared), name, 999, 0.1, say=print)
        assert data.tokenizer.fingerprint == tokenizer.fingerprint
    for name in ("char", str(tmp_path / "other")):
        with pytest.raises(UserError, match=f"prepared with another tokenizer than {name}: "):
            prepare(str(prepared), name, 999, 0.1, say=print)


def test_a_damaged_prepared_folder_is_refused(prepared: Path, tokenizer: BPETokenizer) -> None:
    def refuses(complaint: str) -> None:
        advice = rf"{complaint}.*\): delete it and prepare again$"
        with pytest.raises(UserError, match=rf"^{prepared} is damaged \(.*{advice}"):
            prepare(str(prepared), "bpe", 0, 0.1, say=print)

    shard = prepared / "train" / "00001.bin"
    whole = shard.read_bytes()
    ids = np.array([3, tokenizer.n_vocab, 4], dtype=np.uint16)
    write_shard(shard, [[ids]], tokenizer)
    refuses(rf"00001\.bin is damaged: it has the id {tokenizer.n_vocab}, ")
    write_shard(shard, [[ids[:1]]], BPETokenizer.train("the king", 260))
    refuses(r"00001\.bin was made by another tokenizer")
    shard.write_bytes(whole[:-1])
    refuses(r"00001\.bin is cut short")
    shard.unlink()
    refuses(r"no token shard at .*00001\.bin")
    (prepared / "tokenizer.json").unlink()
    refuses(r"no .*tokenizer\.json")
    (prepared / "data.json").write_text('{"report": {}}')
    with pytest.raises(
        UserError, match=r"data\.json is damaged or .*, delete it and prepare again"
    ):
        open_prepared(prepared)
    (prepared / "data.json").unlink()
    with pytest.raises(MissingFileError, match=r"no data\.json in"):
        open_prepared(prepared)


@pytest.mark.parametrize("name", ["train/00001.bin", "val/00003.bin", "tokenizer.json"])
@pytest.mark.parametrize("is_lost", [False, True])
def test_a_finished_folder_that_is_damaged_is_not_called_finished(
    source: Source, tokenizer: BPETokenizer, prepared: Path, name: str, is_lost: bool
) -> None:
    if is_lost:
        (prepared / name).unlink()
    else:
        (prepared / name).write_bytes((prepared / name).read_bytes()[:-2])
    complaint = rf"prepared is damaged \(.*{name}.*\): delete it and prepare again"
    with pytest.raises(UserError, match=complaint):
        prepare_files(tokenizer, source.folder, prepared, 0.2)
    shutil.rmtree(prepared)
    prepare_files(tokenizer, source.folder, prepared, 0.2)
    open_prepared(prepared)


def test_a_shard_that_is_damaged_before_the_end_is_named(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer
) -> None:
    out = tmp_path / "out"
    kill_in_third_shard(tokenizer, source, out)
    shard = out / "train" / "00000.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(
        UserError, match=r"out is damaged .*is cut short.*\): delete it and prepare"
    ):
        prepare_files(tokenizer, source.folder, out, 0.2)
    shard.write_bytes(whole[:-2] + b"\xff\xff")
    with pytest.raises(UserError, match=r"out is damaged .* the id 65,535.*\): delete it and prep"):
        prepare_files(tokenizer, source.folder, out, 0.2)


def test_training_refuses_a_folder_that_is_not_finished(
    tmp_path: Path, source: Source, tokenizer: BPETokenizer
) -> None:
    out = tmp_path / "out"
    kill_in_third_shard(tokenizer, source, out)
    (out / "work" / "00000.jsonl").write_text(json.dumps({"text": "the king " * 999}))
    complaint = "out is only partly prepared: run the same `gptfast data prepare` command"
    with pytest.raises(UserError, match=complaint):
        prepare(str(out), "bpe", 300, 0.1, say=print)
