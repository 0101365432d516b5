"""The thread that runs the engine.

The engine knows no threads and no clock. Everything it is told comes through one inbox, between two
steps; everything it says goes back to the event loop, once per step.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from gptfast.errors import UserError
from gptfast.sample.engine import Engine, QueueFullError
from gptfast.sample.request import Generation
from gptfast.serve.errors import ApiError, overloaded
from gptfast.serve.jobs import Job, Update

T = TypeVar("T")


@dataclass
class _Running:
    """A continuation that has not ended, and how much of it was sent."""

    generation: Generation
    job: Job
    index: int
    n_characters: int = 0
    n_tokens: int = 0


@dataclass
class Counts:
    """What the worker has done since its start."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0


class Worker(threading.Thread):
    """Runs jobs on an engine. `submit`, `cancel` and `end` may be called from the event loop."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="engine", daemon=True)
        self.counts = Counts()
        self._engine, self._loop = engine, loop
        self._wake = threading.Condition()
        self._inbox: deque[Callable[[], None]] = deque()
        self._running: dict[int, _Running] = {}  # by the id() of the generation
        self._is_ending = False

    # ---- called from the event loop --------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Start a job. Its `accepted` is set, to an ApiError if the queue has no room for it."""
        self._tell(partial(self._submit, job))

    def cancel(self, job: Job) -> None:
        """End what is left of a job, before the next step."""
        self._tell(partial(self._cancel, job))

    def abort(self, error: ApiError) -> None:
        """End all jobs with an error, before the next step."""
        self._tell(partial(self._abort, error))

    def call(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do work with the model between two steps; return what will hold its result."""
        result: asyncio.Future[T] = self._loop.create_future()
        self._tell(partial(self._call, work, result))
        return result

    def end(self) -> None:
        """End the thread after the step that it is in, and wait for it."""
        with self._wake:
            self._is_ending = True
            self._wake.notify()
        self.join()

    @property
    def n_running(self) -> int:
        """How many slots of the engine are in use."""
        return self._engine.n_running

    @property
    def n_waiting(self) -> int:
        """How many continuations wait for a slot."""
        return self._engine.n_waiting

    def _tell(self, command: Callable[[], None]) -> None:
        with self._wake:
            self._inbox.append(command)
            self._wake.notify()

    # ---- in the thread ---------------------------------------------------------------------------

    def run(self) -> None:
        """Follow the inbox, and step while there is work."""
        while True:
            with self._wake:
                self._wake.wait_for(self._has_work)
                if self._is_ending:
                    return
                commands, self._inbox = self._inbox, deque()
            for command in commands:
                command()
            if self._engine.has_work:
                self._step()

    def _has_work(self) -> bool:
        return bool(self._inbox) or self._engine.has_work or self._is_ending

    def _submit(self, job: Job) -> None:
        started: list[Generation] = []
        error: ApiError | None = None
        try:
            for request in job.requests:
                started += self._engine.submit(request, job.n)
        except QueueFullError as full:
            error = overloaded(str(full))
        except UserError as wrong:
            error = ApiError(400, str(wrong))
        if error is not None:
            for generation in started:
                self._engine.cancel(generation)
        else:
            self.counts.prompt_tokens += sum(len(request.prompt) for request in job.requests)
            for index, generation in enumerate(started):
                self._running[id(generation)] = _Running(generation, job, index)
        self._loop.call_soon_threadsafe(job.answer, error)

    def _cancel(self, job: Job) -> None:
        for running in [r for r in self._running.values() if r.job is job]:
            del self._running[id(running.generation)]
            self._engine.cancel(running.generation)

    def _call(self, work: Callable[[], T], result: asyncio.Future[T]) -> None:
        try:
            answer = work()
        except Exception:
            traceback.print_exc()
            error = ApiError(500, "the server failed: its log says why")
            self._loop.call_soon_threadsafe(_settle, result, None, error)
        else:
            self._loop.call_soon_threadsafe(_settle, result, answer, None)

    def _abort(self, error: ApiError) -> None:
        for job in {running.job for running in self._running.values()}:
            self._cancel(job)
            self._loop.call_soon_threadsafe(job.put, error)

    def _step(self) -> None:
        try:
            changed = self._engine.step()
        except Exception:  # a bug of ours must not leave clients waiting
            traceback.print_exc()
            self._abort(ApiError(500, "the server failed: its log says why"))
            return
        self.counts.steps += 1
        updates: list[tuple[Job, Update | ApiError]] = []
        for generation in changed:
            if (running := self._running.get(id(generation))) is not None:
                updates += self._news_of(running)
        if updates:
            self._loop.call_soon_threadsafe(_deliver, updates)

    def _news_of(self, running: _Running) -> list[tuple[Job, Update | ApiError]]:
        generation, job = running.generation, running.job
        if generation.error is not None:
            self._cancel(job)
            # A grammar that can't be followed is the client's; logits that are NaN are not.
            status = 400 if generation.request.processors else 500
            return [(job, ApiError(status, str(generation.error)))]
        has_ended = generation.finish_reason is not None
        if has_ended:
            del self._running[id(generation)]
            self.counts.completion_tokens += len(generation.ids)
        elif not job.is_streamed:
            return []
        text = generation.text[running.n_characters :]
        logprobs = generation.logprobs[running.n_tokens :]
        running.n_characters += len(text)
        running.n_tokens += len(logprobs)
        return [(job, Update(running.index, text, logprobs, generation, has_ended))]


def _settle(result: asyncio.Future[T], answer: Any, error: ApiError | None) -> None:
    if result.done():  # the client has gone
        return
    if error is None:
        result.set_result(answer)
    else:
        result.set_exception(error)


def _deliver(updates: Sequence[tuple[Job, Update | ApiError]]) -> None:
    for job, update in updates:
        job.put(update)
