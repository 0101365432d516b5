"""The options of `python -m gptfast.tokenizer`'s subcommands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from gptfast.cli.path import PATH
from gptfast.data.documents import ReadOptions, TextOptions
from gptfast.data.options import Files
from gptfast.tokenizer.base import Tokenizer
from gptfast.tokenizer.published import open_tokenizer
from gptfast.tokenizer.roles import END_OF_TEXT, Roles, roles_of_trained


@dataclass(frozen=True, kw_only=True)
class Train:
    """Learn a byte-level BPE vocabulary from files.

    If even the distinct pre-tokens exceed --memory-limit, the rarest are left out.
    """

    files: Files
    """Text, JSON (lines or arrays), CSV, TSV or Parquet, also compressed (.gz, .zst, .bz2, .xz,
    .lz4) and in .tar or .zip; folders of them, globs, pipes, - for standard input."""
    out: Path
    """Folder for tokenizer.json and tokenizer_config.json."""
    overwrite: bool = False
    """Replace the tokenizer in `out`."""
    vocab_size: int = 32768
    """Maximum number of ids: 256 bytes, merges and special tokens."""
    pattern: str = "gpt2"
    """How text is split before merging: gpt2, cl100k, o200k, llama3, qwen2, qwen3.5, deepseek,
    tekken, kimi, nanochat, starcoder2, none, or a regular expression."""
    special_tokens: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A special token, instead of <|endoftext|>; repeat the option for more."""
    eos_token: str | None = None
    """The special token that ends a document, where sampling stops. By default <|endoftext|> if it
    is a special token, else the only one with a well-known name such as </s>, or the only one."""
    bos_token: str | None = None
    """The special token that begins a text; by default the one that ends a document."""
    pad_token: str | None = None
    """The special token that fills up a batch; by default the one that ends a document."""
    end_of_turn_token: str | None = None
    """The special token that ends a message of a dialogue, where sampling stops, too."""
    min_frequency: int = 1
    """Stop when no pair of tokens occurs this often."""
    tie: Literal["bytes", "huggingface"] = "bytes"
    """Which of equally frequent pairs is merged first; huggingface: like its own trainer."""
    max_token_length: int | None = None
    """The most bytes that a token may have."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def names_and_roles(self) -> tuple[tuple[str, ...], Roles]:
        """Return the special tokens, those of the roles included, and the roles."""
        given = Roles(
            bos=self.bos_token,
            eos=self.eos_token,
            pad=self.pad_token,
            end_of_turn=self.end_of_turn_token,
        )
        named: dict[str, Any] = {
            r: name for r, name in given.one_each().items() if name is not None
        }
        default = () if self.eos_token else (END_OF_TEXT,)
        names = tuple(dict.fromkeys([*(self.special_tokens or default), *named.values()]))
        return names, replace(roles_of_trained(self.special_tokens or names), **named)


@dataclass(frozen=True, kw_only=True)
class _WithTokenizer:
    tokenizer: Path
    """A folder with a tokenizer.json, a tokenizer.json, or a tiktoken rank file."""
    pattern: str | None = None
    """The split pattern of a rank file that is not one of the published ones."""

    def open(self) -> Tokenizer:
        return open_tokenizer(self.tokenizer, self.pattern)


@dataclass(frozen=True, kw_only=True)
class Add(_WithTokenizer):
    """Add tokens to a tokenizer. The ids that it has stay; the new ones follow them."""

    token: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """The name of a new token; repeat the option for more."""
    special: bool = True
    """Whether they are found only where special tokens are allowed; with --no-special, in any
    text."""
    out: Path
    """Folder for the new tokenizer."""
    overwrite: bool = False
    """Replace the tokenizer in `out`."""


@dataclass(frozen=True, kw_only=True)
class Extend(_WithTokenizer):
    """Learn further merges for a tokenizer from files. The ids that it has stay.

    The new ids follow all others. Text may be encoded with new tokens where old ones stood.
    """

    files: Files
    """What to learn from: files as for `train`."""
    vocab_size: int
    """Maximum number of ids, those that it has included."""
    out: Path
    """Folder for the new tokenizer."""
    overwrite: bool = False
    """Replace the tokenizer in `out`."""
    min_frequency: int = 1
    """Stop when no pair of tokens occurs this often."""
    max_token_length: int | None = None
    """The most bytes that a new token may have."""
    read: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True, kw_only=True)
class Encode(_WithTokenizer):
    """Turn a file into a token shard, or a text into ids on one line.

    For many files, or files to train on, use `gptfast data prepare`.
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE")] = ()
    """A file as for `train`, a pipe, or - for standard input."""
    out: Path | None = None
    """The shard to write."""
    text: str | None = None
    """Print the ids of this text; without a file and --text, of standard input."""
    allow_special: bool = False
    """Read special tokens such as <|endoftext|> in the text as tokens, not as ordinary text."""
    separator: str | None = "eos"
    """The special token after each document; eos for the one with that role, whatever its name."""
    read: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True, kw_only=True)
class Decode(_WithTokenizer):
    """Turn ids, or a token shard, back into text on standard output, byte by byte."""

    ids: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IDS...")] = ()
    """The ids; without them and --shard, those on standard input."""
    shard: Path | None = None
    """A shard that `encode` wrote."""


@dataclass(frozen=True, kw_only=True)
class Audit(TextOptions, _WithTokenizer):
    """Measure a BPE on text: compression, fertility, use of its tokens, splits of numbers."""

    files: Files = ()
    """The text, which must fit into memory: files as for `train`; else the built-in texts."""
    against: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, PATH] = ()
    """NAME=PATH of a tokenizer to compare with; repeat the option for more."""
    learned_from: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, PATH] = ()
    """File with the characters and words that the naive tokenizers know, instead of those of the
    text; repeat the option for more."""
    out: Path | None = None
    """Folder for audit.json and audit.png."""


@dataclass(frozen=True, kw_only=True)
class Show(_WithTokenizer):
    """Color the tokens of a text; without color, separate them by |."""

    text: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")] = None
    """The text; without it and --file, standard input."""
    file: Path | None = None
    """A file with the text."""
    allow_special: bool = False
    """Read special tokens such as <|endoftext|> in the text as tokens, not as ordinary text."""
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
        | Annotated[Show, tyro.conf.subcommand("show")]
        | Annotated[Add, tyro.conf.subcommand("add")]
        | Annotated[Extend, tyro.conf.subcommand("extend")],
        tyro.conf.arg(name=""),
    ]
