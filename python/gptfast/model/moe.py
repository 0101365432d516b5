"""Mixture of experts: many MLPs, of which each token uses a few.

Legend: B batch, T time, C channels (n_embd), M = B * T tokens, E experts, K experts per token,
F width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.model.config import ModelConfig
from gptfast.model.constants import device_with_values, moved
from gptfast.model.dropout import Dropout
from gptfast.model.mlp import activate, fan_out
from gptfast.ops.dispatch import autocast
from gptfast.ops.operator import is_transformed


class MixtureOfExperts(nn.Module):
    """Sends each token to the K experts with the highest router scores, weighted by the scores.

    "Mixtral of Experts" (Jiang et al., 2024), section 2.1: a softmax over the scores of the chosen
    experts. No token is dropped, however uneven the choice is.

    Experts that are chosen more often learn faster and are then chosen even more often. 'loss'
    prevents this by adding E times the sum over experts of (share of choices) * (mean score),
    which is 1 when the load is equal ("Switch Transformers", Fedus et al., 2021, eq. 4). 'bias'
    adds a bias to each expert's score for the choice only, and raises the bias of experts with
    too little load (Wang et al., 2024, "Auxiliary-Loss-Free Load Balancing"; DeepSeek-V3).
    """

    bias_E: Tensor | None
    """Added to the scores for the choice; None unless the balance is 'bias'."""
    chosen_E: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        E, C, width = config.n_expert, config.n_embd, config.hidden_width
        self.n_active = config.n_expert_active
        self.activation = config.activation
        self.balance = config.expert_balance
        self.balance_rate = config.expert_balance_rate
        self.router = nn.Linear(C, E, bias=False)
        self.c_fc = nn.Parameter(torch.empty(E, fan_out(config), C))
        self.c_proj = nn.Parameter(torch.empty(E, C, width))
        self.dropout = Dropout(config.dropout)
        zeros_E = torch.zeros(E, dtype=torch.float32, device=device_with_values())
        self.register_buffer("bias_E", zeros_E.clone() if self.balance == "bias" else None)
        self.register_buffer("chosen_E", zeros_E, persistent=False)
        self.balance_loss: Tensor | None = None
        """Weighted balancing loss of the first training forward pass since the reset to None."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MixtureOfExperts:
        """Apply fn to the parameters. The buffers only move: counts need float32."""
        buffers = {name: moved(buffer, fn) for name, buffer in self.named_buffers(recurse=False)}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers.update(buffers)
        return self

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return (B, T, C) for x (B, T, C), token by token."""
        x_MC = x_BTC.flatten(0, 1)
        weights_MK, experts_MK, chosen_E = self._choose(x_MC)
        # Sort the M K choices by expert. Each expert's tokens are then contiguous, and one grouped
        # matrix product serves all experts, however uneven the choice is.
        order = experts_MK.flatten().argsort(stable=True)
        tokens = order // self.n_active
        ends_E = chosen_E.cumsum(0).int()
        # Copy every token once for each of its K experts: (M, C) -> (M K, C).
        hidden = activate(_grouped_product(x_MC[tokens], self.c_fc, ends_E), self.activation)
        out = _grouped_product(hidden, self.c_proj, ends_E) * weights_MK.flatten()[order, None]
        # Sum the K weighted results of each token: (M K, C) -> (M, C).
        out_MC = torch.zeros_like(x_MC).index_add(0, tokens, out.to(x_MC.dtype))
        out_BTC: Tensor = self.dropout(out_MC.view_as(x_BTC))
        return out_BTC

    def _choose(self, x_MC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return each token's weights and experts, (M, K), and each expert's token count, (E,)."""
        # The weights are differentiable scores, so the router learns from them. The choice is not
        # differentiable, and the bias affects only the choice.
        logits_ME = self.router(x_MC)
        scores_ME = logits_ME.to(torch.promote_types(x_MC.dtype, torch.float32)).softmax(-1)
        biased_ME = scores_ME if self.bias_E is None else scores_ME + self.bias_E.to(x_MC.device)
        experts_MK = biased_ME.topk(self.n_active).indices
        weights_MK = scores_ME.gather(1, experts_MK)
        all_E = torch.arange(scores_ME.size(1), device=x_MC.device)
        chosen_E = (experts_MK[..., None] == all_E).sum((0, 1))
        if self.training:
            if not is_transformed():  # torch.func has no place to keep counts
                self.chosen_E += chosen_E
            if self.balance == "loss":
                share_E = chosen_E / experts_MK.numel()
                loss = self.balance_rate * len(share_E) * (share_E * scores_ME.mean(0)).sum()
                # With activation checkpointing, the backward pass computes this loss again. Keeping
                # that second loss would keep its whole graph in memory.
                if self.balance_loss is None:
                    self.balance_loss = loss
        return weights_MK / weights_MK.sum(-1, keepdim=True), experts_MK, chosen_E

    @torch.no_grad()
    def end_step(self) -> Tensor:
        """Return each expert's share of the choices since the last call, (E,); update the bias."""
        share_E = self.chosen_E / self.chosen_E.sum()
        if self.bias_E is not None:
            self.bias_E += self.balance_rate * (share_E.mean() - share_E).sign()
        self.chosen_E.zero_()
        return share_E


def _grouped_product(rows: Tensor, weights: Tensor | nn.Module, ends_E: Tensor) -> Tensor:
    """Multiply the rows of each expert, which end at `ends_E`, by the expert's matrix.

    weights: (E, outputs, inputs), or the module that holds them in blocks (model/quantized.py).
    """
    if isinstance(weights, nn.Module):
        product: Tensor = weights(rows, ends_E)
        return product
    rows, weights = autocast(rows, weights)
    if rows.dtype == torch.float64:  # PyTorch's grouped product lacks it
        parts = rows.tensor_split(ends_E[:-1].long().cpu())
        return torch.cat([part @ weight.T for part, weight in zip(parts, weights, strict=True)])
    return F.grouped_mm(rows, weights.mT, offs=ends_E)
