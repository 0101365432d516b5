"""Added tokens that are not special are found in any text, as `tokenizers` finds them."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from gptfast.data.documents import ReadOptions
from gptfast.data.encode import encode_files
from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer, load_tokenizer
from gptfast.tokenizer.added import AddedToken

SAMPLE = (
    "The theme of <think>these</think>,  naïve 日本語:\n\n\t\tdef f(x):\n        return 12\n" * 4
)
PATTERNS = ["gpt2", "cl100k", "o200k", "none", r"\p{L}+|\s+"]
# One begins like another, one is inside another, and some are what BPE would make, too.
NAMES = [
    "<think>",
    "</think>",
    "<think>x",
    "think",
    "  ",
    "   ",
    "        ",
    "\t\t",
    "日本",
    "\n\n",
]
ATOMS = [
    *NAMES,
    "a",
    " ",
    "x",
    "\n",
    "<",
    "think>",
    " the",
    "It's",
    "12",
    "<|endoftext|>",
    "é",
    "🦀",
]

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def with_added(pattern: str, normalized: bool) -> dict[str, Any]:
    """A tokenizer.json as `transformers` saves it after `add_tokens`."""
    data = BPETokenizer.train(SAMPLE, 330, pattern, progress=False).to_json()
    flags = {**FLAGS, "special": False}
    first = len(data["model"]["vocab"])
    i = 0
    for name in NAMES:
        token_id = data["model"]["vocab"].get(name, first + i)
        token = flags | {"id": token_id, "content": name, "normalized": normalized}
        data["added_tokens"].append(token)
        i += token_id == first + i
    data["added_tokens"][0]["normalized"] = normalized  # they are searched in one go
    return data


FILES = {pattern: with_added(pattern, i % 2 == 0) for i, pattern in enumerate(PATTERNS)}


def in_tokenizers(data: dict[str, Any], find_special: bool) -> tokenizers.Tokenizer:
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data))
    theirs.encode_special_tokens = not find_special
    return theirs


def texts(n: int, longest: int) -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(ATOMS, k=rng.randrange(longest))) for _ in range(n)]


# llama.cpp#8228
@pytest.mark.parametrize("pattern", PATTERNS)
def test_added_tokens_are_found_in_every_text_as_in_tokenizers(pattern: str) -> None:
    ours = BPETokenizer.from_json(FILES[pattern])
    ordinary, special = (in_tokenizers(FILES[pattern], find) for find in (False, True))
    many = texts(400, 30)
    for text in many:
        ids = ordinary.encode(text).ids
        assert ours.encode_ordinary(text) == ours.encode(text) == ids
        assert ours.encode_to_numpy(text).tolist() == ours.encode_bytes(text.encode()) == ids
        assert ours.count(text) == len(ids)
        assert ours.encode_with_offsets(text)[0] == ids
        assert ours.encode(text, "all") == special.encode(text).ids
        assert ours.encode(text, {"<|endoftext|>"}) == special.encode(text).ids
        assert ours.decode(ids) == "".join(ours.pretokenize(text)) == text
    batch = [encoding.ids for encoding in ordinary.encode_batch(many)]
    assert ours.encode_batch(many) == batch
    assert [ids.tolist() for ids in ours.encode_batch_to_numpy(many)] == batch


@pytest.mark.parametrize("pattern", PATTERNS)
def test_added_tokens_are_found_between_bytes_that_are_no_text(pattern: str) -> None:
    ours = BPETokenizer.from_json(FILES[pattern])
    theirs = in_tokenizers(FILES[pattern], find_special=False)
    for left in texts(50, 8):
        data = left.encode() + b"\xff\xe2" + "<think>  日本\n\n".encode()
        invalid = [ours.encode_bytes(b"\xff\xe2")]
        ids = [theirs.encode(text).ids for text in (left, "<think>  日本\n\n")]
        assert ours.encode_bytes(data) == [*ids[0], *invalid[0], *ids[1]]
        assert ours.decode_bytes(ours.encode_bytes(data)) == data


def test_text_is_never_cut_inside_an_added_token() -> None:
    theirs = in_tokenizers(FILES["gpt2"], find_special=False)
    ours = BPETokenizer.from_json(FILES["gpt2"])
    plain = BPETokenizer.train(SAMPLE, 330, progress=False)
    n_cuts = n_moved = 0
    for text in texts(60, 300):
        data = text.encode()
        for end in range(60, len(data), 61):
            cut = ours.safe_cut(data[:end])
            n_cuts += cut > 0
            n_moved += cut != plain.safe_cut(data[:end])
            if cut:
                left, right = data[:cut].decode(), data[cut:].decode()
                assert theirs.encode(left).ids + theirs.encode(right).ids == theirs.encode(text).ids
    assert n_cuts > 100 < n_moved


def test_added_tokens_are_in_shards(tmp_path: Path) -> None:
    ours = BPETokenizer.from_json(FILES["cl100k"])
    theirs = in_tokenizers(FILES["cl100k"], find_special=False)
    text = "".join(texts(4000, 30))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    limit = "40MB"  # for blocks of the smallest size
    options = ReadOptions(n_threads=2, memory_limit=limit, document_separator="")
    shard = encode_files(ours, tmp_path / "a.txt", tmp_path / "a.bin", options, progress=False)
    ids = shard.tokens(ours).tolist()
    assert ids == [*theirs.encode(text).ids, theirs.token_to_id("<|endoftext|>")]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_flags_of_added_tokens_survive(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(FILES[pattern]))
    ours = load_tokenizer(tmp_path)
    assert ours.special_tokens.keys() == {"<|endoftext|>"}
    ours.save(tmp_path / "again")
    saved = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    theirs = in_tokenizers(FILES[pattern], find_special=True)
    assert {i: str(t) for i, t in saved.get_added_tokens_decoder().items()} == {
        i: str(t) for i, t in theirs.get_added_tokens_decoder().items()
    }
    again = load_tokenizer(tmp_path / "again")
    assert again.added_tokens == ours.added_tokens
    assert again.fingerprint == ours.fingerprint


def test_added_tokens_without_a_file() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"  ": 256}
    added = [AddedToken("  ", 257, special=False), AddedToken("<end>", 258)]
    ours = BPETokenizer(ranks, added_tokens=added)
    assert ours.added_tokens == tuple(added)
    assert ours.special_tokens == {"<end>": 258}
    # Two spaces are also what BPE merges, so three are the added token and a byte.
    assert ours.encode("   <end>", "all") == [257, 32, 258]
    assert ours.encode_ordinary("<end>") == list(b"<end>")
    assert ours.decode([257, 32, 258]) == "   <end>"


@pytest.mark.parametrize(
    ("added", "complaint"),
    [
        ([AddedToken("xx", 97, special=False)], "same id 97"),
        ([AddedToken("", 257, special=False)], "is empty or given twice"),
        ([AddedToken("xx", 257, special=False)] * 2, "is given twice"),
        ([AddedToken("a", 257, special=False)], "have the same spelling"),
        (["x"], "expected an AddedToken"),
    ],
)
def test_added_tokens_that_can_not_be(added: list[Any], complaint: str) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    with pytest.raises(UserError, match=complaint):
        BPETokenizer(ranks, added_tokens=added)


@pytest.mark.parametrize("special", [False, True])
def test_an_added_token_that_merges_make_has_their_id(special: bool) -> None:
    data = copy.deepcopy(BPETokenizer.train("th th th", 258, progress=False).to_json())
    merged, i = "th", data["model"]["vocab"]["th"]
    data["added_tokens"].append({"id": i, "content": merged, "special": special, **FLAGS})
    if special:
        with pytest.raises(UserError):
            BPETokenizer.from_json(data)
        return
    ours = BPETokenizer.from_json(data)
    theirs = in_tokenizers(data, find_special=True)
    for text in ("the", "xth", "th the"):
        assert ours.encode_ordinary(text) == theirs.encode(text).ids
    assert ours.n_vocab == theirs.get_vocab_size()
    again = BPETokenizer.from_json(ours.to_json())
    assert (again.merges, again.added_tokens) == (ours.merges, ours.added_tokens)


def test_tiktoken_gets_no_added_token_that_it_would_not_find() -> None:
    ours = BPETokenizer.from_json(FILES["gpt2"])
    with pytest.raises(UserError, match=r"the added token '<think>' is not special.*tiktoken") as e:
        ours.pat_str  # noqa: B018
    assert "\n" not in str(e.value)
    assert BPETokenizer.train(SAMPLE, 330, progress=False).pat_str


@pytest.mark.parametrize(
    ("name", "token_id", "spelled"),
    [(" the", 258, "Ġthe"), (" ", 32, "Ġ"), ("é", 259, "Ã©"), ("he", 257, None)],
)
@pytest.mark.parametrize("special", [False, True])
def test_one_id_has_one_spelling(
    name: str, token_id: int, spelled: str | None, special: bool
) -> None:
    merges = {b" t": 256, b"he": 257, b" the": 258, "é".encode(): 259}
    ranks = {bytes([byte]): byte for byte in range(256)} | merges
    added = [AddedToken(name, token_id, special)]
    if spelled is None and not special:
        ours = BPETokenizer(ranks, added_tokens=added)
        vocab = ours.to_json()["model"]["vocab"]
        assert len(set(vocab.values())) == len(vocab) == ours.n_vocab
        return
    complaint = "token" if special else f"id {token_id} .*is spelled {spelled!r}"
    with pytest.raises(UserError, match=complaint):
        BPETokenizer(ranks, added_tokens=added)
