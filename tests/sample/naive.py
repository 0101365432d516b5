"""A naive twin of the engine: one request at a time, everything computed again, no cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from gptfast.model import LanguageModel
from gptfast.sample.request import Request

Floats = npt.NDArray[np.float64]
MARGIN = 1e-5
"""Where two tokens are this close, rounding decides."""


@dataclass(frozen=True)
class Choice:
    """What the naive twin says about one token of a text."""

    logprobs: Floats
    """Raw log-probabilities of all tokens, (V,)."""
    allowed: list[int]
    """The token that is drawn, and those that differ from it by rounding only."""


def choices(
    model: LanguageModel, request: Request, seed: int, ids: list[int], n_vocab: int
) -> list[Choice]:
    """Return what the twin says about each id, given those before it, and about the next one."""
    generator = torch.Generator().manual_seed(seed)
    text, n_prompt = [*request.prompt, *ids], len(request.prompt)
    found = []
    for end, logits in enumerate(all_logits(model, text, n_prompt), start=n_prompt):
        drawn = allowed(
            adjusted(logits[:n_vocab], request, text[:end], n_prompt), request, generator
        )
        found.append(Choice(log_softmax(logits[:n_vocab]), drawn))
    return found


def all_logits(model: LanguageModel, text: list[int], n_prompt: int) -> list[Floats]:
    """Return the logits after text[:n] for n from n_prompt to the whole, by the rule of contexts.

    The model sees the last block_size tokens. Where one more does not fit, it forgets all but the
    newer half; a model without keys and values forgets one token.
    """
    block = model.config.block_size
    kept = max(1, block // 2) if model.config.architecture == "gpt" else block
    begin = max(0, n_prompt - block)
    cache: dict[int, torch.Tensor] = {}
    found = []
    for end in range(n_prompt, len(text) + 1):
        if end - begin > block:
            begin = end - kept
        if begin not in cache:
            with torch.no_grad():
                cache[begin] = model(torch.tensor([text[begin : begin + block]]))[0]
        found.append(cache[begin][end - begin - 1].double().numpy())
    return found


def log_softmax(logits: Floats) -> Floats:
    shifted: Floats = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def adjusted(logits: Floats, request: Request, ids: list[int], n_prompt: int) -> Floats:
    """Return the logits after penalties, bias and processors."""
    options, logits = request.sampling, logits.copy()
    for token in set(ids):
        if logits[token] > 0:
            logits[token] /= options.repetition_penalty
        else:
            logits[token] *= options.repetition_penalty
    for token in set(ids[n_prompt:]):
        logits[token] -= options.presence_penalty
        logits[token] -= options.frequency_penalty * ids[n_prompt:].count(token)
    for token, bias in options.logit_bias:
        logits[token] += bias
    for processor in request.processors:
        logits = processor(ids, torch.tensor(logits)).numpy()
    return logits


def allowed(logits: Floats, request: Request, generator: torch.Generator) -> list[int]:
    """Return the token that is drawn, after those options of `sampling` that need no ids."""
    options = request.sampling
    if options.temperature == 0:
        return np.flatnonzero(logits >= logits.max() - MARGIN).tolist()  # type: ignore[no-any-return]
    probabilities = np.exp(log_softmax(logits / options.temperature))
    if options.top_k is not None:
        least = np.sort(probabilities)[-min(options.top_k, len(logits))]
        probabilities[probabilities < least] = 0
        probabilities /= probabilities.sum()
    if options.top_p is not None:
        order = (-probabilities).argsort(kind="stable")
        before = probabilities[order].cumsum() - probabilities[order]
        probabilities[order[before >= options.top_p]] = 0
        probabilities /= probabilities.sum()
    if options.min_p is not None:
        probabilities[probabilities < options.min_p * probabilities.max()] = 0
        probabilities /= probabilities.sum()
    uniform = float(torch.rand(1, 1, dtype=torch.float64, generator=generator))
    ends = probabilities.cumsum()
    inside = (ends - probabilities <= uniform + MARGIN) & (uniform < ends + MARGIN)
    return np.flatnonzero(inside & (probabilities > 0)).tolist()  # type: ignore[no-any-return]
