"""Supervised fine-tuning: learn to answer from examples of conversations.

Only the answers and the tokens that end them are targets. Conversations share rows, and none sees
another (data/packing.py). The loss is that of pre-training, over fewer targets.

Legend: B batch, T time, V vocabulary, N counted targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from torch.nn import functional as F

from gptfast.cli.units import count, number
from gptfast.data.batch import IGNORED, Batch
from gptfast.data.chats import Chats, open_chats, shared_prompts
from gptfast.data.conversations import Conversation
from gptfast.data.packing import PackedRows, packed_source
from gptfast.data.shuffled import fingerprint_of
from gptfast.errors import UserError
from gptfast.finetune.chat_start import open_chat_start
from gptfast.finetune.settings.supervised import SFTConfig
from gptfast.model.base import LanguageModel
from gptfast.sample.generate import stream
from gptfast.sample.request import Request
from gptfast.tokenizer import Tokenizer
from gptfast.tokenizer.chat import ChatTemplate
from gptfast.train.display import WriteSample
from gptfast.train.distributed import World
from gptfast.train.evaluate import sums_over
from gptfast.train.objective import Evaluation, NextToken, Task

LOGITS = 1 << 26
"""Most logits of an evaluation at once: 256 MiB in float32."""
SAMPLE_TOKENS = 150


def prepare(config: SFTConfig, console: Console) -> Task:
    """Read the conversations. Raises UserError or MissingFileError if they can't be trained on."""
    start = open_chat_start(config, console)
    assert start.chat_template is not None
    if start.config.architecture != "gpt":
        raise UserError(
            f"the model in {config.model} is a {start.config.architecture!r}: sft needs a GPT, in "
            f"which conversations of a row don't see each other"
        )
    template = ChatTemplate(start.chat_template, start.tokenizer)
    train, val = open_chats(
        config.data, config.val_data, config.val_fraction, config.seed, template,
        start.config.block_size,
    )  # fmt: skip
    made_of = (start.sha256, start.tokenizer.fingerprint, train.rows.sha256, val.rows.sha256)
    task = start.task(
        packed_source(train.rows, config.batch_size, config.seed, fingerprint_of(*made_of)),
        AnswerTokens(config, val.rows, start.config.vocab_size),
        start.new_model(balances=True),
        [*train.notes("train on"), *val.notes("validate on"), describe_length(config, train)],
        data={"train": train.record, "val": val.record},
    )
    return replace(
        task,
        examine=lambda: shared_prompts(train, val),
        write_sample=answer_writer(template, val.conversations, config.seed),
    )


def describe_length(config: SFTConfig, train: Chats) -> str:
    """Return a line about the length of the run, in epochs."""
    epochs = number(config.max_steps * config.batch_size / len(train.rows))
    return (
        f"{count(config.max_steps, 'step')} of {count(config.batch_size, 'row')}: {epochs} epochs"
    )


# ---- evaluation ----------------------------------------------------------------------------------


class AnswerTokens(NextToken):
    """Next-token prediction, with the loss and the share of right guesses over val answers."""

    def __init__(self, config: SFTConfig, val: PackedRows, vocab_size: int) -> None:
        self.config, self.val = config, val
        self.rows_at_once = max(1, LOGITS // (val.block_size * vocab_size))

    def evaluate(self, model: LanguageModel, world: World, *, whole: bool) -> Evaluation:
        """Measure the mean loss in nats per token of the val answers, and how many are guessed."""
        batches = self.val.batches(
            min(self.rows_at_once, self.config.windows_at_a_time(world.size)),
            None if whole else self.config.eval_windows,
        )
        total, right, n = sums_over(model, batches, answer_sums, world)
        loss, accuracy = total / n, right / n
        summary = f"val loss {loss:.4f} nats/answer token, {accuracy:.1%} of them guessed right"
        return Evaluation(loss, {"val_accuracy": accuracy}, summary)


def answer_sums(model: LanguageModel, batch: Batch) -> tuple[float, float, float]:
    """Return over the counted targets: the sum of losses, the right guesses, the number."""
    is_counted_BT = batch.targets_BT != IGNORED
    targets_N = batch.targets_BT[is_counted_BT]
    logits_NV = model(batch.ids_BT, None, batch.cu_seqlens)[is_counted_BT].float()
    loss = F.cross_entropy(logits_NV, targets_N, reduction="sum").item()
    return loss, float((logits_NV.argmax(-1) == targets_N).sum()), float(len(targets_N))


def answer_writer(
    template: ChatTemplate, conversations: Sequence[Conversation], seed: int
) -> WriteSample:
    """Return what shows a held-out prompt and the model's answer, the same prompt each time."""
    asked = conversations[0].prompt
    shown = asked[-1]["content"] if asked else ""

    def write(model: LanguageModel, tokenizer: Tokenizer) -> str:
        try:
            prompt, stops = template.encode(asked), tokenizer.stop_tokens
            request = Request(prompt, SAMPLE_TOKENS, seed=seed, stop_tokens=stops)
            answer = "".join(stream(model, tokenizer, request))
        except UserError as error:  # a sample must not end a run
            answer = f"(no sample: {error})"
        return f"> {shown}\n{answer}"

    return write
