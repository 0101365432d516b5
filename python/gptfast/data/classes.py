"""Texts with the name of their class, for classification.

Legend: B texts, T time.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptfast.data.batch import IGNORED, Batch
from gptfast.data.conversations import errors_at, read_records
from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import Tokenizer


@dataclass(frozen=True)
class Labelled:
    """A text and the name of its class."""

    text: str
    label: str
    line: int
    """Line of the file, from 1."""


@dataclass(frozen=True)
class EncodedText:
    """The ids of a text, and the index of its class."""

    ids: list[int]
    label: int


def read_labelled(path: Path) -> list[Labelled]:
    """Read texts and labels: JSON lines or a JSON list of {"text", "label"}, or CSV with a header.

    A label is a text or a whole number. Raises MissingFileError, and UserError, which names the
    file and the line, for a record without a text or a label.
    """
    records = _read_csv(path) if path.suffix.lower() == ".csv" else read_records(path)
    texts = []
    for line, record in records:
        text, label = record.get("text"), record.get("label")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{path}:{line}: there is no text: expected one under 'text'")
        if not isinstance(label, (str, int)) or isinstance(label, bool) or label == "":
            raise UserError(
                f"{path}:{line}: there is no label: expected a name or a whole number under 'label'"
            )
        texts.append(Labelled(text, str(label), line))
    if not texts:
        raise UserError(f"{path} holds no texts: expected lines such as {_EXAMPLE}")
    return texts


_EXAMPLE = '{"text": "a fine film", "label": "good"}'


def _read_csv(path: Path) -> list[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise MissingFileError(f"no file at {path}: expected texts with their labels")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            return [(rows.line_num, row) for row in rows]
    except (UnicodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8: {error}") from error


def encode_labelled(
    texts: Sequence[Labelled], labels: Sequence[str], tokenizer: Tokenizer, block_size: int
) -> tuple[list[EncodedText], int]:
    """Encode the texts that fit into block_size ids; return them and the number of the others.

    Raises UserError with the line of a text that has no ids.
    """
    encoded = []
    for one in texts:
        with errors_at(f"line {one.line} of the texts"):
            ids = tokenizer.encode_ordinary(one.text)
        encoded.append(EncodedText(ids, labels.index(one.label)))
    fit = [one for one in encoded if len(one.ids) <= block_size]
    return fit, len(encoded) - len(fit)


def class_batch(texts: Sequence[EncodedText], indices: Sequence[int]) -> Batch:
    """Return texts as a batch, padded on the right with 0, which causal attention hides.

    extras: "length", the number of ids of each text, and "label", the index of its class, both
    int64 (B,). No next token is predicted, so all targets are IGNORED.
    """
    # In NumPy: PyTorch would start a second set of OpenMP threads in the thread of the loader.
    chosen = [texts[i] for i in indices]
    lengths_B = np.array([len(one.ids) for one in chosen])
    ids_BT = np.zeros((len(chosen), lengths_B.max()), np.int64)
    for row, one in zip(ids_BT, chosen, strict=True):
        row[: len(one.ids)] = one.ids
    labels_B = torch.tensor([one.label for one in chosen])
    extras = {"length": torch.from_numpy(lengths_B), "label": labels_B}
    targets_BT = np.full_like(ids_BT, IGNORED)
    return Batch(torch.from_numpy(ids_BT), torch.from_numpy(targets_BT), extras=extras)
