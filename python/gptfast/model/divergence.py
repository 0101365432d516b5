"""How the predictions of two models differ: losses, KL divergence and agreement, token by token.

Shape suffixes: M predicted tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_LOGITS = 1 << 26
"""Logits of a model that may exist at once: 256 MiB in float32."""
ROWS_AT_A_TIME = 128
"""Distributions that are compared at once, in float64."""


@dataclass(frozen=True)
class Differences:
    """What two models predict for each of M tokens."""

    losses: tuple[Tensor, Tensor]
    """Of the first and of the second model, in nats, float64 (M,) each."""
    kl_M: Tensor
    """KL(first || second) in nats, float64: what it costs to take the second for the first."""
    agrees_M: Tensor
    """Whether both find the same token the likeliest."""


def compare_logits(
    first_MV: Tensor, second_MV: Tensor, targets_M: Tensor, n_vocab: int
) -> Differences:
    """Compare the logits of two models for the same tokens, in float64.

    n_vocab: number of ids of the tokenizer; KL and agreement leave out the logits of further ids,
    which are padding. The two models may be padded differently.
    """
    losses: tuple[list[Tensor], list[Tensor]] = ([], [])
    kl, agrees = [], []
    for start in range(0, len(targets_M), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        p, q = first_MV[rows].double(), second_MV[rows].double()
        for logits, of_model in zip((p, q), losses, strict=True):
            of_model.append(F.cross_entropy(logits, targets_M[rows], reduction="none"))
        p, q = p[:, :n_vocab], q[:, :n_vocab]
        kl.append(kl_divergence(p, q))
        agrees.append(p.argmax(-1) == q.argmax(-1))
    return Differences(
        (torch.cat(losses[0]), torch.cat(losses[1])), torch.cat(kl), torch.cat(agrees)
    )


def kl_divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Return sum p (log p - log q) over the last axis for logits (..., V), in nats."""
    p, q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)
