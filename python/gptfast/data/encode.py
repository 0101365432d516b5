"""Files to token shards: reading, encoding and writing at the same time, in bounded memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from gptfast.cli.progress import show_bytes
from gptfast.data.documents import (
    BLOCK_BYTES,
    Block,
    Paths,
    ReadReport,
    find_files,
    longest_uncut,
    read_blocks,
)
from gptfast.data.shard import Shard, write_shard
from gptfast.errors import UserError
from gptfast.tokenizer.base import END_OF_TEXT, IdArray
from gptfast.tokenizer.checks import as_path, check_between, check_kind
from gptfast.tokenizer.finished import Record, shard_paths
from gptfast.tokenizer.outputs import prepare_shards
from gptfast.tokenizer.threads import thread_count

if TYPE_CHECKING:
    from gptfast.tokenizer.bpe import BPETokenizer

_DEFAULT_MEMORY = 256 << 20
_SMALLEST_BLOCK = 64 << 10
_BLOCKS_PER_THREAD = 8  # in a batch: enough that no thread waits long for the batch's last block
_BYTES_PER_OBJECT = 512  # roughly what Python needs for a block and its ids, however few


@dataclass(frozen=True)
class EncodeOptions:
    """How files are read and encoded. `field` to `on_error` are those of `read_blocks`."""

    separator: str | None = END_OF_TEXT
    """The special token that follows each document; None for none."""
    n_threads: int | None = None
    """Threads that encode; None for one per core that the process may use."""
    field: str = "text"
    column: str = "text"
    errors: Literal["strict", "replace"] = "strict"
    on_error: Literal["raise", "skip"] = "raise"
    memory_limit: int | None = None
    """Bytes that text and ids may take on their way, beside what the process holds anyway; None for
    256 MB, or more if a document that can't be cut needs it."""
    progress: bool = True
    """Show a bar if stderr is a terminal, and say on stderr what was left out."""


def encode_files(
    tokenizer: BPETokenizer,
    paths: Paths,
    out: str | Path,
    options: EncodeOptions | None = None,
    report: ReadReport | None = None,
) -> Shard:
    """Encode all documents of files, folders and globs into one shard, the file `out`.

    The ids are those of `encode_ordinary` of each document, and the separator's after each. If
    anything fails or is interrupted, `out` is as it was before; a shard that is there is replaced,
    any other file is not. `report` learns how much was read and what was left out.

    Raises UserError for what can't be used, such as a file that `read_blocks` refuses.
    """
    options, report, out = options or EncodeOptions(), report or ReadReport(), as_path("out", out)
    files = find_files(paths)
    encoder = Encoder.plan(tokenizer, options, report)
    prepare_shards([out], [], files)
    with _progress(files, options, report) as update:
        return encoder.write(files, out, update)


def encode_each(
    tokenizer: BPETokenizer,
    paths: Paths,
    folder: str | Path,
    options: EncodeOptions | None = None,
    report: ReadReport | None = None,
) -> list[Shard]:
    """Encode each file into a shard of its own, `folder/NAME.bin`, as `encode_files` does.

    Files from a folder keep their places in it. Shards that are finished are kept, so that a run
    that was killed goes on where it was: those made by the same tokenizer, with the same options,
    from the same file with the same size and time of change. `NAME.bin.json`, written last, says
    so. Other shards are replaced; if any other file would be, or a file that is read, UserError is
    raised before anything is written.
    """
    options, report = options or EncodeOptions(), report or ReadReport()
    outs = shard_paths(paths, as_path("folder", folder))
    encoder = Encoder.plan(tokenizer, options, report)
    records = {file: Record.of(file, out, options) for file, out in outs.items()}
    prepare_shards(outs.values(), [record.path for record in records.values()], outs.keys())
    shards = []
    with _progress(list(outs), options, report) as update:
        for file, record in records.items():
            shard = record.finished_shard(tokenizer, report)
            if shard is None:
                record.remove()
                skipped_before = report.skipped
                shard = encoder.write([file], record.shard, update)
                record.write(report.skipped - skipped_before)
            shards.append(shard)
    return shards


@dataclass(frozen=True)
class Encoder:
    """The way from files to a shard."""

    tokenizer: BPETokenizer
    options: EncodeOptions
    report: ReadReport
    separator: list[IdArray]
    """What follows a document."""
    n_threads: int
    block_bytes: int
    longest: int | None

    @classmethod
    def plan(cls, tokenizer: BPETokenizer, options: EncodeOptions, report: ReadReport) -> Encoder:
        """Check the options and choose the sizes."""
        separator: list[IdArray] = []
        if options.separator is not None:
            check_kind("separator", options.separator, str, "a special token, or None")
            token_id = tokenizer.special_tokens.get(options.separator)
            if token_id is None:
                raise UserError(
                    f"separator is {options.separator!r}: expected one of the special tokens "
                    f"{sorted(tokenizer.special_tokens)}, or None"
                )
            separator = [np.array([token_id], tokenizer.dtype)]
        n_threads = thread_count(options.n_threads)
        limit = options.memory_limit
        if limit is not None:
            check_between("memory_limit", limit, 1, sys.maxsize)
        # In blocks: text of the batch that is read and of the one that is encoded, and at worst an
        # id for each byte of the latter and of the batch that is written; the reader's own buffers.
        in_flight = _BLOCKS_PER_THREAD * n_threads * (2 + 2 * tokenizer.dtype.itemsize) + 3
        block_bytes = min(BLOCK_BYTES, (_DEFAULT_MEMORY if limit is None else limit) // in_flight)
        if limit is not None and block_bytes < _SMALLEST_BLOCK:
            raise UserError(
                f"memory_limit is {limit:,} bytes: expected at least "
                f"{_SMALLEST_BLOCK * in_flight:,} for {n_threads} threads"
            )
        return cls(
            tokenizer, options, report, separator, n_threads, block_bytes, longest_uncut(limit)
        )

    def write(self, files: Sequence[Path], out: Path, update: Callable[[], None]) -> Shard:
        """Encode the documents into one shard; `update` is called now and then."""
        batches = self.encode(self.blocks(files), update)
        ids = ([array for block_ids, _ in batch for array in block_ids] for batch in batches)
        return write_shard(out, ids, self.tokenizer)

    def blocks(self, files: Sequence[Path]) -> Iterator[Block]:
        """Read the documents, cut where the tokenizer lets them be cut."""
        # What is too long for a limit depends on the blocks: where it is left out, n_threads must
        # not decide on those. Else they are as large as can be, which is faster.
        left_out = self.longest is not None and self.options.on_error == "skip"
        return read_blocks(
            files,
            safe_cut=self.tokenizer._bpe.safe_cut,
            field=self.options.field,
            column=self.options.column,
            errors=self.options.errors,
            on_error=self.options.on_error,
            block_bytes=_SMALLEST_BLOCK if left_out else self.block_bytes,
            longest=self.longest,
            report=self.report,
        )

    def encode(
        self, blocks: Iterable[Block], update: Callable[[], None]
    ) -> Iterator[list[tuple[list[IdArray], bool]]]:
        """Return batches of (ids, ends_document), one for each block, in their order.

        The separator's id is among those of a document's last block. Encodes here, in the thread
        that hears Ctrl-C, while the next batch is read in another.
        """
        batches = _batches(blocks, self.block_bytes * _BLOCKS_PER_THREAD * self.n_threads)

        def read() -> list[Block]:
            return next(batches, [])

        with ThreadPoolExecutor(1) as background:
            reading = background.submit(read)
            while batch := reading.result():
                reading = background.submit(read)
                encoded = self._encode_blocks([block.data for block in batch])
                ends = [block.ends_document for block in batch]
                yield [
                    ([ids, *self.separator] if end else [ids], end)
                    for ids, end in zip(encoded, ends, strict=True)
                ]
                update()

    def _encode_blocks(self, blocks: list[bytes]) -> list[IdArray]:
        try:
            return self.tokenizer._bpe.encode_blocks(blocks, self.n_threads)
        except ValueError as error:  # a regular expression gave up on the text
            raise UserError(str(error)) from None


def _batches(blocks: Iterable[Block], batch_bytes: int) -> Iterator[list[Block]]:
    batch, size = [], 0
    for block in blocks:
        batch.append(block)
        size += len(block.data) + _BYTES_PER_OBJECT
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def _progress(
    files: Sequence[Path], options: EncodeOptions, report: ReadReport
) -> Iterator[Callable[[], None]]:
    """A bar of the bytes read, while it lasts; the function that moves it."""
    total = sum(file.stat().st_size for file in files)
    with show_bytes("encoding", total, options.progress) as move:
        yield lambda: move(report.bytes_read + report.bytes_kept)
    if options.progress and report.skipped:
        print(report.left_out(), file=sys.stderr)
