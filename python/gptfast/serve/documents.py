"""Ask documents: the endpoints beneath the page that shows quotes and the places they come from."""

from __future__ import annotations

import asyncio
import queue
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from gptfast.errors import UserError
from gptfast.serve.errors import ApiError, failed, overloaded
from gptfast.serve.fields import Fields
from gptfast.serve.jobs import Call
from gptfast.serve.page import build_documents_page

MOST_QUESTIONS = 16
"""Questions, or places, that may wait."""
MOST_SENTENCES = 4
"""Sentences of a model that may wait."""

Json = dict[str, Any]


class Library(Protocol):
    """An index of documents. Two threads may use it at a time."""

    name: str
    writer: str | None
    """The name of a model that writes a sentence from quotes; None without one."""

    def ask(self, question: str, generate: bool) -> Json:
        """Return an answer by quotes. Raises UserError for a question that can't be asked.

        generate: let the writer add a sentence.
        """

    def place(self, file: str, page: int | None, char_start: int, char_end: int) -> Json:
        """Return the text around a place. Raises UserError if there is none."""


class Documents:
    """Answers questions from a library, one at a time, beside the event loop."""

    def __init__(self, library: Library) -> None:
        self.page = build_documents_page(library.name, library.writer)
        self._library = library
        self._reader = _Lane("documents", MOST_QUESTIONS)
        self._writer = _Lane("sentences", MOST_SENTENCES)

    def ask(self, fields: Fields) -> asyncio.Future[Json]:
        """Return what will hold the answer. Raises ApiError (400, or 503 if many wait)."""
        question, generate = fields.text("question"), fields.boolean("generate")
        fields.refuse_others()
        if question is None:
            raise fields.wrong("question", None, "a text")
        if generate and self._library.writer is None:
            raise ApiError(400, "no model writes here: leave out generate", param="generate")
        lane = self._writer if generate else self._reader
        return lane.submit(partial(self._library.ask, question, generate))

    def place(self, fields: Fields) -> asyncio.Future[Json]:
        """Return what will hold the text of a place. Raises ApiError (400, or 503)."""
        file, page = fields.text("file"), fields.integer("page", None, 1, 2**31)
        begin = fields.integer("char_start", None, 0, 2**53)
        end = fields.integer("char_end", None, 0, 2**53)
        fields.refuse_others()
        for name, value in (("file", file), ("char_start", begin), ("char_end", end)):
            if value is None:
                raise fields.wrong(name, None, "that of a quote")
        return self._reader.submit(partial(self._found, file or "", page, begin, end))

    def _found(self, file: str, page: int | None, begin: int, end: int) -> Json:
        try:
            return self._library.place(file, page, begin, end)
        except UserError:  # whose message names a folder of this machine
            raise ApiError(404, "the index has no such place: ask again") from None


class _Lane:
    """A thread that does one thing after another.

    It ends with the process, which doesn't wait for it.
    """

    def __init__(self, name: str, most_waiting: int) -> None:
        self._calls = queue.Queue[Call[Json]](most_waiting)
        self._name = name
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], Json]) -> asyncio.Future[Json]:
        """Return what will hold the result of work. Raises ApiError (503) if much work waits.

        The work is not done if the future is cancelled before. It may raise UserError or ApiError.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        call = Call(work, asyncio.get_running_loop().create_future())
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            waiting = self._calls.maxsize
            raise overloaded(f"{waiting} such requests wait: try again later") from None
        return call.result

    def _run(self) -> None:
        while True:
            call = self._calls.get()
            if call.result.done():
                continue
            try:
                tell = partial(call.answer, call.work())
            except ApiError as error:
                tell = partial(call.fail, error)
            except UserError as error:
                tell = partial(call.fail, ApiError(400, str(error)))
            except Exception:
                traceback.print_exc()
                tell = partial(call.fail, failed())
            with suppress(RuntimeError):  # the event loop has ended
                call.result.get_loop().call_soon_threadsafe(tell)
