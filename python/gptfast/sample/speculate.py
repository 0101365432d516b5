"""Speculative decoding: guess several tokens cheaply, verify them in one forward pass.

"Fast Inference from Transformers via Speculative Decoding" (Leviathan et al., 2023), with one
change: the model draws each token with the random number that it would use anyway, and a guess
counts only if it is that very token. So a draft changes the speed, but never the text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from gptfast.errors import check_at_least
from gptfast.model import LanguageModel
from gptfast.model.kv_cache import SLACK
from gptfast.sample.config import SamplingConfig
from gptfast.sample.sampling import distribution, draw, is_greedy


class Draft(Protocol):
    """Guesses how a text goes on."""

    def guess(
        self, ids: Sequence[int], n: int, sampling: SamplingConfig, generator: torch.Generator
    ) -> list[int]:
        """Return up to n ids that may follow `ids`.

        generator: a copy of the text's own. It draws the numbers with which the model will draw.
        """
        ...


class PromptLookup:
    """Guesses that a text goes on as it did where its last tokens occurred before.

    This pays where text is copied, as in summaries and in code, and needs no second model ("Prompt
    Lookup Decoding", Saxena, 2023).
    """

    def __init__(self, longest: int = 4, shortest: int = 2) -> None:
        """Compare the last `longest` tokens, then fewer, down to `shortest`."""
        check_at_least("shortest", shortest, 1)
        check_at_least("longest", longest, shortest)
        self._sizes = range(longest, shortest - 1, -1)
        self._forget()

    def _forget(self) -> None:
        self._ids: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}  # where the text went on after these tokens

    def guess(
        self, ids: Sequence[int], n: int, sampling: SamplingConfig, generator: torch.Generator
    ) -> list[int]:
        """Return what followed the newest earlier occurrence of the longest ending that has one."""
        ids = list(ids)
        if ids[: len(self._ids)] != self._ids:  # another text
            self._forget()
        for end in range(len(self._ids), len(ids)):
            for size in self._sizes:
                if size <= end:
                    self._next[tuple(ids[end - size : end])] = end
        self._ids = ids
        for size in self._sizes:
            start = self._next.get(tuple(ids[-size:]))
            if start is not None and size <= len(ids):
                return ids[start : start + n]
        return []


class DraftModel:
    """Guesses with a smaller model that has the same tokenizer."""

    def __init__(self, model: LanguageModel, n_vocab: int | None = None) -> None:
        """n_vocab: number of ids of the tokenizer; None for all of the model's."""
        self._model, self._n_vocab = model, n_vocab
        self._cache = model.new_cache(1)
        self._ids: list[int] = []  # those in the cache
        self._first = 0  # where they begin in the text

    def guess(
        self, ids: Sequence[int], n: int, sampling: SamplingConfig, generator: torch.Generator
    ) -> list[int]:
        """Return the ids that the smaller model draws, with the numbers of the text's generator."""
        guesses: list[int] = []
        n = min(n, self._cache.block_size - 1)
        while len(guesses) < n:
            logits_1V = self._logits([*ids, *guesses], n - len(guesses))[None, : self._n_vocab]
            if is_greedy(sampling):
                guesses.append(int(logits_1V.argmax()))
            else:
                guesses.append(int(draw(distribution(logits_1V, sampling), [generator])))
        return guesses

    def _logits(self, ids: list[int], room: int) -> torch.Tensor:
        """Return the logits (V,) after the ids; afterwards, `room` - 1 more still fit."""
        seen = self._ids
        window = ids[self._first :]
        n_same = next(
            (i for i, (a, b) in enumerate(zip(seen, window, strict=False)) if a != b),
            min(len(seen), len(window)),
        )
        n_same = min(n_same, len(window) - 1)  # read the newest again rather than nothing
        if n_same < max(1, len(seen) - SLACK) or len(window) + room > self._cache.block_size:
            kept = min(self._cache.n_kept, self._cache.block_size - room)
            self._first = max(0, len(ids) - kept)
            window, n_same = ids[self._first :], 0
            self._cache.reset(0)
        else:
            self._cache.truncate(0, n_same)
        self._ids = window
        if len(window) == n_same + 1:
            return self._model.step(window[-1:], self._cache, [0])[0]
        return self._model.prefill(window[n_same:], self._cache, 0)


class Speculation:
    """A draft, and the times that tell whether its guesses pay.

    Guesses are tried after some plain steps. When they have lost the time of LOSS plain steps, they
    rest: for PAUSE tokens, then twice as many, and so on.
    """

    LOSS = 1
    """Plain steps whose time guessing may lose."""
    PLAIN = 4
    """Plain steps to measure before the first guesses, and again from time to time."""
    PAUSE = 64
    """Tokens of the first rest."""
    PATIENCE = 256
    """Tokens of guesses that pay, after which plain steps are measured again."""

    def __init__(
        self, draft: Draft, n_guesses: int = 4, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """n_guesses: most tokens to guess at once, at most SLACK. clock: seconds."""
        check_at_least("n_guesses", n_guesses, 1)
        self._draft, self._n, self.clock = draft, min(n_guesses, SLACK), clock
        self._pause = self.PAUSE
        self._plain_left = self.PLAIN
        self._plain_seconds: float | None = None  # of the fastest plain step of late
        self._seconds, self._tokens = 0.0, 0  # of guessing since the last plain steps

    @property
    def is_resting(self) -> bool:
        """Whether the next steps are plain."""
        return self._plain_left > 0

    def guess(
        self, ids: Sequence[int], n: int, sampling: SamplingConfig, generator: torch.Generator
    ) -> list[int]:
        """Return at most n guesses; none while plain steps are faster."""
        n = min(n, self._n)
        if self.is_resting or n < 1:
            return []
        return self._draft.guess(ids, n, sampling, generator.clone_state())

    def record(self, seconds: float, n_tokens: int) -> None:
        """Take note of a step that wrote n_tokens in so many seconds, the guessing included."""
        if self.is_resting:
            fastest = self._plain_seconds
            self._plain_seconds = seconds if fastest is None else min(seconds, fastest)
            self._plain_left -= 1
            return
        self._seconds += seconds
        self._tokens += n_tokens
        assert self._plain_seconds is not None
        if self._seconds > self._plain_seconds * (self._tokens + self.LOSS):
            self._plain_left, self._pause = self._pause, 2 * self._pause
        elif self._tokens >= self.PATIENCE:
            self._plain_left, self._pause = self.PLAIN, self.PAUSE
        else:
            return
        self._seconds, self._tokens, self._plain_seconds = 0.0, 0, None
