"""From the logits after several texts to their next tokens.

Legend: B texts, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gptfast.errors import UserError
from gptfast.sample.processors import EndOfText, ProcessorError
from gptfast.sample.request import Generation
from gptfast.sample.sampling import TokenLogprob, draw_each, token_logprobs


def draw_next(batch: list[Generation], raw_BV: Tensor) -> tuple[list[int], dict[int, TokenLogprob]]:
    """Return a token for each text, and the log-probabilities of those that ask for them, by index.

    raw_BV: the model's logits. A text that can't go on gets an error, and one that a processor
    finds complete is marked; their tokens mean nothing.
    """
    logits_BV, largest = raw_BV, None
    if any(generation._processors for generation in batch):
        largest = raw_BV.amax(dim=-1).tolist()
        logits_BV = torch.stack([*map(_processed, batch, raw_BV.float())])
    samplings = [generation.request.sampling for generation in batch]
    generators = [generation._generator for generation in batch]
    token_B, largest_B = draw_each(logits_BV, samplings, generators)
    tokens, processed = token_B.tolist(), largest_B.tolist()
    for i, generation in enumerate(batch):
        if not math.isfinite((largest or processed)[i]):  # a NaN is the largest of all
            generation.error = UserError(
                f"the model can't continue the text: its logits are NaN or infinite, though its "
                f"weights are finite; {raw_BV.dtype} may be too narrow, try model.float()"
            )
        elif generation.error is None and not math.isfinite(processed[i]):
            generation.error = ProcessorError("the logits processors allow no token")
    return tokens, _logprobs(batch, raw_BV, tokens)


def _processed(generation: Generation, logits_V: Tensor) -> Tensor:
    """Return the logits (V,) after the processors. What one raises ends this text alone."""
    changed_V, name = logits_V, ""
    try:
        for processor in generation._processors:
            name = getattr(processor, "__name__", type(processor).__name__)
            changed_V = processor(generation._context, changed_V)
            if changed_V.shape != logits_V.shape:
                raise ValueError(f"its logits are {tuple(changed_V.shape)}")
    except EndOfText:
        generation._is_complete = True
        return logits_V
    except Exception as error:
        generation.error = ProcessorError(f"the logits processor {name} failed: {error}")
        return logits_V
    return changed_V


def _logprobs(
    batch: list[Generation], raw_BV: Tensor, tokens: list[int]
) -> dict[int, TokenLogprob]:
    wanted = {
        i: generation.request.top_logprobs
        for i, generation in enumerate(batch)
        if generation.request.top_logprobs is not None
    }
    if not wanted:
        return {}
    rows = list(wanted)
    known = token_logprobs(raw_BV[rows], [tokens[i] for i in rows], list(wanted.values()))
    return dict(zip(rows, known, strict=True))
