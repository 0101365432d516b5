"""The feed-forward half of a block: each token thinks for itself about what it has gathered."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.model.config import ModelConfig


class MLP(nn.Module):
    """C -> 4C -> C with GPT-2's GELU (its tanh approximation; Hendrycks and Gimpel, 2016)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C), token by token."""
        hidden_BT4C = F.gelu(self.c_fc(x_BTC), approximate="tanh")
        out_BTC: Tensor = self.dropout(self.c_proj(hidden_BT4C))
        return out_BTC
