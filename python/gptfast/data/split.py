"""Split text into train and val without leakage, and measure the remaining overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gptfast.errors import UserError

OVERLAP_WINDOW = 50
"""Number of consecutive bytes that must match for val text to count as found in train."""
_BATCH_BYTES = 1 << 20


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


def overlap(train: Sequence[str], val: Sequence[str]) -> float:
    """Return the share of val's 50-byte windows that occur, byte for byte, anywhere in train.

    Windows are compared by a 64-bit hash: for 100 MB of train and 10 MB of val, the chance of a
    single false match is below 1 in 10,000.
    """
    val_hashes = np.concatenate([_window_hashes(documents) for documents in _batches(val)])
    if not len(val_hashes):
        return 0.0
    distinct, counts = np.unique(val_hashes, return_counts=True)
    found = np.zeros(len(distinct), dtype=bool)
    # A few bits of the hashes quickly rule out most windows of train.
    few_bits = np.uint64((1 << 24) - 1)
    may_be_val = np.zeros(1 << 24, dtype=bool)
    may_be_val[distinct & few_bits] = True
    for documents in _batches(train):
        hashes = _window_hashes(documents)
        hashes = hashes[may_be_val[hashes & few_bits]]
        places = np.searchsorted(distinct, hashes).clip(max=len(distinct) - 1)
        found[places[distinct[places] == hashes]] = True
    return float(counts[found].sum() / counts.sum())


def _batches(documents: Sequence[str]) -> Iterator[list[bytes]]:
    """Yield all documents in order, in batches of about _BATCH_BYTES."""
    batch, n_bytes = [], 0
    for document in documents:
        batch.append(document.encode())
        n_bytes += len(batch[-1])
        if n_bytes >= _BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    yield batch


def _window_hashes(documents: list[bytes]) -> NDArray[np.uint64]:
    """Return the hash of every window of OVERLAP_WINDOW bytes inside a single document.

    Hashes of 2-byte windows combine two of 1 byte, those of 4 bytes two of 2, and so on; 50 =
    32 + 16 + 2.
    """
    data = np.frombuffer(b"".join(documents), dtype=np.uint8)
    if len(data) < OVERLAP_WINDOW:
        return np.empty(0, dtype=np.uint64)
    of_length = {1: data.astype(np.uint64)}
    length = 1
    while 2 * length <= OVERLAP_WINDOW:
        of_length[2 * length] = _join(of_length[length], of_length[length], length)
        length *= 2
    hashes, done = of_length[length], length
    while done < OVERLAP_WINDOW:
        length = max(n for n in of_length if n <= OVERLAP_WINDOW - done)
        hashes = _join(hashes, of_length[length], done)
        done += length
    hashes = hashes[: len(data) - OVERLAP_WINDOW + 1]
    is_within = np.ones(len(hashes), dtype=bool)
    border = 0
    for document in documents[:-1]:
        border += len(document)  # windows that begin just before the border cross it
        is_within[max(border - OVERLAP_WINDOW + 1, 0) : border] = False
    return hashes[is_within]


def _join(left: NDArray[np.uint64], right: NDArray[np.uint64], shift: int) -> NDArray[np.uint64]:
    """Hash the window at i with the window at i + shift (splitmix64's mixing function)."""
    n = len(right) - shift
    mixed = left[:n] * np.uint64(0x9E3779B97F4A7C15) + right[shift:]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    joined: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return joined
