"""Encode files into token shards: read, encode and write at the same time, in bounded memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptfast.cli.progress import show_bytes
from gptfast.data.documents import (
    BLOCK_BYTES,
    Block,
    Paths,
    ReadOptions,
    ReadReport,
    find_files,
    read_blocks,
)
from gptfast.data.documents.report import skip_log
from gptfast.data.shard import Shard, TakeBack, is_shard, write_shard
from gptfast.errors import UserError
from gptfast.system.files import make_folder, names_of_leftovers, remove_leftovers
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.base import END_OF_TEXT, IdArray
from gptfast.tokenizer.checks import as_path, check_kind
from gptfast.tokenizer.rust import thread_count

_DEFAULT_MEMORY = 256 << 20
_SMALLEST_BLOCK = 64 << 10
_BLOCKS_PER_THREAD = 8  # per batch: enough that no thread waits long for the last block
_SYNC_FROM = 1 << 20  # bytes of a new shard; a smaller one is quickly made again
_folders: dict[Path, set[str]] = {}
"""Folders that can be written to, and for which files killed processes left something in them. To
find that out takes longer than to encode a page."""
_BYTES_PER_OBJECT = 512  # rough cost in Python of a block and its ids, however small they are


def encode_files(
    tokenizer: BPETokenizer,
    paths: Paths,
    out: str | Path,
    options: ReadOptions | None = None,
    *,
    separator: str | None = END_OF_TEXT,
    progress: bool = True,
    report: ReadReport | None = None,
) -> Shard:
    """Encode all documents of files, folders and globs into one token shard, the file `out`.

    The shard holds the ids of each document (`encode_ordinary`), followed by the id of `separator`,
    a special token; None for no separator. Without a `memory_limit`, text and ids take 256 MiB, or
    more for a document that can't be cut. `progress` shows a bar if stderr is a terminal, and
    prints how files were split and what was left out. `report` is updated while reading. With
    `on_error="skip"`, the file `out`.skipped.jsonl names whatever was left out; without anything
    left out, there is no such file.

    An existing shard is replaced, any other file is not. If anything fails or is interrupted, `out`
    stays as it was. Raises UserError for arguments or files that can't be used.
    """
    options, report, out = options or ReadOptions(), report or ReadReport(), as_path("out", out)
    options = options.for_tokenizer(tokenizer.special_tokens)
    files = find_files(paths)
    encoder = Encoder.plan(tokenizer, options, separator, report)
    _check_output(out, files)
    total = sum(file.stat().st_size for file in files)
    log = _log_of(out)
    with show_bytes("encoding", total, progress) as move, skip_log(log) as report.log:
        batches = encoder.encode(encoder.blocks(files), lambda: move(report.bytes_read))
        ids = ([array for block_ids, _ in batch for array in block_ids] for batch in batches)
        shard = write_shard(out, ids, tokenizer, sync_from=_SYNC_FROM)
    if progress:
        for line in report.notes(options, log):
            print(line, file=sys.stderr)
    return shard


def _check_output(out: Path, files: Sequence[Path]) -> None:
    """Make the folder of `out`, and delete what a killed process left of `out` there.

    Raises UserError if a file that is not a shard would be lost.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder: expected the name of the file to be written")
    if out.exists():
        if any(out.samefile(file) for file in files):
            raise UserError(
                f"{out} is one of the files to be read, and would be overwritten: choose another "
                f"file to write to (out)"
            )
        if not is_shard(out):
            raise UserError(
                f"{out} exists and is no token shard, so it is not replaced: choose another file "
                f"to write to (out)"
            )
    folder = out.parent.absolute()
    if folder not in _folders or not folder.is_dir():
        make_folder(out.parent)
        _folders[folder] = names_of_leftovers(folder)
    paths = (out, _log_of(out))
    if any(path.name in _folders[folder] for path in paths):
        remove_leftovers(paths)


def _log_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.skipped.jsonl")


@dataclass(frozen=True)
class Encoder:
    """Reads files and encodes their documents, batch by batch."""

    tokenizer: BPETokenizer
    options: ReadOptions
    report: ReadReport
    separator: list[IdArray]
    """The ids that follow each document, as at most one array."""
    n_threads: int
    block_bytes: int

    @classmethod
    def plan(
        cls,
        tokenizer: BPETokenizer,
        options: ReadOptions,
        separator: str | None,
        report: ReadReport,
    ) -> Encoder:
        """Choose the block size. Raises UserError for a separator or limit that can't be used."""
        separator_ids: list[IdArray] = []
        if separator is not None:
            check_kind("separator", separator, str, "a special token, or None")
            token_id = tokenizer.special_tokens.get(separator)
            if token_id is None:
                raise UserError(
                    f"separator is {separator!r}: expected one of the special tokens "
                    f"{sorted(tokenizer.special_tokens)}, or None"
                )
            separator_ids = [np.array([token_id], tokenizer.dtype)]
        n_threads, limit = thread_count(options.n_threads), options.memory_bytes
        # Memory in units of blocks: the text of the batch being read and of the batch being
        # encoded, at worst one id per byte of the latter and of the batch being written, and the
        # reader's own buffers.
        in_flight = _BLOCKS_PER_THREAD * n_threads * (2 + 2 * tokenizer.dtype.itemsize) + 3
        block_bytes = min(BLOCK_BYTES, (_DEFAULT_MEMORY if limit is None else limit) // in_flight)
        if limit is not None and block_bytes < _SMALLEST_BLOCK:
            raise UserError(
                f"memory_limit is {limit:,} bytes: expected at least "
                f"{_SMALLEST_BLOCK * in_flight:,} for {n_threads} threads"
            )
        return cls(tokenizer, options, report, separator_ids, n_threads, block_bytes)

    def blocks(self, files: Sequence[Path]) -> Iterator[Block]:
        """Read the documents, cut where the tokenizer allows it."""
        # With a limit, the block size affects which documents are too long. If those are left out,
        # it must not depend on n_threads. Otherwise the largest blocks are the fastest.
        is_limited = self.options.memory_bytes is not None and self.options.on_error == "skip"
        return read_blocks(
            files,
            self.options,
            safe_cut=self.tokenizer.safe_cut,
            block_bytes=_SMALLEST_BLOCK if is_limited else self.block_bytes,
            special_tokens=self.tokenizer.special_tokens,
            report=self.report,
        )

    def encode(
        self, blocks: Iterable[Block], update: Callable[[], None]
    ) -> Iterator[list[tuple[list[IdArray | TakeBack], bool]]]:
        """Yield batches of (ids, ends_document), one for each block, in order.

        The last block of a document includes the separator. Encodes in the calling thread, which
        receives Ctrl-C, while another thread reads the next batch. Calls `update` after each batch.

        With `on_error="skip"`, a document that can't be encoded is left out: a TakeBack undoes what
        there is of it, and the rest has no ids. Otherwise raises UserError with its file and line.
        """
        batches = _batches(blocks, self.block_bytes * _BLOCKS_PER_THREAD * self.n_threads)
        document, n_ids, is_left_out = 0, 0, False

        with ThreadPoolExecutor(1) as background:
            batch, is_last = next(batches)  # of a small text, which is not worth a thread, the last
            while batch:
                reading = None if is_last else background.submit(next, batches)
                encoded: list[tuple[list[IdArray | TakeBack], bool]] = []
                for block, ids in zip(batch, self._ids(batch), strict=True):
                    if is_left_out:
                        encoded.append(([], block.ends_document))
                    elif isinstance(ids, UserError):
                        self._leave_out(document, block, ids)
                        encoded.append(([TakeBack(n_ids)], block.ends_document))
                        is_left_out = True
                    else:
                        n_ids += len(ids)
                        after = self.separator if block.ends_document else ()
                        encoded.append(([ids, *after], block.ends_document))
                    if block.ends_document:
                        document, n_ids, is_left_out = document + 1, 0, False
                yield encoded
                update()
                batch, is_last = ([], True) if reading is None else reading.result()

    def _ids(self, batch: Sequence[Block]) -> Sequence[IdArray | UserError]:
        """Encode the blocks; return the error of a block that can't be."""
        n_threads = min(self.n_threads, len(batch))
        try:
            return self.tokenizer.encode_batch_to_numpy([b.data for b in batch], n_threads)
        except UserError:  # which doesn't say of which block
            return [self._ids_of(block) for block in batch]

    def _ids_of(self, block: Block) -> IdArray | UserError:
        try:
            return self.tokenizer.encode_to_numpy(block.data)
        except UserError as error:
            return error

    def _leave_out(self, document: int, block: Block, error: UserError) -> None:
        complaint = f"{block.place} can't be encoded ({error})"
        if self.options.on_error == "raise":
            raise UserError(f"{complaint}; or leave it out, with on_error 'skip'") from error
        self.report.skip(complaint, block.place or "")
        self.report.not_encoded.append(document)


def _batches(blocks: Iterable[Block], batch_bytes: int) -> Iterator[tuple[list[Block], bool]]:
    """Yield batches, each with whether it is the last, which may be empty."""
    batch, size = [], 0
    for block in blocks:
        batch.append(block)
        size += len(block.data) + _BYTES_PER_OBJECT
        if size >= batch_bytes:
            yield batch, False
            batch, size = [], 0
    yield batch, True
