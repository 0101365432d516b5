"""Mistral's `tekken.json`: a tiktoken vocabulary whose special tokens have the first ids."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from gptfast.errors import UserError
from gptfast.tokenizer.added import AddedToken
from gptfast.tokenizer.checks import shorten
from gptfast.tokenizer.formats import field

# The special tokens of files up to version v7, which list none.
_UNLISTED = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]",
    "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
)  # fmt: skip
# Pictures, sound and settings of a model change no ids of text.
_KEYS = {
    "config", "vocab", "special_tokens", "version", "type", "image", "multimodal", "audio",
    "model_settings_builder",
}  # fmt: skip
_CONFIG_KEYS = {
    "pattern", "num_vocab_tokens", "default_vocab_size", "default_num_special_tokens", "version",
}  # fmt: skip


def is_tekken(data: dict[str, Any]) -> bool:
    """Return whether this is the contents of a `tekken.json`."""
    match data:
        case {"config": {"pattern": _}, "vocab": [{"token_bytes": _}, *_]}:
            return True
        case _:
            return False


def from_tekken(data: dict[str, Any]) -> tuple[dict[bytes, int], str, dict[str, int]]:
    """Return (ranks, pattern, special tokens) of a `tekken.json`, as `BPETokenizer` takes them.

    Of the tokens, only as many are used as the default size of the vocabulary says. Their ids begin
    after those of the special tokens. Special tokens without a name are called `<SPECIAL_20>` by
    their id, as in mistral_common. Source: mistral_common 1.13, tokens/tokenizers/tekken.py.

    Raises UserError if the file has a part that is not known.
    """
    config = field(data, "config", dict)
    for name, keys in (("", data.keys() - _KEYS), ("config.", config.keys() - _CONFIG_KEYS)):
        for key in sorted(keys):
            raise UserError(f"{name}{key} is a part of no known tekken.json: expected none")
    n_special = field(data, "config.default_num_special_tokens", int)
    n_ordinary = field(data, "config.default_vocab_size", int) - n_special
    vocab = field(data, "vocab", list)[:n_ordinary]
    ranks = {_token(entry, rank): rank + n_special for rank, entry in enumerate(vocab)}
    if len(ranks) != n_ordinary:
        raise UserError(f"vocab has {len(ranks)} different tokens: expected {n_ordinary}")
    return ranks, field(data, "config.pattern", str), _special_tokens(data, n_special)


def _token(entry: Any, rank: int) -> bytes:
    """Return the bytes of an entry of the vocabulary. Raises UserError unless it has this rank."""
    match entry:
        case {"rank": int(given), "token_bytes": str(encoded)} if given == rank:
            try:
                return base64.b64decode(encoded, validate=True)
            except binascii.Error:
                pass
    raise UserError(f"vocab has {shorten(entry)}: expected token_bytes in base64 and rank {rank}")


def _special_tokens(data: dict[str, Any], n_special: int) -> dict[str, int]:
    listed = data.get("special_tokens")
    if listed is None:
        names = dict(zip(_UNLISTED, range(n_special), strict=False))
    else:
        tokens = [AddedToken.from_json(_as_added(token)) for token in listed]
        names = {token.name: token.id for token in tokens}
    taken = set(names.values())
    if len(taken) < len(listed or names) or not taken <= set(range(n_special)):
        raise UserError(f"special_tokens have ranks that are not different and below {n_special}")
    unnamed = {f"<SPECIAL_{i}>": i for i in range(n_special) if i not in taken}
    return dict(sorted((names | unnamed).items(), key=lambda item: item[1]))


def _as_added(token: Any) -> dict[str, Any]:
    match token:
        case {"rank": rank, "token_str": name}:
            return {"content": name, "id": rank}
        case _:
            raise UserError(f"special_tokens has {shorten(token)}: expected a rank and token_str")
