"""Open what the methods that learn from pairs of answers start with."""

from __future__ import annotations

from rich.console import Console

from gptfast.data.pairs import PairSource, open_pairs
from gptfast.finetune.chat_start import open_chat_start
from gptfast.finetune.settings.dpo import DPOConfig
from gptfast.finetune.settings.reward import RewardConfig
from gptfast.finetune.start import Start
from gptfast.tokenizer.chat import ChatTemplate


def open_pair_start(
    config: DPOConfig | RewardConfig, console: Console
) -> tuple[Start, PairSource, str]:
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
