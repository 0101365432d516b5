"""Encode files into token shards: read, encode and write at the same time, in bounded memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptfast.cli.progress import show_bytes
from gptfast.data.documents import (
    BLOCK_BYTES,
    Block,
    Documents,
    Paths,
    ReadOptions,
    ReadReport,
    find_files,
    read_documents,
)
from gptfast.data.documents.block import one_by_one
from gptfast.data.documents.report import skip_log
from gptfast.data.shard import Shard, TakeBack, is_shard, write_shard
from gptfast.errors import UserError
from gptfast.system.files import make_folder, names_of_leftovers, remove_leftovers
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.base import IdArray
from gptfast.tokenizer.checks import as_path, check_kind
from gptfast.tokenizer.rust import thread_count

END_OF_DOCUMENT = "eos"
"""The separator that stands for the token with this role, whatever its name."""
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
    separator: str | None = END_OF_DOCUMENT,
    progress: bool = True,
    report: ReadReport | None = None,
) -> Shard:
    """Encode all documents of files, folders and globs into one token shard, the file `out`.

    The shard holds the ids of each document (`encode_ordinary`), followed by the id of `separator`:
    "eos" for the token with that role, the name of an added token, or None for no separator.
    Without a `memory_limit`, text and ids take 256 MiB, or more for a document that can't be cut.
    `progress` shows on stderr how far it is, how files were split and what was left out. `report`
    is updated while reading. With `on_error="skip"`, the file `out`.skipped.jsonl names whatever
    was left out; without anything left out, there is no such file.

    An existing shard is replaced, any other file is not. If anything fails or is interrupted, `out`
    stays as it was. Raises UserError for arguments or files that can't be used.
    """
    options, report, out = options or ReadOptions(), report or ReadReport(), as_path("out", out)
    options = options.separated_by(tokenizer.roles.eos)
    files = find_files(paths)
    encoder = Encoder.plan(tokenizer, options, separator, report)
    _check_output(out, files)
    total = sum(file.stat().st_size for file in files)
    log = _log_of(out)
    with show_bytes("encoding", total, progress) as move, skip_log(log) as report.log:
        batches = encoder.encode(encoder.blocks(files), lambda: move(report.bytes_read))
        ids = ([array for encoded in batch for array in encoded.ids] for batch in batches)
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


class Encoded(NamedTuple):
    """The ids of a block, or of many documents."""

    ids: list[IdArray | TakeBack]
    """With the separator after each document. Of many documents, one array."""
    n_documents: int
    """How many documents end here."""
    ends: NDArray[np.int64] | None = None
    """Of many documents, (documents,): where each ends in the array, after its separator."""


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
            separator_ids = [np.array([_id_of(separator, tokenizer)], tokenizer.dtype)]
        n_threads, limit = thread_count(options.n_threads), options.memory_bytes
        # Memory in units of blocks: the text of the batch being read and of the batch being
        # encoded, at worst one id per byte of the latter and of the batch being written, and the
        # reader's own buffers: a block of lines for each thread, its copy, and its texts.
        in_flight = n_threads * (_BLOCKS_PER_THREAD * (2 + 2 * tokenizer.dtype.itemsize) + 3) + 3
        block_bytes = min(BLOCK_BYTES, (_DEFAULT_MEMORY if limit is None else limit) // in_flight)
        if limit is not None and block_bytes < _SMALLEST_BLOCK:
            raise UserError(
                f"memory_limit is {limit:,} bytes: expected at least "
                f"{_SMALLEST_BLOCK * in_flight:,} for {n_threads} threads"
            )
        return cls(tokenizer, options, report, separator_ids, n_threads, block_bytes)

    def blocks(self, files: Sequence[Path]) -> Iterator[Block | Documents]:
        """Read the documents, cut where the tokenizer allows it."""
        # With a limit, the block size affects which documents are too long. If those are left out,
        # it must not depend on n_threads. Otherwise the largest blocks are the fastest.
        is_limited = self.options.memory_bytes is not None and self.options.on_error == "skip"
        return read_documents(
            files,
            self.options,
            safe_cut=self.tokenizer.safe_cut,
            block_bytes=_SMALLEST_BLOCK if is_limited else self.block_bytes,
            special_tokens=self.tokenizer.special_tokens,
            report=self.report,
        )

    def encode(
        self, blocks: Iterable[Block | Documents], update: Callable[[], None]
    ) -> Iterator[list[Encoded]]:
        """Yield batches of the ids of the blocks, in order.

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
                encoded: list[Encoded] = []
                for block, ids in self._ids(batch):
                    if isinstance(ids, Encoded):
                        encoded.append(ids)
                        document += ids.n_documents
                        continue
                    assert isinstance(block, Block)  # as the ids are those of one
                    if is_left_out:
                        encoded.append(Encoded([], block.ends_document))
                    elif isinstance(ids, UserError):
                        self._leave_out(document, block, ids)
                        encoded.append(Encoded([TakeBack(n_ids)], block.ends_document))
                        is_left_out = True
                    else:
                        n_ids += len(ids)
                        after = self.separator if block.ends_document else ()
                        encoded.append(Encoded([ids, *after], block.ends_document))
                    if block.ends_document:
                        document, n_ids, is_left_out = document + 1, 0, False
                yield encoded
                update()
                batch, is_last = ([], True) if reading is None else reading.result()

    def _ids(
        self, batch: Sequence[Block | Documents]
    ) -> Iterator[tuple[Block | Documents, Encoded | IdArray | UserError]]:
        """Encode a batch. Yields each of it with its ids, or the error of a block without any."""
        n_threads = min(self.n_threads, len(batch))
        texts = [item.data for item in batch if isinstance(item, Block)]
        many = [
            (item.data, item.starts, item.ends) for item in batch if isinstance(item, Documents)
        ]
        separator = int(self.separator[0][0]) if self.separator else None
        try:
            of_texts = iter(self.tokenizer.encode_batch_to_numpy(texts, n_threads))
            of_many = iter(self.tokenizer.encode_documents(many, separator, n_threads))
        except UserError:  # which doesn't say of which block
            yield from ((block, self._ids_of(block)) for block in one_by_one(batch))
            return
        for item in batch:
            if isinstance(item, Block):
                yield item, next(of_texts)
            else:
                ids, ends = next(of_many)
                yield item, Encoded([ids], len(ends), ends)

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


def _id_of(separator: str, tokenizer: BPETokenizer) -> int:
    check_kind("separator", separator, str, "a special token, or None")
    names = {token.name: token.id for token in tokenizer.added_tokens}
    token_id = names.get(separator)
    if token_id is None and separator == END_OF_DOCUMENT:
        token_id = tokenizer.eot_token
        if token_id is None:
            raise UserError(
                f"the tokenizer doesn't say which token ends a document: expected an eos_token in "
                f"the tokenizer_config.json beside its tokenizer.json, which is one of "
                f"{sorted(names)}, or another separator than 'eos'"
            )
    if token_id is None:
        raise UserError(
            f"separator is {separator!r}: expected one of the special tokens {sorted(names)}, "
            f"'eos' for the one that ends a document, or None"
        )
    return token_id


def _batches(
    blocks: Iterable[Block | Documents], batch_bytes: int
) -> Iterator[tuple[list[Block | Documents], bool]]:
    """Yield batches, each with whether it is the last, which may be empty."""
    batch: list[Block | Documents] = []
    size = 0
    for block in blocks:
        batch.append(block)
        size += len(block.data) + _BYTES_PER_OBJECT
        if size >= batch_bytes:
            yield batch, False
            batch, size = [], 0
    yield batch, True
