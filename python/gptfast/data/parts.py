"""Hash and encode the files of `gptfast data prepare`, part by part.

A part is some consecutive files of about 64 MiB, so that many small files don't become as many
shards. Whatever a run that was killed has written is complete, and is not made again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptfast.cli.progress import show_bytes
from gptfast.data.documents import Block, ReadReport
from gptfast.data.encode import Encoder
from gptfast.data.hashes import DUPLICATE, VAL, Hashes, new_hash
from gptfast.data.manifest import damage_in
from gptfast.data.shard import Shard, write_shard
from gptfast.errors import UserError
from gptfast.system.files import remove_leftovers
from gptfast.tokenizer import Tokenizer
from gptfast.tokenizer.base import IdArray

_PART_BYTES = 64 << 20


@dataclass(frozen=True)
class Part:
    """Some consecutive files."""

    name: str
    files: list[Path]
    size: int
    """Bytes on disk."""


def divide(files: Sequence[Path]) -> list[Part]:
    """Divide the files into parts, in order."""
    parts: list[Part] = []
    together: list[Path] = []
    size = 0
    for file in files:
        together.append(file)
        size += file.stat().st_size
        if size >= _PART_BYTES or file is files[-1]:
            parts.append(Part(f"{len(parts):05}", together, size))
            together, size = [], 0
    return parts


def hash_parts(
    parts: Sequence[Part], encoder: Encoder, folder: Path, progress: bool
) -> list[Hashes]:
    """Hash the documents of each part; `encoder.n_threads` parts at a time.

    The hashes are kept in `folder`. Those that are there already are loaded. Raises the error of
    the first part, in order, that has one, when the parts before it are complete.
    """
    folder.mkdir(exist_ok=True)
    stop = threading.Event()

    def hash_part(part: Part, report: ReadReport) -> Hashes:
        path = folder / f"{part.name}.npz"
        if path.exists():
            report.bytes_kept = part.size
            return Hashes.load(path)
        blocks = replace(encoder, report=report).blocks(part.files)
        hashed = Hashes.of(_until(stop, blocks), report)
        hashed.save(path)
        return hashed

    reports = [ReadReport() for _ in parts]
    with (
        show_bytes("hashing", _size(parts), progress) as move,
        ThreadPoolExecutor(encoder.n_threads) as pool,
    ):
        tasks = [
            pool.submit(hash_part, part, report)
            for part, report in zip(parts, reports, strict=True)
        ]
        try:
            # In order, so that of several broken parts it is always the first that raises.
            for task in tasks:
                while not task.done():
                    wait([task], timeout=0.1)
                    move(sum(report.bytes_read + report.bytes_kept for report in reports))
                task.result()  # raises the task's exception
            move(_size(parts))
        finally:  # after an error or Ctrl-C, don't wait for the parts that follow
            stop.set()
            for task in tasks:
                task.cancel()
    return [task.result() for task in tasks]


def _size(parts: Sequence[Part]) -> int:
    return sum(part.size for part in parts)


def _until(stop: threading.Event, blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        if stop.is_set():
            raise CancelledError
        yield block


def encode_parts(
    parts: Sequence[Part],
    hashed: Sequence[Hashes],
    routes: NDArray[np.uint8],
    encoder: Encoder,
    out: Path,
    progress: bool,
) -> tuple[list[Shard], list[Shard]]:
    """Write the missing shards of all parts into `out`; return train's and val's.

    routes: (documents,), where each document of all parts goes, as `hashes.route` returns it.
    """
    train, val = ([out / side / f"{part.name}.bin" for part in parts] for side in ("train", "val"))
    remove_leftovers((*train, *val), sole_writer=True)  # before writing more: they may be large
    routes_of = np.split(routes, np.cumsum([len(part.hashes) for part in hashed])[:-1])
    report = ReadReport()
    encoder = replace(encoder, report=report)
    with show_bytes("encoding", _size(parts), progress) as move:
        for i, part in enumerate(parts):
            if train[i].exists() and val[i].exists():
                report.bytes_kept += part.size
                continue
            batches = encoder.encode(
                _kept(encoder.blocks(part.files), hashed[i].hashes, routes_of[i], part),
                lambda: move(report.bytes_read + report.bytes_kept),
            )
            in_val = routes_of[i][routes_of[i] != DUPLICATE] == VAL
            _write_both(batches, in_val, train[i], val[i], encoder.tokenizer)
    with damage_in(out):  # shards of an earlier run may be damaged
        return [Shard.open(path) for path in train], [Shard.open(path) for path in val]


def _kept(
    blocks: Iterable[Block], hashes: NDArray[np.uint8], routes: NDArray[np.uint8], part: Part
) -> Iterator[Block]:
    """Leave out duplicates. Raises UserError if the documents are not those that were hashed."""
    changed = UserError(
        f"a file among {part.files[0]} to {part.files[-1].name} has changed since it was hashed: "
        f"delete the output folder, and start again with files that don't change"
    )
    i, digest = 0, new_hash()
    for block in blocks:
        digest.update(block.data)
        if i < len(hashes) and routes[i] != DUPLICATE:
            yield block
        if block.ends_document:
            if i == len(hashes) or digest.digest() != hashes[i].tobytes():
                raise changed
            i, digest = i + 1, new_hash()
    if i < len(hashes):
        raise changed


def _write_both(
    batches: Iterable[list[tuple[list[IdArray], bool]]],
    in_val: NDArray[np.bool_],
    train: Path,
    val: Path,
    tokenizer: Tokenizer,
) -> None:
    """Write the two shards of a part. Keeps val's ids, the fewer, in memory until the end.

    batches: what `Encoder.encode` yields. in_val: (documents,), in the same order.
    """
    val_ids: list[IdArray] = []

    def train_batches() -> Iterator[list[IdArray]]:
        document = 0
        for batch in batches:
            train_ids: list[IdArray] = []
            for ids, ends_document in batch:
                (val_ids if in_val[document] else train_ids).extend(ids)
                document += ends_document
            yield train_ids

    write_shard(train, train_batches(), tokenizer)
    write_shard(val, [val_ids], tokenizer)
