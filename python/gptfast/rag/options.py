"""The options of `gptfast rag`'s subcommands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gptfast.rag.ask_options import Ask, Chat


@dataclass(frozen=True, kw_only=True)
class IndexFiles:
    """Index documents, or bring an index up to date with them.

    The index then holds what the paths hold now: new and changed files are read, files that are
    gone are removed, and unchanged ones cost nothing. Run the same command again after it was
    killed.
    """

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATHS...")]
    """Files or folders: text, Markdown, HTML, PDF, and what `gptfast data` reads (JSON lines,
    tables, Parquet, also compressed)."""
    out: Path
    """Folder of the index: a file index.sqlite."""
    embeddings: Literal["auto", "minilm", "none"] = "auto"
    """minilm: vectors of MiniLM, which is downloaded the first time (84 MB). none: search by words
    and LSA alone. auto: minilm if it can be loaded."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure how well each retriever finds the answers to questions."""

    questions: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="QUESTIONS.jsonl")]
    """JSON lines: {"question": "...", "relevant": [{"file": "a.md", "quote": "..."}]}. Instead of a
    quote, "page": 3 of a PDF, or neither for the whole file; "grade": 2 counts twice as much. An
    empty list marks a foreign question, which should be refused."""
    index: Path
    """Folder of the index."""
    gpt: Path | None = None
    """Folder of one of your models, to see how its embeddings compare."""
    out: Path | None = None
    """Write the results to this file, as JSON."""
    json: bool = False
    """Print JSON instead of the table."""


@dataclass(frozen=True)
class RagConfig:
    """Search in your own documents, and answer questions by quotes from them."""

    command: Annotated[
        Annotated[IndexFiles, tyro.conf.subcommand("index")]
        | Annotated[Ask, tyro.conf.subcommand("ask")]
        | Annotated[Chat, tyro.conf.subcommand("chat")]
        | Annotated[Evaluate, tyro.conf.subcommand("eval")],
        tyro.conf.arg(name=""),
    ]
