"""What other projects write and means the same as ours is read; the rest is refused by its part."""

from __future__ import annotations

import copy
import json
import random
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer, load_tokenizer
from tricky_text import ATOMS

# The published expressions of GPT-2 and Llama 3.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_end|>"]


def every_script(n_bytes: int, seed: int) -> str:
    """Words of all blocks of Unicode that have characters, with what patterns treat in its own way.

    2 MB were compared by hand.
    """
    rng = random.Random(seed)
    words, size = [], 0
    while size < n_bytes:
        first = rng.randrange(0x110000) >> rng.randrange(0, 12)
        block = [chr(code) for code in range(first, min(first + 64, 0x110000))]
        letters = [c for c in block if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
        for _ in range(8 if letters else 0):
            word = "".join(rng.choices(letters, k=rng.randrange(1, 7)))
            words.append(word + rng.choice([*ATOMS, *SPECIAL, " ", " ", "  ", "12345", "\n\n "]))
            size += len(words[-1].encode())
    return "".join(words)


@cache
def text() -> str:
    return every_script(16_000, seed=0)


@cache
def converted(folder: Path, pattern: str) -> str:
    """A tokenizer.json as transformers makes it of a tiktoken rank file."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    texts = [every_script(20_000, seed=1), Path(__file__).read_text(encoding="utf-8")]
    learned = BPETokenizer.train(texts, 1200, pattern, (), progress=False)
    learned.to_tiktoken(folder / "ranks.tiktoken")
    converter = TikTokenConverter(
        str(folder / "ranks.tiktoken"), pattern=pattern, extra_special_tokens=SPECIAL
    )
    return str(converter.converted().to_str())


@pytest.fixture(scope="module", params=[GPT2, LLAMA3], ids=["gpt2", "llama3"])
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return json.loads(converted(tmp_path_factory.mktemp("ranks"), request.param))


def read(data: dict[str, Any], folder: Path) -> BPETokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(data))
    return BPETokenizer.from_hf(folder)


def assert_same_ids(data: dict[str, Any], folder: Path) -> None:
    ours = read(data, folder)
    alone = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    alone.no_truncation()
    alone.no_padding()
    ids = alone.encode(text(), add_special_tokens=False).ids
    assert ours.encode(text(), "all") == ids
    assert ours.decode(ids) == text()
    ours.save(folder / "ours")
    again = tokenizers.Tokenizer.from_file(str(folder / "ours" / "tokenizer.json"))
    assert again.encode(text()).ids == ids


# rten#453 transformers#24441 llm-compressor#2917
def test_more_merges_than_tokens(theirs: dict[str, Any], tmp_path: Path) -> None:
    n_merged = len(theirs["model"]["vocab"]) - 256
    assert len(theirs["model"]["merges"]) > n_merged  # all ways to split a token, not just one
    assert theirs["model"]["ignore_merges"]
    assert_same_ids(theirs, tmp_path)


def sequence_of(key: str, members: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        data[key] = {"type": "Sequence", members: [data[key]] if data[key] else []}

    return change


def fused(data: dict[str, Any]) -> None:
    data["decoder"] = {"type": "Sequence", "decoders": [data["decoder"], {"type": "Fuse"}]}


def nest(data: dict[str, Any]) -> None:
    parts = data["pre_tokenizer"]["pretokenizers"]
    wrapped = [{"type": "Sequence", "pretokenizers": [part]} for part in parts]
    data["pre_tokenizer"]["pretokenizers"] = wrapped


def split(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["pre_tokenizer"]["pretokenizers"][0].update(fields)


def byte_level(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["pre_tokenizer"]["pretokenizers"][1].update(fields)


def put(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.update(copy.deepcopy(fields))


def in_model(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["model"].update(fields)


A = {"Sequence": {"id": "A", "type_id": 0}}
B = {"Sequence": {"id": "B", "type_id": 1}}
NO_TEMPLATE = {
    "type": "TemplateProcessing", "single": [A], "pair": [A, B], "special_tokens": {},
}  # fmt: skip


# A Split that drops what these do not match drops nothing.
EVERYTHING = [
    LLAMA3,
    r"\S+|\s+",
    r"[^\s]+|\s+",
    r".|\n",
    r"\w+|\W+",
    r"\p{N}{1,3}|\p{L}+|\s+|[^\s\p{L}\p{N}]+",
    r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s++(?!\S)|\s+",
    r"\p{N}{1,2}+|\P{N}",  # any number of them in Oniguruma
]


@pytest.mark.parametrize(
    "change",
    [
        sequence_of("normalizer", "normalizers"),
        sequence_of("decoder", "decoders"),
        fused,
        sequence_of("pre_tokenizer", "pretokenizers"),
        sequence_of("post_processor", "processors"),
        put(post_processor=NO_TEMPLATE),
        nest,
        split(behavior="Removed", invert=True),
        split(invert=True),
        in_model(ignore_merges=False),
        byte_level(trim_offsets=False),
        *(split(pattern={"String": string}) for string in (" ", "e", "", "\n", "+(", "a\x85\t字")),
        *(split(behavior="Removed", invert=True, pattern={"Regex": regex}) for regex in EVERYTHING),
    ],
)
def test_another_spelling_of_the_same(
    theirs: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    data = copy.deepcopy(theirs)
    change(data)
    assert_same_ids(data, tmp_path)
    data["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert load_tokenizer(tmp_path).encode(text(), "all") == read(data, tmp_path).encode(
        text(), "all"
    )


def test_gpt2s_expression_twice_is_gpt2s_expression(tmp_path: Path) -> None:
    (tmp_path / "ranks").mkdir()
    data = json.loads(converted(tmp_path / "ranks", GPT2))
    byte_level(use_regex=True)(data)
    assert_same_ids(data, tmp_path)
    assert read(data, tmp_path).pattern == "gpt2"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (
            "truncation",
            {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0},
        ),
        (
            "padding",
            {
                "strategy": {"Fixed": 90}, "direction": "Right", "pad_to_multiple_of": None,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "!",
            },
        ),
    ],
)  # fmt: skip
def test_saved_truncation_and_padding_are_dropped_with_a_word(
    theirs: dict[str, Any], tmp_path: Path, key: str, value: Any
) -> None:
    with pytest.warns(UserWarning, match=f"asks for {key}, which is dropped"):
        assert_same_ids(theirs | {key: value}, tmp_path)


def swapped(data: dict[str, Any]) -> None:
    merges = data["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def twice(data: dict[str, Any]) -> None:
    data["model"]["merges"].append(data["model"]["merges"][0])


def without_one(data: dict[str, Any]) -> None:
    del data["model"]["merges"][0]


@pytest.mark.parametrize("change", [swapped, twice, without_one])
def test_merges_that_do_not_follow_the_ids_are_applied_as_listed(
    theirs: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    data = copy.deepcopy(theirs)
    change(data)
    assert_same_ids(data, tmp_path)


DIGITS = {"type": "Digits", "individual_digits": True}
BYTE_LEVEL = {
    "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False,
}  # fmt: skip
SPLIT = {"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated", "invert": False}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}


def pieces(*parts: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return put(pre_tokenizer={"type": "Sequence", "pretokenizers": list(parts)})


# ClickHouse#120860
@pytest.mark.parametrize(
    "change",
    [
        put(normalizer={"type": "NFC"}),  # Qwen, ModernBERT
        put(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}]}),
        put(normalizer=PREPEND),
        pieces(DIGITS, BYTE_LEVEL),  # SmolLM
        pieces(SPLIT, SPLIT, BYTE_LEVEL),  # DeepSeek
        put(pre_tokenizer=BYTE_LEVEL | {"add_prefix_space": True}),
        split(behavior="MergedWithPrevious"),
        split(behavior="Contiguous", pattern={"Regex": r"\s+|\S+"}),
        byte_level(add_prefix_space=True),
        in_model(byte_fallback=True),  # without characters, it means nothing
    ],
)
def test_parts_of_other_families(
    theirs: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    data = copy.deepcopy(theirs)
    change(data)
    ids = tokenizers.Tokenizer.from_str(json.dumps(data)).encode(text()).ids
    ours = read(data, tmp_path)
    assert ours.encode(text(), "all") == ids
    ours.save(tmp_path / "ours")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "ours" / "tokenizer.json"))
    assert (
        again.encode(text()).ids == ids == load_tokenizer(tmp_path / "ours").encode(text(), "all")
    )


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (put(normalizer={"type": "BertNormalizer"}), "BertNormalizer"),
        (put(pre_tokenizer={"type": "Metaspace", "replacement": "▁"}), "ByteLevel"),
        (pieces(SPLIT, {"type": "WhitespaceSplit"}, BYTE_LEVEL), "a WhitespaceSplit"),
        (pieces(BYTE_LEVEL, BYTE_LEVEL), " after ByteLevel"),  # writes each byte twice
        (pieces(BYTE_LEVEL, DIGITS), " after ByteLevel"),
        (put(decoder={"type": "Sequence", "decoders": [{"type": "Fuse"}, BYTE_LEVEL]}), "Sequence"),
        (split(behavior="Removed", invert=False), "drops some text"),
        (split(behavior="Removed", invert=True, pattern={"String": " "}), "drops some text"),
        (split(behavior="Contiguous", pattern={"Regex": r"a*|[\s\S]"}), "matches the empty string"),
        (split(behavior="Removed", invert=True, pattern={"Regex": r"."}), "drops some text"),
        (split(behavior="Removed", invert=True, pattern={"Regex": r"\w+| "}), "drops some text"),
        (
            split(behavior="Removed", invert=True, pattern={"Regex": LLAMA3.removesuffix(r"|\s+")}),
            "drops some text",
        ),
        (put(model={"type": "Unigram", "vocab": [["a", -1.0]]}), "Unigram"),
        (put(model={"type": "WordPiece", "vocab": {"a": 0}}), "WordPiece"),
    ],
)
def test_other_families_are_refused_in_one_line_that_names_the_part(
    theirs: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], None], part: str
) -> None:
    data = copy.deepcopy(theirs)
    change(data)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    for load in (load_tokenizer, BPETokenizer.from_hf):
        with pytest.raises(UserError) as error:
            load(tmp_path)
        assert part in str(error.value)
        assert "\n" not in str(error.value)


def test_a_template_adds_tokens_only_on_request(theirs: dict[str, Any], tmp_path: Path) -> None:
    name = SPECIAL[0]
    bos = {"id": name, "ids": [theirs["model"]["vocab"].get(name, 0)], "tokens": [name]}
    single = [{"SpecialToken": {"id": name, "type_id": 0}}, A]
    template = NO_TEMPLATE | {"single": single, "special_tokens": {name: bos}}
    data = theirs | {"post_processor": template}
    ours = read(data, tmp_path)
    ids = tokenizers.Tokenizer.from_str(json.dumps(data)).encode(text()).ids
    assert ours.encode(text(), "all", add_special_tokens=True) == ids
    assert ours.encode(text(), "all") == ids[1:]
