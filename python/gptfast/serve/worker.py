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
from functools import partial
from typing import Any, TypeVar

from gptfast.errors import UserError
from gptfast.sample.engine import Engine
from gptfast.serve.errors import ApiError, failed, overloaded
from gptfast.serve.jobs import Call, Job, Update
from gptfast.serve.limits import Limits
from gptfast.serve.running import Command, Counts, Running
from gptfast.serve.turns import Turns

T = TypeVar("T")
MOST_CALLS = 16
"""Calls that may wait. Between two steps, one is answered."""


class Worker(threading.Thread):
    """Runs jobs on an engine, which nobody else may use. Its methods are for the event loop.

    engine: its queue needs n_slots places. An error ends the jobs that it concerns. If one ends the
    thread all the same, all jobs end with it, and `has_failed` is true.
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        super().__init__(name="engine", daemon=True)
        self.counts = Counts()
        self.has_failed = False
        self._engine, self._loop, self._limits = engine, loop, limits
        self._wake = threading.Condition()  # guards the next four
        self._inbox: deque[Command] = deque()
        self._calls: deque[Call[Any]] = deque()
        self._is_ending = self._is_closed = False
        self._turns = Turns()
        self._running: dict[int, Running] = {}  # by the id() of the generation

    # ---- called from the event loop --------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Start a job. Its `accepted` is set, to an ApiError if there is no room for it."""
        if not self._tell(partial(self._submit, job), job):
            job.fail(failed())

    def cancel(self, job: Job) -> None:
        """End what is left of a job, before the next step."""
        self._tell(partial(self._drop, job), job)

    def abort(self, error: ApiError) -> None:
        """End all jobs and calls with an error, before the next step."""
        self._tell(partial(self._abort, error), None)

    def call(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do work with the model between two steps; return what will hold its result.

        It is not done if the future is cancelled before. Raises ApiError (503) if many calls wait.
        """
        call = Call[T](work, self._loop.create_future())
        with self._wake:
            if self._is_closed:
                raise failed()
            self._calls = deque(c for c in self._calls if not c.result.done())
            if len(self._calls) >= MOST_CALLS:
                raise overloaded(f"{MOST_CALLS} such requests wait: try again later")
            self._calls.append(call)
            self._wake.notify()
        return call.result

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
        return self._engine.n_waiting + self._turns.n_waiting

    def _tell(self, do: Callable[[], None], job: Job | None) -> bool:
        """Return whether the thread is there to hear it."""
        with self._wake:
            if not self._is_closed:
                self._inbox.append(Command(do, job))
                self._wake.notify()
            return not self._is_closed

    # ---- in the thread ---------------------------------------------------------------------------

    def run(self) -> None:
        """Follow the inbox, and step while there is work."""
        try:
            while self._work():
                pass
        except BaseException:
            traceback.print_exc()
            self.has_failed = True
        finally:
            with self._wake:
                self._is_closed = True
            for job in {c.job for c in self._inbox if c.job is not None} | self._jobs():
                self._loop.call_soon_threadsafe(job.fail, failed())
            self._fail_calls(failed())

    def _work(self) -> bool:
        """Do what there is to do before the next step, and the step. Return False at the end."""
        with self._wake:
            self._wake.wait_for(self._has_work)
            if self._is_ending:
                return False
            call = self._calls.popleft() if self._calls else None
            n_commands = len(self._inbox)
        for _ in range(n_commands):
            command = self._inbox[0]  # stays there until it is done, in case the thread ends
            try:
                command.do()
            except Exception:  # a bug of ours must not leave clients waiting
                traceback.print_exc()
                if command.job is not None:
                    self._fail(command.job, failed())
            self._inbox.popleft()
        if call is not None and not call.result.done():
            self._answer(call)
        self._start_texts()
        if self._engine.has_work:
            self._step()
        return True

    def _has_work(self) -> bool:
        is_idle = not (self._inbox or self._calls or self._turns.n_waiting or self._is_ending)
        return self._engine.has_work or not is_idle

    def _submit(self, job: Job) -> None:
        n_now = self.n_running + self.n_waiting
        if n_now + job.n_continuations > self._limits.n_places:
            error = overloaded(
                f"{n_now} texts are written or wait: there is no room for {job.n_continuations} "
                f"more; try again later"
            )
            self._loop.call_soon_threadsafe(job.answer, error)
            return
        self._turns.add(job)
        self.counts.prompt_tokens += sum(len(request.prompt) for request in job.requests)
        self._loop.call_soon_threadsafe(job.answer, None)

    def _start_texts(self) -> None:
        """Give the engine as many continuations as it has free slots, or a few more."""
        n_slots = self._limits.n_slots
        while self._turns.n_waiting and self._engine.n_running + self._engine.n_waiting < n_slots:
            turn = self._turns.next(n_slots)
            try:
                started = self._engine.submit(turn.request, turn.n)
            except UserError as wrong:
                self._fail(turn.job, ApiError(400, str(wrong)))
            except Exception:
                traceback.print_exc()
                self._fail(turn.job, failed())
            else:
                for index, generation in enumerate(started, turn.first_index):
                    self._running[id(generation)] = Running(generation, turn.job, index)

    def _answer(self, call: Call[T]) -> None:
        try:
            answer = call.work()
        except BaseException as error:
            self._loop.call_soon_threadsafe(call.fail, failed())
            if not isinstance(error, Exception):
                raise
            traceback.print_exc()
        else:
            self._loop.call_soon_threadsafe(call.answer, answer)

    def _jobs(self) -> set[Job]:
        """Return the jobs that have not ended."""
        return self._turns.jobs | {running.job for running in self._running.values()}

    def _drop(self, job: Job) -> None:
        self._turns.remove(job)
        for running in [r for r in self._running.values() if r.job is job]:
            del self._running[id(running.generation)]
            self._engine.cancel(running.generation)

    def _fail(self, job: Job, error: ApiError) -> None:
        self._loop.call_soon_threadsafe(job.fail, error)
        self._drop(job)

    def _fail_calls(self, error: ApiError) -> None:
        with self._wake:
            calls, self._calls = self._calls, deque()
        for call in calls:
            self._loop.call_soon_threadsafe(call.fail, error)

    def _abort(self, error: ApiError) -> None:
        for job in self._jobs():
            self._fail(job, error)
        self._fail_calls(error)

    def _step(self) -> None:
        try:
            changed = self._engine.step()
        except Exception:  # ends the jobs that the engine knows; those that wait go on
            traceback.print_exc()
            for job in {running.job for running in self._running.values()}:
                self._fail(job, failed())
            return
        self.counts.steps += 1
        updates: list[tuple[Job, Update]] = []
        for generation in changed:
            if (running := self._running.get(id(generation))) is None:
                continue
            try:
                update = running.news()
            except ApiError as error:
                self._fail(running.job, error)
                continue
            except Exception:
                traceback.print_exc()
                self._fail(running.job, failed())
                continue
            if update is not None:
                updates.append((running.job, update))
                if update.has_ended:
                    del self._running[id(generation)]
                    self.counts.completion_tokens += len(generation.ids)
        if updates:
            self._loop.call_soon_threadsafe(_deliver, updates)


def _deliver(updates: Sequence[tuple[Job, Update]]) -> None:
    for job, update in updates:
        job.put(update)
