"""Token files of nanoGPT and llm.c, to a folder of shards to train on, and back.

nanoGPT's have ids of 16 bits and nothing else. llm.c's begin with a header of 256 int32: magic,
version, number of ids. All numbers are little-endian. Legend: N ids, V vocabulary.
Sources: nanoGPT's data/openwebtext/prepare.py, llm.c's dev/data/data_common.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptfast.data.dataset import DataReport, Dataset, TokenSource
from gptfast.data.manifest import Manifest, Plan
from gptfast.data.shard import Tokens, is_shard, write_shard
from gptfast.errors import MissingFileError, UserError
from gptfast.system.files import make_folder, write_atomically, write_folder_atomically
from gptfast.tokenizer.base import Tokenizer

_AT_A_TIME = 1 << 22  # ids
_MAX_IDS = 2**31 - 1  # what llm.c's header can say


@dataclass(frozen=True)
class Kind:
    """A format: the magic number and version of its header (0 for none), and the type of an id."""

    magic: int
    version: int
    dtype: np.dtype[np.uint16] | np.dtype[np.uint32]


KINDS = {
    "nanogpt": Kind(0, 0, np.dtype("<u2")),
    "llmc": Kind(20240520, 1, np.dtype("<u2")),
    "llmc-llama3": Kind(20240801, 7, np.dtype("<u4")),
}
_HEADER_BYTES = 256 * 4


def read_bin(path: Path) -> Tokens:
    """Map the ids of a file into memory: shape (N,), uint16 or uint32, read-only.

    Raises MissingFileError if there is no file, UserError if it is cut short or in another format.
    """
    if not path.exists():
        raise MissingFileError(f"there is no file {path}: expected a token file")
    if not path.is_file():
        raise UserError(f"{path} is a folder or a pipe: expected a token file")
    if is_shard(path):
        raise UserError(f"{path} is a shard of gptfast already: expected nanoGPT's or llm.c's file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = np.frombuffer(file.read(12).ljust(12, b"\0"), "<i4")
    kind = next((k for k in KINDS.values() if k.magic == start[0] != 0), KINDS["nanogpt"])
    n_bytes = kind.dtype.itemsize
    if not kind.magic:
        if size % n_bytes or not size:
            raise UserError(
                f"{path} has {size:,} bytes: expected ids of 2 bytes (nanoGPT's), or the header of "
                f"llm.c"
            )
        return np.memmap(path, kind.dtype, "r")
    if start[1] != kind.version:
        raise UserError(
            f"{path} is llm.c's file of version {start[1]}: expected version {kind.version}"
        )
    expected = _HEADER_BYTES + n_bytes * int(start[2])
    if size != expected or start[2] <= 0:
        raise UserError(
            f"{path} has {size:,} bytes, but its header says {start[2]:,} ids, which take "
            f"{expected:,}: expected a whole file with some ids"
        )
    return np.memmap(path, kind.dtype, "r", offset=_HEADER_BYTES)


def import_bin(
    train: Sequence[Path], val: Sequence[Path], tokenizer: Tokenizer, out: Path
) -> Manifest:
    """Make the folder `out`, as `gptfast data prepare` does, of files with `tokenizer`'s ids.

    Raises MissingFileError or UserError for a file that can't be used, for an id that the tokenizer
    lacks, and if `out` holds anything.
    """
    if not train:
        raise UserError("no file was given: expected a token file to train on")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already holds something: choose another --out")
    files = [[(path, read_bin(path)) for path in paths] for paths in (train, val)]
    made: list[Manifest] = []

    def write(folder: Path) -> None:
        tokenizer.save(folder)
        lengths_V = _lengths(tokenizer)
        counts = []
        names: list[list[str]] = []
        for part, opened in zip(("train", "val"), files, strict=True):
            make_folder(folder / part)
            names.append([f"{part}/{i:05}.bin" for i in range(len(opened))])
            counts.append(_Counts())
            for name, (path, ids) in zip(names[-1], opened, strict=True):
                batches = _checked(ids, path, tokenizer, lengths_V, counts[-1])
                write_shard(folder / name, batches, tokenizer)
        made.append(_manifest(out, [*train, *val], tokenizer, counts, names))
        made[0].write(folder)

    write_folder_atomically(out, write)
    return made[0]


@dataclass
class _Counts:
    documents: int = 0
    text_bytes: int = 0
    tokens: int = 0


def _checked(
    ids_N: Tokens,
    path: Path,
    tokenizer: Tokenizer,
    lengths_V: NDArray[np.int64],
    counts: _Counts,
) -> Iterator[list[Tokens]]:
    """Yield the ids block by block, and count them. Raises UserError for an unknown id."""
    for start in range(0, len(ids_N), _AT_A_TIME):
        block = ids_N[start : start + _AT_A_TIME]
        lengths = lengths_V[np.minimum(block, tokenizer.n_vocab)]
        unknown = np.flatnonzero(lengths < 0)
        if len(unknown):
            at = start + int(unknown[0])
            raise UserError(
                f"{path} has the id {ids_N[at]} at position {at:,}, which stands for no token: "
                f"give the tokenizer that made the ids; this one has {tokenizer.n_vocab:,}"
            )
        counts.tokens += len(block)
        counts.text_bytes += int(lengths.sum())
        counts.documents += int((block == tokenizer.eot_token).sum())
        yield [block.astype(tokenizer.dtype)]


def _lengths(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Return the bytes of text that each id stands for, then -1: shape (V + 1,).

    It is 0 for a special token, and -1 for an id that stands for no token.
    """
    lengths = np.full(tokenizer.n_vocab + 1, -1)
    special = set(tokenizer.special_tokens.values())
    for token_id in range(tokenizer.n_vocab):
        if token_id in special:
            lengths[token_id] = 0
        elif tokenizer.id_to_token(token_id) is not None:
            lengths[token_id] = len(tokenizer.token_bytes(token_id))
    return lengths


def _manifest(
    out: Path,
    files: Sequence[Path],
    tokenizer: Tokenizer,
    counts: Sequence[_Counts],
    names: Sequence[list[str]],
) -> Manifest:
    train, val = counts
    report = DataReport(
        str(out), "",
        max(1, train.documents), train.text_bytes, train.tokens,
        max(len(names[1]), val.documents), val.text_bytes, val.tokens,
        0.0,
    )  # fmt: skip
    source = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    plan = Plan(0, source, tokenizer.fingerprint, 0.0, "", "", "", "", "", None)
    return Manifest(report, 0, 0, 0, 0, names[0], names[1], plan)


def export_bin(data: Dataset, out: Path, kind_name: str) -> list[Path]:
    """Write train.bin and val.bin of prepared data into the folder `out`; return their paths.

    kind_name: a name in KINDS. An empty part gives no file. Raises UserError for a vocabulary that
    the format can't hold, for too many ids, and for a file that exists.
    """
    kind = KINDS[kind_name]
    if data.tokenizer.n_vocab - 1 > np.iinfo(kind.dtype).max:
        raise UserError(
            f"the vocabulary has {data.tokenizer.n_vocab:,} ids, and {kind_name} holds ids of 16 "
            f"bits: expected --format llmc-llama3"
        )
    parts = {
        out / f"{name}.bin": ids
        for name, ids in (("train", data.train), ("val", data.val))
        if len(ids)
    }
    for path, ids in parts.items():
        if kind.magic and len(ids) > _MAX_IDS:
            raise UserError(
                f"{path} would have {len(ids):,} ids: llm.c's header can say {_MAX_IDS:,}"
            )
        if path.exists():
            raise UserError(f"{path} exists already: choose another --out")
    make_folder(out)
    for path, ids in parts.items():

        def write(temporary: Path, ids: TokenSource = ids) -> None:
            with temporary.open("wb") as file:
                if kind.magic:
                    header = np.zeros(256, "<i4")
                    header[:3] = kind.magic, kind.version, len(ids)
                    file.write(header.tobytes())
                for start in range(0, len(ids), _AT_A_TIME):
                    places = np.arange(start, min(start + _AT_A_TIME, len(ids)))
                    file.write(ids[places].astype(kind.dtype).tobytes())

        write_atomically(path, write)
    return list(parts)
