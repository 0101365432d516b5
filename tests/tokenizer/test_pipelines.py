"""Generated pipelines of normalizers, pre-tokenizers and added tokens, against `tokenizers`."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import tokenizers

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer

SAMPLE = (
    "The theme of <think>these</think>,  naïve 日本語:\n\n\t\tdef f(x):\n        return 12\n ▁▁the"
    " a b  c 123 हिन्दी العربية é e\u0301 Å ﬁ ② " * 4
)
TRAINED = [
    BPETokenizer.train(SAMPLE, 400, pattern, progress=False).to_json()
    for pattern in ("gpt2", "none")
]
NAMES = [
    "<think>", "</think>", "<a>", "<a>b", "b c", "think", " x", "日本", "é", "e\u0301", "ﬁn", "THE",
    "<s>", "12", "\n\n", " \n", "   ",
]  # fmt: skip
ATOMS = [
    *NAMES, "<|endoftext|>", "a", " ", "  ", "x", "\n", "\t", "<", "think>", " the", "It's", "3",
    "🦀", "▁", "A", "<A>", "İ", "ß", "Å", "\u0301", "\u0327\u0301", "\u1100\u1161\u11a8", "क\u093c",
    "_", "-", "،", "。", "\u3000", "\xa0", "\x85", "\u1aeb", "\U000113c2\U000113c2", "²", "½",
]  # fmt: skip
REGEXES = [
    r"\s+", r"\d", r"\p{L}+", r"[a-z]+", r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", r"\s?\p{P}+",
    r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
]  # fmt: skip
BEHAVIORS = ["Isolated", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


class Generator:
    """Random parts of a `tokenizer.json`."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def is_so(self, chance: float) -> bool:
        return self.random.random() < chance

    def text(self) -> str:
        return "".join(self.random.choices(ATOMS, k=self.random.randrange(14)))

    def normalizer(self) -> dict[str, Any] | None:
        parts: list[dict[str, Any]] = [
            *({"type": form} for form in ("NFC", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt")),
            {"type": "StripAccents"},
            {"type": "Strip", "strip_left": self.is_so(0.5), "strip_right": self.is_so(0.5)},
            {"type": "Prepend", "prepend": self.random.choice(["▁", " ", "xé"])},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            {"type": "Replace", "pattern": {"Regex": r"\s+|é"}, "content": "ab"},
        ]
        chosen = self.random.choices(parts, k=self.random.choice([0, 1, 1, 2]))
        return None if not chosen else {"type": "Sequence", "normalizers": chosen}

    def part(self, *, is_first: bool) -> dict[str, Any]:
        choice = self.random.choice
        behavior, invert = choice(BEHAVIORS), self.is_so(0.3)
        pattern = choice([{"Regex": choice(REGEXES)}, {"String": choice([" ", "a", "▁", "  "])}])
        schemes = ["always", "never", "first"] if is_first else ["always", "never"]
        parts: list[dict[str, Any]] = [
            {"type": "Digits", "individual_digits": invert},
            {"type": "Punctuation", "behavior": behavior},
            {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert},
            {
                "type": "Metaspace",
                "replacement": "▁",
                "prepend_scheme": choice(schemes),
                "split": self.is_so(0.5),
            },
        ]
        return choice(parts)

    def pre_tokenizer(self) -> dict[str, Any]:
        last = {
            "type": "ByteLevel",
            "add_prefix_space": self.is_so(0.3),
            "trim_offsets": False,
            "use_regex": self.is_so(0.5),
        }
        parts = [self.part(is_first=i == 0) for i in range(self.random.choice([0, 1, 1, 2, 3]))]
        return {"type": "Sequence", "pretokenizers": [*parts, last]}

    def flags(self) -> dict[str, bool]:
        chances = {"lstrip": 0.2, "rstrip": 0.2, "single_word": 0.2, "normalized": 0.4}
        return {flag: self.is_so(chance) for flag, chance in chances.items()}

    def file(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(json.dumps(self.random.choice(TRAINED)))
        next_id = len(data["model"]["vocab"])
        data["added_tokens"][0] |= self.flags()
        for name in self.random.sample(NAMES, self.random.randrange(6)):
            if name not in data["model"]["vocab"]:
                token = {"id": next_id, "content": name, "special": self.is_so(0.4), **self.flags()}
                data["added_tokens"].append(token)
                next_id += 1
        parts = {"normalizer": self.normalizer(), "pre_tokenizer": self.pre_tokenizer()}
        return data | parts


@pytest.mark.parametrize("seed", range(4))
def test_generated_pipelines(seed: int) -> None:
    generator, n_read = Generator(seed), 0
    for _ in range(60):
        data = generator.file()
        try:
            ours = BPETokenizer.from_json(data)
        except UserError:  # such as a name of which the normalizer leaves nothing
            continue
        n_read += 1
        theirs = tokenizers.Tokenizer.from_str(json.dumps(data))
        assert BPETokenizer.from_json(ours.to_json())._serialized() == ours._serialized()
        texts = [generator.text() for _ in range(12)]
        for text in texts:
            theirs.encode_special_tokens = False
            assert ours.encode(text, "all") == theirs.encode(text).ids, (text, data)
            theirs.encode_special_tokens = True
            expected = theirs.encode(text)
            assert ours.encode(text) == expected.ids, (text, data)
            assert ours.encode_with_offsets(text) == (expected.ids, expected.offsets), (text, data)
            assert ours.encode_bytes(text.encode()) == expected.ids
            cut = ours.safe_cut(text.encode())
            left, right = text.encode()[:cut], text.encode()[cut:]
            parts = [*ours.encode_bytes(left), *ours.encode_bytes(right)]
            assert parts == expected.ids, (text, cut, data)
        assert ours.encode_batch(texts) == [ours.encode(text) for text in texts]
    assert n_read > 30


CLASSES = {
    "Digits": {"type": "Digits", "individual_digits": True},
    "Punctuation": {"type": "Punctuation", "behavior": "Isolated"},
}


@pytest.mark.parametrize("part", CLASSES.values(), ids=CLASSES)
def test_every_character_is_in_the_same_class(part: dict[str, Any]) -> None:
    characters = [chr(code) for code in range(0x20000) if not 0xD800 <= code < 0xE000]
    alphabet = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    file = TRAINED[0] | {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [part, alphabet | {"trim_offsets": False}],
        }
    }
    text = "".join(f"a{c}" for c in characters)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(TRAINED[0] | {"pre_tokenizer": part}))
    expected = [piece for piece, _ in theirs.pre_tokenizer.pre_tokenize_str(text)]
    assert BPETokenizer.from_json(file).pretokenize(text) == expected


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        ({"type": "Whitespace"}, "a Whitespace, which"),
        ({"type": "Digits"}, "no individual_digits"),
        ({"type": "Metaspace", "replacement": "ab"}, "no replacement of one character"),
        ({"type": "Punctuation", "behavior": "Removed"}, "drops some text"),
        (
            {"type": "Split", "pattern": {"String": ""}, "behavior": "Contiguous"},
            "the empty string",
        ),
        ({"type": "Split", "pattern": "a", "behavior": "Isolated"}, "a String or a Regex"),
        ({"type": "Split", "pattern": {"String": "a"}}, "no behavior that is known"),
    ],
)
def test_parts_that_are_refused(part: dict[str, Any], complaint: str) -> None:
    alphabet = {"type": "ByteLevel", "add_prefix_space": False}
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [part, alphabet]}
    with pytest.raises(UserError, match=complaint):
        BPETokenizer.from_json(TRAINED[0] | {"pre_tokenizer": pre_tokenizer})


def test_a_token_left_in_the_text_hides_others() -> None:
    """It may hide another such token, which would hide one that is found."""
    data = json.loads(json.dumps(TRAINED[0]))
    first = len(data["model"]["vocab"])
    for i, (name, special) in enumerate([("cd", False), ("bc", True), ("ab", True)]):
        token = {"id": first + i, "content": name, "special": special, "normalized": False}
        flags = {"lstrip": False, "rstrip": False, "single_word": False}
        data["added_tokens"].append(token | flags)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data))
    theirs.encode_special_tokens = True
    ours = BPETokenizer.from_json(data)
    for text in ("abcd", "bcd", "xcd", "aabbccdd"):
        assert ours.encode(text) == theirs.encode(text).ids


def test_tiktoken_has_no_normalizer() -> None:
    with pytest.raises(UserError, match=r"the normalizer .*NFC.*, and tiktoken has only"):
        _ = BPETokenizer.from_json(TRAINED[0] | {"normalizer": {"type": "NFC"}}).pat_str
