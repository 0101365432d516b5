"""Split text into train and val without leakage, and measure the remaining overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gptfast.errors import UserError
from gptfast.tokenizer.rust import shared_windows, thread_count

OVERLAP_WINDOW = 50
"""Number of consecutive bytes that must match for val text to count as found in train."""


def split_documents(
    documents: Sequence[str], val_fraction: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split documents into (train, val), where val is the end of the corpus.

    The split falls between two documents, where val's share of the characters is nearest to
    `val_fraction`. If that share is off by more than a factor of 2 (a single document, or a huge
    last one), the split cuts a document at exactly `val_fraction`.
    """
    check_fraction(val_fraction)
    # starts[i] is the number of characters before document i; the last entry is the total.
    starts = np.cumsum([0, *map(len, documents)])
    size = int(starts[-1])
    shares = 1 - starts[1:-1] / size  # val's share if it begins with document 1, 2, ...
    if len(shares):
        nearest = int(np.abs(shares - val_fraction).argmin())
        if val_fraction / 2 <= shares[nearest] <= val_fraction * 2:
            return tuple(documents[: nearest + 1]), tuple(documents[nearest + 1 :])
    cut = min(int(size * (1.0 - val_fraction)), size - 1)
    inside = int(np.searchsorted(starts, cut, side="right")) - 1
    text, at = documents[inside], cut - int(starts[inside])
    return (*documents[:inside], text[:at]), (text[at:], *documents[inside + 1 :])


def check_fraction(val_fraction: float) -> None:
    """Raise UserError unless val_fraction is between 0 and 1."""
    if not 0.0 < val_fraction < 1.0:
        raise UserError(f"val_fraction is {val_fraction}: expected a share between 0 and 1")


def overlap(train: Sequence[str], val: Sequence[str], n_threads: int | None = None) -> float:
    """Return the share of val's 50-byte windows that occur, byte for byte, anywhere in train.

    A window is inside a single document. Windows are compared by a 64-bit hash: for 100 MB of train
    and 10 MB of val, the chance of a single false match is below 1 in 10,000.
    """
    found, total = shared_windows(train, val, OVERLAP_WINDOW, thread_count(n_threads))
    return found / total if total else 0.0
