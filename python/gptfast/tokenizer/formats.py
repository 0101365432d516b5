"""Hugging Face's `tokenizer.json`: read it, check it, write it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer.added import AddedToken, check_found_alike
from gptfast.tokenizer.checks import as_path, shorten
from gptfast.tokenizer.foreign import what_lies_there, what_no_json_is
from gptfast.tokenizer.patterns import pattern_from_json, pattern_to_json

T = TypeVar("T")


def tokenizer_json_path(folder_or_file: str | Path) -> Path:
    """Return the path, or `tokenizer.json` in it if it is a folder. Raises MissingFileError."""
    path = as_path("folder_or_file", folder_or_file)
    folder, path = path, path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        what = what_lies_there(folder) if folder.is_dir() else None
        why = f"; {what}" if what else ": expected a tokenizer.json or a folder that has one"
        raise MissingFileError(f"there is no {path}{why}")
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


def add_named(data: dict[str, Any], names: Iterable[str | None]) -> dict[str, Any]:
    """Return a `tokenizer.json` in which those of the names that have an id are added tokens.

    A folder's other files may name tokens that its vocabulary has, but its added tokens lack.
    `transformers` adds them as special ones. Those that ordinary text needs stay as they are.
    """
    added = data.get("added_tokens", [])
    match data:
        case {"model": {"vocab": dict(vocab)} as model} if isinstance(added, list):
            known = {token.get("content") for token in added if isinstance(token, dict)}
            wanted = {name for name in names if name is not None and name in vocab}
            new = sorted(wanted - known - _ordinary(model))
            tokens = [AddedToken(name, vocab[name]).to_json() for name in new]
            return data | {"added_tokens": added + tokens}
        case _:
            return data


def _ordinary(model: dict[str, Any]) -> set[str]:
    """Return the spellings of single bytes or characters, and of the tokens that merges make."""
    if model.get("type") != "BPE":
        return {token for token in model["vocab"] if len(token) == 1}
    merges = model.get("merges")
    pairs = map(_pair, merges if isinstance(merges, list) else [])
    return {"".join(pair) for pair in pairs if _is_pair(pair)} | set(_CHAR_TO_BYTE)


def simplified(data: dict[str, Any]) -> dict[str, Any]:
    """Return a `tokenizer.json` without the parts that change no ids.

    Saved truncation and padding are dropped with a warning, because `encode` does neither.
    """
    data = dict(data)
    for key in ("truncation", "padding"):
        if data.get(key) is not None:
            warnings.warn(
                f"the tokenizer.json asks for {key}, which is dropped: `encode` returns all ids of "
                f"a text, and no others",
                stacklevel=2,
            )
            data[key] = None
    for key, members in _SEQUENCES.items():
        if key in data:
            data[key] = _unwrapped(data[key], members)
    return data


_SEQUENCES = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
"""The key of the members of a Sequence, by the part of the file."""


def _unwrapped(part: Any, members: str) -> Any:
    """Return a part of the file without Sequences of less than two, and templates without tokens.

    A Sequence in a Sequence becomes a part of the outer one.
    """
    match part:
        case {"type": "Sequence"} if isinstance(part.get(members), list):
            flat: list[Any] = []
            for member in part[members]:
                inner = _unwrapped(member, members)
                is_sequence = isinstance(inner, dict) and inner.get("type") == "Sequence"
                flat += inner[members] if is_sequence else [] if inner is None else [inner]
            return part | {members: flat} if len(flat) > 1 else (flat[0] if flat else None)
        case {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]}:
            return None
        case _:
            return part


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
    added_tokens: Sequence[AddedToken],
) -> dict[str, Any]:
    """Return the `tokenizer.json` of a byte-level BPE; see `BPETokenizer` for the arguments."""
    vocab = {_to_alphabet(token): token_id for token, token_id in ranks.items()}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token.to_json() for token in added_tokens],
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
            "vocab": vocab | {token.name: token.id for token in added_tokens},
            "merges": merges_to_json(merges),
        },
    }


def check_spelling(tokens: Iterable[AddedToken], ranks: Mapping[bytes, int]) -> None:
    """Raise UserError if an added and an ordinary token have the same spelling in the file.

    They may if they are the same bytes with the same id, and the added token isn't special. One id
    can't have two spellings.
    """
    for token in tokens:
        name = token.name
        spelled = token_spelled(name)
        is_same = spelled == name.encode() and ranks.get(spelled) == token.id and not token.special
        if spelled != name.encode() and ranks.get(name.encode()) == token.id:
            raise UserError(
                f"the added token {name!r} has the id {token.id} of an ordinary token, which is "
                f"spelled {spelling_of(name.encode())!r} in tokenizer.json: expected another id"
            )
        if spelled in ranks and not is_same:
            raise UserError(
                f"the special token {name!r} and the token {spelled!r} have the same spelling in "
                f"tokenizer.json: choose another name"
            )


def merges_to_json(merges: Sequence[tuple[bytes, bytes]]) -> list[list[str]]:
    """Return merges as `tokenizer.json` lists them, in the byte-level alphabet."""
    spelled = {token: _to_alphabet(token) for token in set(chain.from_iterable(merges))}
    return [[spelled[left], spelled[right]] for left, right in merges]


def bpe_from_json(
    data: dict[str, Any],
) -> tuple[dict[bytes, int], list[Any], str, list[AddedToken]]:
    """Return (ranks, merges as in `merges_to_json`, pattern, added tokens) of a byte-level BPE.

    Raises UserError if the file needs anything that `BPETokenizer` doesn't implement.
    """
    data = {"added_tokens": []} | simplified(data)
    model = field(data, "model", dict)
    wanted: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("model.type", model.get("type"), ("BPE",)),
        ("model.byte_fallback", model.get("byte_fallback"), (False, None)),
        ("model.dropout", model.get("dropout"), (None, 0.0)),
        ("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), (None, "")),
        ("model.end_of_word_suffix", model.get("end_of_word_suffix"), (None, "")),
        ("normalizer", data.get("normalizer"), (None,)),
        ("decoder.type", _decoder_type(data.get("decoder")), ("ByteLevel",)),
    ]
    for name, value, allowed in wanted:
        if value not in allowed:
            raise UserError(f"{name} is {shorten(value)}: expected {allowed[0]!r}")
    post_processor = _type_of(data.get("post_processor"))
    if post_processor not in (None, "ByteLevel"):
        raise UserError(
            f"post_processor is a {post_processor}, which adds tokens around a text, while "
            f"`encode` adds none: BPETokenizer.from_hf(PATH).save(FOLDER) drops it"
        )
    added = [AddedToken.from_json(token) for token in field(data, "added_tokens", list)]
    vocab = field(data, "model.vocab", dict)
    merges = [_pair(merge) for merge in field(data, "model.merges", list)]
    check_found_alike(data["added_tokens"], vocab)
    ordinary = _ordinary(model)
    for token in added:
        if token.special and token.name in ordinary:
            raise UserError(
                f"added_tokens has {token.name!r} as special, but it is also a token of ordinary "
                f"text: expected special to be false, or no such entry"
            )
    names = {token.name for token in added} - ordinary
    ranks = {_from_alphabet(t): i for t, i in vocab.items() if t not in names}
    return ranks, merges, pattern_from_json(data.get("pre_tokenizer")), added


def same_merges(listed: list[Any], merges: Sequence[tuple[bytes, bytes]]) -> bool:
    """Return whether the merges that a file lists give the same ids as the merges of the ranks.

    A file may also list other pairs whose concatenation is a token. They never meet: if two
    adjacent tokens make a token, they are its pair (docs/tokenizer.md).
    """
    ours = merges_to_json(merges)
    if listed == ours:
        return True
    if not all(map(_is_pair, listed)) or len({tuple(pair) for pair in listed}) < len(listed):
        return False
    pairs, made = {(left, right) for left, right in ours}, {left + right for left, right in ours}
    is_known = all(left + right in made for left, right in listed)
    return is_known and [pair for pair in listed if tuple(pair) in pairs] == ours


def _pair(merge: Any) -> Any:
    # Hugging Face wrote each merge as one string before 2024. The alphabet has no space, so this is
    # unambiguous.
    return merge.split(" ") if isinstance(merge, str) else merge


def _is_pair(merge: Any) -> bool:
    return isinstance(merge, list) and len(merge) == 2 and all(isinstance(m, str) for m in merge)


def _decoder_type(decoder: Any) -> Any:
    match decoder:
        # ByteLevel makes one text of all tokens, so nothing is left to fuse.
        case {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Fuse"}]}:
            return "ByteLevel"
        case _:
            return _type_of(decoder)


def _type_of(component: Any) -> Any:
    return component.get("type") if isinstance(component, dict) else component
