"""Small calls into the BPE tokenizer beside the same calls into other libraries, outputs first.

`benchmarks/tokenizer.py` measures whole files, each in a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiktoken
from tokenizers import Tokenizer as HFTokenizer

from gptfast.data.sources import load_corpus
from gptfast.errors import MissingFileError
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.ranks import read_tiktoken
from tokenizer_bench.inputs import GPT2_PATTERN

SHORT = "The king is dead, long live..."  # 30 bytes


@pytest.fixture(scope="module")
def text() -> str:
    try:
        return "".join(load_corpus("shakespeare").documents)[:1_000_000]
    except MissingFileError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def ours(text: str) -> BPETokenizer:
    return BPETokenizer.train([text], vocab_size=4096)


@pytest.fixture(scope="module")
def hf(ours: BPETokenizer, tmp_path_factory: pytest.TempPathFactory) -> HFTokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    ours.save(folder)
    return HFTokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def openai(ours: BPETokenizer, tmp_path_factory: pytest.TempPathFactory) -> tiktoken.Encoding:
    ranks: Path = tmp_path_factory.mktemp("tokenizer") / "ranks.tiktoken"
    ours.to_tiktoken(ranks)
    return tiktoken.Encoding(
        "ours",
        pat_str=GPT2_PATTERN,
        mergeable_ranks=read_tiktoken(ranks),
        special_tokens=ours.special_tokens,
    )


@pytest.fixture(scope="module")
def documents(text: str) -> list[str]:
    return [text[i : i + 4000] for i in range(0, len(text), 4000)]


@pytest.mark.parametrize("who", ["gptfast", "tiktoken", "tokenizers"])
def test_encode(
    benchmark: Any,
    text: str,
    ours: BPETokenizer,
    openai: tiktoken.Encoding,
    hf: HFTokenizer,
    who: str,
) -> None:
    calls: dict[str, Any] = {
        "gptfast": ours.encode_ordinary,
        "tiktoken": openai.encode_ordinary,
        "tokenizers": lambda piece: hf.encode(piece).ids,
    }
    assert calls[who](text) == openai.encode_ordinary(text)
    measure(benchmark, calls[who], text, len(text.encode()))


@pytest.mark.parametrize("who", ["gptfast", "tiktoken"])
def test_encode_short(
    benchmark: Any, ours: BPETokenizer, openai: tiktoken.Encoding, who: str
) -> None:
    encode = ours.encode_ordinary if who == "gptfast" else openai.encode_ordinary
    assert encode(SHORT) == openai.encode_ordinary(SHORT)
    benchmark.extra_info.update(amount=1, unit="strings of 30 bytes")
    benchmark(encode, SHORT)


@pytest.mark.parametrize("who", ["gptfast", "tiktoken"])
def test_encode_batch(
    benchmark: Any,
    documents: list[str],
    ours: BPETokenizer,
    openai: tiktoken.Encoding,
    who: str,
) -> None:
    encode: Any = ours.encode_batch if who == "gptfast" else openai.encode_ordinary_batch
    assert encode(documents) == list(map(openai.encode_ordinary, documents))
    measure(benchmark, encode, documents, sum(len(d.encode()) for d in documents))


@pytest.mark.parametrize("who", ["gptfast", "tiktoken"])
def test_decode(
    benchmark: Any, text: str, ours: BPETokenizer, openai: tiktoken.Encoding, who: str
) -> None:
    ids = openai.encode_ordinary(text)
    decode: Any = ours.decode if who == "gptfast" else openai.decode
    assert decode(ids) == text
    measure(benchmark, decode, ids, len(text.encode()))


@pytest.mark.parametrize("who", ["gptfast", "tiktoken"])
def test_decode_batch(
    benchmark: Any,
    documents: list[str],
    ours: BPETokenizer,
    openai: tiktoken.Encoding,
    who: str,
) -> None:
    batch = [openai.encode_ordinary(document) for document in documents]
    decode: Any = ours.decode_batch if who == "gptfast" else openai.decode_batch
    assert decode(batch) == documents
    measure(benchmark, decode, batch, sum(len(d.encode()) for d in documents))


def test_train(benchmark: Any, text: str) -> None:
    benchmark.extra_info.update(amount=len(text.encode()) / 1e6, unit="MB")
    trained = benchmark.pedantic(BPETokenizer.train, args=([text], 4096), rounds=3, warmup_rounds=1)
    assert trained.n_vocab == 4096
    assert trained.decode(trained.encode_ordinary(text[:10_000])) == text[:10_000]


def measure(benchmark: Any, call: Any, given: Any, n_bytes: int) -> None:
    benchmark.extra_info.update(amount=n_bytes / 1e6, unit="MB")
    benchmark.pedantic(call, args=(given,), rounds=7, warmup_rounds=1)
