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

from gptfast.data.documents import Block, ReadReport
from gptfast.system.files import write_atomically

HASH_BYTES = 16
"""Size of a hash. A collision among 10 billion documents has a chance below 1 in 10^18."""

DUPLICATE, TRAIN, VAL = 0, 1, 2
"""The routes of a document."""

# NumPy parses the header of an array with Python's parser. If two threads do this at the same time,
# Python 3.11 sometimes raises a SystemError ("AST constructor recursion depth mismatch").
_LOADING = threading.Lock()


def new_hash() -> hashlib.blake2b:
    """Return an empty hash, to be updated with the bytes of a document."""
    return hashlib.blake2b(digest_size=HASH_BYTES)


@dataclass(frozen=True)
class Hashes:
    """The hashes of the documents in some files, in order, and a report of skipped documents."""

    hashes: NDArray[np.uint8]
    """(documents, HASH_BYTES)"""
    sizes: NDArray[np.int64]
    """(documents,), in bytes of UTF-8."""
    skipped: int
    complaints: list[str]
    """As in ReadReport."""

    @classmethod
    def of(cls, blocks: Iterable[Block], report: ReadReport) -> Hashes:
        """Hash the documents in `blocks`. Their reader updates `report`."""
        hashes, sizes = bytearray(), array("q")
        digest, size = new_hash(), 0
        for block in blocks:
            digest.update(block.data)
            size += len(block.data)
            if block.ends_document:
                hashes += digest.digest()
                sizes.append(size)
                digest, size = new_hash(), 0
        return cls(
            np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES),
            np.array(sizes, np.int64),
            report.skipped,
            report.complaints,
        )

    def save(self, path: Path) -> None:
        """Write the hashes atomically to a file that `load` reads."""

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(
                    file, hashes=self.hashes, sizes=self.sizes, skipped=self.skipped,
                    complaints=np.array(self.complaints, dtype=np.str_),
                )  # fmt: skip

        write_atomically(path, write)

    @classmethod
    def load(cls, path: Path) -> Hashes:
        """Read a file that `save` wrote."""
        with _LOADING, np.load(path) as file:
            return cls(
                file["hashes"], file["sizes"], int(file["skipped"]), file["complaints"].tolist()
            )


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
