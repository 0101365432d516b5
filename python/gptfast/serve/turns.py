"""Whose texts start next: jobs take turns, so one of many texts does not hold up the others."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from gptfast.sample.request import Request
from gptfast.serve.jobs import Job


@dataclass(frozen=True)
class Turn:
    """Continuations that start together: `n` of one prompt, whose prefix is computed once."""

    job: Job
    request: Request
    n: int
    first_index: int
    """Of these continuations within the job."""


class Turns:
    """The jobs with continuations that have not started. Belongs to the worker's thread."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._n_started: dict[Job, int] = {}
        self.n_waiting = 0
        """Continuations of all jobs."""

    @property
    def jobs(self) -> set[Job]:
        """All jobs that wait."""
        return set(self._jobs)

    def add(self, job: Job) -> None:
        """Let a job take its turns after the others."""
        self._jobs.append(job)
        self._n_started[job] = 0
        self.n_waiting += job.n_continuations

    def remove(self, job: Job) -> None:
        """Forget a job, if it waits."""
        if job in self._n_started:
            self._jobs.remove(job)
            self.n_waiting -= job.n_continuations - self._n_started.pop(job)

    def next(self, most: int) -> Turn:
        """Return the next turn, of at most `most` continuations. Some job must wait."""
        job = self._jobs.popleft()
        first = self._n_started.pop(job)
        prompt, i = divmod(first, job.n)
        n = min(most, job.n - i)
        self.n_waiting -= n
        if first + n < job.n_continuations:
            self._jobs.append(job)
            self._n_started[job] = first + n
        request = job.requests[prompt]
        return Turn(job, replace(request, seed=request.seed + i), n, first)
