"""The options of `python -m gptfast.tokenizer`'s subcommands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gptfast.errors import UserError
from gptfast.tokenizer.base import END_OF_TEXT, Tokenizer
from gptfast.tokenizer.published import open_tokenizer

Files = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILES...")]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Learn a byte-level BPE vocabulary from files."""

    files: Files
    """Text or .jsonl, also packed as .gz or .zst, or .parquet files; folders of them; globs."""
    out: Path
    """Folder for tokenizer.json."""
    overwrite: bool = False
    """Replace the tokenizer in `out`."""
    vocab_size: int = 32768
    """Ids to make at most: 256 bytes, merges and special tokens."""
    pattern: str = "gpt2"
    """How text is cut before merging: gpt2, cl100k, o200k, none or a regular expression."""
    special_tokens: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A special token, instead of <|endoftext|>; repeat the option for more."""
    min_frequency: int = 1
    """Stop when no pair of tokens occurs as often as this."""
    tie: Literal["bytes", "huggingface"] = "bytes"
    """Which of equally frequent pairs is merged first; huggingface: as its trainer does."""
    n_threads: int | None = None
    """Threads to use; all cores by default."""
    memory_limit: str | None = None
    """Memory to stay below, such as 600MB or 2GB; rare pre-tokens are left out if they must."""
    errors: Literal["strict", "replace"] = "strict"
    """Whether bytes that aren't UTF-8 are an error or become U+FFFD."""
    on_error: Literal["raise", "skip"] = "raise"
    """What to do with a broken line or file: stop, or leave it out and count it."""
    field: str = "text"
    """The key of the text in .jsonl files."""
    column: str = "text"
    """The column of the text in .parquet files."""


@dataclass(frozen=True, kw_only=True)
class _WithTokenizer:
    tokenizer: Path
    """A folder with a tokenizer.json, a tokenizer.json, or a tiktoken rank file."""
    pattern: str | None = None
    """The pattern of a rank file, if it isn't GPT-2's, cl100k's or o200k's."""

    def open(self) -> Tokenizer:
        return open_tokenizer(self.tokenizer, self.pattern)


@dataclass(frozen=True, kw_only=True)
class Encode(_WithTokenizer):
    """Turn files into token shards, or a text into ids on one line."""

    files: Files = ()
    """Text or .jsonl, also packed as .gz or .zst, or .parquet files; folders of them; globs."""
    out: Path | None = None
    """A .bin file for one shard of all files, or a folder for a shard of each."""
    text: str | None = None
    """Print the ids of this text; without files and --text, of standard input."""
    separator: str | None = END_OF_TEXT
    """The special token after each document."""
    errors: Literal["strict", "replace"] = "strict"
    """Whether bytes that aren't UTF-8 are an error or become U+FFFD."""
    on_error: Literal["raise", "skip"] = "raise"
    """What to do with a broken line or file: stop, or leave it out and count it."""
    field: str = "text"
    """The key of the text in .jsonl files."""
    column: str = "text"
    """The column of the text in .parquet files."""
    n_threads: int | None = None
    """Threads to use; all cores by default."""
    memory_limit: str | None = None
    """Memory to stay below, such as 600MB or 2GB."""


@dataclass(frozen=True, kw_only=True)
class Decode(_WithTokenizer):
    """Turn ids, or a token shard, back into text on standard output, byte by byte."""

    ids: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IDS...")] = ()
    """The ids; without them and --shard, those on standard input."""
    shard: Path | None = None
    """A shard that `encode` wrote."""


@dataclass(frozen=True, kw_only=True)
class Audit(_WithTokenizer):
    """Measure a BPE on text: compression, fertility, use of its tokens, splits of numbers."""

    files: Files = ()
    """The text, which has to fit into memory: files as for `encode`; else the built-in texts."""
    against: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=PATH of a tokenizer to compare with; repeat it for more."""
    learned_from: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """File whose characters and words the naive tokenizers know, else the text's; repeatable."""
    field: str = "text"
    """The key of the text in .jsonl files."""
    column: str = "text"
    """The column of the text in .parquet files."""
    out: Path | None = None
    """Folder for audit.json and audit.png."""


@dataclass(frozen=True, kw_only=True)
class Show(_WithTokenizer):
    """Colour the tokens of a text; where there are no colours, put | between them."""

    text: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")] = None
    """The text; without it and --file, standard input."""
    file: Path | None = None
    """A file with the text."""
    ids: bool = False
    """Print each token's id after it."""


@dataclass(frozen=True)
class TokenizerConfig:
    """Train a tokenizer, use it, and see what it does to text."""

    command: Annotated[
        Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Encode, tyro.conf.subcommand("encode")]
        | Annotated[Decode, tyro.conf.subcommand("decode")]
        | Annotated[Audit, tyro.conf.subcommand("audit")]
        | Annotated[Show, tyro.conf.subcommand("show")],
        tyro.conf.arg(name=""),
    ]


def n_bytes(size: str | None) -> int | None:
    """Return the bytes that a size such as '600MB' means. Raises UserError if it is none."""
    if size is None:
        return None
    match = re.fullmatch(r"(\d+) ?([kMG]?)B?", size, flags=re.IGNORECASE)
    if match is None:
        raise UserError(f"memory_limit is {size!r}: expected a size such as 600MB or 2GB")
    number, unit = match.groups()
    return int(number) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[unit.upper()]
