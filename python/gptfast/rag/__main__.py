"""`gptfast rag`: index documents, ask them, and measure how well answers are found in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from gptfast.cli import cli
from gptfast.cli.progress import show_bytes
from gptfast.cli.units import count
from gptfast.errors import UserError
from gptfast.rag.ask_options import Ask, Chat
from gptfast.rag.options import Evaluate, IndexFiles, RagConfig
from gptfast.rag.shown import shown
from gptfast.system.files import write_text_atomically

if TYPE_CHECKING:
    from gptfast.rag.ask import Asker

_MOST_PROBLEMS = 20


def main(argv: Sequence[str]) -> int:
    """Run the subcommand. Return 0, or NOT_ANSWERED of `ask`."""
    match cli.parse(RagConfig, argv, "gptfast rag").command:
        case IndexFiles() as config:
            _index(config)
        case Ask() as config:
            from gptfast.rag.ask import ask_once

            return ask_once(_asker(config), config.question, config.json)
        case Chat() as config:
            from gptfast.rag.ask import converse

            converse(_asker(config))
        case Evaluate() as config:
            _evaluate(config)
    return 0


def _index(config: IndexFiles) -> None:
    from gptfast.rag.indexing import index_files
    from gptfast.rag.readers import find

    total = 0
    for file in find(config.paths)[0].values():
        with suppress(OSError):  # a file that is gone again
            total += file.stat().st_size
    with show_bytes("indexing", total, True) as progress:
        done = index_files(config.paths, config.out, config.embeddings, progress)
    for note in done.notes:
        print(f"note: {note}")
    for path, problem in list(done.problems.items())[:_MOST_PROBLEMS]:
        print(f"note: {shown(path)}: {shown(problem)}")
    if len(done.problems) > _MOST_PROBLEMS:
        print(f"note: {len(done.problems) - _MOST_PROBLEMS:,} more files have such problems")
    print(
        f"{count(done.n_new, 'file')} read, {done.n_unchanged:,} unchanged, {done.n_same:,} with "
        f"the bytes of another, {done.n_removed:,} removed; {count(done.n_embedded, 'chunk')} "
        f"embedded\n{config.out}: {count(done.n_files, 'file')}, {count(done.n_chunks, 'chunk')}"
    )


def _asker(config: Ask | Chat) -> Asker:
    from gptfast.rag.ask import Asker
    from gptfast.rag.writers import make_writer

    asker = Asker(config.index, config.retriever, config.quotes, make_writer(config.writer))
    for note in asker.notes:
        print(f"note: {note}", file=sys.stderr)
    return asker


def _evaluate(config: Evaluate) -> None:
    from gptfast.rag.evaluate import Judge, read_questions
    from gptfast.rag.report import refusals, table
    from gptfast.rag.search import RETRIEVERS, Searcher
    from gptfast.rag.store import Index

    index = Index.open(config.index)
    judge = Judge(index, read_questions(config.questions))
    results = []
    for retriever in RETRIEVERS:
        if retriever.startswith("gpt") and config.gpt is None:
            continue
        try:
            searcher = Searcher(index, retriever, config.gpt)
        except UserError as error:
            print(f"note: without {retriever}: {error}", file=sys.stderr)
            continue
        for note in searcher.notes:
            print(f"note: {retriever}: {note}", file=sys.stderr)
        results.append(judge.judge(searcher))
    found = {
        "questions": len(judge.own),
        "foreign_questions": len(judge.foreign),
        "chunks": len(index.chunks()),
        "results": [asdict(result) for result in results],
    }
    if config.out is not None:
        write_text_atomically(config.out, json.dumps(found, indent=1) + "\n")
    if config.json:
        print(json.dumps(found))
        return
    console = cli.console()
    console.print(
        f"{count(len(judge.own), 'question')} and {len(judge.foreign):,} foreign ones, "
        f"{count(len(index.chunks()), 'chunk')}"
    )
    console.print(table(results), soft_wrap=False)
    console.print("below each mean: its 95% interval over questions (bootstrap)")
    for line in refusals(results):
        console.print(line)


if __name__ == "__main__":
    sys.exit(cli.run(main))
