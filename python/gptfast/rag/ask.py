"""Ask an index, once or again and again, and print the answers."""

from __future__ import annotations

import io
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from gptfast.cli import cli
from gptfast.errors import RunError, UserError
from gptfast.rag.answer import Answer, answer, reference
from gptfast.rag.generate import Sentence, Writer, write_sentence
from gptfast.rag.search import Searcher
from gptfast.rag.shown import shown
from gptfast.rag.store import FILE, Index

NOT_ANSWERED = 3
"""Exit code of `gptfast rag ask` when the index has no answer."""
MOST_CHARACTERS = 2_000
"""The longest question."""
HELP = "Type a question. Each is answered alone. /quit or Ctrl-D: leave."


class Asker:
    """Answers questions from the index in a folder, which may be brought up to date meanwhile.

    Belongs to one thread.
    """

    def __init__(
        self,
        folder: Path,
        retriever: str = "hybrid",
        n_quotes: int = 3,
        writer: Writer | None = None,
    ) -> None:
        """Open the index. Raises as `Index.open` and `Searcher` do."""
        self.writer = writer
        self._folder, self._retriever, self._n_quotes = folder, retriever, n_quotes
        self._open()

    def ask(self, question: str) -> Answer:
        """Return the answer to a question. Raises UserError for one that can't be asked."""
        if self._version() != self._seen:
            self.index.close()
            self._open()
        return answer(self._searcher, checked(question), self._n_quotes)

    def sentence(self, question: str, found: Answer) -> Sentence | None:
        """Return what the writer says of an answer; None without a writer or without quotes."""
        if self.writer is None or not found.quotes:
            return None
        return write_sentence(self.writer, checked(question), found.quotes)

    def _open(self) -> None:
        self.index = Index.open(self._folder)
        self._seen = self._version()
        self._searcher = Searcher(self.index, self._retriever)

    @property
    def notes(self) -> list[str]:
        """What to tell the user of how the index is searched, in lines."""
        return self._searcher.notes

    def _version(self) -> tuple[int, ...]:
        """Return what changes when another process writes the index, or puts another there."""
        (version,) = self.index.connection.execute("PRAGMA data_version").fetchone()
        return version, (self._folder / FILE).stat().st_ino


def checked(question: str) -> str:
    """Return a question as UTF-8 can spell it. Raises UserError for an empty or a long one."""
    question = question.encode(errors="replace").decode()
    if not any(c.isalnum() for c in question):
        raise UserError("the question has no word: expected one, such as 'How do I ...?'")
    if len(question) > MOST_CHARACTERS:
        raise UserError(
            f"the question has {len(question):,} characters: expected at most {MOST_CHARACTERS:,}"
        )
    return question


def ask_once(asker: Asker, question: str, as_json: bool) -> int:
    """Print the answer to a question. Return 0, or NOT_ANSWERED.

    The quotes are printed even if the writer fails, which then raises UserError or RunError.
    """
    found = asker.ask(question)
    if not as_json:
        _print(asker, question, found)
    else:
        failure: Exception | None = None
        written: dict[str, Any] = {}
        if asker.writer is not None:
            written["generated"] = None
            try:
                sentence = asker.sentence(question, found)
                if sentence is not None:
                    written["generated"] = sentence.as_json()
            except (UserError, RunError) as error:
                failure = error
        print(json.dumps(found.as_json() | written, indent=2))
        if not found.answered:
            print(f"note: {_refusal(found)}", file=sys.stderr)
        if failure is not None:
            raise failure
    return 0 if found.answered else NOT_ANSWERED


def converse(asker: Asker) -> None:
    """Answer one question after another until standard input ends, or a line says /quit."""
    with suppress(ImportError):
        import readline  # noqa: F401 (from here on, input() edits lines and keeps a history)
    if isinstance(sys.stdin, io.TextIOWrapper):  # what is no UTF-8 is asked for as it is shown
        sys.stdin.reconfigure(errors="replace")

    print(HELP)
    while _answer_line(asker):
        pass


def _answer_line(asker: Asker) -> bool:
    """Ask for a question and answer it. Return whether to go on."""
    try:
        line = input("> ").strip()
        if line == "/quit":
            return False
        if line:
            _print(asker, line, asker.ask(line))
    except EOFError:
        print()
        return False
    except KeyboardInterrupt:  # ends the line or the answer, not the program
        print()
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
    return True


def _print(asker: Asker, question: str, found: Answer) -> None:
    console = cli.console()
    if not found.answered:
        console.print(f"No answer: {_refusal(found)}.")
        return
    for number, quote in enumerate(found.quotes, 1):
        console.print(f"[{number}] {shown(reference(quote))}", style="bold")
        for line in quote.text.split("\n"):
            console.print(f"    {shown(line)}")
    sys.stdout.flush()  # before the writer, which takes its time
    sentence = asker.sentence(question, found)
    if sentence is not None:
        console.print(f"\nwritten by {shown(sentence.writer)}: {shown(sentence.marked)}")
        if sentence.unsupported:
            console.print("    [...?]: a number or name that is not in the quotes")


def _refusal(found: Answer) -> str:
    near = found.near
    if found.nearest is None or near.value <= 0:
        return "the index has nothing about the question"
    return (
        f"the nearest place, {shown(reference(found.nearest))}, is not near enough "
        f"({near.value:.2f}, expected {near.least:.2f})"
    )
