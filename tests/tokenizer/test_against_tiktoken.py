"""Every id must be tiktoken's: for GPT-2's, cl100k's and o200k's pattern, with two vocabularies.

The one is learned here. The other is the published one, if its rank file is there:
`gpt2.tiktoken` in shared/data, the others where `tests/families/fetch.py` puts them.
GPTFAST_EXHAUSTIVE=1 tries 100,000 generated strings for each of the six instead of 1,000.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import unicodedata
from pathlib import Path
from typing import TypeAlias
from unittest import mock

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe
from tiktoken_ext import openai_public

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.published import open_tokenizer
from tricky_text import ATOMS, TEXTS

Pair: TypeAlias = tuple[BPETokenizer, tiktoken.Encoding]

SHARED = Path(__file__).parents[3] / "shared" / "data"
RANKS = Path(__file__).parents[2] / ".venv" / "vocabularies"
RANK_FILES = {
    "gpt2": SHARED / "gpt2.tiktoken",
    "cl100k": RANKS / "cl100k_base.tiktoken",
    "o200k": RANKS / "o200k_base.tiktoken",
}
N_STRINGS = 100_000 if os.environ.get("GPTFAST_EXHAUSTIVE") == "1" else 1_000

# Where branches of the newer patterns meet: case, contractions in any case (the long s is an s
# there), marks without a letter, digits by threes, a slash or newlines after punctuation.
MORE_ATOMS = [
    *(
        "ABC",
        "camelCase",
        "HTTPServer",
        "Ab",
        "ǅ",
        "ʰ",
        "ـ",
        "ª",
        "K",
        "'ſ",
        "'LL",
        "'Ve",
        "'t",
        "’s",
    ),
    *("\u0301", "\u0300a", "\u20dd", "ि", "ا", "ไทย", "हिन्दी", "한", "ﷺ"),
    *(
        "12",
        "1234",
        "१२३४",
        "①",
        "/",
        "//\n",
        ".\r\n",
        "!\n\n/",
        ";\n",
        "\n\n",
        " \n ",
        "\r",
        "\x1f",
    ),
    *("(a", "-1", "\u2029", "\u200d", "\u180e", "\u1680", "\u2007", "\ufe0f", "#️⃣", "$", "+"),
]
TRAINING_TEXT = "".join(
    f"{first}{second} {first}\n" for first in ATOMS for second in ATOMS[::3]
) + (
    "It's the theme of THESE theses, they'LL see; HTTPServer camelCase 1234567 //\n\n\treturn x\r\n"
    * 20
)


def published(pattern: str) -> tuple[str, dict[str, int]]:
    """The regular expression and the special tokens that tiktoken publishes."""
    name = {"gpt2": "r50k_base"}.get(pattern, f"{pattern}_base")
    with mock.patch.object(openai_public, "load_tiktoken_bpe", return_value={}):
        encoding = getattr(openai_public, name)()
    return encoding["pat_str"], encoding["special_tokens"]


def learned_pair(pattern: str) -> Pair:
    ours = BPETokenizer.train(TRAINING_TEXT, 900, pattern)
    ranks = {ours.token_bytes(i): i for i in range(ours.n_vocab - 1)}
    regex, _ = published(pattern)
    theirs = tiktoken.Encoding(
        "learned", pat_str=regex, mergeable_ranks=ranks, special_tokens=ours.special_tokens
    )
    return ours, theirs


def published_pair(pattern: str) -> Pair:
    path = RANK_FILES[pattern]
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    regex, special_tokens = published(pattern)
    theirs = tiktoken.Encoding(
        pattern,
        pat_str=regex,
        mergeable_ranks=load_tiktoken_bpe(str(path)),
        special_tokens=special_tokens,
    )
    return BPETokenizer.from_tiktoken(path, pattern, special_tokens), theirs


@pytest.mark.parametrize("pattern", RANK_FILES)
def test_published_ranks_are_known_by_what_they_are(pattern: str, tmp_path: Path) -> None:
    path = RANK_FILES[pattern]
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    _, special_tokens = published(pattern)
    known = BPETokenizer.from_tiktoken(path)
    assert (known.pattern, known.special_tokens) == (pattern, special_tokens)
    assert open_tokenizer(path).fingerprint == known.fingerprint
    # As many ranks, two of which are others: the pattern and the special tokens may be any.
    first, second, *rest = path.read_bytes().splitlines(keepends=True)
    swapped = [
        first.split()[0] + b" " + second.split()[1],
        second.split()[0] + b" " + first.split()[1],
    ]
    other = tmp_path / "other"
    other.write_bytes(b"\n".join(swapped) + b"\n" + b"".join(rest))
    with pytest.raises(
        UserError, match="does not have the ranks of GPT-2, p50k, cl100k, o200k, Llama"
    ):
        open_tokenizer(other)
    opened = open_tokenizer(other, pattern)
    assert opened.special_tokens == {"<|endoftext|>": len(rest) + 2}


@pytest.fixture(
    scope="module",
    params=[f"{ranks} {pattern}" for pattern in RANK_FILES for ranks in ("learned", "published")],
)
def pair(request: pytest.FixtureRequest) -> Pair:
    ranks, pattern = request.param.split()
    return learned_pair(pattern) if ranks == "learned" else published_pair(pattern)


def assert_equal(pair: Pair, text: str) -> None:
    ours, theirs = pair
    ids = theirs.encode_ordinary(text)
    assert ours.encode_ordinary(text) == ids
    assert ours.decode(ids) == text


def test_vocabulary(pair: Pair) -> None:
    ours, theirs = pair
    assert ours.n_vocab == theirs.n_vocab
    assert ours.eot_token == theirs.eot_token
    special_ids = set(ours.special_tokens.values())
    for token in theirs.token_byte_values():
        assert ours.token_bytes(theirs.encode_single_token(token)) == token
    for token_id in special_ids:
        assert ours.token_bytes(token_id).decode() == theirs.decode([token_id])


def test_merges_of_gpt2() -> None:
    ours, _ = published_pair("gpt2")
    assert ours.n_vocab == 50257
    assert len(ours.merges) == 50000
    # The first lines of GPT-2's published merges.
    assert ours.merges[:3] == [(b" ", b"t"), (b" ", b"a"), (b"h", b"e")]


@given(TEXTS | st.text(st.characters(exclude_categories=("Cs", "Cn"))))
def test_ids_are_equal(pair: Pair, text: str) -> None:
    assert_equal(pair, text)
    ours, theirs = pair
    assert ours.encode(text, "all") == theirs.encode(text, allowed_special="all")


def test_generated_strings(pair: Pair) -> None:
    rng = random.Random(N_STRINGS)
    atoms = ATOMS + MORE_ATOMS
    # Without surrogates and without what Unicode has not assigned, as in tricky_text.
    characters = [
        chr(i)
        for i in range(sys.maxunicode + 1)
        if unicodedata.category(chr(i)) not in ("Cs", "Cn")
    ]
    for _ in range(N_STRINGS):
        pool = rng.choices((atoms, characters, characters[:1000]), (8, 1, 1), k=rng.randint(1, 14))
        assert_equal(pair, "".join(map(rng.choice, pool)))


def test_every_two_atoms_side_by_side(pair: Pair) -> None:
    for first, second in itertools.product(ATOMS + MORE_ATOMS, repeat=2):
        assert_equal(pair, first + second)
        assert_equal(pair, f"{first}{second}a {second}{first}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
        "x" * 3000,
        "ab" * 1500,
        "1" * 1000,
        " " * 1000 + "x" + "\n" * 1000 + "x\t \n",
        "\r\n" * 500 + " \r" * 500,
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﷽ 𓀀 Z̷̢̛a̶l̴g̵o̸",
        "def f(x):\n\treturn  x**2  # it's\n\n\n",
    ],
)
def test_nasty_texts(pair: Pair, text: str) -> None:
    assert_equal(pair, text)


def test_a_corpus(pair: Pair, shared_data: Path) -> None:
    assert_equal(pair, (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8"))


def test_a_custom_pattern(tmp_path: Path) -> None:
    # A split pattern that matches all text, because tiktoken drops what is between the matches.
    pattern = r"\s?\p{L}+|\p{N}{1,3}|[^\p{L}\p{N}]"
    sample = "the theme of these theses is that they're thin, 1234567 times\n" * 5
    ours = BPETokenizer.train(sample, 300, pattern)
    ours.to_tiktoken(tmp_path / "ranks.tiktoken")
    theirs = tiktoken.Encoding(
        "custom",
        pat_str=pattern,
        mergeable_ranks=load_tiktoken_bpe(str(tmp_path / "ranks.tiktoken")),
        special_tokens=ours.special_tokens,
    )
    for text in (sample, *ATOMS, "thesis 99<|endoftext|>"):
        assert ours.encode(text, "all") == theirs.encode(text, allowed_special="all")
