"""Text under a grammar: schemas by the package jsonschema, expressions by Python's `re`."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema
import pytest
import torch

from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig
from gptfast.sample.config import SamplingConfig
from gptfast.sample.generate import generate_batch
from gptfast.sample.grammar import Grammar, Kind
from gptfast.sample.request import Generation, Request
from gptfast.tokenizer import BPETokenizer, CharTokenizer, Tokenizer

pytest.importorskip("llguidance", reason="the extra `grammar` is not installed")

CHARACTERS = CharTokenizer.train(bytes(range(32, 127)).decode() + "\n")


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    words = json.dumps([{"name": f"value {i}", "is": [True, None, i * 1.5]} for i in range(60)])
    return BPETokenizer.train([words, "the quick brown fox, 12 of them\n"], 300)


def write(
    tokenizer: Tokenizer, source: Any, kind: Kind, n: int, max_new_tokens: int = 60
) -> list[Generation]:
    """Texts of a model with random weights, which keeps to no grammar by itself."""
    torch.manual_seed(0)
    model = GPT(ModelConfig(tokenizer.n_vocab, "gpt", 64, 1, 2, 16)).eval()
    request = Request(
        tokenizer.encode_ordinary("the"),
        max_new_tokens,
        SamplingConfig(temperature=3.0),
        stop_tokens=tokenizer.stop_tokens,
        processors=(Grammar(tokenizer, source, kind),),
    )
    return generate_batch(model, tokenizer, [request], n=n)[0]


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    kinds = ["integer", "number", "boolean", "null", "string", "enum", "const"]
    kind = rng.choice(kinds + ["object", "array"] * 3 if depth < 2 else kinds)
    if kind == "enum":
        return {"enum": rng.sample(["red", "green", 7, True, None, "a b"], 3)}
    if kind == "const":
        return {"const": rng.choice(["x", 3, [1, 2], {"k": False}])}
    if kind == "integer":
        return {"type": kind, "minimum": rng.randint(-9, 0), "maximum": rng.randint(1, 99)}
    if kind == "string":
        return {"type": kind, "maxLength": rng.randint(0, 6)}
    if kind == "array":
        return {"type": kind, "items": random_schema(rng, depth + 1), "maxItems": rng.randint(0, 3)}
    if kind == "object":
        names = rng.sample(["name", "age", "tags", "it"], rng.randint(1, 3))
        return {
            "type": kind,
            "properties": {name: random_schema(rng, depth + 1) for name in names},
            "required": names[: rng.randint(0, len(names))],
            "additionalProperties": False,
        }
    return {"type": kind}


@pytest.mark.parametrize("of", ["characters", "bpe"])
def test_json_keeps_to_its_schema(of: str, bpe: BPETokenizer) -> None:
    rng, n_ended = random.Random(of), 0
    for _ in range(50):
        schema = random_schema(rng)
        tokenizer: Tokenizer = CHARACTERS if of == "characters" else bpe
        for generation in write(tokenizer, schema, "json_schema", n=5):
            if generation.finish_reason == "stop":
                jsonschema.validate(json.loads(generation.text), schema)
                n_ended += 1
    assert n_ended > 200  # the others have numbers of 60 digits


@pytest.mark.parametrize("expression", ["[0-9]{3}-[0-9]{2}", "(ab|cd)*e", "yes|no", "[a-f]{1,9}!"])
def test_text_matches_its_expression_as_a_whole(expression: str, bpe: BPETokenizer) -> None:
    for tokenizer in (CHARACTERS, bpe):
        for generation in write(tokenizer, expression, "regex", n=8, max_new_tokens=300):
            assert generation.finish_reason == "stop"
            assert re.fullmatch(expression, generation.text)


def test_texts_of_one_request_do_not_share_their_place_in_the_grammar() -> None:
    texts = {generation.text for generation in write(CHARACTERS, "[a-z]{4}", "regex", n=16)}
    assert len(texts) > 8
    assert all(re.fullmatch("[a-z]{4}", text) for text in texts)


@pytest.mark.parametrize(
    ("source", "kind"),
    [("a[k-s]{3}", "regex"), ("[a&&b]", "regex"), ({"$ref": "#"}, "json_schema")],
)
def test_a_dead_end_is_no_end(source: Any, kind: Kind) -> None:
    letters = CharTokenizer.train("abcdefghij the \n")  # no k to s
    with pytest.raises(UserError, match="the grammar demands more text, but no token may follow"):
        write(letters, source, kind, n=1)


def test_an_expression_of_nothing_ends_the_text_at_once() -> None:
    (generation,) = write(CHARACTERS, "", "regex", n=1)
    assert (generation.text, generation.finish_reason) == ("", "stop")


def test_a_lark_grammar() -> None:
    (generation,) = write(CHARACTERS, 'start: "(" start ")" | "x"', "lark", n=1)
    depth = generation.text.index("x")
    assert (
        generation.text == "(" * depth + "x" + ")" * depth or generation.finish_reason == "length"
    )


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("json_schema", '{"type": ', "is not JSON"),
        ("json_schema", {"type": "colour"}, "colour"),
        ("json_schema", {"type": "object", "not": {}}, r"Unimplemented keys: .*not"),
        ("json_schema", "false", "the JSON schema is False: expected an object"),
        ("json_schema", [1], r"the JSON schema is \[1\]: expected an object"),
        ("json_schema", {"enum": {1}}, "is not JSON: Object of type set"),
        ("json_schema", {"const": "\ud800"}, "is not JSON"),
        ("regex", "\ud800", "lone surrogate"),
        ("ebnf", "start: 'a'", "the kind of a grammar is 'ebnf': expected one of .*'lark'"),
        ("regex", "(a", "unclosed group"),
        ("lark", "start: nothing", "nothing"),
        ("regex", {"a": 1}, "expected a str"),
    ],
)
def test_what_is_no_grammar_is_refused_in_one_line(kind: Kind, source: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Grammar(CHARACTERS, source, kind)
    assert "\n" not in str(error.value)
