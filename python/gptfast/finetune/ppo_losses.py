"""The formulas of PPO: advantages, and the two clipped losses.

Legend: B rollouts, T time. mask_BT is True where a sampled token, the end token included, counts.
Each rollout counts in one run of positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def advantages(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Return the generalised advantage estimates (B, T), 0 where the mask is False.

    A_t = sum over l >= 0 of (gamma lambda)^l delta_{t+l}, with delta_t = r_t + gamma V_{t+1} - V_t
    and V = 0 after a rollout's last token. Schulman et al., "High-Dimensional Continuous Control
    Using Generalized Advantage Estimation" (2016), equation 16.
    """
    mask = mask_BT.to(values_BT.dtype)
    values_BT, rewards_BT = values_BT * mask, rewards_BT * mask
    result_BT = torch.zeros_like(values_BT)
    next_value_B = next_advantage_B = torch.zeros_like(values_BT[:, 0])
    for t in reversed(range(values_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        next_advantage_B = (delta_B + gamma * gae_lambda * next_advantage_B) * mask[:, t]
        next_value_B = values_BT[:, t]
        result_BT[:, t] = next_advantage_B
    return result_BT


def policy_loss(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, clip: float
) -> Tensor:
    """Return -min(r A, clamp(r, 1 - clip, 1 + clip) A) of each token, where r = p / p_old.

    Schulman et al., "Proximal Policy Optimization Algorithms" (2017), equation 7.
    """
    ratio_BT = torch.exp(logprobs_BT - old_logprobs_BT)
    clipped_BT = ratio_BT.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)


def value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, value_clip: float
) -> Tensor:
    """Return max((V - R)^2, (V_clipped - R)^2) / 2 of each token.

    V_clipped is V, at most value_clip from V_old. The paper has the plain (V - R)^2 (equation 9);
    its authors' code clips so (openai/baselines, ppo2), and so do RLHF's implementations since.
    """
    clipped_BT = old_values_BT + (values_BT - old_values_BT).clamp(-value_clip, value_clip)
    return torch.maximum((values_BT - returns_BT) ** 2, (clipped_BT - returns_BT) ** 2) / 2
