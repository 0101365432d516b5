"""From logits to a token: temperature, filters, the draw, and log-probabilities.

Legend: B rows, V vocabulary, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptfast.sample.config import SamplingConfig, check_min_p, check_top_k, check_top_p

_LIKELIEST = (512, 4096)
"""Numbers of likeliest tokens in which top-p looks before it sorts all."""
_TINY, _HUGE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


def is_greedy(sampling: SamplingConfig) -> bool:
    """Return whether the likeliest token is taken: the temperature is 0, as float32 rounds it."""
    return sampling.temperature < _TINY


def distribution(logits: Tensor, sampling: SamplingConfig) -> Tensor:
    """Return the probabilities (..., V), float32, with which tokens are drawn.

    The temperature comes first, then top-k, top-p and min-p.
    """
    if is_greedy(sampling):
        likeliest = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits, dtype=torch.float32).scatter(-1, likeliest, 1.0)
    # Shift the largest logit to 0, so that dividing by a tiny temperature can't overflow.
    logits = logits.float()
    logits = logits - logits.amax(dim=-1, keepdim=True)
    logits = logits / min(sampling.temperature, _HUGE)
    if sampling.top_k is not None:
        logits = top_k_filter(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = top_p_filter(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = min_p_filter(logits, sampling.min_p)
    return logits.softmax(dim=-1)


def draw(probabilities_BV: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one id per row, each with the row's own generator, on the CPU; return int64 (B,).

    A uniform number falls into one of the intervals that the probabilities cut [0, 1) into.
    `torch.multinomial` draws a number for every token, which takes 50 times as long.
    """
    # In float64, a sum of 50,000 probabilities loses nothing.
    ends_BV = probabilities_BV.cumsum(dim=-1, dtype=torch.float64)
    uniform_B1 = torch.cat(
        [torch.rand(1, 1, dtype=torch.float64, generator=generator) for generator in generators]
    )
    place_B1 = uniform_B1.to(ends_BV.device) * ends_BV[:, -1:]
    token_B1 = torch.searchsorted(ends_BV, place_B1, right=True)
    return token_B1[:, 0].clamp(max=probabilities_BV.size(-1) - 1)


def draw_each(
    logits_BV: Tensor, samplings: Sequence[SamplingConfig], generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Draw one id per row by the row's own options; return int64 (B,), and the largest logits (B,).

    Nothing can be drawn from a row whose largest logit is not finite. Such an id means nothing.
    """
    largest_B, token_B = logits_BV.max(dim=-1)
    alike: dict[SamplingConfig, list[int]] = {}
    for row, sampling in enumerate(samplings):
        if not is_greedy(sampling):
            alike.setdefault(sampling, []).append(row)
    for sampling, rows in alike.items():
        if len(rows) == len(samplings):
            return draw(distribution(logits_BV, sampling), generators), largest_B
        probabilities_BV = distribution(logits_BV[rows], sampling)
        token_B[rows] = draw(probabilities_BV, [generators[row] for row in rows])
    return token_B, largest_B


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was, by the model's own distribution, before any option changed it."""

    token: int
    logprob: float
    """In nats."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens and their log-probabilities, from the likeliest on."""


def token_logprobs(
    logits_TV: Tensor, tokens: Sequence[int], n_top: Sequence[int]
) -> list[TokenLogprob]:
    """Return the log-probability of each of T tokens, with the n_top[t] likeliest beside it."""
    logprobs_TV = logits_TV.float().log_softmax(dim=-1)
    index_T1 = torch.tensor(tokens, dtype=torch.long, device=logits_TV.device)[:, None]
    chosen = logprobs_TV.gather(1, index_T1)[:, 0].tolist()
    most = min(max(n_top, default=0), logits_TV.size(-1))
    tops: list[tuple[tuple[int, float], ...]] = [()] * len(tokens)
    if most:
        likeliest = logprobs_TV.topk(most, dim=-1)
        rows = zip(likeliest.indices.tolist(), likeliest.values.tolist(), n_top, strict=True)
        tops = [tuple(zip(ids[:n], values[:n], strict=True)) for ids, values, n in rows]
    return [TokenLogprob(*row) for row in zip(tokens, chosen, tops, strict=True)]


# ---- filters -------------------------------------------------------------------------------------
# They decide which tokens may be sampled, by setting the other logits to -inf. Each takes and
# returns float logits (..., V). They apply after the division by the temperature.


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits ("Hierarchical Neural Story Generation", Fan et al., 2018).

    All tokens that tie with the k-th are kept. Raises UserError unless k >= 1.
    """
    check_top_k(k)
    kth = logits.topk(min(k, logits.size(-1)), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, -math.inf)


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most probable tokens whose probabilities sum to at least p.

    "The Curious Case of Neural Text Degeneration" (Holtzman et al., 2019), section 3.1. Of tokens
    that tie, those with lower ids come first. Raises UserError unless 0 < p <= 1.
    """
    check_top_p(p)
    if p == 1:
        return logits
    probabilities = logits.softmax(dim=-1)
    # The likeliest few mostly suffice. To sort all takes 50 times as long.
    V = logits.size(-1)
    for n in (*(n for n in _LIKELIEST if n < V), V):
        likeliest = logits.topk(n, dim=-1)
        sums = probabilities.gather(-1, likeliest.indices).cumsum(dim=-1, dtype=torch.float64)
        if n == V or bool((sums[..., -1] >= p).all()):
            break
    # A token is inside if those before it don't reach p. So the first is always inside.
    n_inside = (sums < p).sum(dim=-1, keepdim=True).clamp(max=n - 1) + 1
    least = likeliest.values.gather(-1, n_inside - 1)
    inside = logits >= least
    if bool((inside.sum(dim=-1, keepdim=True) > n_inside).any()):  # some tie with the last
        ties = logits == least
        n_ties_inside = n_inside - (logits > least).sum(dim=-1, keepdim=True)
        inside &= ~ties | (ties.cumsum(dim=-1) <= n_ties_inside)
    return logits.masked_fill(~inside, -math.inf)


def min_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens at least p times as probable as the most probable one.

    "Turning Up the Heat: Min-p Sampling" (Nguyen et al., 2024). Raises UserError unless
    0 <= p <= 1.
    """
    check_min_p(p)
    probabilities = logits.softmax(dim=-1)
    threshold = p * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(probabilities < threshold, -math.inf)
