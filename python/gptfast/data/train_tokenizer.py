"""Train a tokenizer on files, streamed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

from gptfast.cli.progress import TrainingProgress
from gptfast.data.documents import Paths, ReadOptions, ReadReport, read_blocks
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.base import END_OF_TEXT


def train_tokenizer(
    files: Paths,
    vocab_size: int = 32_768,
    pattern: str = "gpt2",
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    min_frequency: int = 1,
    *,
    tie: Literal["bytes", "huggingface"] = "bytes",
    options: ReadOptions | None = None,
    progress: bool | TrainingProgress = True,
) -> BPETokenizer:
    """Learn a vocabulary from the documents of files, folders and globs.

    Equals `BPETokenizer.train` on the same documents, which describes the arguments, but streams:
    the text may be larger than memory. A warning says how much could not be read, if
    `options.on_error` is "skip".

    Raises UserError for arguments or files that can't be used, MissingFileError if a path names no
    file.
    """
    options, report = options or ReadOptions(), ReadReport()
    # No vocabulary exists yet, but the pattern alone says where merges never cross.
    single_bytes = BPETokenizer({bytes([byte]): byte for byte in range(256)}, pattern)
    blocks = read_blocks(files, options, safe_cut=single_bytes.safe_cut, report=report)
    tokenizer = BPETokenizer.train(
        (block.data for block in blocks),
        vocab_size,
        pattern,
        special_tokens,
        min_frequency,
        tie=tie,
        n_threads=options.n_threads,
        memory_limit=options.memory_bytes,
        progress=progress,
    )
    if report.skipped:
        warnings.warn(report.left_out(), stacklevel=2)
    return tokenizer
