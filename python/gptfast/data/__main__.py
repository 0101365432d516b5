"""`python -m gptfast.data`: fetch a corpus and say what it is made of."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gptfast import cli
from gptfast.data.sources import add_local_copy, load_corpus
from gptfast.data.split import overlap, split_documents


@dataclass(frozen=True)
class DataConfig:
    """Which corpus to look at."""

    corpus: Annotated[str, tyro.conf.Positional] = "shakespeare"
    """'shakespeare', 'tinyshakespeare', or the path of a file, a folder or a glob: text, .jsonl or
    .parquet."""
    copy: Path | None = None
    """Your own copy of the named source, to be used instead of fetching it."""
    val_fraction: float = 0.1
    """Share of the corpus, at its end, that is kept for validation."""


def main(argv: Sequence[str]) -> int:
    """Print sizes, the split and the overlap of val with train. Returns 0."""
    config = cli.parse(DataConfig, argv, "python -m gptfast.data")
    if config.copy is not None:
        print(f"stored as {add_local_copy(config.corpus, config.copy)}")
    corpus = load_corpus(config.corpus)
    train, val = split_documents(corpus.documents, config.val_fraction)
    print(f"{corpus.name}: sha256 {corpus.sha256}")
    for name, part in (("train", train), ("val", val)):
        size = sum(len(document.encode()) for document in part)
        characters = len(set("".join(part)))
        print(f"{name}: {len(part)} documents, {size:,} bytes, {characters} distinct characters")
    print(f"val text found in train (windows of 50 bytes): {overlap(train, val):.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
