"""Open the model folder that a run with chats starts from, and make it a chat model if need be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from gptfast.data.pairs import PairSource, open_pairs
from gptfast.errors import UserError
from gptfast.finetune.settings.common import FinetuneConfig
from gptfast.finetune.settings.preferences import PairConfig
from gptfast.finetune.start import Start, check_model, open_start
from gptfast.model.adapter_folder import weights_sha256
from gptfast.model.chat_base import (
    ending_turns,
    make_chat_base,
    missing_tokens,
    read_made_from,
)
from gptfast.tokenizer import load_tokenizer
from gptfast.tokenizer.chat import ChatTemplate, read_chat_template
from gptfast.tokenizer.chat_remarks import remarks
from gptfast.tokenizer.chat_template import standard_template
from gptfast.train.checkpoint import has_started
from gptfast.train.init_from import stored_config
from gptfast.train.record import read_record


def base_folder(out: Path) -> Path:
    """Return the folder of the base that a run makes, beside its own."""
    named = out if out.name.strip(".") else out.resolve()  # "." and ".." are no names
    return named.with_name(f"{named.name}-base")


def open_chat_start(config: FinetuneConfig, console: Console) -> Start:
    """Return what a run with chats starts from, with a chat template.

    What is weak about a folder's template is printed. A folder without one gets gptfast's. If its
    tokenizer lacks the role tokens, too, the run starts from a base of its own, `<out>-base`: the
    same model with these tokens. An adapter's vocabulary is then its base's. Raises
    MissingFileError or UserError, for instance for a template that marks no answer.
    """
    base = base_folder(config.out)
    if has_started(config):
        made_from, sha256 = read_made_from(base), read_record(config.out)["start_sha256"]
        if made_from is None or weights_sha256(base) != sha256:  # it started from another folder
            return open_start(config)
        check_model(config, made_from["sha256"], sha256)
        return open_start(replace(config, model=base))
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
    if not missing_tokens(tokenizer):
        console.print(f"{config.model} has role tokens, but no chat template: gptfast's is used")
        template = standard_template(tokenizer)
        return replace(
            open_start(config), tokenizer=ending_turns(tokenizer), chat_template=template
        )
    console.print(make_chat_base(config.model, base))
    return open_start(replace(config, model=base))


def open_pair_start(config: PairConfig, console: Console) -> tuple[Start, PairSource, str]:
    """Return the start, the source of pairs, and a line that describes the pairs.

    Raises UserError or MissingFileError if they can't be learned from.
    """
    start = open_chat_start(config, console)
    assert start.chat_template is not None
    template = ChatTemplate(start.chat_template, start.tokenizer)
    block_size = start.config.block_size
    pairs = open_pairs(
        config.data, config.val_data, config.val_fraction, config.seed, template, block_size
    )
    made_of = (start.sha256, start.tokenizer.fingerprint, start.chat_template)
    source = PairSource(pairs, config.batch_size, config.seed, made_of)
    return start, source, pairs.describe(block_size)
