"""Filters that decide which tokens may be sampled, by setting the other logits to -inf.

Each takes and returns float logits (..., V). They apply after the division by the temperature, in
the order top-k, top-p, min-p.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gptfast.sample.config import check_min_p, check_top_k, check_top_p


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits ("Hierarchical Neural Story Generation", Fan et al., 2018).

    All tokens that tie with the k-th are kept. Raises UserError unless k >= 1.
    """
    check_top_k(k)
    kth = logits.topk(min(k, logits.size(-1)), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, -math.inf)


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most probable tokens whose probabilities sum to at least p.

    "The Curious Case of Neural Text Degeneration" (Holtzman et al., 2019), section 3.1.
    Raises UserError unless 0 < p <= 1.
    """
    check_top_p(p)
    sorted_logits, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = sorted_logits.softmax(dim=-1)
    # A token is outside if the tokens before it already reach p. So the first is always inside.
    outside = probabilities.cumsum(dim=-1) - probabilities >= p
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -math.inf)


def min_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens at least p times as probable as the most probable one.

    "Turning Up the Heat: Min-p Sampling" (Nguyen et al., 2024). Raises UserError unless
    0 <= p <= 1.
    """
    check_min_p(p)
    probabilities = logits.softmax(dim=-1)
    threshold = p * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(probabilities < threshold, -math.inf)
