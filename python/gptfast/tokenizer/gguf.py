"""A tokenizer in the keys of a GGUF file, as llama.cpp reads them.

llama.cpp has the split patterns built in, by name, so a file can hold only those tokenizers whose
pattern it has exactly. It merges pairs of GPT-2's byte alphabet; for a CharTokenizer, the merges
put the bytes of each character together.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from itertools import permutations
from typing import Any

from gptfast.errors import UserError
from gptfast.tokenizer.added import AddedToken, can_overlap
from gptfast.tokenizer.base import Tokenizer
from gptfast.tokenizer.bpe import BPETokenizer
from gptfast.tokenizer.char import CharTokenizer
from gptfast.tokenizer.formats import merges_to_json
from gptfast.tokenizer.patterns import pattern_to_json
from gptfast.tokenizer.roles import END_OF_TEXT, Roles
from gptfast.tokenizer.spelling import spelling_of, token_if_spelled

PRE = {
    "gpt2": "gpt-2", "llama3": "llama-bpe", "qwen2": "qwen2", "qwen3.5": "qwen35",
    "starcoder2": "smollm", "deepseek": "deepseek-v3",
}  # fmt: skip
"""llama.cpp's names of our split patterns, of those that cut every text as ours do."""
_PATTERNS = {
    **{name: pattern for pattern, name in PRE.items()},
    "phi-2": "gpt2", "mpt": "gpt2", "olmo": "gpt2", "llama-v3": "llama3", "llama3": "llama3",
    "glm4": "llama3", "chatglm-bpe": "llama3", "dbrx": "llama3", "deepseek-r1-qwen": "qwen2",
    "starcoder": "starcoder2", "refact": "starcoder2",
}  # fmt: skip
"""Our patterns by llama.cpp's names."""
_WHOLE_FIRST = ("llama-bpe", "llama-v3", "llama3", "glm4")
"""The names with which llama.cpp looks up a whole pre-token before it merges."""
NFC = {"type": "NFC"}
"""The normalizer of Qwen's tokenizers. llama.cpp applies none; text is nearly always in NFC."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""Types of tokens: ordinary; unknown; special; found in any text by its name; without a meaning."""

_ROLE_KEYS = {
    "bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id",
    "unk": "unknown_token_id", "end_of_turn": "eot_token_id",
}  # fmt: skip
_NO_MERGE = (b"\xff", b"\xff")
"""A merge that never happens, because no text has these bytes. llama.cpp wants at least one."""


def why_not(tokenizer: Tokenizer) -> str | None:
    """Return in a sentence why llama.cpp can't have this tokenizer; None if it can."""
    if isinstance(tokenizer, CharTokenizer):
        if tokenizer.role_id("unk") is not None:
            return (
                f"the tokenizer's unk is {tokenizer.roles.unk!r}, for characters outside its "
                f"vocabulary: llama.cpp drops those instead; train a tokenizer without unk"
            )
    elif isinstance(tokenizer, BPETokenizer):
        if tokenizer.pattern not in PRE:
            return (
                f"the tokenizer's pattern is {tokenizer.pattern!r}: llama.cpp has its patterns "
                f"built in, and of ours exactly {', '.join(map(repr, PRE))}; train with one of "
                f"these"
            )
        if why := _why_not_merged_alike(tokenizer):
            return why
        is_nfc = tokenizer.normalizer == NFC
        if part := tokenizer.further_part(finds_ordinary=True, is_normalized=is_nfc):
            return f"{part}: llama.cpp has no such part; train with a tokenizer without it"
        for token in tokenizer.added_tokens:
            if is_nfc and not unicodedata.is_normalized("NFC", token.name):
                return (
                    f"the tokenizer's added token {token.name!r} is not in NFC: llama.cpp would "
                    f"not find it in text that is; give it another name"
                )
        for name in tokenizer.special_tokens:
            if tokenizer.pattern == "llama3" and tokenizer.pretokenize(name) == [name]:
                return (
                    f"the tokenizer's special token {name!r} is a whole pre-token: llama.cpp "
                    f"would find it in ordinary text; give it a name such as '<|{name}|>'"
                )
    else:
        return f"the tokenizer is a {type(tokenizer).__name__}: llama.cpp has no such kind"
    for a, b in permutations(tokenizer.added_tokens, 2):
        if can_overlap(a.name, b.name) and a.name not in b.name and b.name not in a.name:
            return (
                f"the tokenizer's added tokens {a.name!r} and {b.name!r} overlap: llama.cpp takes "
                f"the longer one first, and gptfast the first one; give one another name"
            )
    return None


def _why_not_merged_alike(tokenizer: BPETokenizer) -> str | None:
    """Return in a sentence why llama.cpp would merge otherwise; None if it would not.

    It looks up a whole pre-token first with those names in `_WHOLE_FIRST`, and only then.
    """
    if tokenizer.model.byte_fallback:
        return "the tokenizer merges characters, not bytes: expected a byte-level one"
    if missing := [byte for byte in range(256) if bytes([byte]) not in tokenizer.ranks]:
        return f"the tokenizer has no token for the byte 0x{missing[0]:02x}: llama.cpp needs all"
    made = {left + right for left, right in tokenizer.merges}
    lost = [token for token in tokenizer.ranks if len(token) > 1 and token not in made]
    if lost and tokenizer.model.ignore_merges != (PRE[tokenizer.pattern] in _WHOLE_FIRST):
        does, not_ = ("never", "") if tokenizer.model.ignore_merges else ("always", " not")
        return (
            f"no merges make the token {spelling_of(lost[0])!r}, which is{not_} found as a whole: "
            f"llama.cpp {does} finds such tokens with the pattern {tokenizer.pattern!r}"
        )
    return None


def to_metadata(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the keys of a tokenizer that `why_not` accepts.

    A tokenizer without an end token gets one, whose id is `n_vocab`: without it, llama.cpp would
    end a text at id 11.
    """
    added = list(tokenizer.added_tokens)
    # A token of the usual name may be there without the role.
    named = tokenizer.special_tokens.get(END_OF_TEXT, tokenizer.n_vocab)
    eos = named if tokenizer.eot_token is None else tokenizer.eot_token
    own_bos = tokenizer.role_id("bos")
    if eos == tokenizer.n_vocab:
        added.append(AddedToken(END_OF_TEXT, eos))
    by_id = {token.id: token for token in added}
    spelled = _spellings(tokenizer)
    tokens, types = [], []
    for token_id in range(max(tokenizer.n_vocab, eos + 1)):
        if token_id in by_id:
            tokens.append(by_id[token_id].name)
            types.append(CONTROL if by_id[token_id].special else USER_DEFINED)
        elif token_id in spelled:
            tokens.append(spelled[token_id])
            types.append(NORMAL)
        else:
            tokens.append(f"[UNUSED{token_id}]")
            types.append(UNUSED)
    found: dict[str, Any] = {
        "model": "gpt2",
        "pre": PRE[tokenizer.pattern] if isinstance(tokenizer, BPETokenizer) else "gpt-2",
        "tokens": tokens,
        "token_type": types,
        "merges": [" ".join(pair) for pair in merges_to_json(_merges(tokenizer) or [_NO_MERGE])],
        "bos_token_id": eos if own_bos is None else own_bos,
        "eos_token_id": eos,
        "padding_token_id": eos,
    }
    for role in ("pad", "unk", "end_of_turn"):
        if (role_id := tokenizer.role_id(role)) is not None:
            found[_ROLE_KEYS[role]] = role_id
    found["add_bos_token"] = False
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


def _spellings(tokenizer: Tokenizer) -> dict[int, str]:
    """Return the ordinary tokens in the byte alphabet, by their ids."""
    if isinstance(tokenizer, BPETokenizer):
        return {i: spelling_of(token) for token, i in tokenizer.ranks.items()}
    ids = range(tokenizer.n_vocab - len(tokenizer.special_tokens))
    return {i: spelling_of(tokenizer.token_bytes(i)) for i in ids}


def _merges(tokenizer: Tokenizer) -> list[tuple[bytes, bytes]]:
    """Return the merges; for a CharTokenizer, those that make each character of its bytes.

    They never join two characters, because the first byte of a character is no other's second.
    """
    if isinstance(tokenizer, BPETokenizer):
        return tokenizer.merges
    characters = [token.encode() for token in map(tokenizer.id_to_token, range(tokenizer.n_vocab))
                  if token is not None and len(token) == 1]  # fmt: skip
    pairs = [(char[:n], char[n : n + 1]) for char in characters for n in range(1, len(char))]
    return list(dict.fromkeys(pairs))


def from_metadata(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer of a GGUF file, without a normalizer, as llama.cpp has none.

    Raises UserError if gptfast has no such tokenizer.
    """
    keys = {k.removeprefix("tokenizer.ggml."): v for k, v in metadata.items()}
    if keys.get("model") != "gpt2":
        raise UserError(
            f"tokenizer.ggml.model is {keys.get('model')!r}: gptfast reads 'gpt2', byte-level BPE"
        )
    if keys.get("pre") not in _PATTERNS:
        raise UserError(
            f"tokenizer.ggml.pre is {keys.get('pre')!r}: gptfast reads "
            f"{', '.join(map(repr, _PATTERNS))}"
        )
    tokens = _list(keys, "tokens", str)
    types = _list(keys, "token_type", int)
    merges = [merge.split(" ", 1) for merge in _list(keys, "merges", str)]
    if len(types) != len(tokens):
        raise UserError(
            f"tokenizer.ggml.token_type has {len(types)} elements for {len(tokens)} tokens"
        )
    added = []
    for i, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in (UNKNOWN, CONTROL, USER_DEFINED):
            added.append(AddedToken(token, i, kind != USER_DEFINED))
        elif kind not in (NORMAL, UNUSED):
            raise UserError(f"tokenizer.ggml.token_type of token {i} is {kind}: expected 1 to 5")
    ordinary = {t: i for i, t in enumerate(tokens) if types[i] == NORMAL}
    roles = _roles(keys, {token.id: token.name for token in added})
    chars = [_char(token) for token in ordinary]
    if None not in chars:
        return _characters([c for c in chars if c is not None], ordinary, added, roles)
    data = {
        "added_tokens": [token.to_json() for token in added],
        "pre_tokenizer": pattern_to_json(_PATTERNS[keys["pre"]]),
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "ignore_merges": keys["pre"] in _WHOLE_FIRST,
            "vocab": ordinary | {token.name: token.id for token in added},
            "merges": [] if merges == merges_to_json([_NO_MERGE]) else merges,
        },
    }
    return BPETokenizer.from_json(data, roles)


def _char(token: str) -> str | None:
    """Return the character that a token in the byte alphabet stands for; None if it is none."""
    spelled = token_if_spelled(token)
    try:
        char = "" if spelled is None else spelled.decode()
    except UnicodeDecodeError:
        return None
    return char if len(char) == 1 else None


def _characters(
    chars: list[str], ids: dict[str, int], added: list[AddedToken], roles: Roles
) -> CharTokenizer:
    wanted = list(range(len(chars) + len(added)))
    if [*ids.values(), *(token.id for token in added)] != wanted or not all(
        token.special for token in added
    ):
        raise UserError(
            "tokenizer.ggml.tokens are single characters, but not followed by special tokens alone"
        )
    return CharTokenizer(chars, [token.name for token in added], roles)


def _list(keys: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    value = keys.get(key)
    if not isinstance(value, list) or not all(type(element) is kind for element in value):
        raise UserError(f"tokenizer.ggml.{key} is missing, or no list of {kind.__name__}")
    return value


def _roles(keys: Mapping[str, Any], names: Mapping[int, str]) -> Roles:
    found: dict[str, Any] = {}
    for role, key in _ROLE_KEYS.items():
        token_id = keys.get(key)
        if token_id is not None and token_id not in names:
            raise UserError(f"tokenizer.ggml.{key} is {token_id!r}: no special token has this id")
        found[role] = None if token_id is None else names[token_id]
    return Roles(**found)
