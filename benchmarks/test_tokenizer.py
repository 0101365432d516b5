"""Speed of the BPE tokenizer beside `tokenizers`: same vocabulary, ids compared first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as HFTokenizer

from gptfast.data.sources import load_corpus
from gptfast.errors import MissingFileError
from gptfast.tokenizer import BPETokenizer


@pytest.fixture(scope="module")
def text() -> str:
    try:
        return "".join(load_corpus("shakespeare").documents)
    except MissingFileError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def ours(text: str) -> BPETokenizer:
    return BPETokenizer.train([text], vocab_size=4096)


@pytest.fixture(scope="module")
def theirs(ours: BPETokenizer, tmp_path_factory: pytest.TempPathFactory) -> HFTokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    ours.save(folder)
    return HFTokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("who", ["gptfast", "tokenizers"])
def test_encode(
    benchmark: Any, text: str, ours: BPETokenizer, theirs: HFTokenizer, who: str
) -> None:
    piece = text[:1_000_000]
    assert ours.encode_ordinary(piece) == theirs.encode(piece).ids
    encode = ours.encode_ordinary if who == "gptfast" else theirs.encode
    benchmark.extra_info.update(amount=len(piece.encode()) / 1e6, unit="MB")
    benchmark.pedantic(encode, args=(piece,), rounds=7, warmup_rounds=1)


def test_train(benchmark: Any, text: str) -> None:
    benchmark.extra_info.update(amount=len(text.encode()) / 1e6, unit="MB")
    trained = benchmark.pedantic(BPETokenizer.train, args=([text], 4096), rounds=3, warmup_rounds=1)
    assert trained.n_vocab == 4096
    assert trained.decode(trained.encode_ordinary(text[:10_000])) == text[:10_000]
