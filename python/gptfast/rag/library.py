"""An index as a server offers it: answers and places as JSON, from several threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from gptfast.errors import RunError, UserError
from gptfast.rag.answer import Quote, reference
from gptfast.rag.ask import Asker

MOST_LINES = 400
"""Lines that are shown before a quote, and after it."""
MOST_CHARACTERS = 50_000
"""Characters that are shown before a quote, and after it."""


class Library:
    """The index in a folder, which threads use in turn. A writer doesn't hold it up."""

    def __init__(self, asker: Asker, folder: Path) -> None:
        self.name = folder.resolve().name
        self.writer = None if asker.writer is None else asker.writer.name
        self._asker, self._lock = asker, threading.Lock()

    def ask(self, question: str, generate: bool) -> dict[str, Any]:
        """Return an answer: what `gptfast rag ask --json` prints, and more of each quote.

        Each quote has `reference`, `page_label`, `char_start` and `char_end`, too; `nearest` is the
        best place where there is no answer. generate: add `generated`, a sentence or null, and
        `failure`, why there is none. Raises UserError for a question that can't be asked.
        """
        with self._lock:
            found = self._asker.ask(question)
        answer = found.as_json()
        answer["quotes"] = [
            of_quote | _more(quote)
            for of_quote, quote in zip(answer["quotes"], found.quotes, strict=True)
        ]
        near = found.nearest if not found.answered and found.near.value > 0 else None
        answer["nearest"] = None if near is None else reference(near)
        if generate:
            answer |= {"generated": None, "failure": None}
            try:
                if (sentence := self._asker.sentence(question, found)) is not None:
                    answer["generated"] = sentence.as_json() | {"spans": sentence.unsupported}
            except (UserError, RunError) as error:
                answer["failure"] = str(error)
        return answer

    def place(self, file: str, page: int | None, char_start: int, char_end: int) -> dict[str, Any]:
        """Return the text around a place, in whole lines where they aren't too long.

        `before`, `quoted` and `after` follow one another. `line_start` is the line that `before`
        begins in; `is_begin` and `is_end` say whether nothing was left out there. Raises UserError
        if there is no such place.
        """
        with self._lock:
            text = self._asker.index.text_of(file, page)
        if not char_start < char_end <= len(text):
            raise UserError(f"{file} has no such place: expected characters below {len(text):,}")
        begin = _lines_before(text, char_start)
        end = len(text) - _lines_before(text[::-1], len(text) - char_end)
        return {
            "before": text[begin:char_start],
            "quoted": text[char_start:char_end],
            "after": text[char_end:end],
            "line_start": text.count("\n", 0, begin) + 1,
            "is_begin": begin == 0,
            "is_end": end == len(text),
        }


def _more(quote: Quote) -> dict[str, Any]:
    names = ("page_label", "char_start", "char_end")
    more = {name: getattr(quote, name) for name in names}
    return {"reference": reference(quote)} | more


def _lines_before(text: str, place: int) -> int:
    """Return where the text begins that is shown before a place."""
    least = max(0, place - MOST_CHARACTERS)
    begin = place
    for _ in range(MOST_LINES + 1):
        begin = text.rfind("\n", least, begin)
        if begin < 0:
            return least
    return begin + 1
