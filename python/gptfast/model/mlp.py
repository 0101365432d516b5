"""The feed-forward half of a block: it computes on each token by itself.

Legend: B batch, T time, C channels (n_embd), F width of the MLP.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.model.config import ModelConfig
from gptfast.model.dropout import Dropout


class MLP(nn.Module):
    """C -> F -> C with an activation in between: without it, two matrices would be only one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation
        width = fan_out(config)
        self.c_fc = nn.Linear(config.n_embd, width, bias=config.bias)
        self.c_proj = nn.Linear(config.hidden_width, config.n_embd, bias=config.bias)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return (B, T, C) for x (B, T, C), token by token."""
        # Wider first, GPT-2's 4 C: each of the F hidden units is a feature to detect.
        hidden_BTF = activate(self.c_fc(x_BTC), self.activation)
        # Then back to the width of the residual stream, where the result is added.
        out_BTC: Tensor = self.dropout(self.c_proj(hidden_BTF))
        return out_BTC


def fan_out(config: ModelConfig) -> int:
    """Return how many outputs the first matrix has: with 'swiglu' F gates and F values, else F."""
    return config.hidden_width * (2 if config.activation == "swiglu" else 1)


def activate(x: Tensor, activation: str) -> Tensor:
    """Return (..., F), the activation of x (..., F); for 'swiglu' x is (..., 2 F), gates first.

    'gelu': GPT-2's, the tanh approximation (Hendrycks and Gimpel, 2016); 'gelu_exact': what it
    approximates. 'swiglu': silu(gate) * value (Shazeer, 2020). 'relu2': max(x, 0)^2 ("Primer", So
    et al., 2021).
    """
    if activation == "swiglu":
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value
    if activation == "relu2":
        return F.relu(x).square()
    return F.gelu(x, approximate="none" if activation == "gelu_exact" else "tanh")
