"""Hugging Face's `tokenizer.json`: read it, check it, write it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any, TypeVar

from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer.checks import as_path, shorten
from gptfast.tokenizer.foreign import what_no_json_is
from gptfast.tokenizer.patterns import pattern_from_json, pattern_to_json

T = TypeVar("T")


def tokenizer_json_path(folder_or_file: str | Path) -> Path:
    """Return the path, or `tokenizer.json` in it if it is a folder. Raises MissingFileError."""
    path = as_path("folder_or_file", folder_or_file)
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        raise MissingFileError(
            f"there is no {path}: expected a tokenizer.json or a folder that has one"
        )
    return path


def read_tokenizer_json(path: Path) -> dict[str, Any]:
    """Return the contents of a `tokenizer.json`. Raises UserError unless it is a JSON object."""
    contents = path.read_bytes()
    try:
        data = json.loads(contents)
    except (ValueError, RecursionError) as error:
        if what := what_no_json_is(contents):
            raise UserError(f"{path} is {what}") from None
        raise UserError(f"{path} is not valid JSON ({error}): save the tokenizer again") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a JSON {type(data).__name__}: expected an object")
    return data


def read_hf(path: str | Path) -> dict[str, Any]:
    """Return a `tokenizer.json`, or its equivalent of a folder's `vocab.json` and `merges.txt`.

    Raises MissingFileError if there is neither, UserError if a file holds something else.
    """
    folder = as_path("path", path)
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if (folder / "tokenizer.json").is_file() or not (vocab.is_file() and merges.is_file()):
        return read_tokenizer_json(tokenizer_json_path(path))
    ids = read_tokenizer_json(vocab)
    # The first line is a comment with the version.
    try:
        lines = merges.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{merges} is not UTF-8 text (byte {error.start}): expected a merge on each line"
        ) from None
    pairs = [line for line in lines if line and not line.startswith("#version")]
    end_of_text = {"content": "<|endoftext|>", "id": ids.get("<|endoftext|>")}
    return {
        "added_tokens": [end_of_text] if "<|endoftext|>" in ids else [],
        "pre_tokenizer": pattern_to_json("gpt2"),
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": ids, "merges": pairs},
    }


def field(data: dict[str, Any], path: str, kind: type[T]) -> T:
    """Return, for instance, `data["model"]["type"]` for `model.type`.

    Raises UserError unless it is a `kind`.
    """
    value: Any = data
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, kind):
        raise UserError(f"{path} is {shorten(value)}: expected a {kind.__name__}")
    return value


def added_tokens_json(special_tokens: dict[str, int]) -> list[dict[str, Any]]:
    """Return the special tokens as `tokenizer.json` lists them."""
    return [
        {
            "id": token_id,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name, token_id in special_tokens.items()
    ]


def special_tokens_from_json(data: dict[str, Any]) -> dict[str, int]:
    """Return the names and ids in `added_tokens`. Raises UserError if one is missing."""
    special_tokens = {}
    for token in field(data, "added_tokens", list):
        match token:
            case {"content": str(name), "id": int(token_id)}:
                special_tokens[name] = token_id
            case _:
                raise UserError(f"added_tokens has {shorten(token)}: expected a content and an id")
    return special_tokens


def byte_level_alphabet() -> dict[int, str]:
    """Return the printable character that stands for each byte in a byte-level `tokenizer.json`.

    GPT-2's table: a byte that is a visible Latin-1 character stands for itself. The other 68 bytes
    (control characters, spaces, the soft hyphen) are, in order, the characters from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in visible]
    stands_for_itself = {byte: chr(byte) for byte in visible}
    return stands_for_itself | {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}


_BYTE_TO_CHAR = byte_level_alphabet()
_CHAR_TO_BYTE = {char: byte for byte, char in _BYTE_TO_CHAR.items()}


def _to_alphabet(token: bytes) -> str:
    # Latin-1 decodes each byte to the code point of the same value. A loop over the bytes takes
    # four times as long, and the fingerprint of every tokenizer needs this.
    return token.decode("latin-1").translate(_BYTE_TO_CHAR)


def _from_alphabet(token: str) -> bytes:
    try:
        return bytes(_CHAR_TO_BYTE[char] for char in token)
    except KeyError as error:
        raise UserError(
            f"the token {token!r} has the character {error.args[0]!r}, which stands for no byte: "
            f"expected a byte-level vocabulary"
        ) from None


def spelling_of(token: bytes) -> str:
    """Return a token as a byte-level `tokenizer.json` spells it, such as `Ġthe` for ` the`."""
    return _to_alphabet(token)


def token_spelled(spelling: str) -> bytes | None:
    """Return the token that has this spelling; None if a character stands for no byte."""
    return _from_alphabet(spelling) if set(spelling) <= _CHAR_TO_BYTE.keys() else None


def bpe_to_json(
    ranks: dict[bytes, int],
    merges: Sequence[tuple[bytes, bytes]],
    pattern: str,
    special_tokens: dict[str, int],
) -> dict[str, Any]:
    """Return the `tokenizer.json` of a byte-level BPE; see `BPETokenizer` for the arguments."""
    vocab = {_to_alphabet(token): token_id for token, token_id in ranks.items()}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens_json(special_tokens),
        "normalizer": None,
        "pre_tokenizer": pattern_to_json(pattern),
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab | special_tokens,
            "merges": merges_to_json(merges),
        },
    }


def check_spelling(special_tokens: Iterable[str], is_token: Callable[[bytes], bool]) -> None:
    """Raise UserError if a special and an ordinary token have the same spelling in the file."""
    for name in special_tokens:
        token = token_spelled(name)
        if token is not None and is_token(token):
            raise UserError(
                f"the special token {name!r} and the token {token!r} have the same spelling in "
                f"tokenizer.json: choose another name"
            )


def merges_to_json(merges: Sequence[tuple[bytes, bytes]]) -> list[list[str]]:
    """Return merges as `tokenizer.json` lists them, in the byte-level alphabet."""
    spelled = {token: _to_alphabet(token) for token in set(chain.from_iterable(merges))}
    return [[spelled[left], spelled[right]] for left, right in merges]


def bpe_from_json(data: dict[str, Any]) -> tuple[dict[bytes, int], list[Any], str, dict[str, int]]:
    """Return (ranks, merges as in `merges_to_json`, pattern, special tokens) of a byte-level BPE.

    Raises UserError if the file needs anything that `BPETokenizer` doesn't implement.
    """
    model = field(data, "model", dict)
    wanted: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("model.type", model.get("type"), ("BPE",)),
        ("model.dropout", model.get("dropout"), (None, 0.0)),
        ("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), (None, "")),
        ("model.end_of_word_suffix", model.get("end_of_word_suffix"), (None, "")),
        ("normalizer", data.get("normalizer"), (None,)),
        ("truncation", data.get("truncation"), (None,)),
        ("padding", data.get("padding"), (None,)),
        ("post_processor.type", _type_of(data.get("post_processor")), (None, "ByteLevel")),
        ("decoder.type", _type_of(data.get("decoder")), ("ByteLevel",)),
    ]
    for name, value, allowed in wanted:
        if value not in allowed:
            raise UserError(f"{name} is {shorten(value)}: expected {allowed[0]!r}")
    special_tokens = special_tokens_from_json(data)
    vocab = field(data, "model.vocab", dict)
    _check_added_tokens(data["added_tokens"], vocab)
    ranks = {_from_alphabet(t): i for t, i in vocab.items() if t not in special_tokens}
    # Hugging Face wrote each merge as one string before 2024. The alphabet has no space, so this is
    # unambiguous.
    merges = [m.split(" ") if isinstance(m, str) else m for m in field(data, "model.merges", list)]
    return ranks, merges, pattern_from_json(data.get("pre_tokenizer")), special_tokens


def _check_added_tokens(added_tokens: list[dict[str, Any]], vocab: dict[str, Any]) -> None:
    """Raise UserError if Hugging Face would match one differently, or give it another id."""
    next_id = len(vocab)
    for token in added_tokens:
        name, given = token["content"], token["id"]
        for key in ("lstrip", "rstrip", "single_word"):
            if token.get(key):
                raise UserError(f"added_tokens has {name!r} with {key}: expected {key} to be false")
        wanted = vocab.get(name, next_id)
        next_id += name not in vocab
        if given != wanted:
            raise UserError(
                f"added_tokens has {name!r} with the id {given}: expected {wanted}, its id in "
                f"model.vocab or the next free one"
            )
    # Hugging Face searches for the tokens that are not normalized first. Without a normalizer, the
    # order matters only for tokens that can overlap.
    first = [t["content"] for t in added_tokens if not t.get("normalized")]
    then = [t["content"] for t in added_tokens if t.get("normalized")]
    for a, b in product(first, then):
        if _can_overlap(a, b):
            raise UserError(
                f"added_tokens has {a!r} and {b!r}, which overlap, and only one is normalized: "
                f"expected both to be, or neither"
            )


def _can_overlap(a: str, b: str) -> bool:
    lengths = range(1, min(len(a), len(b)))
    return a in b or b in a or any(a.endswith(b[:n]) or b.endswith(a[:n]) for n in lengths)


def _type_of(component: Any) -> Any:
    return component.get("type") if isinstance(component, dict) else component
