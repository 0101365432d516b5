"""Train a tokenizer on files, streamed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from gptfast.cli.progress import TrainingProgress
from gptfast.data.documents import Block, Paths, ReadOptions, ReadReport, read_blocks
from gptfast.data.documents.report import skip_log
from gptfast.errors import UserError, warn_after_work
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.patterns import is_linear
from gptfast.tokenizer.roles import END_OF_TEXT, Roles, roles_of_trained


def train_tokenizer(
    files: Paths,
    vocab_size: int = 32_768,
    pattern: str = "gpt2",
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    min_frequency: int = 1,
    *,
    roles: Roles | None = None,
    tie: Literal["bytes", "huggingface"] = "bytes",
    max_token_length: int | None = None,
    options: ReadOptions | None = None,
    progress: bool | TrainingProgress = True,
    log: Path | None = None,
) -> BPETokenizer:
    """Learn a vocabulary from the documents of files, folders and globs.

    Equals `BPETokenizer.train` on the same documents, which describes the arguments, but streams:
    the text may be larger than memory. Text files are split into documents at the end-of-text
    token, if it is one of the special tokens, or at `options.document_separator`. `progress` also
    says on stderr how they were split. A warning says how much could not be read, if
    `options.on_error` is "skip", and which special tokens the documents spell often. The file
    `log`, if one is given, names whatever was left out; without any, there is no such file.

    Raises UserError for arguments or files that can't be used, MissingFileError if a path names no
    file.
    """
    roles = roles_of_trained(special_tokens) if roles is None else roles
    options, report = (options or ReadOptions()).separated_by(roles.eos), ReadReport()
    # No vocabulary exists yet, but the pattern alone says where merges never cross.
    single_bytes = BPETokenizer({bytes([byte]): byte for byte in range(256)}, pattern)

    def blocks() -> Iterator[Block]:
        return read_blocks(
            files,
            options,
            safe_cut=single_bytes.safe_cut,
            special_tokens=special_tokens,
            report=report,
        )

    leaves_out = options.on_error == "skip" and not is_linear(pattern)
    texts = _splittable(blocks(), single_bytes, report) if leaves_out else blocks()
    try:
        with skip_log(log) if log else nullcontext() as report.log:
            tokenizer = BPETokenizer.train(
                (block.data for block in texts),
                vocab_size,
                pattern,
                special_tokens,
                min_frequency,
                roles=roles,
                tie=tie,
                max_token_length=max_token_length,
                n_threads=options.n_threads,
                memory_limit=options.memory_bytes,
                progress=progress,
            )
    except UserError as error:
        if "gave up" in str(error):  # which doesn't say on which document
            for _ in _splittable(blocks(), single_bytes, None):
                pass
        raise
    if progress:
        for line in report.splits(options):
            print(line, file=sys.stderr)
    left_out = [report.left_out(log)] if report.skipped else []
    for warning in left_out + report.unsplit(options) + report.spells():
        warn_after_work(warning, stacklevel=2)
    return tokenizer


def _splittable(
    blocks: Iterable[Block], tokenizer: BPETokenizer, report: ReadReport | None
) -> Iterator[Block]:
    """Leave out what the pattern gives up on, and the rest of a document with that.

    report: counts it; None to raise UserError with its place instead.
    """
    is_left_out = False
    for block in blocks:
        try:
            if not is_left_out:
                tokenizer.count(block.data)
                yield block
        except UserError as error:
            complaint = f"{block.place} can't be learned from ({error})"
            if report is None:
                raise UserError(f"{complaint}; or leave it out, with on_error 'skip'") from error
            report.skip(complaint, block.place or "")
            is_left_out = True
        if block.ends_document:
            is_left_out = False
