"""Token shards: ids on disk behind a header that says which tokenizer made them.

Layout: a 64-byte little-endian header, then `count` ids of 2 bytes (vocabulary up to 65,536) or 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptfast.errors import MissingFileError, UserError
from gptfast.fsync import write_atomically
from gptfast.tokenizer import Tokenizer

Tokens = NDArray[np.uint16] | NDArray[np.uint32]

_MAGIC = b"GPTFAST\0"
_VERSION = 1
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


def write_shard(path: Path, pieces: Sequence[Tokens], tokenizer: Tokenizer) -> None:
    """Write the pieces one after another, aside and then renamed."""
    dtype = _id_dtype(tokenizer.n_vocab)
    header = np.zeros(1, dtype=_HEADER)
    header["magic"] = _MAGIC
    header["version"] = _VERSION
    header["bytes_per_id"] = dtype.itemsize
    header["count"] = sum(len(piece) for piece in pieces)
    header["vocab_size"] = tokenizer.n_vocab
    header["tokenizer_sha256"] = np.void(bytes.fromhex(tokenizer.fingerprint))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(header.tobytes())
            for piece in pieces:
                file.write(piece.astype(dtype, copy=False).tobytes())

    write_atomically(path, write)


def read_shard(path: Path, tokenizer: Tokenizer) -> Tokens:
    """Map a shard's ids into memory, 1-dimensional, read-only.

    Raises MissingFileError, or UserError if the file is damaged or another tokenizer made it.
    """
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
            f"prepare the data again"
        )
    if header["tokenizer_sha256"].tobytes().hex() != tokenizer.fingerprint:
        raise UserError(
            f"{path} was made by another tokenizer than the one given: prepare the data again"
        )
    count, dtype = int(header["count"]), _id_dtype(int(header["vocab_size"]))
    if path.stat().st_size != _HEADER.itemsize + count * dtype.itemsize:
        raise UserError(f"{path} is cut short: prepare the data again")
    if count == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=_HEADER.itemsize, shape=(count,))


def _id_dtype(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")
