"""What the thread of the engine works on: commands, continuations, and counts of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gptfast.sample.processors import ProcessorError
from gptfast.sample.request import Generation
from gptfast.serve.errors import ApiError
from gptfast.serve.jobs import Job, Update


@dataclass
class Running:
    """A continuation that has not ended, and how much of it was sent."""

    generation: Generation
    job: Job
    index: int
    """Of the continuation within the job."""
    n_characters: int = 0
    n_tokens: int = 0

    def news(self) -> Update | None:
        """Return what was not sent yet; None if the job wants only the end. Raises ApiError."""
        generation = self.generation
        if generation.error is not None:
            # A grammar that can't be followed is the client's; logits that are NaN are not.
            status = 400 if isinstance(generation.error, ProcessorError) else 500
            raise ApiError(status, str(generation.error))
        has_ended = generation.finish_reason is not None
        if not (has_ended or self.job.is_streamed):
            return None
        text = generation.text[self.n_characters :]
        logprobs = generation.logprobs[self.n_tokens :]
        self.n_characters += len(text)
        self.n_tokens += len(logprobs)
        return Update(self.index, text, logprobs, generation, has_ended)


@dataclass
class Command:
    """What the thread of the engine is told."""

    do: Callable[[], None]
    job: Job | None
    """What fails if this fails."""


@dataclass
class Counts:
    """What the worker has done since its start."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
