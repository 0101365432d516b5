"""How the predictions of two models differ: losses, KL divergence and agreement, token by token.

Shape suffixes: B rows, T tokens, M predicted tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gptfast.model.base import LanguageModel

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


@torch.inference_mode()
def kl_of_continuations(
    first: LanguageModel,
    second: LanguageModel,
    prompt: Sequence[int],
    continuations: Sequence[Sequence[int]],
    n_vocab: int,
) -> list[float]:
    """Return KL(first || second) in nats at each token of the continuations, one after the other.

    n_vocab: as for `compare_logits`. The prompt and a continuation fit into both contexts.
    """
    device, begin = next(first.parameters()).device, len(prompt) - 1
    T = begin + max(map(len, continuations))
    n_rows = max(1, MAX_LOGITS // (T * max(first.config.vocab_size, second.config.vocab_size)))
    found: list[float] = []
    for start in range(0, len(continuations), n_rows):
        rows = continuations[start : start + n_rows]
        filled = [[*prompt, *ids, *[0] * T][: T + 1] for ids in rows]
        ids_BT = torch.tensor(filled, device=device)
        lengths_B1 = torch.tensor([[len(ids)] for ids in rows], device=device)
        places_T = torch.arange(T, device=device) - begin
        is_continued_BT = (places_T >= 0) & (places_T < lengths_B1)
        first_MV, second_MV = (m(ids_BT[:, :-1])[is_continued_BT] for m in (first, second))
        targets_M = ids_BT[:, 1:][is_continued_BT]
        found += compare_logits(first_MV, second_MV, targets_M, n_vocab).kl_M.tolist()
    return found
