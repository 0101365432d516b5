"""Mixture of experts: many MLPs, of which each token uses a few.

Legend: B batch, T time, C channels (n_embd), M = B * T tokens, E experts, K experts that a token
goes to, F width of an expert.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.model.config import ModelConfig
from gptfast.model.dropout import Dropout
from gptfast.model.mlp import activate, fan_out
from gptfast.ops.dispatch import autocast


class MixtureOfExperts(nn.Module):
    """The K experts that the router likes best, weighted by how well it likes them.

    "Mixtral of Experts" (Jiang et al., 2024), section 2.1: a softmax over the chosen experts'
    scores. However uneven the choice is, no token is dropped.

    Experts that are chosen more often learn faster and are then chosen more often. Against that,
    'loss' adds E times the sum over experts of (share of choices) * (mean score), which is 1 when
    all are equally busy ("Switch Transformers", Fedus et al., 2021, eq. 4); 'bias' adds a number to
    each expert's score that only the choice sees, and raises it where an expert has too little to
    do (Wang et al., 2024, "Auxiliary-Loss-Free Load Balancing"; DeepSeek-V3).
    """

    bias_E: Tensor
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
        self.register_buffer("bias_E", torch.zeros(E), persistent=self.balance == "bias")
        self.register_buffer("chosen_E", torch.zeros(E), persistent=False)
        self.balance_loss: Tensor | None = None
        """The weighted loss of the first forward pass in training since this was set to None."""

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return (B, T, C) for x (B, T, C), token by token."""
        x_MC = x_BTC.flatten(0, 1)
        weights_MK, experts_MK, chosen_E = self._choose(x_MC)
        # Sort the M K choices by expert, so that each expert's tokens lie together and one grouped
        # product serves all experts, however unevenly they were chosen.
        order = experts_MK.flatten().argsort(stable=True)
        tokens = order // self.n_active
        ends_E = chosen_E.cumsum(0).int()
        # Every token is copied K times, once for each of its experts: (M, C) -> (M K, C).
        rows, c_fc, c_proj = autocast(x_MC[tokens], self.c_fc, self.c_proj)
        hidden = activate(F.grouped_mm(rows, c_fc.mT, offs=ends_E), self.activation)
        out = F.grouped_mm(hidden, c_proj.mT, offs=ends_E) * weights_MK.flatten()[order, None]
        # Add each token's K weighted results up where the token was: (M K, C) -> (M, C).
        out_MC = torch.zeros_like(x_MC).index_add(0, tokens, out.to(x_MC.dtype))
        out_BTC: Tensor = self.dropout(out_MC.view_as(x_BTC))
        return out_BTC

    def _choose(self, x_MC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return each token's weights and experts, (M, K), and how often each is chosen, (E,)."""
        # The scores that weigh the experts are differentiable, so the router learns by them; the
        # choice itself is not, and the bias takes part in the choice only.
        scores_ME = self.router(x_MC).float().softmax(-1)
        experts_MK = (scores_ME + self.bias_E).topk(self.n_active).indices
        weights_MK = scores_ME.gather(1, experts_MK)
        all_E = torch.arange(len(self.bias_E), device=x_MC.device)
        chosen_E = (experts_MK[..., None] == all_E).sum((0, 1))
        if self.training:
            self.chosen_E += chosen_E
            if self.balance == "loss":
                share_E = chosen_E / experts_MK.numel()
                loss = self.balance_rate * len(share_E) * (share_E * scores_ME.mean(0)).sum()
                # With activation checkpointing the backward pass computes it once more. That one is
                # not kept: it would keep everything that it was computed from in memory.
                if self.balance_loss is None:
                    self.balance_loss = loss
        return weights_MK / weights_MK.sum(-1, keepdim=True), experts_MK, chosen_E

    @torch.no_grad()
    def end_step(self) -> Tensor:
        """Return each expert's share of the choices since the last call, (E,); move the bias."""
        share_E = self.chosen_E / self.chosen_E.sum()
        if self.balance == "bias":
            self.bias_E += self.balance_rate * (share_E.mean() - share_E).sign()
        self.chosen_E.zero_()
        return share_E
