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
from gptfast.tokenizer.chat_template import ROLE_TOKENS, standard_template
from gptfast.tokenizer.roles import END_OF_TEXT
from gptfast.train.checkpoint import has_started
from gptfast.train.record import read_record

RECORD = "made_from.json"
"""A file in the folder of a base, which says what the base was made from."""


def base_folder(out: Path) -> Path:
    """Return the folder of the base that a run makes, beside its own."""
    return out.with_name(f"{out.name}-base")


def open_chat_start(config: FinetuneConfig, console: Console) -> Start:
    """Return what a run with chats starts from, with a chat template.

    What is wrong with a folder's template is printed. A folder without one gets gptfast's. If its
    tokenizer lacks the role tokens, too, the run starts from a base of its own, `<out>-base`: the
    same model with these tokens. An adapter's vocabulary is then its base's. Raises
    MissingFileError or UserError.
    """
    base = base_folder(config.out)
    if has_started(config):
        is_its_base = _record(base) is not None and (
            weights_sha256(base) == read_record(config.out)["start_sha256"]
        )
        return open_start(replace(config, model=base) if is_its_base else config)
    tokenizer = load_tokenizer(config.model)
    if (source := read_chat_template(config.model)) is not None:
        for remark in remarks(ChatTemplate(source, tokenizer)):
            console.print(f"note: {remark}", markup=False)
        return open_start(config)
    if not _missing(tokenizer):
        console.print(f"{config.model} has role tokens, but no chat template: gptfast's is used")
        return replace(open_start(config), chat_template=standard_template(tokenizer))
    _make_base(config.model, base, console)
    return open_start(replace(config, model=base))


def _missing(tokenizer: Tokenizer) -> list[str]:
    """Return the names of the tokens that a chat needs and the tokenizer lacks."""
    border = [] if tokenizer.roles.eos is not None else [END_OF_TEXT]
    return [name for name in (*border, *ROLE_TOKENS) if name not in tokenizer.special_tokens]


def _make_base(folder: Path, base: Path, console: Console) -> None:
    """Write a base of the model in `folder`, unless it is there. Raises UserError for another."""
    made_from = {"folder": str(folder), "sha256": weights_sha256(folder)}
    if base.exists():
        record = _record(base)
        if record is None or record["sha256"] != made_from["sha256"]:
            raise UserError(
                f"{base} was not made from the weights in {folder}: remove it, or choose another "
                f"--out"
            )
        console.print(f"{folder} has no chat template: starting from {base}, made from it")
        return
    model, tokenizer = load_float_model(folder, "fine-tuning")
    names = _missing(tokenizer)
    grown, tokenizer = add_tokens(model, tokenizer, names)

    def write(path: Path) -> None:
        save_description(path, grown.config, tokenizer)
        save_weights(grown, path / "model.safetensors")
        write_chat_template(path, standard_template(tokenizer))
        content = {"made_from": made_from, "new_tokens": names}
        (path / RECORD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    write_folder_atomically(base, write)
    console.print(
        f"{folder} has no chat template: made {base}, the same model with {', '.join(names)}"
    )


def _record(base: Path) -> dict[str, str] | None:
    """Return what a base was made from; None for a folder that is no such base."""
    try:
        content = json.loads((base / RECORD).read_text(encoding="utf-8"))["made_from"]
        return {"folder": str(content["folder"]), "sha256": str(content["sha256"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
