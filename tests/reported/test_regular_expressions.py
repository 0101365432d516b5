"""Split patterns mean in `tokenizers`, which reads our files with Oniguruma, what they mean here.

The right value is what `tokenizers.pre_tokenizers.Split` cuts with the expression in the file, and
for the expressions that tiktoken publishes, what tiktoken cuts.
"""

from __future__ import annotations

import inspect
import json
import random
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken_ext.openai_public
import tokenizers
from tokenizers.pre_tokenizers import Split

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.patterns import pattern_from_json, pattern_to_json

BYTES = {bytes([byte]): byte for byte in range(256)}

# Where dialects differ: digits in groups, contractions, letters that equal several when case is
# ignored, characters that only one calls a word, ends of lines and of the text, white space of
# every kind, and what is special in a class.
NASTY = (
    "it's IT'S we'LL you'Re don\u2019t i'\u017f 'S's \u017fs \u1e9e\u00df ss SS Stra\u00dfe \ufb01 "
    "fi ff \ufb03 st \ufb06 K\u212ak \u0130i \u0131 \u0149 \u02bcn 123456789 12 1 \u0663\u0664 \xbd"
    "\xb2\xb3\xb9\xbc\xbe \u2167\u24d0 e\u0301 \u0928\u093f \u5b57a\u65e5\u672c \u3042\u30a2 _a_b "
    "a-b [a]^&&~~--\\ {2} (x) .* $ \u200ba\u200cb\u200d \xa0\u2028\u2029\x85\x0b\x0c\x1c\u180e "
    "\u3000 \x00\x07\x08\n\nab  abab aab\t\tabc\r\n \r\n x \U0001f469\u200d\U0001f52c\U0001f1e9"
    "\U0001f1ea\n  \n end  \n\n"
)  # fmt: skip
TEXTS = [NASTY, NASTY.rstrip(), "", "\n", "a", " a  ", "123456"]

R50K = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
OLD_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
OLD_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NANOCHAT = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
TEKKEN = O200K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")
KIMI = r"[\p{Han}]+|" + O200K.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]").replace(r"\n/]", r"\n]")
QWEN = OLD_CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PUBLISHED = {
    "r50k": (R50K, "gpt2"),
    "gpt2": (OLD_GPT2, "gpt2"),
    "cl100k": (CL100K, "cl100k"),
    "old cl100k, Llama 3": (OLD_CL100K, "llama3"),
    "Qwen 2": (QWEN, "qwen2"),
    "Qwen 3.5": (QWEN35, "qwen3.5"),
    "nanochat": (NANOCHAT, "nanochat"),
    "tekken": (TEKKEN, "tekken"),
    "Kimi": (KIMI, "kimi"),
    "o200k": (O200K, "o200k"),
}

USERS = [
    r"\S+|\s+", r"\w+|\W", r"\b\w+\b|.", r"\B.", r"\d{1,3}(?=(?:\d{3})*\b)|\D", "a{1,2}+b?",
    "a{2}?", r"\p{Script=Han}+|\p{Hiragana}", r"\p{scx=Han}+", r"\pL+", "(?i)ss|k|ß",
    "(?i:'s)|(?i:st)", r"(?i:\p{Lu}+)", "^a|$", "(?m)^.+$", "(?s).", r"(?s:\A.)|.\z", r"\Z",
    "[[:alpha:]]+", r"[\w--\d]+", "[a-z&&[^aeiou]]+", "[a-m~~g-z]", r"[^\S\r\n]+|\R", r"\h{2}|\H",
    r"(?<=a)b|(?<!a)b+", "(?>a|ab)b", "(?<name>a)(b)", "(?P<n>a)+?b", "(?#why)a | b",
    "(?x) a b # both\n | c", "a||b", "a*", "(?=a)", "", r"\x{41}|\u{df}|\u0061|\x1c", r"[]^a-]+",
    r"[a-z&&[^q]--[b]]+", r"\N+|\O", r"[-a]|[\]\[]", "é|[à-ÿ]+", r"\s+(?!\S)|\s+", "a+?b??c{,2}",
    r"[\W\d]+", r"\p{Emoji}|\P{ASCII}", r"\{2\}|\.\*", QWEN, DEEPSEEK,
]  # fmt: skip


def oniguruma(regex: str, text: str) -> list[str]:
    """What `tokenizers` cuts."""
    split = Split(tokenizers.Regex(regex), "isolated")
    return [piece for piece, _ in split.pre_tokenize_str(text)]


def in_file(tokenizer: BPETokenizer) -> str:
    """The expression that is saved."""
    regex = tokenizer.to_json()["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    assert isinstance(regex, str)
    return regex


# tokenizers#1369, tokenizers#1991, nanochat#291
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_expressions_are_known_by_their_text(name: str, tmp_path: Path) -> None:
    regex, pattern = PUBLISHED[name]
    tokenizer = BPETokenizer(BYTES, regex)
    assert tokenizer.pattern == pattern
    tokenizer.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        pieces = tokenizer.pretokenize(text)
        assert pieces == tiktoken_pieces(regex, text)
        cut = theirs.pre_tokenizer.pre_tokenize_str(text)
        assert pieces == [text[start:end] for _, (start, end) in cut]


def of_split(regex: str, **changes: Any) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return split | changes


DIGITS = {"type": "Digits", "individual_digits": True}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
ALPHABET = BYTE_LEVEL | {"use_regex": False}
DEEPSEEK_STEPS = [  # as in its file, where newlines are no escapes
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    DEEPSEEK.replace(r"\"", '"').replace(r"\r\n", "\r\n"),
]
PRE_TOKENIZERS = [
    ("deepseek", [*map(of_split, DEEPSEEK_STEPS), ALPHABET]),
    ("starcoder2", [DIGITS, BYTE_LEVEL]),
    ("starcoder2", [DIGITS, of_split(OLD_GPT2), ALPHABET]),
    ("gpt2", [BYTE_LEVEL]),
    ("gpt2", [of_split(OLD_GPT2), BYTE_LEVEL]),
    ("llama3", [of_split(OLD_CL100K), ALPHABET]),
    ("llama3", [of_split(OLD_CL100K, behavior="Removed", invert=True), ALPHABET]),
    ("qwen2", [of_split(QWEN), ALPHABET]),
    ("kimi", [of_split(KIMI), ALPHABET]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parts"), PRE_TOKENIZERS)
def test_published_pre_tokenizers_are_known_by_their_parts(
    name: str, parts: list[dict[str, Any]]
) -> None:
    pre_tokenizer = {"type": "Sequence", "pretokenizers": parts}
    tokenizer = BPETokenizer(BYTES, pattern_from_json(pre_tokenizer))
    assert tokenizer.pattern == name
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    file = json.loads(theirs.to_str()) | {"pre_tokenizer": pre_tokenizer}
    theirs = tokenizers.Tokenizer.from_str(json.dumps(file))
    for text in TEXTS:
        cut = theirs.pre_tokenizer.pre_tokenize_str(text)
        expected = [text[start:end] for _, (start, end) in cut]
        assert tokenizer.pretokenize(text) == expected
        assert name == "gpt2" or oniguruma(in_file(tokenizer), text) == expected


def tiktoken_pieces(regex: str, text: str) -> list[str]:
    """What tiktoken cuts: every part of the text of at most 40 bytes is a token of its own."""
    data = text.encode()
    parts = {data[i : i + n] for i in range(len(data)) for n in range(2, 41)} - BYTES.keys()
    ranks = BYTES | {part: 256 + i for i, part in enumerate(sorted(parts, key=len)) if part}
    encoding = tiktoken.Encoding("x", pat_str=regex, mergeable_ranks=ranks, special_tokens={})
    return [token.decode() for token in encoding.decode_tokens_bytes(encoding.encode(text))]


def test_the_published_expressions_are_those_of_tiktoken() -> None:
    source = inspect.getsource(tiktoken_ext.openai_public)
    assert R50K in source
    assert CL100K in source
    assert all(part in source for part in O200K.split("|")[:2])


# tokenizers#1369 and #1991: what a user writes is what the saved file means.
@pytest.mark.parametrize("regex", USERS)
def test_an_expression_cuts_the_same_in_both(regex: str) -> None:
    tokenizer = BPETokenizer(BYTES, regex)
    saved = in_file(tokenizer)
    again = BPETokenizer.from_json(tokenizer.to_json())
    for text in TEXTS:
        pieces = tokenizer.pretokenize(text)
        assert "".join(pieces) == text
        assert pieces == oniguruma(saved, text)
        assert again.pretokenize(text) == pieces
    assert again.to_json() == tokenizer.to_json()


FOREIGN = [
    r"\p{N}{1,3}+|\w+|[\w]", "a{2}?b", "^.|$", "(?m:.)+", r"a(?i)k|b", r"(?i:'s|'t|[dm])|\p{^L}+",
    "[[:punct:]]+|[[:^alpha:]]", r"\p{Punct}+|\p{Alnum}+", "[a-z&&[^aeiou]x]+", r"\h+\Z|\<",
    "x{2}{3}|a+*", r"\bit|\B'|\W+", CL100K, R50K, OLD_CL100K, O200K, QWEN, DEEPSEEK,
    "(?<n>a)(b)|[^\\W_]+", r"(?x: a b) |\R",
]  # fmt: skip


# rten#453: expressions in files of other projects have Oniguruma's meaning.
@pytest.mark.parametrize("regex", FOREIGN)
def test_an_expression_of_a_file_keeps_the_meaning_that_it_has_there(regex: str) -> None:
    file = pattern_to_json(r"\S+|\s+")
    file["pretokenizers"][0]["pattern"]["Regex"] = regex
    pattern = pattern_from_json(json.loads(json.dumps(file)))
    tokenizer = BPETokenizer(BYTES, pattern)
    for text in TEXTS:
        assert tokenizer.pretokenize(text) == oniguruma(regex, text)


ATOMS = [
    *("a", "s", "ß", " ", "'", r"\d", r"\s", r"\w", r"\W", r"\p{L}", r"\P{Lu}", ".", "[^a]"),
    *("[a-z]", "[[:alpha:]]", "[a-z&&[^s]]", r"[\W\d]", "[-a]", r"\n", r"\x{41}", "(?i:k)"),
    *("(?i)s", r"\R"),
]  # fmt: skip
ASSERTIONS = ["^", "$", r"\A", r"\z", r"\Z", r"\b", r"\B"]
OPENINGS = ["(", "(?:", "(?>", "(?=", "(?!", "(?<=", "(?<!", "(?i:", "(?m:", "(?s:"]
COUNTS = ["*", "+", "?", "{2}", "{1,3}", "{2,}", "{,2}"]


def some_expression(source: random.Random, depth: int = 0) -> str:
    kind = source.random()
    if depth > 3 or kind < 0.4:
        return source.choice(ATOMS)
    if kind < 0.5:
        return source.choice(ASSERTIONS)
    inner = some_expression(source, depth + 1)
    if kind < 0.7:
        return inner + some_expression(source, depth + 1)
    if kind < 0.85:
        return f"(?:{inner}){source.choice(COUNTS)}{source.choice(['', '?', '+'])}"
    return f"{source.choice(OPENINGS)}{inner}|{some_expression(source, depth + 1)})"


def test_generated_expressions_cut_the_same_in_both_or_are_refused() -> None:
    source = random.Random(20)
    made = [tokenizer_or_refusal(some_expression(source)) for _ in range(400)]
    refusals = [refusal for refusal in made if isinstance(refusal, str)]
    assert all("at position " in refusal for refusal in refusals)
    assert len(refusals) < 200
    for tokenizer in made:
        if not isinstance(tokenizer, str):
            pieces = oniguruma(in_file(tokenizer), NASTY)
            assert tokenizer.pretokenize(NASTY) == pieces, tokenizer.pattern


def tokenizer_or_refusal(regex: str) -> BPETokenizer | str:
    try:
        return BPETokenizer(BYTES, regex)
    except UserError as error:
        return str(error)


REFUSED = [
    (r"ab\G", 2, "moves where a match begins"), (r"a\Kb", 1, "moves where a match begins"),
    (r"(a)\1", 3, "reference to a group"), (r"(?<x>a)\k<x>", 7, "reference to a group"),
    (r"é\g<0>", 1, "reference to a group"), ("(?(1)a|b)", 0, "kind"), ("a(?~b)", 1, "kind"),
    ("a(*FAIL)", 1, "verb"), ("(?U)a", 2, "no flag"), ("(?R)", 2, "no flag"),
    (r"\Qa\E", 0, "backslash"), (r"a\X", 1, r"\\P{M}"), (r"\<a", 0, r"write `\\b`"),
    (r"x\b{start}", 1, r"\\b"), ("a{", 1, r"\\{"), ("(a*)*", 4, "match nothing"),
    ("(?:a|b?){2}", 8, "match nothing"), ("(?:a|(?=b))?", 11, "assertion"),
    ("(?<=a+)b", 0, "lengths"), ("(?<=a|bc)d", 0, "lengths"),
    ("(?<=(?=a))b", 0, "within a look-behind"), ("a{2,1}", 1, "swap"),
    ("a{2000}", 1, "above 1000"), ("a**", 2, ""), ("a)", 1, ""), ("(a", 0, "without"),
    ("[a", 0, "without"), (r"[a-\d]", 2, "joins no two"), ("[a-c-e]", 4, "joins no two"),
    (r"[\b]", 1, "outside"), ("[z-a]", 1, "swap"), (r"[^\s\S]", 0, "no character"),
    (r"\p{Nope}", 0, "property"), ("(?#", 0, "comment"), (r"\x{110000}", 0, "code point"),
    (r"\y", 0, "share"), ("+a", 0, "nothing that it could repeat"),
]  # fmt: skip


@pytest.mark.parametrize(("regex", "position", "why"), REFUSED)
def test_what_can_mean_two_things_is_refused_with_its_place(
    regex: str, position: int, why: str
) -> None:
    for make in (BPETokenizer, BPETokenizer.train):
        with pytest.raises(UserError, match=rf"at position {position}, .*{why}") as raised:
            make(BYTES if make is BPETokenizer else unreadable(), pattern=regex)
        assert "\n" not in str(raised.value)


def unreadable() -> Any:
    raise AssertionError("no text may be read before the pattern is known to be good")
    yield ""


REFUSED_IN_FILES = [
    ("(?i:ss)", 0, "both cases"), (r"(?i:\p{L}+)", 0, "both cases"), ("(?i)ß", 0, "both cases"),
    ("(?s:.)", 2, "no flag"), (r"\u{41}", 0, "code point"), (r"\xE9", 0, "code point"),
    (r"a\0", 1, "x{0}"), (r"\p{InBasicLatin}", 0, "property"), (r"\y", 0, "share"),
    (r"(a)\1", 3, "reference"), ("[[:graph:]]", 1, "class name"),
]  # fmt: skip


@pytest.mark.parametrize(("regex", "position", "why"), REFUSED_IN_FILES)
def test_a_file_with_an_expression_that_has_no_translation_is_refused(
    regex: str, position: int, why: str
) -> None:
    file = BPETokenizer(BYTES, r"\S+|\s+").to_json()
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex
    with pytest.raises(UserError, match=rf"at position {position}, .*{why}"):
        BPETokenizer.from_json(file)


LONG = 1_000_000


# tiktoken#245, tiktoken#15: `tokenizers` encodes a million spaces.
@pytest.mark.parametrize(
    ("regex", "text", "expected"),
    [
        (OLD_CL100K, " " * LONG, [LONG]),
        (OLD_CL100K, "a" + " " * LONG + "b", [1, LONG - 1, 2]),
        (QWEN, " " * LONG, [LONG]),
        (QWEN, "a" + " " * LONG + "b", [1, LONG - 1, 2]),
        (QWEN, "\n \t" * LONG + "b", [3 * LONG - 2, 1, 2]),
        (r"\s+(?!\S)|\s+|\S+", "\t" * LONG + "b", [LONG - 1, 1, 1]),
        (r" ?\p{L}+(?!\d)|.", "é" * LONG, [LONG]),
        (r"(?:a|b)+(?!c)|.", "ab" * LONG, [2 * LONG]),
        (r"(?:a|b)++|.", "ab" * LONG, [2 * LONG]),
        (r"\S+?(?=,)|,|[^,]+", "x" * LONG + ",", [LONG, 1]),
        (CL100K, " " * LONG, [LONG]),
    ],
)
def test_a_run_of_a_million_characters_is_encoded(
    regex: str, text: str, expected: list[int]
) -> None:
    pieces = BPETokenizer(BYTES, regex).pretokenize(text)
    assert [len(piece) for piece in pieces] == expected


def test_what_takes_too_many_steps_is_refused_in_our_words() -> None:
    tokenizer = BPETokenizer(BYTES, r"(?:[^\s]+\s?)+(?=!)|.")
    with pytest.raises(UserError, match="gave up on the text after byte 0: one match") as raised:
        tokenizer.encode("words and more " * 20_000)
    assert not any(word in str(raised.value) for word in ("\n", "Error", "stack", "Max"))


@pytest.mark.parametrize("regex", [OLD_CL100K, QWEN, r"\S+|\s+"])
def test_an_expression_that_leaves_no_text_moves_to_tiktoken_as_it_is(regex: str) -> None:
    tokenizer = BPETokenizer(BYTES, regex)
    assert tokenizer.pat_str == regex
    pieces = tokenizer.pretokenize(NASTY)
    assert tiktoken_pieces(regex, NASTY) == pieces


@pytest.mark.parametrize("regex", [r"(?:\p{L}{1000}){1000}", r"(?<=(?:a{1000}){1000})b|."])
def test_what_is_too_large_is_refused_in_our_words(regex: str) -> None:
    with pytest.raises(UserError, match=r"it is too large .*; use smaller counts$"):
        BPETokenizer(BYTES, regex)
