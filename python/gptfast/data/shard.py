"""Token shards: ids on disk, after a header that identifies the tokenizer.

Layout: a 64-byte little-endian header, then `count` ids of 2 bytes (vocabulary up to 65,536) or 4.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptfast.errors import MissingFileError, UserError
from gptfast.system.files import write_atomically
from gptfast.tokenizer.base import IdArray, Tokenizer

Tokens = NDArray[np.uint16] | NDArray[np.uint32]

_MAGIC = b"GPTFAST\0"
_VERSION = 1
_SYNC_BYTES = 8 << 20
_SMALL_BATCH = 1 << 14  # ids
_HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("bytes_per_id", "<u4"),
        ("count", "<u8"),
        ("vocab_size", "<u8"),
        ("tokenizer_sha256", "V32"),
    ]
)


@dataclass(frozen=True)
class Shard:
    """The header of a file of token ids."""

    path: Path
    count: int
    """Number of ids."""
    dtype: np.dtype[np.uint16] | np.dtype[np.uint32]
    """Little-endian uint16 or uint32."""
    vocab_size: int
    """`n_vocab` of the tokenizer that made it."""
    tokenizer_sha256: str
    """`fingerprint` of the tokenizer that made it."""

    @classmethod
    def open(cls, path: str | Path) -> Shard:
        """Read a shard's header. Raises MissingFileError, or UserError if the file is damaged."""
        path = Path(path)
        if not path.is_file():
            raise MissingFileError(f"no token shard at {path}")
        with path.open("rb") as file:
            raw = file.read(_HEADER.itemsize)
        if len(raw) < _HEADER.itemsize or not raw.startswith(_MAGIC):
            raise UserError(f"{path} is not a gptfast token shard")
        header = np.frombuffer(raw, dtype=_HEADER)[0]
        if header["version"] != _VERSION:
            raise UserError(
                f"{path} is a token shard of version {header['version']}, expected {_VERSION}: "
                f"make it again"
            )
        vocab_size, count = int(header["vocab_size"]), int(header["count"])
        dtype = _id_dtype(vocab_size)
        if header["bytes_per_id"] != dtype.itemsize:
            raise UserError(
                f"{path} is damaged: its header says {header['bytes_per_id']} bytes for an id of a "
                f"vocabulary of {vocab_size:,}, expected {dtype.itemsize}: make it again"
            )
        size, expected = path.stat().st_size, _HEADER.itemsize + count * dtype.itemsize
        if size != expected:
            problem = "is cut short" if size < expected else "is longer than its header says"
            raise UserError(f"{path} {problem} ({size:,} bytes of {expected:,}): make it again")
        return cls(path, count, dtype, vocab_size, header["tokenizer_sha256"].tobytes().hex())

    def tokens(self, tokenizer: Tokenizer) -> Tokens:
        """Map the ids into memory: shape (count,), this shard's dtype, read-only.

        Raises UserError if another tokenizer made them.
        """
        if self.tokenizer_sha256 != tokenizer.fingerprint:
            raise UserError(
                f"{self.path} was made by another tokenizer than the one given: use the one that "
                f"made it, or make the shard again"
            )
        if self.count == 0:
            return np.empty(0, dtype=self.dtype)
        return np.memmap(
            self.path, dtype=self.dtype, mode="r", offset=_HEADER.itemsize, shape=(self.count,)
        )


class TakeBack(NamedTuple):
    """Among arrays of ids: take back the last ids, of a document that turns out to be unusable."""

    n_ids: int


def write_shard(
    path: Path,
    batches: Iterable[Sequence[IdArray | TakeBack]],
    tokenizer: Tokenizer,
    *,
    sync_from: int = 0,
) -> Shard:
    """Write the arrays of ids, batch by batch, to a temporary file; then rename it to `path`.

    Another thread writes each batch while the next one is computed. If anything fails or is
    interrupted, `path` stays as it was. sync_from: as in `write_atomically`; `Shard.open` notices
    if a power failure has cut a file short.
    """
    dtype = _id_dtype(tokenizer.n_vocab)
    header = np.zeros(1, dtype=_HEADER)
    header["magic"] = _MAGIC
    header["version"] = _VERSION
    header["bytes_per_id"] = dtype.itemsize
    header["vocab_size"] = tokenizer.n_vocab
    header["tokenizer_sha256"] = np.void(bytes.fromhex(tokenizer.fingerprint))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file, ThreadPoolExecutor(1) as background:

            def append(batch: Sequence[IdArray | TakeBack]) -> None:
                before = file.tell()
                for ids in batch:
                    if isinstance(ids, TakeBack):
                        file.seek(-ids.n_ids * dtype.itemsize, os.SEEK_CUR)
                        file.truncate()
                    else:
                        file.write(np.ascontiguousarray(ids, dtype).data)
                # Otherwise the last fsync would have to write the whole file.
                if file.tell() // _SYNC_BYTES > before // _SYNC_BYTES:
                    file.flush()
                    os.fsync(file.fileno())

            file.write(bytes(_HEADER.itemsize))  # placeholder: the count is known only at the end
            writing: Future[None] | None = None
            for batch in batches:
                if writing is not None:
                    writing.result()
                    writing = None
                if sum(map(len, batch)) >= _SMALL_BATCH:
                    writing = background.submit(append, batch)
                else:  # not worth a thread
                    append(batch)
            if writing is not None:
                writing.result()
            header["count"] = (file.tell() - _HEADER.itemsize) // dtype.itemsize
            file.seek(0)
            file.write(header.tobytes())

    write_atomically(path, write, sync_from)
    return Shard.open(path)


def is_shard(path: Path) -> bool:
    """Return whether a file starts like a shard, complete or not."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _id_dtype(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")
