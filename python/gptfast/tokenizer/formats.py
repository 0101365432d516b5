"""Hugging Face's `tokenizer.json`: read it, check it, write it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer.added import AddedToken, check_ids_alike
from gptfast.tokenizer.bpe_model import BPEModel
from gptfast.tokenizer.checks import as_path, shorten
from gptfast.tokenizer.decoders import is_byte_level as decodes_bytes
from gptfast.tokenizer.foreign import what_lies_there, what_no_json_is
from gptfast.tokenizer.patterns import has_byte_level, pattern_from_json, pattern_to_json
from gptfast.tokenizer.spelling import spelling_of, token_if_spelled, token_spelled

T = TypeVar("T")
_BYTE_LEVEL = BPEModel()


def tokenizer_json_path(folder_or_file: str | Path) -> Path:
    """Return the path; if it is a folder, that of its `tokenizer.json`, or else its `tekken.json`.

    Raises MissingFileError if there is none.
    """
    folder = path = as_path("folder_or_file", folder_or_file)
    if folder.is_dir():
        path = folder / "tokenizer.json"
        if not path.exists() and (folder / "tekken.json").is_file():
            path = folder / "tekken.json"
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
            new = sorted(
                wanted - known - _ordinary(model, has_byte_level(data.get("pre_tokenizer")))
            )
            tokens = [AddedToken(name, vocab[name]).to_json() for name in new]
            return data | {"added_tokens": added + tokens}
        case _:
            return data


def _ordinary(model: dict[str, Any], is_byte_level: bool) -> set[str]:
    """Return the spellings of single bytes or characters, and of the tokens that merges make."""
    merges = model.get("merges") if model.get("type") == "BPE" else None
    pairs = map(_pair, merges if isinstance(merges, list) else [])
    merged = {"".join(pair) for pair in pairs if _is_pair(pair)}
    return merged | {
        token
        for token in model["vocab"]
        if len(token) == 1 and (not is_byte_level or token_if_spelled(token) is not None)
    }


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


def bpe_to_json(
    ranks: dict[bytes, int],
    merges: Sequence[tuple[bytes, bytes]],
    pattern: str,
    added_tokens: Sequence[AddedToken],
    model: BPEModel,
    *,
    normalizer: dict[str, Any] | None = None,
    template: dict[str, Any] | None = None,
    decoder: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the `tokenizer.json` of a BPE; see `BPETokenizer` for the arguments."""
    vocab = {spelling_of(token, model): token_id for token, token_id in ranks.items()}
    if not _need_no_place(vocab, added_tokens, model):
        vocab |= {token.name: token.id for token in added_tokens}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token.to_json() for token in added_tokens],
        "normalizer": normalizer,
        "pre_tokenizer": pattern_to_json(pattern, byte_level=not model.byte_fallback),
        "post_processor": template,
        "decoder": _BYTE_LEVEL_DECODER if decoder is None else decoder,
        "model": model.to_json()
        | {
            "vocab": vocab,
            "merges": merges_to_json(merges, model),
        },
    }


def _need_no_place(
    vocab: dict[str, int], added_tokens: Sequence[AddedToken], model: BPEModel
) -> bool:
    """Return whether added tokens should be, and can be, left out of the vocabulary of a file.

    They should if ordinary text could become one of them there: as a single byte or character, or
    as a whole pre-token. They can if theirs are the next free ids, and none is unk_token.
    """
    new = [token for token in added_tokens if token.name not in vocab]
    is_found = any(
        token_if_spelled(token.name, model) is not None
        and (len(token.name) == 1 or model.ignore_merges)
        for token in new
    )
    has_unk = any(token.name == model.unk_token for token in new)
    next_ids = list(range(len(vocab), len(vocab) + len(new)))
    return is_found and not has_unk and [token.id for token in new] == next_ids


_BYTE_LEVEL_DECODER = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


def check_spelling(
    tokens: Iterable[AddedToken], ranks: Mapping[bytes, int], model: BPEModel
) -> None:
    """Raise UserError if an added and an ordinary token have the same spelling in the file.

    They may if they are the same bytes with the same id, and the added token isn't special. One id
    can't have two spellings.
    """
    for token in tokens:
        name = token.name
        spelled = token_if_spelled(name, model)
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


def merges_to_json(
    merges: Sequence[tuple[bytes, bytes]], model: BPEModel = _BYTE_LEVEL
) -> list[list[str]]:
    """Return merges as `tokenizer.json` lists them."""
    spelled = {token: spelling_of(token, model) for token in set(chain.from_iterable(merges))}
    return [[spelled[left], spelled[right]] for left, right in merges]


def bpe_from_json(
    data: dict[str, Any],
) -> tuple[dict[bytes, int], list[tuple[bytes, bytes]], BPEModel, str, list[AddedToken]]:
    """Return (ranks, merges, model, pattern, added tokens) of a BPE.

    Raises UserError if the file needs anything that `BPETokenizer` doesn't implement.
    """
    data = {"added_tokens": []} | simplified(data)
    fields = field(data, "model", dict)
    pre_tokenizer, decoder = data.get("pre_tokenizer"), data.get("decoder")
    is_byte_level = has_byte_level(pre_tokenizer)
    model = BPEModel.from_json(fields, is_byte_level=is_byte_level)
    if is_byte_level != decodes_bytes(decoder) or decoder is None:
        kind = "a ByteLevel" if is_byte_level else "one that decodes spellings"
        raise UserError(f"decoder is {shorten(decoder)}: expected {kind}, as the pre_tokenizer has")
    added = [AddedToken.from_json(token) for token in field(data, "added_tokens", list)]
    vocab = field(data, "model.vocab", dict)
    check_ids_alike(data["added_tokens"], vocab)
    ordinary = _ordinary(fields, is_byte_level)
    for token in added:
        if token.special and token.name in ordinary:
            raise UserError(
                f"added_tokens has {token.name!r} as special, but it is also a token of ordinary "
                f"text: expected special to be false, or no such entry"
            )
    names = {token.name for token in added} - ordinary
    ranks = {token_spelled(token, model): i for token, i in vocab.items() if token not in names}
    merges = _merges(field(data, "model.merges", list), model)
    pattern = "none" if pre_tokenizer is None else pattern_from_json(pre_tokenizer)
    return ranks, merges, model, pattern, added


def _merges(listed: list[Any], model: BPEModel) -> list[tuple[bytes, bytes]]:
    """Return the merges that a file lists. Raises UserError if one is no pair of tokens."""
    merges = []
    bytes_of: dict[str, bytes] = {}  # most tokens are in several merges
    for merge in map(_pair, listed):
        if not _is_pair(merge):
            raise UserError(f"model.merges has {shorten(merge)}: expected a pair of tokens")
        for token in merge:
            if token not in bytes_of:
                bytes_of[token] = token_spelled(token, model)
        merges.append((bytes_of[merge[0]], bytes_of[merge[1]]))
    return merges


def _pair(merge: Any) -> Any:
    # Hugging Face wrote each merge as one string before 2024, of tokens without a space.
    return merge.split(" ") if isinstance(merge, str) else merge


def _is_pair(merge: Any) -> bool:
    return isinstance(merge, list) and len(merge) == 2 and all(isinstance(m, str) for m in merge)
