"""Generate text: thin layers over the engine for one thread and one model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from gptfast.errors import UserError, check_at_least
from gptfast.model import LanguageModel
from gptfast.sample.config import SamplingConfig
from gptfast.sample.engine import Engine
from gptfast.sample.request import Generation, Request
from gptfast.sample.speculate import Draft, Speculation
from gptfast.tokenizer import Tokenizer


def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    sampling: SamplingConfig,
    seed: int,
    stop_tokens: Collection[int] = (),
    tokenizer: Tokenizer | None = None,
) -> Iterator[int]:
    """Yield up to max_new_tokens ids that continue the prompt.

    stop_tokens: each ends the text and is not yielded. tokenizer: whose ids alone are drawn, where
    the model has more as padding; None for all of the model's.

    The model sees the last block_size tokens. When the context of a GPT is full, it forgets the
    older half, which makes room in its cache; the other models forget one token at a time. Raises
    UserError for an empty prompt, for ids that the model lacks, and if weights or logits are not
    finite.
    """
    engine = Engine(model, tokenizer, n_slots=1)
    request = Request(prompt, max_new_tokens, sampling, seed, stop_tokens)
    (generation,) = engine.submit(request)
    n_yielded = 0
    for _ in _steps(engine, generation):
        yield from generation.ids[n_yielded:]
        n_yielded = len(generation.ids)


def stream(
    model: LanguageModel, tokenizer: Tokenizer, request: Request, draft: Draft | None = None
) -> Iterator[str]:
    """Yield the text that a request gets, piece by piece, as soon as it may be shown.

    draft: guesses tokens, which makes the text faster and changes nothing else; a Speculation keeps
    for the next text whether its guesses pay. Raises UserError as `generate` does.
    """
    if draft is not None and not hasattr(draft, "guess"):
        raise UserError(
            f"draft is a {type(draft).__name__}: expected DraftModel(model) or PromptLookup()"
        )
    if draft is not None and not isinstance(draft, Speculation):
        draft = Speculation(draft)
    engine = Engine(model, tokenizer, n_slots=1, speculation=draft)
    (generation,) = engine.submit(request)
    return pieces(engine, generation)


def generate_batch(
    model: LanguageModel,
    tokenizer: Tokenizer | None,
    requests: Sequence[Request],
    *,
    n: int = 1,
    n_slots: int = 8,
) -> list[list[Generation]]:
    """Return n continuations of each of the requests.

    The prompts may have unequal lengths; each is computed once. n_slots: most texts that grow at
    once. Raises UserError as `generate` does.
    """
    check_at_least("n", n, 1)
    engine = Engine(model, tokenizer, n_slots=n_slots, max_waiting=n * len(requests))
    generations = [engine.submit(request, n) for request in requests]
    for of_request in generations:
        for generation in of_request:
            for _ in _steps(engine, generation):
                pass
    return generations


def pieces(engine: Engine, generation: Generation) -> Iterator[str]:
    """Take steps until a text has ended; yield what each adds to it. Raise its error, if any."""
    n_shown = 0
    for _ in _steps(engine, generation):
        if piece := generation.text[n_shown:]:
            yield piece
            n_shown += len(piece)
    if piece := generation.text[n_shown:]:  # which had ended before
        yield piece


def _steps(engine: Engine, generation: Generation) -> Iterator[None]:
    """Take steps until a text has ended. Raise its error, if any."""
    while generation.finish_reason is None:
        engine.step()
        if generation.error is None:
            yield
    if generation.error is not None:
        raise generation.error


def default_prompt(tokenizer: Tokenizer) -> list[int]:
    """Return the ids that an empty prompt stands for: a newline, or id 0 if it can't be encoded."""
    try:
        return tokenizer.encode_ordinary("\n")
    except UserError:  # a character tokenizer trained on a single line
        return [0]


def write_sample(model: LanguageModel, tokenizer: Tokenizer, max_new_tokens: int, seed: int) -> str:
    """Return a sample without a prompt, drawn with the default SamplingConfig.

    If the model can't write, for instance because its weights are NaN, return the reason: a sample
    must not end a training run.
    """
    request = Request(
        default_prompt(tokenizer),
        max_new_tokens,
        seed=seed,
        stop_tokens=tokenizer.stop_tokens,
    )
    try:
        return "".join(stream(model, tokenizer, request))
    except UserError as error:
        return f"(no sample: {error})"
