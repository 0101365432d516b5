"""The sampling engine: texts of several requests grow together, a token each per step.

Requests join and leave between steps. What a request gets does not depend on its neighbours.
Legend: B running texts, V vocabulary, T tokens of a prompt.
"""

from __future__ import annotations

from collections import deque
from functools import cache
from itertools import takewhile

import torch
from torch import Tensor

from gptfast.errors import RunError, UserError, check_at_least
from gptfast.model import LanguageModel
from gptfast.model.finite import check_weights
from gptfast.sample.next_tokens import draw_next
from gptfast.sample.request import FinishReason, Generation, Prefix, Request, checked_prompt
from gptfast.sample.sampling import TokenLogprob, token_logprobs
from gptfast.sample.speculate import Speculation
from gptfast.tokenizer import Tokenizer


class QueueFullError(RunError):
    """The queue of an engine has no room for a request now. Try again later."""


class Engine:
    """Continues up to n_slots texts at once, on one thread; more wait in a queue.

    n_slots: rows of the cache, whose memory grows with it. max_waiting: places in the queue.
    speculation: guesses tokens of a text that runs alone, which changes nothing but the speed.
    Without a tokenizer there are no texts, only ids. Raises UserError if a weight is not finite.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer | None,
        *,
        n_slots: int = 8,
        max_waiting: int = 64,
        speculation: Speculation | None = None,
    ) -> None:
        check_at_least("n_slots", n_slots, 1)
        check_at_least("max_waiting", max_waiting, 0)
        check_weights(model)
        self._model, self._max_waiting, self._speculation = model, max_waiting, speculation
        self._n_vocab = model.config.vocab_size
        if tokenizer is not None:  # the model may have more rows, as padding
            self._n_vocab = min(self._n_vocab, tokenizer.n_vocab)
        self._token_bytes = None if tokenizer is None else cache(tokenizer.token_bytes)
        self._cache = model.new_cache(n_slots)
        self._slots: list[Generation | None] = [None] * n_slots
        self._waiting: deque[Generation] = deque()
        self._undrawn: dict[Generation, Tensor] = {}  # logits (V,) for a text's next token

    @property
    def n_running(self) -> int:
        """Number of texts that grow by a token per step."""
        return len(self._slots) - self._slots.count(None)

    @property
    def n_waiting(self) -> int:
        """Number of texts in the queue."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting) or self.n_running > 0

    def submit(self, request: Request, n: int = 1) -> list[Generation]:
        """Queue n continuations of one prompt, which is computed once; return them.

        Continuation i has the seed `request.seed + i`. Raises UserError for an impossible request,
        and QueueFullError if there is no room for all n.
        """
        prompt = checked_prompt(request, self._n_vocab)
        if request.stop and self._token_bytes is None:
            raise UserError("stop strings need a tokenizer: give the engine one")
        check_at_least("n", n, 1)
        n_places = len(self._slots) + self._max_waiting
        if n > n_places:
            raise UserError(f"n is {n}: expected at most {n_places}, the places of this engine")
        if self.n_running + self.n_waiting + n > n_places:
            raise QueueFullError(
                f"{self.n_running} texts are written and {self.n_waiting} wait: there is no room "
                f"for {n} more; try again later"
            )
        prefix = Prefix(prompt, n)
        new = [Generation(request, request.seed + i, prefix) for i in range(n)]
        self._waiting.extend(new)
        return new

    def cancel(self, generation: Generation) -> None:
        """End a text. Its slot is free before the next step."""
        if generation.finish_reason is None:
            if generation._row is None:
                self._waiting.remove(generation)
            self._finish(generation, "cancelled")

    @torch.inference_mode()
    def step(self) -> list[Generation]:
        """Admit waiting texts to free slots, write a token of every text; return what changed.

        The texts that the model can't continue end with the reason "error". After an exception,
        such as MemoryError, the next step goes on where this one stopped.
        """
        self._admit()
        read_only = [new for new in self._undrawn if not new.request.max_new_tokens]
        for ended in read_only:
            self._finish(ended, "length")
        stepped = []
        for row, text in enumerate(self._slots):
            if text is None or text in self._undrawn:
                continue
            if 0 < self._cache.lengths[row] < self._cache.block_size:
                stepped.append(text)
            else:  # full, or empty since an exception: go on with the newest tokens
                kept = text._context[-self._cache.n_kept :]
                self._undrawn[text] = self._prefill(kept, row)
        if self._speculation is not None and len(stepped) == 1 and not self._undrawn:
            self._step_ahead(stepped[0], self._speculation)
            return stepped + read_only
        if stepped:
            logits_BV = self._next_logits(stepped)
            self._undrawn.update(zip(stepped, logits_BV.unbind(), strict=True))
        batch = list(self._undrawn)
        if len(batch) > len(stepped):
            logits_BV = torch.stack(list(self._undrawn.values()))
        if batch:
            self._write(batch, logits_BV)
        return batch + read_only

    def _step_ahead(self, generation: Generation, speculation: Speculation) -> None:
        """Write tokens of one text: those guessed that are drawn, and the first that is not."""
        row, context, request = generation._row, generation._context, generation.request
        assert row is not None
        began = speculation.clock()
        n_before, start = len(generation.ids), self._cache.lengths[row]
        room = min(self._cache.block_size - start, request.max_new_tokens - n_before)
        guesses = speculation.guess(context, room - 1, request.sampling, generation._generator)
        if guesses:  # a draft may have more ids than this model
            guesses = list(takewhile(lambda guess: guess < self._n_vocab, guesses))
        try:
            logits_TV = self._model.verify([context[-1], *guesses], self._cache, row)
            for i, logits_1V in enumerate(logits_TV[:, None]):
                self._write([generation], logits_1V)
                if generation.finish_reason is not None:
                    return
                if context[-1:] != guesses[i : i + 1]:
                    break
        finally:
            n_written = len(generation.ids) - n_before
            if generation.finish_reason is None:  # forget guesses that were not drawn
                self._cache.truncate(row, start + n_written)
        speculation.record(speculation.clock() - began, n_written)

    def _next_logits(self, texts: list[Generation]) -> Tensor:
        """Read the newest token of each text; return the logits (B, V) after it."""
        rows = [text._row for text in texts if text._row is not None]
        lengths = [self._cache.lengths[row] for row in rows]
        try:
            return self._model.step([text._context[-1] for text in texts], self._cache, rows)
        except BaseException:
            for row, length in zip(rows, lengths, strict=True):
                self._cache.truncate(row, length)
            raise

    def _prefill(self, ids: list[int], row: int, all_logits: bool = False) -> Tensor:
        """Replace what a row holds by the ids; return the logits (V,) after them, or all (T, V)."""
        self._cache.reset(row)
        try:
            return self._model.prefill(ids, self._cache, row, all_logits=all_logits)
        except BaseException:
            self._cache.reset(row)
            raise

    def _admit(self) -> None:
        """Give free slots to waiting texts, and read their prompts."""
        for row, occupant in enumerate(self._slots):
            if occupant is None and self._waiting:
                generation = self._waiting[0]
                self._undrawn[generation] = self._read_prompt(generation, row)
                self._waiting.popleft()
                self._slots[row], generation._row, generation._prefix = generation, row, None

    def _read_prompt(self, generation: Generation, row: int) -> Tensor:
        """Fill a row of the cache with the prompt; return the logits (V,) after it."""
        prefix, request = generation._prefix, generation.request
        assert prefix is not None
        if prefix.row is not None and prefix.logits_V is not None:
            self._cache.load(row, prefix.row)
            generation.prompt_logprobs = prefix.logprobs
            return prefix.logits_V
        seen = prefix.prompt[-self._cache.block_size :]
        logits = self._prefill(seen, row, request.prompt_logprobs)
        if request.prompt_logprobs:
            logits_TV, logits = logits[:-1, : self._n_vocab], logits[-1]
            n_top = [request.top_logprobs or 0] * len(logits_TV)
            known = token_logprobs(logits_TV, seen[1:], n_top)
            generation.prompt_logprobs = [None] * (len(prefix.prompt) - len(known)) + known
        if prefix.n > 1:
            prefix.row, prefix.logits_V = self._cache.save(row), logits
            prefix.logprobs = generation.prompt_logprobs
        return logits

    def _write(self, batch: list[Generation], logits_BV: Tensor) -> None:
        """Draw a token for each text of the batch and append it."""
        tokens, logprobs = draw_next(batch, logits_BV[:, : self._n_vocab])
        for i, generation in enumerate(batch):
            self._undrawn.pop(generation, None)
            if generation.error is not None:
                self._finish(generation, "error")
            elif generation._is_complete:
                self._finish(generation, "stop")
            else:
                self._append(generation, tokens[i], logprobs.get(i))

    def _append(self, generation: Generation, token: int, logprob: TokenLogprob | None) -> None:
        request, text = generation.request, generation._text
        if token in request.stop_tokens:
            generation.stopped_by, generation.stop_logprob = token, logprob
            self._finish(generation, "stop")
            return
        generation.ids.append(token)
        generation._context.append(token)
        if logprob is not None:
            generation.logprobs.append(logprob)
        if self._token_bytes is not None:
            text.feed(self._token_bytes(token))
        if text.stopped_by is not None:
            generation.stopped_by = text.stopped_by
            self._finish(generation, "stop")
        elif len(generation.ids) == request.max_new_tokens:
            self._finish(generation, "length")

    def _finish(self, generation: Generation, reason: FinishReason) -> None:
        generation.finish_reason = reason
        generation._text.finish()
        self._undrawn.pop(generation, None)
        if generation._row is not None:
            self._slots[generation._row] = None
            if reason == "error":
                self._cache.wipe(generation._row)  # of NaN
        generation._row, generation._prefix, generation._context = None, None, []
