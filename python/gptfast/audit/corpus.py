"""The val and the train text of a model: those of its run, or of another corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gptfast.data.prepare import prepare
from gptfast.errors import UserError
from gptfast.tokenizer import Tokenizer
from gptfast.train.reading import Say, reading
from gptfast.train.record import read_record

MOST_TRAIN_TOKENS = 4_000_000
"""Of a longer train text, the end is taken."""


def read_corpus(
    folder: Path, tokenizer: Tokenizer, corpus: str | None, say: Say
) -> tuple[list[list[int]], str]:
    """Return the ids of each val document, and the train text or its end.

    folder: of the model, whose run names the corpus and the share of val unless `corpus` is given.
    Raises UserError if neither names one, and as `prepare` does.
    """
    record = read_record(folder) if (folder / "run.json").is_file() else {"config": {}}
    of_run = record["config"]
    name = corpus or of_run.get("corpus")
    if name is None:
        raise UserError(f"{folder} does not say which corpus its model learned from: give --corpus")
    options = reading(folder, name, {}, say)
    share = of_run.get("val_fraction", 0.1)
    data = prepare(name, str(folder), tokenizer.n_vocab, share, say, options)
    learned = record.get("data", {}).get("corpus_sha256")
    if corpus is None and learned not in (None, data.report.corpus_sha256):
        say(
            f"{name} has changed since the model was trained on it, so its val part may have "
            f"been trained on"
        )
    n_train = len(data.train)
    if n_train > MOST_TRAIN_TOKENS:
        say(f"comparing with the last {MOST_TRAIN_TOKENS:,} of {n_train:,} train tokens")
    train = data.train[np.arange(max(0, n_train - MOST_TRAIN_TOKENS), n_train)]
    val = data.val[np.arange(len(data.val))].astype(np.int64)
    ends = np.flatnonzero(val == tokenizer.eot_token)
    documents = [part[part != tokenizer.eot_token] for part in np.split(val, ends)]
    return [document.tolist() for document in documents], tokenizer.decode(train)
