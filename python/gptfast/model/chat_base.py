"""Make a base folder for chats of a model that lacks the role tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gptfast.errors import UserError
from gptfast.model.adapter_folder import weights_sha256
from gptfast.model.folder import load_float_model, save_description, save_weights
from gptfast.model.resize import add_tokens
from gptfast.system.files import write_folder_atomically
from gptfast.tokenizer import Tokenizer, load_tokenizer
from gptfast.tokenizer.chat import write_chat_template
from gptfast.tokenizer.chat_template import END_OF_TURN, ROLE_TOKENS, standard_template
from gptfast.tokenizer.roles import END_OF_TEXT, with_names

RECORD = "made_from.json"
"""A file in the folder of a base, which says what the base was made from."""
VERSION = 1
"""The way in which a base is made: its new rows (model/resize.py) and its template. Add 1 if one of
them changes."""


def missing_tokens(tokenizer: Tokenizer) -> list[str]:
    """Return the names of the tokens that a chat needs and the tokenizer lacks."""
    border = [] if tokenizer.roles.eos is not None else [END_OF_TEXT]
    return [name for name in (*border, *ROLE_TOKENS) if name not in tokenizer.special_tokens]


def ending_turns(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with the role tokens, of which the last ends a turn."""
    if tokenizer.special_tokens[END_OF_TURN] in tokenizer.stop_tokens:
        return tokenizer
    return tokenizer.from_json(tokenizer.to_json(), with_names(tokenizer.roles, [END_OF_TURN]))


def make_chat_base(folder: Path, base: Path) -> str:
    """Write a base of the model in `folder`, unless it is there; return a line about it.

    The same model with the role tokens and gptfast's chat template. Raises UserError if `base` is
    another one.
    """
    tokenizer = load_tokenizer(folder)
    made_from = {
        "sha256": weights_sha256(folder), "tokenizer": tokenizer.fingerprint, "version": VERSION,
    }  # fmt: skip
    if base.exists():
        if read_made_from(base) != made_from:
            raise UserError(
                f"{base} is not the base that gptfast makes of {folder}: remove it, or choose "
                f"another --out"
            )
        return f"{folder} has no chat template: starting from {base}, made from it"
    model, tokenizer = load_float_model(folder, "fine-tuning")
    names = missing_tokens(tokenizer)
    grown, tokenizer = add_tokens(model, tokenizer, names)
    tokenizer = ending_turns(tokenizer)

    def write(path: Path) -> None:
        save_description(path, grown.config, tokenizer)
        save_weights(grown, path / "model.safetensors")
        write_chat_template(path, standard_template(tokenizer))
        content = {"folder": str(folder), "new_tokens": names, "made_from": made_from}
        (path / RECORD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    write_folder_atomically(base, write)
    return f"{folder} has no chat template: made {base}, the same model with {', '.join(names)}"


def read_made_from(base: Path) -> dict[str, Any] | None:
    """Return the record of what a base was made from; None for a folder that is no such base."""
    try:
        record = json.loads((base / RECORD).read_text(encoding="utf-8"))["made_from"]
        return {name: record[name] for name in ("sha256", "tokenizer", "version")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
