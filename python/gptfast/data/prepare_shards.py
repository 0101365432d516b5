"""Files or a Hub data set to train and val shards: deduplicated, split by document, resumable.

1. Hash every document, several files at a time (hashes.py).
2. Decide by the hashes which documents are duplicates, which are train and which are val.
3. Encode the documents that stay, with all threads (parts.py).

`plan.json`, written first, holds everything that determines the result. A later run with the same
plan resumes: every file it finds is complete, because files are written aside and renamed. Folders
in `work/` are named by a hash of what determines their contents, so that a run with another plan
reuses what it can.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from gptfast.data.dataset import DataReport, TokenShards, is_prepared
from gptfast.data.documents import Paths, ReadOptions, ReadReport, find_files
from gptfast.data.documents.pipes import checksum_of_pipe
from gptfast.data.encode import END_OF_DOCUMENT, Encoder
from gptfast.data.hashes import DUPLICATE, TRAIN, VAL, check_sides, route
from gptfast.data.hub import HubDataset, open_hub, row_of, stream_to_files
from gptfast.data.leakage import SAMPLE_TOKENS, sample
from gptfast.data.manifest import Manifest, Plan, check_complete, damage_in
from gptfast.data.parts import divide, encode_parts, hash_parts, log_of
from gptfast.data.shard import Shard
from gptfast.data.split import check_fraction, overlap
from gptfast.errors import UserError
from gptfast.system.files import make_folder, remove_leftovers, write_atomically
from gptfast.system.locking import folder_lock
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.checks import as_path

_FORMAT = 2  # increase it whenever the contents of the shards change
_IN_WORK = re.compile("(encoded|hashes|hub)-[0-9a-f]{16}")


def prepare_files(
    tokenizer: BPETokenizer,
    source: Paths | HubDataset,
    out: str | Path,
    val_fraction: float = 0.01,
    options: ReadOptions | None = None,
    *,
    progress: bool = True,
) -> Manifest:
    """Make the folder `out` from files, folders and globs, or from a data set of the Hub.

    A document equal to an earlier one, byte for byte, is left out. About `val_fraction` of the
    others are val; 0 for no val. The token with the role eos follows each document. With
    `on_error="skip"`, `out`/skipped.jsonl names whatever could not be read or encoded. A run that
    was killed resumes when it is called again with the same arguments, or one that met a broken
    document with `on_error="skip"`. The result depends neither on where it was killed nor on
    `options.n_threads`. A finished folder is left as it is; that needs no Hub.

    Raises UserError for arguments or files that can't be used, for a folder that holds anything
    else or that another run is writing to, and if all documents would be train, or all val.
    """
    out, options = as_path("out", out), options or ReadOptions()
    options = options.separated_by(tokenizer.roles.eos)
    if val_fraction != 0:
        check_fraction(val_fraction)
    encoder = Encoder.plan(tokenizer, options, END_OF_DOCUMENT, ReadReport())
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
    plan = Plan(
        format=_FORMAT,
        source=made_from,
        tokenizer=tokenizer.fingerprint,
        val_fraction=val_fraction,
        field=options.field,
        column=options.column,
        document_separator=options.separator.decode(),
        errors=options.errors,
        on_error=options.on_error,
        # With "raise" the limit only decides whether the run succeeds.
        memory_limit=options.memory_bytes if options.on_error == "skip" else None,
    )
    if not os.access(out, os.W_OK) and (manifest := _finished(out, plan)):
        return manifest  # a read-only folder of someone else
    make_folder(out)
    _check_ours(out)  # before anything, even a lock, is written there
    with folder_lock(out):
        manifest = _finished(out, plan)
        if manifest is None:
            _begin(out, plan)
            if isinstance(source, HubDataset):
                folder = out / "work" / f"hub-{_digest([made_from, options.column])}"
                files = stream_to_files(builder, source.split, options.column, folder, progress)
                encoder = replace(encoder, options=replace(options, field=options.column))
            dataset = source if isinstance(source, HubDataset) else None
            manifest = _make(files, encoder, out, plan, dataset, progress)
            manifest.write(out)
        _clean(out, plan, manifest)
    return manifest


def _finished_source(out: Path, dataset: HubDataset) -> Any:
    """Return the source of a finished folder if it is this data set, else None."""
    if not is_prepared(out):
        return None
    source = Manifest.read(out).made_from.source
    is_this = isinstance(source, dict) and source == asdict(dataset) | {"hash": source.get("hash")}
    return source if is_this else None


def _identity(file: Path) -> list[Any]:
    """Return what differs for another file, or after a change of this one."""
    stat = file.stat()
    if checksum := checksum_of_pipe(file):
        return ["pipe", stat.st_size, checksum]
    return [str(file.resolve()), stat.st_size, stat.st_mtime_ns]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _finished(out: Path, plan: Plan) -> Manifest | None:
    """Return the manifest of `out` if this plan has been completed there, else None.

    Raises UserError if another plan has been, or if files are missing or damaged.
    """
    if not is_prepared(out):
        return None
    manifest = Manifest.read(out)
    _check_same(out, manifest.made_from, plan)
    check_complete(out, manifest)
    return manifest


def _check_ours(out: Path) -> None:
    """Raise UserError if a folder holds anything but a data set, finished or in progress."""
    # A run that was killed right at the start left only hidden files.
    is_empty = all(path.name.startswith(".") for path in out.iterdir())
    if not (is_empty or is_prepared(out) or Plan.read(out)):
        raise UserError(
            f"{out} holds files that are not a data set of gptfast: choose another --out"
        )


def _begin(out: Path, plan: Plan) -> None:
    """Prepare `out` to start or to resume. Raises UserError if shards there would be lost."""
    earlier = Plan.read(out)
    if earlier and any((out / "train").glob("*.bin")):
        _check_same(out, earlier, plan)
    plan.write(out)
    for name in ("work", "train", "val"):
        (out / name).mkdir(exist_ok=True)


def _clean(out: Path, plan: Plan, manifest: Manifest) -> None:
    """Delete intermediate files, and what killed runs left; nothing of the user's."""
    if Plan.read(out) == plan:  # a user may have put another plan.json there since
        for folder in (out / "work").iterdir() if (out / "work").is_dir() else ():
            if _IN_WORK.fullmatch(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # missing, or not empty
            (out / "work").rmdir()
        (out / "plan.json").unlink()
    shards = (*manifest.train_shards, *manifest.val_shards)
    described = ("tokenizer.json", "tokenizer_config.json", "data.json", "skipped.jsonl")
    names = ("plan.json", *described, *shards)
    remove_leftovers((out / name for name in names), sole_writer=True)


def _check_same(out: Path, earlier: Plan, plan: Plan) -> None:
    then, now = asdict(earlier), asdict(plan)
    if (earlier.on_error, plan.on_error) == ("raise", "skip"):
        del now["on_error"]  # whatever is there lacks nothing, and would be the same
    changed = [name for name in now if then[name] != now[name]]
    if changed:
        raise UserError(
            f"{out} holds shards that were made with another {' and another '.join(changed)}: "
            f"expected the same arguments and unchanged files; choose another --out, or delete it"
        )


def _make(
    files: Sequence[Path],
    encoder: Encoder,
    out: Path,
    plan: Plan,
    dataset: HubDataset | None,
    progress: bool,
) -> Manifest:
    """Write all files of the folder but `data.json`, whose contents are returned."""
    parts = divide(files)
    inputs = {name: value for name, value in asdict(plan).items() if name != "on_error"}
    encoded_folder = out / "work" / f"encoded-{_digest(inputs)}"
    del inputs["val_fraction"]
    hashes_folder = out / "work" / f"hashes-{_digest(inputs)}"
    hashed = hash_parts(parts, encoder, hashes_folder, progress)
    report = ReadReport.of_all(part.report for part in hashed)
    _say(report.notes(encoder.options), progress)
    hashes = np.concatenate([part.hashes for part in hashed])
    sizes = np.concatenate([part.sizes for part in hashed])
    routes = route(hashes, plan.val_fraction)
    check_sides(hashes, routes, plan.val_fraction)
    train, val, failed = encode_parts(parts, hashed, routes, encoder, out, encoded_folder, progress)
    _say(failed.notes(encoder.options), progress)
    if failed.skipped:
        try:
            check_sides(hashes, routes, plan.val_fraction)
        except UserError:
            for shard in (
                *train,
                *val,
            ):  # so that another fraction may be tried, in the same folder
                shard.path.unlink()
            raise
    skipped = report.skipped + failed.skipped
    if skipped:
        folders = (hashes_folder, encoded_folder)
        _join(out / "skipped.jsonl", [log_of(p, f) for p in parts for f in folders], dataset)
    with damage_in(out):
        share, train_bytes, val_bytes = _leakage(train, val, encoder)
    encoder.tokenizer.save(out)
    in_train, in_val = routes == TRAIN, routes == VAL
    data = DataReport(
        str(out), hashlib.sha256(hashes.tobytes() + routes.tobytes()).hexdigest(),
        int(in_train.sum()), int(sizes[in_train].sum()), sum(shard.count for shard in train),
        int(in_val.sum()), int(sizes[in_val].sum()), sum(shard.count for shard in val),
        share,
    )  # fmt: skip
    return Manifest(
        report=data,
        duplicates=int((routes == DUPLICATE).sum()),
        skipped=skipped,
        compared_train_bytes=train_bytes,
        compared_val_bytes=val_bytes,
        train_shards=[shard.path.relative_to(out).as_posix() for shard in train],
        val_shards=[shard.path.relative_to(out).as_posix() for shard in val],
        made_from=plan,
    )


def _say(lines: Sequence[str], progress: bool) -> None:
    for line in lines if progress else ():
        print(line, file=sys.stderr)


def _join(path: Path, logs: Sequence[Path], dataset: HubDataset | None) -> None:
    """Write the logs that exist into one file, atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as joined:
            for log in logs:
                if log.exists():
                    with log.open("rb") as lines:
                        joined.writelines(row_of(x, dataset) if dataset else x for x in lines)

    write_atomically(path, write)


def _leakage(
    train: Sequence[Shard], val: Sequence[Shard], encoder: Encoder
) -> tuple[float, int, int]:
    """Return the overlap of val with train in samples of both, and the samples' sizes in bytes."""
    tokenizer = encoder.tokenizer
    train_texts, val_texts = (
        sample(TokenShards(side, tokenizer), tokenizer, SAMPLE_TOKENS) for side in (train, val)
    )
    n_train, n_val = (sum(len(t.encode()) for t in texts) for texts in (train_texts, val_texts))
    return overlap(train_texts, val_texts, encoder.n_threads), n_train, n_val
