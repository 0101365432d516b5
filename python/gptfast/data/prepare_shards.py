"""Files or a Hub data set to train and val shards: deduplicated, split by document, resumable.

1. Every document is hashed, several files at a time (hashes.py).
2. The hashes say which documents are duplicates, and which are train and which val.
3. The documents that stay are encoded, by all threads.

`plan.json`, written first, holds all that decides on the result. A later run with the same plan
goes on: whatever file it finds is whole, as each is written aside and renamed. What lies in `work/`
is named by what decides on it, so a run with another plan takes from there what it can use.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptfast.cli.progress import show_bytes
from gptfast.data.dataset import DataReport, TokenShards
from gptfast.data.documents import Block, Paths, ReadReport, find_files
from gptfast.data.encode import EncodeOptions, Encoder
from gptfast.data.hashes import DUPLICATE, TRAIN, VAL, Hashes, new_hash, route
from gptfast.data.hub import HubDataset, open_hub, stream_to_files
from gptfast.data.leakage import SAMPLE_TOKENS, sample
from gptfast.data.manifest import Description, check_whole, damage_in, is_prepared, read_plan
from gptfast.data.shard import Shard, write_shard
from gptfast.data.split import check_fraction, overlap
from gptfast.errors import UserError
from gptfast.system.files import make_folder, remove_leftovers, write_text_atomically
from gptfast.system.locking import folder_lock
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.base import END_OF_TEXT, IdArray
from gptfast.tokenizer.checks import as_path

_FORMAT = 1  # raise it when anything below changes what is written
_PART_BYTES = 64 << 20
_IN_WORK = re.compile("(hashes|hub)-[0-9a-f]{16}")


@dataclass(frozen=True)
class _Part:
    """Some files in a row: 64 MB of them, so that many small ones don't become as many shards."""

    name: str
    files: list[Path]
    size: int
    """Bytes on disk."""


def prepare_files(
    tokenizer: BPETokenizer,
    source: Paths | HubDataset,
    out: str | Path,
    val_fraction: float = 0.01,
    options: EncodeOptions | None = None,
) -> Description:
    """Make the folder `out` from files, folders and globs, or from a data set of the Hub.

    A document that is equal to an earlier one, byte for byte, is left out; of the others about
    `val_fraction` are val. Each is followed by the end-of-text token. A run that was killed goes on
    if it is called again with the same arguments; what it makes does not depend on where it was
    killed, nor on `options.n_threads`. A folder that is finished is left as it is, without the Hub.

    Raises UserError for arguments or files that can't be used, for a folder that holds anything
    else or that another run is writing into, and if all documents would be train, or all val.
    """
    out = as_path("out", out)
    check_fraction(val_fraction)
    if END_OF_TEXT not in tokenizer.special_tokens:
        raise UserError(
            f"the tokenizer has no {END_OF_TEXT}, which is to follow each document: expected one "
            f"that has it; `gptfast tokenizer train` makes such unless told --special-tokens"
        )
    options = replace(options or EncodeOptions(), separator=END_OF_TEXT)
    encoder = Encoder.plan(tokenizer, options, ReadReport())
    if isinstance(source, HubDataset):
        try:
            builder = open_hub(source)
            made_from: Any = asdict(source) | {"hash": builder.hash}
        except UserError:
            made_from = _finished_source(out, source)
            if made_from is None:
                raise
    else:
        files = find_files(source)
        made_from = [_identity(file) for file in files]
    plan = {
        "format": _FORMAT,
        "source": made_from,
        "tokenizer": tokenizer.fingerprint,
        "val_fraction": val_fraction,
        **{name: getattr(options, name) for name in ("field", "column", "errors", "on_error")},
        # It decides on what is left out; else only on whether the run comes to its end.
        "memory_limit": options.memory_limit if options.on_error == "skip" else None,
    }
    if not os.access(out, os.W_OK) and (made := _finished(out, plan)):
        return made  # someone else's
    make_folder(out)
    _check_ours(out)  # before as much as a lock is written there
    with folder_lock(out):
        made = _finished(out, plan)
        if made is None:
            _begin(out, plan)
            if isinstance(source, HubDataset):
                folder = out / "work" / f"hub-{_digest([made_from, options.column])}"
                files = stream_to_files(
                    builder, source.split, options.column, folder, options.progress
                )
                encoder = replace(encoder, options=replace(options, field=options.column))
            _make(files, encoder, out, plan)
            made = Description.read(out)
        _clean(out, plan, made)
    return made


def _finished_source(out: Path, dataset: HubDataset) -> Any:
    """What a finished folder says it was made from, if that is this data set; else None."""
    if not is_prepared(out):
        return None
    source = Description.read(out).made_from.get("source")
    is_this = isinstance(source, dict) and source == asdict(dataset) | {"hash": source.get("hash")}
    return source if is_this else None


def _identity(file: Path) -> list[Any]:
    """What changes if another file is meant, or the file is written to."""
    stat = file.stat()
    return [str(file.resolve()), stat.st_size, stat.st_mtime_ns]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _finished(out: Path, plan: dict[str, Any]) -> Description | None:
    """What `out` is, if it was made by this plan, to its end; else None.

    Raises UserError if it was made by another one, or is not whole any more.
    """
    if not is_prepared(out):
        return None
    made = Description.read(out)
    _check_same(out, made.made_from, plan)
    check_whole(out, made)
    return made


def _check_ours(out: Path) -> None:
    """Raise UserError if a folder holds anything but a data set, finished or begun."""
    # A run that was killed at once left hidden files only.
    is_empty = all(path.name.startswith(".") for path in out.iterdir())
    if not (is_empty or is_prepared(out) or read_plan(out)):
        raise UserError(f"{out} holds files that are no data set of gptfast: choose another --out")


def _begin(out: Path, plan: dict[str, Any]) -> None:
    """Make `out` ready to begin or to go on. Raises UserError if anything in it would be lost."""
    then = read_plan(out)
    if then and any((out / "train").glob("*.bin")):
        _check_same(out, then, plan)
    write_text_atomically(out / "plan.json", json.dumps(plan, indent=2) + "\n")
    for name in ("work", "train", "val"):
        (out / name).mkdir(exist_ok=True)


def _clean(out: Path, plan: dict[str, Any], made: Description) -> None:
    """Delete what only the way there needed, and what killed runs left; nothing of the user's."""
    if read_plan(out) == plan:  # the user may have made another since
        for folder in (out / "work").iterdir() if (out / "work").is_dir() else ():
            if _IN_WORK.fullmatch(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # it isn't there, or not empty
            (out / "work").rmdir()
        (out / "plan.json").unlink()
    names = ("plan.json", "tokenizer.json", "data.json", *made.train_shards, *made.val_shards)
    remove_leftovers((out / name for name in names), sole_writer=True)


def _check_same(out: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [name for name in now if then.get(name) != now[name]]
    if changed:
        raise UserError(
            f"{out} holds shards that were made with another {' and another '.join(changed)}: "
            f"expected the same arguments and unchanged files; choose another --out, or delete it"
        )


def _make(files: Sequence[Path], encoder: Encoder, out: Path, plan: dict[str, Any]) -> None:
    """Go from files to a finished folder."""
    parts = _parts(files)
    decides_on_hashes = {name: value for name, value in plan.items() if name != "val_fraction"}
    hashed = _hash_parts(parts, encoder, out / "work" / f"hashes-{_digest(decides_on_hashes)}")
    left_out = ReadReport(
        skipped=sum(part.skipped for part in hashed),
        complaints=[complaint for part in hashed for complaint in part.complaints],
    )
    if encoder.options.progress and left_out.skipped:
        print(left_out.left_out(), file=sys.stderr)
    hashes = np.concatenate([part.hashes for part in hashed])
    sizes = np.concatenate([part.sizes for part in hashed])
    routes = route(hashes, plan["val_fraction"])
    _check_sides(routes, plan["val_fraction"])
    train, val = _encode_parts(parts, hashed, routes, encoder, out)
    with damage_in(out):
        share, train_bytes, val_bytes = _leakage(train, val, encoder.tokenizer)
    encoder.tokenizer.save(out)
    in_train, in_val = routes == TRAIN, routes == VAL
    report = DataReport(
        str(out), hashlib.sha256(hashes.tobytes() + routes.tobytes()).hexdigest(),
        int(in_train.sum()), int(sizes[in_train].sum()), sum(shard.count for shard in train),
        int(in_val.sum()), int(sizes[in_val].sum()), sum(shard.count for shard in val),
        share,
    )  # fmt: skip
    Description(
        report=report,
        duplicates=int((routes == DUPLICATE).sum()),
        skipped=left_out.skipped,
        compared_train_bytes=train_bytes,
        compared_val_bytes=val_bytes,
        train_shards=[shard.path.relative_to(out).as_posix() for shard in train],
        val_shards=[shard.path.relative_to(out).as_posix() for shard in val],
        made_from=plan,
    ).write(out)


def _parts(files: Sequence[Path]) -> list[_Part]:
    parts: list[_Part] = []
    together: list[Path] = []
    size = 0
    for file in files:
        together.append(file)
        size += file.stat().st_size
        if size >= _PART_BYTES or file is files[-1]:
            parts.append(_Part(f"{len(parts):05}", together, size))
            together, size = [], 0
    return parts


def _hash_parts(parts: Sequence[_Part], encoder: Encoder, folder: Path) -> list[Hashes]:
    """Hash the documents of each part, as many parts at a time as there are threads.

    What is in `folder` is not hashed again.
    """
    folder.mkdir(exist_ok=True)
    stop = threading.Event()

    def hash_part(part: _Part, report: ReadReport) -> Hashes:
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
        show_bytes("hashing", _size(parts), encoder.options.progress) as move,
        ThreadPoolExecutor(encoder.n_threads) as pool,
    ):
        tasks = [
            pool.submit(hash_part, part, report)
            for part, report in zip(parts, reports, strict=True)
        ]
        try:
            pending = set(tasks)
            while pending:
                done, pending = wait(pending, timeout=0.1, return_when=FIRST_EXCEPTION)
                for task in done:
                    task.result()  # raises what it raised
                move(sum(report.bytes_read + report.bytes_kept for report in reports))
        finally:  # after an error or Ctrl-C, don't wait for whole parts
            stop.set()
            for task in tasks:
                task.cancel()
    return [task.result() for task in tasks]


def _size(parts: Sequence[_Part]) -> int:
    return sum(part.size for part in parts)


def _until(stop: threading.Event, blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        if stop.is_set():
            raise CancelledError
        yield block


def _check_sides(routes: NDArray[np.uint8], val_fraction: float) -> None:
    n_train, n_val = int((routes == TRAIN).sum()), int((routes == VAL).sum())
    if n_train and n_val:
        return
    if not (n_train or n_val):
        raise UserError("there is no text in the files: expected at least two documents")
    raise UserError(
        f"of {n_train + n_val:,} different documents {n_val:,} are in val with val_fraction "
        f"{val_fraction}: expected some in train and some in val; give another --val-fraction, or "
        f"train on a single text with `gptfast train --corpus`, which cuts it"
    )


def _encode_parts(
    parts: Sequence[_Part],
    hashed: Sequence[Hashes],
    routes: NDArray[np.uint8],
    encoder: Encoder,
    out: Path,
) -> tuple[list[Shard], list[Shard]]:
    """Write the shards of all parts that have none yet; return train's and val's."""
    train, val = ([out / side / f"{part.name}.bin" for part in parts] for side in ("train", "val"))
    remove_leftovers((*train, *val), sole_writer=True)  # now: they may be large
    routes_of = np.split(routes, np.cumsum([len(part.hashes) for part in hashed])[:-1])
    report = ReadReport()  # of all parts: only hashing needs one of each
    encoder = replace(encoder, report=report)
    with show_bytes("encoding", _size(parts), encoder.options.progress) as move:
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
    with damage_in(out):  # those of an earlier run may be
        return [Shard.open(path) for path in train], [Shard.open(path) for path in val]


def _kept(
    blocks: Iterable[Block], hashes: NDArray[np.uint8], routes: NDArray[np.uint8], part: _Part
) -> Iterator[Block]:
    """Leave duplicates out. Raises UserError if the documents are not those that were hashed."""
    changed = UserError(
        f"a file among {part.files[0]} to {part.files[-1].name} has changed since it was hashed: "
        f"expected files that stay as they are; delete the folder that is written, and begin anew"
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
    tokenizer: BPETokenizer,
) -> None:
    """Write the two shards of a part; val's ids, the fewer, are in memory until the end.

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


def _leakage(
    train: Sequence[Shard], val: Sequence[Shard], tokenizer: BPETokenizer
) -> tuple[float, int, int]:
    """The overlap of val with train in samples of both, and the bytes of train's and of val's."""
    train_texts, val_texts = (
        sample(TokenShards(side, tokenizer), tokenizer, SAMPLE_TOKENS) for side in (train, val)
    )
    n_train, n_val = (sum(len(t.encode()) for t in texts) for texts in (train_texts, val_texts))
    return overlap(train_texts, val_texts), n_train, n_val
