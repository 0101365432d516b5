"""The formulas of GRPO and its variants.

Shao et al., "DeepSeekMath" (2024), introduced it. Liu et al., "Understanding R1-Zero-Like Training"
(2025), removed its biases (Dr. GRPO). Every rollout serves one update, so the ratio of the
probabilities is 1, and nothing needs to be clipped.

Legend: P prompts, G completions of each, N = P G, T time.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(rewards_PG: Tensor, scale: bool) -> Tensor:
    """Return each completion's reward minus its group's mean, (P, G), in float32.

    scale: divide by the group's standard deviation + 1e-4, with Bessel's correction, as equation 3
    of DeepSeekMath and TRL do. All advantages of a group of equal rewards are exactly 0.
    """
    mean_P1 = rewards_PG.mean(dim=1, keepdim=True)
    advantages_PG = rewards_PG - mean_P1
    if scale:
        advantages_PG = advantages_PG / (rewards_PG.std(dim=1, keepdim=True) + 1e-4)
    varies_P1 = rewards_PG.amax(1, keepdim=True) > rewards_PG.amin(1, keepdim=True)
    return torch.where(varies_P1, advantages_PG, 0.0).float()


def token_losses(
    logprobs_NT: Tensor, advantages_N: Tensor, reference_NT: Tensor | None, beta: float
) -> Tensor:
    """Return the loss of each token (N, T): (beta KL - A) p / p_old.

    p_old is p without its gradient, so the ratio is 1. The divergence from the reference is
    estimated by k3 = exp(d) - d - 1, d = log p_reference - log p, which is never negative
    (DeepSeekMath, equation 4). Its own gradient would be another one: by the ratio before it, the
    mean has the gradient of the divergence ("DeepSeek-V3.2", 2025, equation 7).
    """
    ratio_NT = (logprobs_NT - logprobs_NT.detach()).exp()
    if reference_NT is None:
        return -advantages_N[:, None] * ratio_NT
    d_NT = reference_NT - logprobs_NT
    return (beta * (d_NT.exp() - d_NT - 1) - advantages_N[:, None]) * ratio_NT


def sum_of_losses(
    losses_NT: Tensor,
    is_token_NT: Tensor,
    has_gradient_N1: Tensor,
    loss_type: str,
    max_new_tokens: int,
) -> Tensor:
    """Return a sum over completions; the loss is this sum divided by what it is a mean of.

    'grpo' takes the mean of each completion (DeepSeekMath, equation 3) and 'dr_grpo' divides each
    by the same constant (Liu et al., section 3.2), for a mean over completions. 'dapo' sums all
    tokens, for a mean over tokens (Yu et al., "DAPO", 2025, equation 12). Completions that were cut
    off are like others, and those without gradient are in the denominators, too.
    """
    sums_N = (losses_NT * (is_token_NT & has_gradient_N1)).sum(dim=1)
    if loss_type == "grpo":
        return (sums_N / is_token_NT.sum(dim=1)).sum()
    return sums_N.sum() / (max_new_tokens if loss_type == "dr_grpo" else 1)
