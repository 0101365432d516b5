"""Speculative decoding: guess several tokens cheaply, verify them in one forward pass.

"Fast Inference from Transformers via Speculative Decoding" (Leviathan et al., 2023), with one
change: the model draws each token with the random number that it would use anyway, and a guess
counts only if it is that very token. So a draft changes the speed, but not the text.

Where Rust computes steps (model/rust_step.py), the logits of verified tokens are those of plain
steps, bit by bit, and so is the text the same. PyTorch's products of matrices round differently for
another number of tokens: on a GPU, under autocast, or with hooks, a draw that is nearly a tie may
go the other way. In float32 that is rare; in bfloat16 it is not.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Protocol

import torch

from gptfast.errors import UserError, check_at_least
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
        self._n_seen = 0
        self._tail: list[int] = []  # the last tokens seen
        self._next: dict[tuple[int, ...], int] = {}  # where the text went on after these tokens

    def guess(
        self, ids: Sequence[int], n: int, sampling: SamplingConfig, generator: torch.Generator
    ) -> list[int]:
        """Return what followed the newest earlier occurrence of the longest ending that has one."""
        n_seen, tail = self._n_seen, self._tail
        if len(ids) < n_seen or list(ids[n_seen - len(tail) : n_seen]) != tail:
            self._forget()  # it is another text
        for end in range(self._n_seen, len(ids)):
            for size in self._sizes:
                if size <= end:
                    self._next[tuple(ids[end - size : end])] = end
        self._n_seen, self._tail = len(ids), list(ids[-self._sizes.start :])
        for size in self._sizes:
            start = self._next.get(tuple(ids[-size:]))
            if start is not None and size <= len(ids):
                return list(ids[start : start + n])
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
        seen, self._ids = self._ids, []  # an interrupted forward pass leaves nothing to rely on
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
        new = window[n_same:]
        if len(new) <= SLACK:
            logits_V = self._model.verify(new, self._cache, 0)[-1]
        else:
            logits_V = self._model.prefill(new, self._cache, 0)
        self._ids = window
        return logits_V


class Speculation:
    """A draft, and the times that tell whether its guesses pay.

    After some plain steps, it begins with one guess. Where all are right, it tries twice as many;
    where one is wrong, as many as were right, and one more. When guessing has lost the time of LOSS
    plain steps and a SHARE of all, it rests until the loss is only that SHARE. The draft's reading
    of a prompt makes a rest longer, but does not begin one.

    It is a draft itself: give it instead of its draft, and what it has learned stays for the next
    text.
    """

    LOSS = 1
    """Plain steps whose time guessing may lose."""
    SHARE = 0.02
    """Share of the time that guessing may lose."""
    PLAIN = 4
    """Plain steps to measure before the first guesses, and again from time to time."""
    PATIENCE = 256
    """Tokens of guesses that pay, after which plain steps are measured again."""

    def __init__(
        self, draft: Draft, n_guesses: int = 8, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """n_guesses: most tokens to guess at once, at most SLACK. clock: seconds."""
        check_at_least("n_guesses", n_guesses, 1)
        if n_guesses > SLACK:
            raise UserError(f"n_guesses is {n_guesses}: expected at most {SLACK}")
        self._draft, self._most, self.clock = draft, n_guesses, clock
        self._n = 1  # guesses to try next
        self._n_guessed = 0
        self._drafting = 0.0  # seconds that guessing took
        self._n_read = 0  # tokens that the draft has seen of the text
        self._plain_left = self.PLAIN
        self._plain: deque[float] = deque(maxlen=self.PLAIN)  # seconds of the last plain steps
        # Since the last rest: seconds that guessing lost, seconds that the draft took to read what
        # it had not seen, and tokens written.
        self._lost, self._reading, self._tokens = 0.0, 0.0, 0

    @property
    def is_resting(self) -> bool:
        """Whether the next steps are plain."""
        return self._plain_left > 0

    def guess(
        self, ids: Sequence[int], n: int, sampling: SamplingConfig, generator: torch.Generator
    ) -> list[int]:
        """Return at most n guesses; none while plain steps are faster."""
        self._n_guessed, self._drafting = 0, 0.0
        n = min(n, self._n)
        if self.is_resting or n < 1:
            return []
        began = self.clock()
        guesses = self._draft.guess(ids, n, sampling, generator.clone_state())
        self._n_guessed, self._drafting = len(guesses), self.clock() - began
        if 0 < len(ids) - self._n_read <= 1 + SLACK:
            self._lost += self._drafting
        else:  # a prompt, or what was written in a long rest
            self._reading += self._drafting
        self._n_read = len(ids)
        return guesses

    def record(self, seconds: float, n_tokens: int) -> None:
        """Take note of a step that wrote n_tokens in so many seconds, the guessing included."""
        seconds -= self._drafting
        if not self._n_guessed:  # a plain step
            self._plain.append(seconds)
        if self.is_resting:
            self._plain_left -= 1
            return
        plain = median(self._plain)
        self._tokens += n_tokens
        if self._n_guessed:
            self._lost += seconds - n_tokens * plain
            n_right = n_tokens - 1
            wanted = 2 * self._n if n_right >= self._n else n_right + 1
            self._n = min(wanted, self._most)
        if self._lost > plain * (self.LOSS + self.SHARE * self._tokens):
            lost = self._lost + self._reading
            rest = lost / (plain * self.SHARE) - self._tokens if plain else 0
            self._plain_left, self._n = max(self.PLAIN, math.ceil(rest)), 1
        elif self._tokens >= self.PATIENCE:
            self._plain_left = self.PLAIN
        else:
            return
        self._lost, self._reading, self._tokens = 0.0, 0.0, 0
