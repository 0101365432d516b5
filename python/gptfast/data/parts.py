"""Hash and encode the files of `gptfast data prepare`, part by part.

A part is some consecutive files of about 64 MiB, so that many small files don't become as many
shards. Whatever a run that was killed has written is complete, and is not made again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptfast.cli.progress import show_bytes
from gptfast.data.documents import Block, Documents, ReadReport
from gptfast.data.documents.report import skip_log
from gptfast.data.encode import Encoded, Encoder
from gptfast.data.hashes import DUPLICATE, NOT_ENCODED, VAL, Hashes, hashes_of, new_hash
from gptfast.data.manifest import damage_in
from gptfast.data.shard import Shard, TakeBack, write_shard
from gptfast.errors import UserError
from gptfast.system.files import remove_leftovers, write_text_atomically
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

    The hashes are kept in `folder`, with logs of what could not be read. Those that are there
    already are loaded, unless they lack something and nothing may be skipped. Raises the error of
    the first part, in order, that has one, when the parts before it are complete.
    """
    folder.mkdir(exist_ok=True)
    stop = threading.Event()

    def hash_part(part: Part, report: ReadReport) -> Hashes:
        path = folder / f"{part.name}.npz"
        if path.exists():
            hashed = Hashes.load(path)
            if not hashed.report.skipped or encoder.options.on_error == "skip":
                report.bytes_kept = part.size
                return hashed
        blocks = replace(encoder, report=report).blocks(part.files)
        with skip_log(log_of(part, folder)) as report.log:
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


def _until(
    stop: threading.Event, blocks: Iterable[Block | Documents]
) -> Iterator[Block | Documents]:
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
    folder: Path,
    progress: bool,
) -> tuple[list[Shard], list[Shard], ReadReport]:
    """Write the missing shards of all parts into `out`; return train's, val's, and what failed.

    routes: (documents,), where each document of all parts goes, as `hashes.route` returns it;
    becomes NOT_ENCODED where one can't be encoded. folder: keeps logs and reports of those.
    """
    folder.mkdir(exist_ok=True)
    train, val = ([out / side / f"{part.name}.bin" for part in parts] for side in ("train", "val"))
    remove_leftovers((*train, *val), sole_writer=True)  # before writing more: they may be large
    routes_of = np.split(routes, np.cumsum([len(part.hashes) for part in hashed])[:-1])
    reading = ReadReport()
    reader = replace(encoder, report=reading)
    failures: list[ReadReport] = []
    with show_bytes("encoding", _size(parts), progress) as move:
        for i, part in enumerate(parts):
            saved = folder / f"{part.name}.json"
            kept = np.flatnonzero(routes_of[i] != DUPLICATE)
            if train[i].exists() and val[i].exists():
                reading.bytes_kept += part.size
                text = saved.read_text(encoding="utf-8") if saved.exists() else "{}"
                failed = ReadReport.from_json(text)
            else:
                failed = ReadReport()
                batches = replace(encoder, report=failed).encode(
                    _kept(reader.blocks(part.files), hashed[i].hashes, routes_of[i], part),
                    lambda: move(reading.bytes_read + reading.bytes_kept),
                )
                sides = _Sides(batches, routes_of[i][kept] == VAL)
                with skip_log(log_of(part, folder)) as failed.log:
                    write_shard(train[i], sides.train(), encoder.tokenizer)
                if failed.skipped:
                    write_text_atomically(saved, failed.to_json())
                write_shard(val[i], [sides.val], encoder.tokenizer)
            routes_of[i][kept[failed.not_encoded]] = NOT_ENCODED
            failures.append(failed)
    with damage_in(out):  # shards of an earlier run may be damaged
        shards = ([Shard.open(path) for path in train], [Shard.open(path) for path in val])
    return *shards, ReadReport.of_all(failures)


def log_of(part: Part, folder: Path) -> Path:
    """Return where `hash_parts` or `encode_parts` logs what a part lacks, if there is anything."""
    return folder / f"{part.name}.skipped.jsonl"


def _kept(
    blocks: Iterable[Block | Documents],
    hashes: NDArray[np.uint8],
    routes: NDArray[np.uint8],
    part: Part,
) -> Iterator[Block | Documents]:
    """Leave out duplicates. Raises UserError if the documents are not those that were hashed."""
    changed = UserError(
        f"a file among {part.files[0]} to {part.files[-1].name} has changed since it was hashed: "
        f"delete the output folder, and start again with files that don't change"
    )
    i, digest = 0, new_hash()
    for block in blocks:
        if isinstance(block, Documents):
            end = i + len(block.lines)
            if not np.array_equal(hashes_of(block), hashes[i:end]):
                raise changed
            kept = block.only(routes[i:end] != DUPLICATE)
            if len(kept.lines):
                yield kept
            i = end
            continue
        digest.update(block.data)
        if i < len(hashes) and routes[i] != DUPLICATE:
            yield block
        if block.ends_document:
            if i == len(hashes) or digest.digest() != hashes[i].tobytes():
                raise changed
            i, digest = i + 1, new_hash()
    if i < len(hashes):
        raise changed


@dataclass
class _Sides:
    """Divides the encoded documents of a part. Keeps val's ids, the fewer, in memory."""

    batches: Iterable[list[Encoded]]
    """What `Encoder.encode` yields."""
    in_val: NDArray[np.bool_]
    """(documents,), in the same order."""
    val: list[IdArray | TakeBack] = field(default_factory=list)
    """The ids of val, complete after those of train."""

    def train(self) -> Iterator[list[IdArray | TakeBack]]:
        """Yield the ids of train, batch by batch."""
        document = 0
        for batch in self.batches:
            train_ids: list[IdArray | TakeBack] = []
            for ids, n_documents, ends in batch:
                in_val = self.in_val[document : document + n_documents]
                if ends is None or not in_val.any():
                    (self.val if self.in_val[document] else train_ids).extend(ids)
                else:
                    array = ids[0]
                    assert not isinstance(array, TakeBack)  # of many documents it is one array
                    is_val = np.repeat(in_val, np.diff(ends, prepend=0))
                    self.val.append(array[is_val])
                    train_ids.append(array[~is_val])
                document += n_documents
            yield train_ids
