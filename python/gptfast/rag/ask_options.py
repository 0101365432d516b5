"""The options of `gptfast rag ask` and `chat`. Needs no PyTorch, so that `--help` is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gptfast.cli.path import PATH
from gptfast.errors import UserError, check_at_least

Retriever = Literal["hybrid", "hybrid-lsa", "fts5", "lsa", "minilm"]


@dataclass(frozen=True)
class WriterOptions:
    """A model that adds a sentence to the quotes."""

    generate: Annotated[str | None, PATH, tyro.conf.arg(metavar="FOLDER|URL")] = None
    """A model folder, or the address of a server with OpenAI's API such as
    http://127.0.0.1:8000/v1, which the quotes are sent to. The model adds one sentence, in which
    numbers and names that are not in the quotes are marked."""
    generate_model: str | None = None
    """The server's model. By default the first that it lists."""
    generate_key_file: Path | None = None
    """A file whose first line is the server's key."""
    generate_seconds: float = 60.0
    """How long the server may take to answer."""

    def __post_init__(self) -> None:
        if not 0 < self.generate_seconds <= 3600 or math.isnan(self.generate_seconds):
            raise UserError(f"generate_seconds is {self.generate_seconds}: expected 0 to 3600")
        if self.generate == "":
            raise UserError("generate is empty: expected a model folder or an address")
        if not self.is_url:
            for name in ("generate_model", "generate_key_file"):
                if getattr(self, name) is not None:
                    flag = name.replace("_", "-")
                    raise UserError(f"--{flag} was given without an address in --generate")

    @property
    def is_url(self) -> bool:
        """Whether an address was given."""
        return self.generate is not None and self.generate.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Asked:
    """How to find quotes."""

    index: Path
    """The folder of an index, which `gptfast rag index` has made."""
    quotes: int = 3
    """The most sentences to quote."""
    retriever: Retriever = "hybrid"
    """How to find them; hybrid is by words and MiniLM, or by words and LSA where MiniLM is missing.
    `gptfast rag eval` compares them."""

    def __post_init__(self) -> None:
        check_at_least("quotes", self.quotes, 1)


@dataclass(frozen=True, kw_only=True)
class Ask(Asked):
    """Answer a question by quotes from an index.

    The exit code is 3 if the index has no answer.
    """

    question: Annotated[str, tyro.conf.Positional]
    """The question, such as 'How often does the cat eat?'."""
    json: bool = False
    """Print the answer as JSON."""
    writer: Annotated[WriterOptions, tyro.conf.arg(name="")] = field(default_factory=WriterOptions)


@dataclass(frozen=True, kw_only=True)
class Chat(Asked):
    """Answer one question after another, each alone."""

    writer: Annotated[WriterOptions, tyro.conf.arg(name="")] = field(default_factory=WriterOptions)
