"""Decoders and templates of a `tokenizer.json` do what those of `tokenizers` do."""

from __future__ import annotations

import json
import pickle
import random
from typing import Any

import pytest
import tokenizers

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.decoders import new_decoder
from gptfast.tokenizer.spelling import byte_level_alphabet
from gptfast.tokenizer.template import around_text

REPLACE = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
FALLBACK, FUSE = {"type": "ByteFallback"}, {"type": "Fuse"}


def strip(start: int, stop: int = 0) -> dict[str, Any]:
    return {"type": "Strip", "content": " ", "start": start, "stop": stop}


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "decoders": list(parts)}


def metaspace(scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}


DECODERS = [
    sequence(REPLACE, FALLBACK, FUSE, strip(1)),  # Llama 2, Mistral
    sequence(REPLACE, FALLBACK, FUSE),  # Gemma
    sequence(FALLBACK, FUSE, strip(2)),
    sequence(strip(1), FUSE),
    sequence(FUSE, REPLACE),
    sequence(FALLBACK, metaspace("first")),
    metaspace("always"),
    metaspace("never"),
    FUSE,
    FALLBACK,
    REPLACE,
]
TOKENS = [
    "▁the", "▁", "▁▁", "a", " ", "  b", "é", "日本", "<s>", "<0x0A>", "<0xE6>", "<0x97>", "<0xA5>",
    "<0xFF>", "<0xGG>", "<0x0a>", "▁ x ", "\n",
]  # fmt: skip


def theirs(decoder: dict[str, Any]) -> Any:
    data = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
    return tokenizers.Tokenizer.from_str(json.dumps(data | {"decoder": decoder})).decoder


@pytest.mark.parametrize("decoder", DECODERS, ids=json.dumps)
def test_decoders(decoder: dict[str, Any]) -> None:
    rng, expected = random.Random(0), theirs(decoder)
    for _ in range(600):
        tokens = rng.choices(TOKENS, k=rng.randrange(8))
        ours = new_decoder(decoder)
        text = "".join(map(ours.feed, tokens)) + ours.finish()
        assert text == expected.decode(tokens), tokens


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "BPEDecoder", "suffix": "</w>"},
        sequence(FUSE, FALLBACK),
        strip(0, 1),
        sequence({"type": "Replace", "pattern": {"Regex": "a"}, "content": ""}),
        {"type": "Sequence"},
    ],
    ids=json.dumps,
)
def test_decoders_that_are_refused(decoder: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="decoder"):
        new_decoder(decoder)


def template(*pieces: str) -> dict[str, Any]:
    names = [piece for piece in pieces if piece != "$A"]
    token = {"<s>": 0, "</s>": 1, "<x>": 2}
    return {
        "type": "TemplateProcessing",
        "single": [
            {"Sequence": {"id": "A", "type_id": 0}}
            if piece == "$A"
            else {"SpecialToken": {"id": piece, "type_id": 0}}
            for piece in pieces
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {n: {"id": n, "ids": [token[n]], "tokens": [n]} for n in names},
    }


BYTE_LEVEL = {
    "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True,
}  # fmt: skip
CLS: dict[str, Any] = {"cls": ["<s>", 0], "sep": ["</s>", 1]}
TEMPLATES: list[dict[str, Any]] = [
    template("<s>", "$A"),
    template("$A", "</s>"),
    template("<s>", "<x>", "$A", "</s>"),
    {"type": "RobertaProcessing", "trim_offsets": False, "add_prefix_space": False, **CLS},
    {"type": "BertProcessing", **CLS},
    {"type": "Sequence", "processors": [BYTE_LEVEL, template("<s>", "$A")]},
]


@pytest.mark.parametrize("post_processor", TEMPLATES, ids=json.dumps)
def test_templates(post_processor: dict[str, Any]) -> None:
    ranks = {bytes([byte]): 3 + byte for byte in range(256)}
    special = {"<s>": 0, "</s>": 1, "<x>": 2}
    ours = BPETokenizer(ranks, "gpt2", special, template=post_processor)
    expected = tokenizers.Tokenizer.from_str(ours._serialized())
    again = BPETokenizer.from_json(ours.to_json())
    assert again.to_json()["post_processor"] == post_processor
    texts = ["It's", "", "a <s> b"]
    for text in texts:
        assert again.encode(text, "all", add_special_tokens=True) == expected.encode(text).ids
        assert again.encode(text, "all") == expected.encode(text, add_special_tokens=False).ids
    batch = again.encode_batch(texts, allowed_special="all", add_special_tokens=True)
    assert batch == [encoding.ids for encoding in expected.encode_batch(texts)]


@pytest.mark.parametrize(
    ("post_processor", "complaint"),
    [
        (template("<s>"), "without the Sequence A"),
        (template("$A", "$A"), "the Sequence A once"),
        (template("<s>", "$A") | {"special_tokens": {}}, "special tokens that are listed"),
        ({"type": "Sequence", "processors": TEMPLATES[:2]}, "2 parts that add tokens"),
        ({"type": "Unknown"}, "expected a TemplateProcessing"),
    ],
)
def test_templates_that_are_refused(post_processor: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        around_text(post_processor)


def test_a_template_of_ids_that_do_not_exist_is_refused() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    with pytest.raises(UserError, match="template has the id 300"):
        BPETokenizer(ranks, template={"type": "BertProcessing", "cls": ["a", 300], "sep": ["a", 0]})


NAMES = ["ÿ", "À", "Ġ", "Ġa", "é", "<é>", "é日", " é", "\u00ad", "<x>", "\u0143", "\u0144", "ab"]


def named(special: bool, ignore_merges: bool) -> dict[str, Any]:
    """Return a vocabulary without the bytes that NAMES spell, and NAMES as added tokens."""
    alphabet = [char for char in byte_level_alphabet().values() if char not in NAMES]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": len(alphabet) + i, "content": name, "special": special, **flags}
        for i, name in enumerate(NAMES)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    model = {"type": "BPE", "merges": [], "vocab": {char: i for i, char in enumerate(alphabet)}}
    return {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": byte_level | {"use_regex": True},
        "decoder": byte_level | {"use_regex": True},
        "model": model | {"ignore_merges": ignore_merges},
    }


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("ignore_merges", [False, True])
def test_added_tokens_that_spell_bytes(special: bool, ignore_merges: bool) -> None:
    """`tokenizers` decodes their names as spellings, as it does DeepSeek Coder's `ÿ`."""
    data = named(special, ignore_merges)
    ours, theirs = BPETokenizer.from_json(data), tokenizers.Tokenizer.from_str(json.dumps(data))
    saved = tokenizers.Tokenizer.from_str(json.dumps(ours.to_json()))
    again = pickle.loads(pickle.dumps(ours))
    rng = random.Random(0)
    for _ in range(200):
        ids = rng.choices(range(theirs.get_vocab_size()), k=3) + rng.choices(
            [token.id for token in ours.added_tokens], k=3
        )
        rng.shuffle(ids)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False), ids
        stream = ours.stream_decoder()
        assert "".join(map(stream.feed, ids)) + stream.finish() == ours.decode(ids)
        text = "".join(rng.choices([*NAMES, "b", "x", "日", "\n"], k=6))
        for one in (theirs, saved):
            one.encode_special_tokens = False
            expected = one.encode(text).ids
            assert ours.encode(text, "all") == again.encode(text, "all") == expected, text
            one.encode_special_tokens = True
            assert ours.encode(text) == again.encode(text) == one.encode(text).ids, text
        if not special:  # else the bytes that have no tokens are left out
            assert ours.encode_with_offsets(text)[1] == theirs.encode(text).offsets, text
    for token in ours.added_tokens:
        assert ours.id_to_token(token.id) == theirs.id_to_token(token.id) == token.name
        assert ours.token_to_id(token.name) == token.id
    more = ours.with_added(["<new>"])
    assert more.encode("<new>", "all") == [ours.n_vocab]
