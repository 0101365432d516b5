"""Hash every document to find duplicates and to split train from val."""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptfast.data.documents import Block, Documents, ReadReport
from gptfast.errors import UserError
from gptfast.system.files import write_atomically
from gptfast.tokenizer.rust import hash_documents

HASH_BYTES = 16
"""Size of a hash. A collision among 10 billion documents has a chance below 1 in 10^18."""

DUPLICATE, TRAIN, VAL, NOT_ENCODED = 0, 1, 2, 3
"""The routes of a document. Only encoding shows which one can't be encoded."""

# NumPy parses the header of an array with Python's parser. If two threads do this at the same time,
# Python 3.11 sometimes raises a SystemError ("AST constructor recursion depth mismatch").
_LOADING = threading.Lock()


def new_hash() -> hashlib.blake2b:
    """Return an empty hash, to be updated with the bytes of a document."""
    return hashlib.blake2b(digest_size=HASH_BYTES)


def hashes_of(documents: Documents) -> NDArray[np.uint8]:
    """Return the hash of each document, (documents, HASH_BYTES)."""
    hashes = hash_documents((documents.data, documents.starts, documents.ends))
    return np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES)


@dataclass(frozen=True)
class Hashes:
    """The hashes of the documents in some files, in order, and a report of how they were read."""

    hashes: NDArray[np.uint8]
    """(documents, HASH_BYTES)"""
    sizes: NDArray[np.int64]
    """(documents,), in bytes of UTF-8."""
    report: ReadReport

    @classmethod
    def of(cls, blocks: Iterable[Block | Documents], report: ReadReport) -> Hashes:
        """Hash the documents in `blocks`. Their reader updates `report`."""
        hashes, sizes = bytearray(), array("q")
        digest, size = new_hash(), 0
        for block in blocks:
            if isinstance(block, Documents):
                hashes += hashes_of(block).data
                sizes.extend(block.sizes.tolist())
                continue
            digest.update(block.data)
            size += len(block.data)
            if block.ends_document:
                hashes += digest.digest()
                sizes.append(size)
                digest, size = new_hash(), 0
        return cls(
            np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES),
            np.array(sizes, np.int64),
            report,
        )

    def save(self, path: Path) -> None:
        """Write the hashes atomically to a file that `load` reads."""

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, hashes=self.hashes, sizes=self.sizes, report=self.report.to_json())

        write_atomically(path, write)

    @classmethod
    def load(cls, path: Path) -> Hashes:
        """Read a file that `save` wrote."""
        with _LOADING, np.load(path) as file:
            report = ReadReport.from_json(str(file["report"]))
            return cls(file["hashes"], file["sizes"], report)


def route(hashes: NDArray[np.uint8], val_fraction: float) -> NDArray[np.uint8]:
    """Return the route of each document, DUPLICATE, TRAIN or VAL, as uint8 (documents,).

    hashes: (documents, HASH_BYTES). The first of several equal documents is kept. A document is val
    if the first 8 bytes of its hash, as a fraction of 2^64, are below val_fraction. The split of a
    document therefore depends only on the document, and is stable when documents are added.
    """
    first, second = hashes.view(">u8").astype(np.uint64).T
    in_val = first < np.uint64(int(val_fraction * 2**64))
    routes = np.where(in_val, VAL, TRAIN).astype(np.uint8)
    order = np.lexsort((second, first))  # stable: equal hashes stay in order
    first, second = first[order], second[order]
    equals_previous = (first[1:] == first[:-1]) & (second[1:] == second[:-1])
    routes[order[1:][equals_previous]] = DUPLICATE
    return routes


def check_sides(hashes: NDArray[np.uint8], routes: NDArray[np.uint8], val_fraction: float) -> None:
    """Raise UserError, with a val_fraction that works, if all documents are train, or all val.

    val_fraction: 0 if no document is to be val. hashes, routes: as for `route`. Documents
    that can't be encoded don't count.
    """
    kept = (routes == TRAIN) | (routes == VAL)
    n_val, n = int((routes == VAL).sum()), int(kept.sum())
    if n == 0 and len(routes):
        raise UserError("no document could be encoded: expected text that suits the tokenizer")
    if n == 0:
        raise UserError("there is no text in the files: expected at least two documents")
    if n_val < n and (n_val or val_fraction == 0):
        return
    found = f"of {n:,} different documents {n_val:,} are in val with val_fraction {val_fraction}"
    if n == 1:
        raise UserError(
            f"{found}: expected several documents; name the text between them with "
            rf"--document-separator (such as '\n\n\n'), or let `gptfast train --corpus` split a "
            f"single one"
        )
    firsts = np.sort(hashes[kept].view(">u8")[:, 0].astype(np.uint64)).tolist()
    works, n_works = _fraction_for_val(firsts, 1 if n_val == 0 else n - 1)
    extreme = "smallest" if n_val == 0 else "largest"
    raise UserError(
        f"{found}, because a document's hash decides: the {extreme} fraction that works is "
        f"--val-fraction {works}, which puts {n_works:,} of {n:,} in val; `gptfast train "
        f"--corpus` splits within documents instead"
    )


def _fraction_for_val(firsts: list[int], n: int) -> tuple[str, int]:
    """Return a val_fraction of few digits for which `n` documents are val, and their number.

    firsts: the first 8 bytes of the hashes, sorted. If some are equal, more than `n` may be val.
    """
    for digits in range(2, 18):
        numerator = firsts[n - 1] * 10**digits // 2**64 + 1
        fraction = numerator / 10**digits
        n_val = sum(first < int(fraction * 2**64) for first in firsts)
        if n_val == n or digits == 17:
            break
    return f"{fraction:.{digits}f}".rstrip("0"), n_val
