"""What one HTTP request asks of the worker, as the event loop sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from starlette.types import Receive

from gptfast.sample.request import Generation, Request
from gptfast.sample.sampling import TokenLogprob
from gptfast.serve.errors import ApiError

T = TypeVar("T")


class ClientGone(Exception):
    """The client has closed the connection."""


@dataclass(frozen=True)
class Update:
    """What one continuation gained, and how it ended, if it did."""

    index: int
    """Of the continuation within its job: those of the first prompt, then of the second, ..."""
    text: str
    logprobs: Sequence[TokenLogprob]
    generation: Generation
    """The whole. Until it has ended, the engine changes all of it but `prompt_logprobs`."""
    has_ended: bool


class Job:
    """`n` continuations of each prompt.

    Belongs to the event loop. If `is_streamed` is false, there is one update for each continuation,
    at its end.
    """

    def __init__(self, requests: Sequence[Request], n: int, is_streamed: bool) -> None:
        self.requests, self.n, self.is_streamed = requests, n, is_streamed
        self.n_continuations = self._n_left = len(requests) * n
        self._arrived: asyncio.Queue[Update | ApiError | ClientGone] = asyncio.Queue()
        self._accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def has_ended(self) -> bool:
        """Whether all updates were read."""
        return self._n_left == 0

    def answer(self, refused: ApiError | None) -> None:
        """Say that the engine has taken the job, or why it has not."""
        if self._accepted.done():  # the client left before
            return
        if refused is None:
            self._accepted.set_result(None)
        else:
            self._accepted.set_exception(refused)

    def fail(self, error: ApiError) -> None:
        """End the job with an error, whether or not it was accepted."""
        if self._accepted.done():
            self.put(error)
        else:
            self._accepted.set_exception(error)

    async def accepted(self) -> None:
        """Wait until the engine has taken the job. Raises ApiError if it has no room."""
        await self._accepted

    def put(self, update: Update | ApiError | ClientGone) -> None:
        """Add an update, or what ends the job early."""
        self._arrived.put_nowait(update)

    async def updates(self) -> AsyncIterator[Update]:
        """Yield the updates until every continuation has ended.

        Raises ApiError if the engine can't go on, and ClientGone.
        """
        while self._n_left:
            update = await self._arrived.get()
            if isinstance(update, Exception):
                raise update
            if update.has_ended:
                self._n_left -= 1
            yield update


@dataclass
class Call(Generic[T]):
    """Work with the model that is no job."""

    work: Callable[[], T]
    result: asyncio.Future[T]

    def answer(self, value: T) -> None:
        """Hand over the result, if the client is still there."""
        if not self.result.done():
            self.result.set_result(value)

    def fail(self, error: ApiError) -> None:
        """End the call with an error, if the client is still there."""
        if not self.result.done():
            self.result.set_exception(error)


class Runner(Protocol):
    """What runs jobs: the worker."""

    def submit(self, job: Job) -> None:
        """Start a job."""

    def cancel(self, job: Job) -> None:
        """End what is left of a job."""


@asynccontextmanager
async def attended(job: Job, runner: Runner, receive: Receive) -> AsyncIterator[None]:
    """Run a job as long as its client is there. Raises ApiError if there is no room for it.

    receive: ASGI's, after the body was read. The job is cancelled when the client disconnects, and
    when the block is left before the job has ended.
    """

    async def watch() -> None:
        await _disconnect(receive)
        runner.cancel(job)
        job.put(ClientGone())

    runner.submit(job)
    watcher = asyncio.create_task(watch())
    try:
        await job.accepted()
        yield
    finally:
        watcher.cancel()
        if not job.has_ended:
            runner.cancel(job)


async def while_connected(result: asyncio.Future[T], receive: Receive) -> T:
    """Return a result, as long as the client that asked for it is there.

    receive: ASGI's, after the body was read. Cancels the future and raises ClientGone when the
    client disconnects.
    """
    gone = asyncio.create_task(_disconnect(receive))
    try:
        first: list[asyncio.Future[Any]] = [result, gone]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientGone
        return result.result()
    finally:
        gone.cancel()
        result.cancel()


async def _disconnect(receive: Receive) -> None:
    """Wait until the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
