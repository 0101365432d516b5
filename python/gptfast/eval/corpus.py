"""The loss of a model on a corpus, as training measures it at its end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptfast.data.dataset import TokenSource
from gptfast.data.loader import EvalWindows
from gptfast.data.prepare import prepare
from gptfast.errors import UserError
from gptfast.eval.config import CorpusConfig
from gptfast.eval.report import Section
from gptfast.eval.text import about_unknown
from gptfast.model import LanguageModel
from gptfast.tokenizer import Tokenizer
from gptfast.train.evaluate import bits_per_byte, evaluate
from gptfast.train.reading import Say, reading

_IDS_AT_A_TIME = 2**22


def measure_corpus(
    model: LanguageModel,
    tokenizer: Tokenizer,
    folder: Path,
    corpus: str,
    wanted: CorpusConfig,
    batch_size: int,
    say: Say,
) -> Section:
    """Return the table of `--corpus`. The corpus is prepared with the tokenizer in `folder`.

    Raises UserError if the loss is not finite.
    """
    read = reading(folder, corpus, wanted.given, say)
    data = prepare(corpus, str(folder), tokenizer.n_vocab, wanted.val_fraction, say, read)
    separator = tokenizer.eot_token if wanted.mask_documents else None
    if wanted.mask_documents and separator is None:
        raise UserError("mask_documents: the tokenizer has no end-of-text token that separates")
    report = data.report
    parts = {
        "train": (data.train, report.train_bytes),
        "val": (data.val, report.val_bytes),
    }
    names = ("train", "val") if wanted.part == "all" else (wanted.part,)
    nats, n_predicted, n_bytes, n_tokens = 0.0, 0, 0, 0
    for name in names:
        tokens, size = parts[name]
        block_size = max(1, min(model.config.block_size, len(tokens) - 1))
        windows = EvalWindows(tokens, block_size, batch_size, None, separator)
        nats += evaluate(model, windows) * (len(tokens) - 1)
        n_predicted += len(tokens) - 1
        n_bytes += size
        n_tokens += len(tokens)
    loss = nats / n_predicted
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss}, though the model's weights are finite: its logits overflow, so "
            f"the weights are too large; take those of another step or run"
        )
    bits = bits_per_byte(loss, n_bytes / n_tokens)
    part = "whole" if wanted.part == "all" else f"{wanted.part} part"
    rows = (
        ("loss, nats/token", f"{loss:.4f}"),
        ("bits/byte", f"{bits:.3f}"),
        ("tokens predicted", f"{n_predicted:,}"),
    )
    result = {
        "corpus": report.corpus,
        "part": wanted.part,
        "nats_per_token": loss,
        "bits_per_byte": bits,
        "tokens": n_predicted,
    }
    notes = (
        "windows of the model's context, which do not overlap, as in training",
        *about_unknown(_pieces([parts[name][0] for name in names]), tokenizer),
    )
    title = f"the {part} of {report.corpus}"
    return Section("corpus", title, ("measure", "value"), rows, result, notes)


def _pieces(sources: Iterable[TokenSource]) -> Iterator[NDArray[Any]]:
    """Yield all ids of some sources, which may be larger than the memory."""
    for source in sources:
        for start in range(0, len(source), _IDS_AT_A_TIME):
            yield source[np.arange(start, min(start + _IDS_AT_A_TIME, len(source)))]
