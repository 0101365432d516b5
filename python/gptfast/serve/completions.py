"""`/v1/completions`: continue text or token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gptfast.sample.generate import default_prompt
from gptfast.sample.request import Generation, Request
from gptfast.serve.asked import MOST_CHOICES, MOST_LOGPROBS, Asked, read_asked
from gptfast.serve.errors import ApiError
from gptfast.serve.fields import Fields, is_text
from gptfast.serve.jobs import Update
from gptfast.serve.limits import Limits, check_length, check_logprobs
from gptfast.serve.logprobs import Placed, Placer, of_completion, place_prompt
from gptfast.tokenizer import Tokenizer

USUAL_MAX_TOKENS = 16
"""OpenAI's default."""


@dataclass(frozen=True)
class _Prompt:
    ids: list[int]
    """What the model sees: for an empty text, the id that begins a document."""
    is_empty: bool


class Completions:
    """What one request to `/v1/completions` asks for, and how its answers are spelled."""

    whole_object = chunk_object = "text_completion"
    id_prefix = "cmpl"

    def __init__(self, fields: Fields, tokenizer: Tokenizer, limits: Limits) -> None:
        self._tokenizer = tokenizer
        self.asked: Asked = read_asked(fields, tokenizer.n_vocab)
        n, most = self.asked.n, limits.most_continuations
        self._echo = fields.boolean("echo")
        self._logprobs: int | None = fields.integer("logprobs", None, 0, MOST_LOGPROBS)
        max_tokens = fields.integer("max_tokens", USUAL_MAX_TOKENS, 0, limits.block_size)
        self.n_drawn: int = fields.integer("best_of", n, n, MOST_CHOICES)
        fields.only("suffix", "", why="the model can't insert text before a suffix")
        self._has_ids = fields.boolean("return_token_ids")
        allow_special = fields.boolean("allow_special")
        prompts = _prompts(fields, tokenizer, allow_special)
        fields.refuse_others()
        if self.n_drawn > n and self.asked.is_streamed:
            message = f"best_of is {self.n_drawn}: expected n, because a stream can't be ranked"
            raise ApiError(400, message, param="best_of")
        if len(prompts) * self.n_drawn > most:
            asked = len(prompts) * self.n_drawn
            message = f"the request asks for {asked} texts: expected {most} or fewer"
            raise ApiError(400, message, param="prompt")
        for prompt in prompts:
            check_length(len(prompt.ids), max_tokens, limits.block_size, "prompt")
        if self._logprobs is not None:
            n_read = sum(len(prompt.ids) for prompt in prompts) if self._echo else 0
            n_tokens = n_read * self.n_drawn + len(prompts) * self.n_drawn * max_tokens
            check_logprobs(n_tokens, self._logprobs)
        self._prompts = prompts
        ranked = self.n_drawn > n
        top = self._logprobs if self._logprobs is not None else 0 if ranked else None
        self.requests: Sequence[Request] = [
            Request(
                prompt.ids,
                max_tokens,
                self.asked.sampling,
                self.asked.seed,
                stop_tokens=tokenizer.stop_tokens,
                stop=self.asked.stop,
                top_logprobs=top,
                prompt_logprobs=self._echo and self._logprobs is not None,
            )
            for prompt in prompts
        ]
        self._placers = [Placer(tokenizer) for _ in range(len(prompts) * self.n_drawn)]
        self._is_begun = [False] * len(self._placers)

    # ---- the whole answer ------------------------------------------------------------------------

    def choices(self, generations: Sequence[Generation]) -> list[dict[str, Any]]:
        """Return n choices for each prompt, the best of those that were drawn."""
        found: list[dict[str, Any]] = []
        for i in range(len(self._prompts)):
            drawn = generations[i * self.n_drawn : (i + 1) * self.n_drawn]
            if self.n_drawn > self.asked.n:
                drawn = sorted(drawn, key=_mean_logprob, reverse=True)[: self.asked.n]
            for generation in drawn:
                placed = Placer(self._tokenizer).add(generation.logprobs, generation.text)
                reason = generation.finish_reason
                choice = self._choice(i, generation, generation.text, placed, True)
                found.append(choice | {"index": len(found), "finish_reason": reason})
        return found

    # ---- the stream ------------------------------------------------------------------------------

    def first_chunks(self) -> Iterable[dict[str, Any]]:
        """Return nothing: a stream of completions begins with text."""
        return ()

    def chunks(self, update: Update) -> Iterable[dict[str, Any]]:
        """Return one choice, or none if no text and no end came with the update."""
        index, generation = update.index, update.generation
        placed = self._placers[index].add(update.logprobs, update.text)
        is_first = not self._is_begun[index]
        if not (update.text or placed or update.has_ended or (is_first and self._echo)):
            return ()
        self._is_begun[index] = True
        choice = self._choice(index // self.n_drawn, generation, update.text, placed, is_first)
        reason = generation.finish_reason if update.has_ended else None
        return [choice | {"index": index, "finish_reason": reason}]

    def _choice(
        self, prompt: int, generation: Generation, text: str, placed: list[Placed], is_first: bool
    ) -> dict[str, Any]:
        """Return the text and log-probabilities of a part; the first part echoes the prompt."""
        echoed, prompt_placed = "", list[Placed]()
        if self._echo and not self._prompts[prompt].is_empty:
            ids = self._prompts[prompt].ids
            echoed = self._tokenizer.decode(ids)
            if generation.prompt_logprobs is not None and is_first:
                prompt_placed = place_prompt(self._tokenizer, ids, generation.prompt_logprobs)
        logprobs = None
        if self._logprobs is not None:
            of_prompt = of_completion(self._tokenizer, prompt_placed, 0)
            of_text = of_completion(self._tokenizer, placed, len(echoed))
            logprobs = {name: of_prompt[name] + of_text[name] for name in of_text}
            if not self._has_ids:
                del logprobs["token_ids"]
        return {"text": echoed + text if is_first else text, "logprobs": logprobs}


def _prompts(fields: Fields, tokenizer: Tokenizer, allow_special: bool) -> list[_Prompt]:
    """Read a text, texts, ids, or lists of ids. Raises ApiError (400) or UserError."""
    given = fields.take("prompt")
    if given is None or isinstance(given, str):
        given = [given or ""]
    elif isinstance(given, list) and given and all(type(i) is int for i in given):
        given = [given]
    expected = "a text, an array of texts, token ids, or an array of arrays of token ids"
    if not isinstance(given, list) or not given:
        raise fields.wrong("prompt", given, expected)
    return [_prompt(fields, one, expected, tokenizer, allow_special) for one in given]


def _prompt(
    fields: Fields, given: object, expected: str, tokenizer: Tokenizer, allow_special: bool
) -> _Prompt:
    if isinstance(given, str):
        if not is_text(given):
            raise fields.wrong("prompt", given, "Unicode characters, without lone surrogates")
        ids = tokenizer.encode(given, "all" if allow_special else ())
    elif isinstance(given, list) and all(type(i) is int for i in given):
        ids = given
        for token_id in ids:
            if not 0 <= token_id < tokenizer.n_vocab:
                raise fields.wrong("prompt", token_id, f"ids from 0 to {tokenizer.n_vocab - 1}")
    else:
        raise fields.wrong("prompt", given, expected)
    begin = tokenizer.eot_token
    substitute = default_prompt(tokenizer) if begin is None else [begin]
    return _Prompt(ids or substitute, not ids)


def _mean_logprob(generation: Generation) -> float:
    values = [token.logprob for token in generation.logprobs]
    return sum(values) / max(len(values), 1)
