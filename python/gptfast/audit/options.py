"""The options of `gptfast audit`'s subcommands. Needs no PyTorch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from gptfast.audit.config import RepetitionPlan
from gptfast.cli.path import PATH
from gptfast.tokenizer.options import Audit as Tokenizer

Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Show where a model's heads look, and check that no token sees a later one.

    The exit code is 1 if a check fails.
    """

    folder: Folder
    """The model folder, such as runs/shakespeare."""
    text: str
    """A text of 2 to 128 tokens, which fits into the model's context."""
    layer: int | None = None
    """The layer of the head whose matrix to show, counted from 1. Without it or --head, the head
    with the least even weights is shown."""
    head: int | None = None
    """The head whose matrix to show, counted from 1."""
    mask_documents: bool = False
    """Read end-of-text tokens in the text as such, and keep documents from seeing each other, as
    for `gptfast train`."""
    seed: int = 1337
    """Seed of the random sequences that the induction score is measured on."""
    out: Path | None = None
    """Folder for attention.json, attention.png and attention.html."""
    device: str = "auto"
    """'auto' (CUDA if there is one), 'cpu', 'cuda' or 'cuda:1'."""


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """Measure how much samples repeat themselves and the train text, beside the val text.

    Samples are greedy, and at temperature 0.8, at 0.8 with top-p 0.9, and at 1.
    """

    folder: Folder
    """The model folder, such as runs/shakespeare."""
    corpus: Annotated[str | None, PATH] = None
    """The corpus, as for `gptfast train`. By default that of the model's run."""
    plan: Annotated[RepetitionPlan, tyro.conf.arg(name="")] = field(default_factory=RepetitionPlan)
    out: Path | None = None
    """Folder for repetition.json."""
    device: str = "auto"
    """'auto' (CUDA if there is one), 'cpu', 'cuda' or 'cuda:1'."""


@dataclass(frozen=True)
class AuditConfig:
    """See what a model or a tokenizer learned, in numbers."""

    command: Annotated[
        Annotated[Attention, tyro.conf.subcommand("attention")]
        | Annotated[Repetition, tyro.conf.subcommand("repetition")]
        | Annotated[Tokenizer, tyro.conf.subcommand("tokenizer")],
        tyro.conf.arg(name=""),
    ]
