"""The text on which a model is calibrated and measured: that of its run, or a given one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptfast.data.batch import Batch
from gptfast.data.dataset import Dataset
from gptfast.data.loader import EvalWindows
from gptfast.data.prepare import prepare
from gptfast.errors import UserError
from gptfast.tokenizer import Tokenizer
from gptfast.train.reading import Say, reading
from gptfast.train.record import read_record


@dataclass(frozen=True)
class Corpora:
    """Corpora that are encoded and split: the train parts calibrate, the val parts measure."""

    parts: list[Dataset]

    @property
    def names(self) -> str:
        """The names of the corpora in one line."""
        return ", ".join(part.report.corpus for part in self.parts)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of val text per token."""
        n_bytes = sum(part.report.val_bytes for part in self.parts)
        return n_bytes / sum(part.report.val_tokens for part in self.parts)

    def windows(
        self, split: Literal["train", "val"], block_size: int, n_tokens: int | None, batch_size: int
    ) -> list[Batch]:
        """Return windows of the val or train parts that do not overlap, in batches.

        n_tokens: about how many tokens they have in all, spread evenly; None for all of the text. A
        text that is shorter than block_size is one window.
        """
        most = None if n_tokens is None else max(1, n_tokens // (block_size * len(self.parts)))
        batches: list[Batch] = []
        for part in self.parts:
            tokens = part.val if split == "val" else part.train
            length = max(1, min(block_size, len(tokens) - 1))
            batches += EvalWindows(tokens, length, batch_size, most)
        return batches


def find_corpora(
    folder: Path, tokenizer: Tokenizer, texts: Sequence[str], say: Say
) -> Corpora | str:
    """Return the given texts or those of the folder's run, or a clause why there are none.

    The end of each text is its val part, a tenth as usual or what the run had. Raises UserError or
    MissingFileError for given texts that can't be used.
    """
    record = read_record(folder) if (folder / "run.json").is_file() else None
    if texts:
        fraction = 0.1
        return Corpora([_prepared(name, folder, tokenizer, fraction, say) for name in texts])
    if record is None or "further_data" not in record:
        return f"{folder} has no run.json that names a corpus"
    reports = [record["data"], *record["further_data"]]
    fraction = record["config"]["val_fraction"]
    try:
        parts = [_prepared(r["corpus"], folder, tokenizer, fraction, say) for r in reports]
    except UserError as error:
        return f"the corpus of the run can't be read ({error})"
    for part, report in zip(parts, reports, strict=True):
        if part.report.corpus_sha256 != report["corpus_sha256"]:
            return (
                f"{report['corpus']} has changed since the model was trained on it, so its val "
                f"part may have been trained on"
            )
    return Corpora(parts)


def _prepared(name: str, folder: Path, tokenizer: Tokenizer, fraction: float, say: Say) -> Dataset:
    options = reading(folder, name, {}, say)
    return prepare(name, str(folder), tokenizer.n_vocab, fraction, say, options)
