"""Pre-training: predict the next token of a mixture of corpora."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gptfast.cli.units import count, number
from gptfast.data.batch import Batch
from gptfast.data.dataset import DataReport, Dataset, Mixture, is_prepared
from gptfast.data.loader import CorpusState, EvalWindows, Loader, check_length
from gptfast.data.prepare import prepare
from gptfast.errors import UserError
from gptfast.model import build_model
from gptfast.model.base import LanguageModel
from gptfast.tokenizer.chat import read_chat_template
from gptfast.train.checkpoint import has_started
from gptfast.train.config import TrainConfig
from gptfast.train.display import WriteSample
from gptfast.train.distributed import World
from gptfast.train.evaluate import bits_per_byte, evaluate
from gptfast.train.loop import Result
from gptfast.train.objective import Evaluation, NextToken, Task
from gptfast.train.run import run


def pretrain(
    config: TrainConfig,
    command: str = "",
    console: Console | None = None,
    write_sample: WriteSample | None = None,
) -> Result | None:
    """Train a model on corpora. `run` describes the arguments, the result and the errors."""
    return run(
        config, prepare_pretraining, command=command, console=console, write_sample=write_sample
    )


def prepare_pretraining(config: TrainConfig, console: Console) -> Task:
    """Prepare the data. Raises UserError or MissingFileError if it can't be trained on."""
    init_from = None if has_started(config) else config.init_from
    if init_from is not None:
        from gptfast.train.init_from import check_init, check_tokenizer

        check_init(config, init_from)
    record: dict[str, Any] = {}
    if config.init_from is not None or config.tokenizer not in ("bpe", "char"):
        from gptfast.train.init_from import started_from

        record = started_from(config)
    data = prepare_corpora(config, console)
    if init_from is not None:
        check_tokenizer(data, init_from)
    n_vocab = data.tokenizer.n_vocab
    return Task(
        source=CorpusSource(config, data),
        objective=Pretraining(config, data),
        tokenizer=data.tokenizer,
        new_model=lambda device: new_model(config, n_vocab, device),
        chat_template=chat_template(config),
        record=record
        | {
            "data": asdict(data.parts[0].report),
            "further_data": [asdict(part.report) for part in data.parts[1:]],
            "shares": list(data.weights),
        },
        notes=[*(describe(part.report) for part in data.parts), describe_length(config, data)],
        examine=lambda: examine(data),
    )


def prepare_corpora(config: TrainConfig, console: Console) -> Mixture:
    """Prepare all corpora of the configuration with the tokenizer of the first one."""
    given = config.tokenizer
    if given not in ("bpe", "char") and has_started(config):
        given = str(config.out)  # the run's own copy
    parts: list[Dataset] = []
    for corpus in (config.corpus, *config.mix_corpora):
        tokenizer = str(parts[0].folder) if parts else given
        if parts and is_prepared(Path(corpus)):
            tokenizer = "bpe"  # use its own; Mixture.of raises if the tokenizers differ
        parts.append(
            prepare(
                corpus,
                tokenizer,
                config.model.vocab_size,
                config.val_fraction,
                console.print,
                config.to_read(),
            )
        )
    return Mixture.of(parts, config.corpus_weights)


# ---- the model -----------------------------------------------------------------------------------


def new_model(config: TrainConfig, n_vocab: int, device: torch.device) -> LanguageModel:
    """Return the initial model, with new weights or with the weights of init_from.

    A run that resumes gets new weights, which those of its checkpoint replace.
    """
    model = build_model(config.model_config(n_vocab))
    if config.init_from is not None and not has_started(config):
        from gptfast.train.init_from import copy_weights

        copy_weights(config.init_from, model)
    return model.to(device)


def chat_template(config: TrainConfig) -> str | None:
    """Return the chat template of init_from, if it has one. A run that resumes has a copy."""
    folder = config.out if has_started(config) else config.init_from
    return None if folder is None else read_chat_template(folder)


# ---- batches and loss ----------------------------------------------------------------------------


class CorpusSource:
    """Shuffled windows of a mixture's train tokens."""

    def __init__(self, config: TrainConfig, data: Mixture) -> None:
        """Raise UserError if a corpus is too short, or has no token that separates documents."""
        for part in data.parts:
            name = f"train part of {part.report.corpus}"
            check_length(part.train, config.model.block_size, name)
        self.data = data
        self.loader = Loader(
            [part.train for part in data.parts],
            config.model.block_size,
            config.batch_size,
            config.seed,
            data.weights,
            document_separator(config, data),
        )

    @property
    def fingerprint(self) -> str:
        """A checksum of the corpora and the tokenizer."""
        made_of = [part.report.corpus_sha256 for part in self.data.parts]
        content = json.dumps([*made_of, self.data.tokenizer.fingerprint])
        return hashlib.sha256(content.encode()).hexdigest()

    def next_batch(self) -> Batch:
        """Return the next windows of all corpora."""
        return self.loader.next_batch()

    def example(self) -> Batch:
        """Return windows of the first corpus."""
        return self.loader.example()

    def state_dict(self) -> list[CorpusState]:
        """Return the position in each corpus."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Go to a saved position."""
        self.loader.load_state_dict(state)


class Pretraining(NextToken):
    """Next-token prediction, with the val loss over windows of each corpus."""

    def __init__(self, config: TrainConfig, data: Mixture) -> None:
        """Raise UserError if a val part is shorter than one window."""
        for part in data.parts:
            name = f"val part of {part.report.corpus}"
            check_length(part.val, config.model.block_size, name, _larger_fraction(config, part))
        self.config, self.data = config, data
        self.separator = document_separator(config, data)

    def evaluate(self, model: LanguageModel, world: World, *, whole: bool) -> Evaluation:
        """Measure the val loss of each corpus, and their mean by the mixture's weights."""
        config = self.config
        losses = [
            evaluate(
                model,
                EvalWindows(
                    part.val,
                    config.model.block_size,
                    config.windows_at_a_time(world.size),
                    None if whole else config.eval_windows,
                    self.separator,
                ),
                world,
            )
            for part in self.data.parts
        ]
        loss = self.data.mean(losses)
        bits = bits_per_byte(loss, self.data.val_bytes_per_token)
        measured: dict[str, Any] = {"val_bits_per_byte": bits}
        each = ""
        if len(losses) > 1:
            measured["val_losses"] = losses
            each = f" ({', '.join(f'{x:.4f}' for x in losses)})"
        summary = f"val loss {loss:.4f}{each} nats/token, {bits:.3f} bits/byte"
        return Evaluation(loss, measured, summary)


def _larger_fraction(config: TrainConfig, part: Dataset) -> str:
    """Return advice for a val part shorter than one window: a val_fraction that is large enough."""
    n_documents = part.report.train_documents + part.report.val_documents
    # Between documents, the cut may be at half of the fraction; tokens differ in length.
    needed = (2.2 if n_documents > 1 else 1.1) * (config.model.block_size + 1)
    fraction = math.ceil(100 * needed / (len(part.train) + len(part.val))) / 100
    if is_prepared(part.folder) or not config.val_fraction < fraction <= 0.5:
        return ""
    return f", or a larger --val-fraction, such as {fraction:g}"


def document_separator(config: TrainConfig, data: Mixture) -> int | None:
    """Return the id that separates documents, or None if documents may see each other.

    Raises UserError if the tokenizer has no such id.
    """
    if not config.mask_documents:
        return None
    if data.tokenizer.eot_token is None:
        raise UserError(
            "mask_documents: the tokenizer has no end-of-text token that separates documents; "
            "give --no-mask-documents or a BPE tokenizer"
        )
    return data.tokenizer.eot_token


# ---- what is printed -----------------------------------------------------------------------------


def describe(report: DataReport) -> str:
    """Return a one-line description of the corpus."""
    return (
        f"corpus {report.corpus}: train on {report.train_bytes:,} bytes ({report.train_tokens:,} "
        f"tokens, {count(report.train_documents, 'document')}), validate on {report.val_bytes:,} "
        f"bytes ({count(report.val_documents, 'document')}; {report.overlap:.2%} of it occurs in "
        f"train)"
    )


def describe_length(config: TrainConfig, data: Mixture) -> str:
    """Return a one-line description of the length of the run, in tokens and epochs."""
    tokens = config.max_steps * config.batch_size * config.model.block_size
    epochs = [
        number(tokens * share / part.report.train_tokens)
        for share, part in zip(data.weights, data.parts, strict=True)
    ]
    return (
        f"{count(config.max_steps, 'step')} of {count(config.batch_size, 'window')}: {tokens:,} "
        f"tokens, {' and '.join(epochs)} epochs"
    )


def examine(data: Mixture) -> Iterator[str]:
    """Report how much of each corpus's val text other corpora train on."""
    if len(data.parts) == 1:
        return
    from gptfast.data.leakage import from_the_others

    for part, share in zip(data.parts, from_the_others(data), strict=True):
        yield (
            f"{share:.2%} of the val text of {part.report.corpus} occurs in the train parts of "
            f"the others (estimated from samples)"
        )
