"""Open the model folder that a run with chats starts from, and make it a chat model if need be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from gptfast.errors import UserError
from gptfast.finetune.settings.common import FinetuneConfig
from gptfast.finetune.start import Start, open_start
from gptfast.model.adapter_folder import weights_sha256
from gptfast.model.folder import load_float_model, save_description, save_weights
from gptfast.model.resize import add_tokens
from gptfast.system.files import write_folder_atomically
from gptfast.tokenizer import Tokenizer, load_tokenizer
from gptfast.tokenizer.chat import ChatTemplate, read_chat_template, write_chat_template
from gptfast.tokenizer.chat_remarks import remarks
from gptfast.tokenizer.chat_template import END_OF_TURN, ROLE_TOKENS, standard_template
from gptfast.tokenizer.roles import END_OF_TEXT, with_names
from gptfast.train.checkpoint import has_started
from gptfast.train.init_from import stored_config
from gptfast.train.record import read_record

RECORD = "made_from.json"
"""A file in the folder of a base, which says what the base was made from."""
VERSION = 1
"""The way in which a base is made: its new rows (model/resize.py) and its template. Add 1 if one of
them changes."""


def base_folder(out: Path) -> Path:
    """Return the folder of the base that a run makes, beside its own."""
    return out.with_name(f"{out.name}-base")


def open_chat_start(config: FinetuneConfig, console: Console) -> Start:
    """Return what a run with chats starts from, with a chat template.

    What is weak about a folder's template is printed. A folder without one gets gptfast's. If its
    tokenizer lacks the role tokens, too, the run starts from a base of its own, `<out>-base`: the
    same model with these tokens. An adapter's vocabulary is then its base's. Raises
    MissingFileError or UserError, for instance for a template that marks no answer.
    """
    base = base_folder(config.out)
    if has_started(config):
        is_its_base = _made_from(base) is not None and (
            weights_sha256(base) == read_record(config.out)["start_sha256"]
        )
        return open_start(replace(config, model=base) if is_its_base else config)
    stored_config(config.model)  # raises if there is no model to train
    tokenizer = load_tokenizer(config.model)
    if (source := read_chat_template(config.model)) is not None:
        try:
            notes = remarks(ChatTemplate(source, tokenizer))
        except UserError as error:
            raise UserError(f"{config.model}: {error}") from None
        for note in notes:
            console.print(f"note: {note}", markup=False)
        return open_start(config)
    if not _missing(tokenizer):
        console.print(f"{config.model} has role tokens, but no chat template: gptfast's is used")
        template = standard_template(tokenizer)
        return replace(open_start(config), tokenizer=_ending(tokenizer), chat_template=template)
    _make_base(config.model, base, console)
    return open_start(replace(config, model=base))


def _missing(tokenizer: Tokenizer) -> list[str]:
    """Return the names of the tokens that a chat needs and the tokenizer lacks."""
    border = [] if tokenizer.roles.eos is not None else [END_OF_TEXT]
    return [name for name in (*border, *ROLE_TOKENS) if name not in tokenizer.special_tokens]


def _ending(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with the role tokens, of which the last ends a turn."""
    if tokenizer.special_tokens[END_OF_TURN] in tokenizer.stop_tokens:
        return tokenizer
    return tokenizer.from_json(tokenizer.to_json(), with_names(tokenizer.roles, [END_OF_TURN]))


def _make_base(folder: Path, base: Path, console: Console) -> None:
    """Write a base of the model in `folder`, unless it is there. Raises UserError for another."""
    tokenizer = load_tokenizer(folder)
    made_from = {
        "sha256": weights_sha256(folder), "tokenizer": tokenizer.fingerprint, "version": VERSION,
    }  # fmt: skip
    if base.exists():
        if _made_from(base) != made_from:
            raise UserError(
                f"{base} is not the base that gptfast makes of {folder}: remove it, or choose "
                f"another --out"
            )
        console.print(f"{folder} has no chat template: starting from {base}, made from it")
        return
    model, tokenizer = load_float_model(folder, "fine-tuning")
    names = _missing(tokenizer)
    grown, tokenizer = add_tokens(model, tokenizer, names)
    tokenizer = _ending(tokenizer)

    def write(path: Path) -> None:
        save_description(path, grown.config, tokenizer)
        save_weights(grown, path / "model.safetensors")
        write_chat_template(path, standard_template(tokenizer))
        content = {"folder": str(folder), "new_tokens": names, "made_from": made_from}
        (path / RECORD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    write_folder_atomically(base, write)
    console.print(
        f"{folder} has no chat template: made {base}, the same model with {', '.join(names)}"
    )


def _made_from(base: Path) -> object:
    """Return the record of what a base was made from; None for a folder that is no such base."""
    try:
        return json.loads((base / RECORD).read_text(encoding="utf-8"))["made_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
