"""The feed-forward half of a block, which processes each token independently.

Legend: B batch, T time, C channels (n_embd), F width of the MLP.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.model.config import ModelConfig
from gptfast.model.dropout import Dropout


class MLP(nn.Module):
    """Maps C -> F -> C, with an activation between: without it, the two matrices would be one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation
        width = fan_out(config)
        self.c_fc = nn.Linear(config.n_embd, width, bias=config.bias)
        self.c_proj = nn.Linear(config.hidden_width, config.n_embd, bias=config.bias)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return (B, T, C) for x (B, T, C), token by token."""
        # Widen first, by default to 4 C: each of the F hidden units detects a feature.
        hidden_BTF = activate(self.c_fc(x_BTC), self.activation)
        # Then return to the width of the residual stream, to which the result is added.
        out_BTC: Tensor = self.dropout(self.c_proj(hidden_BTF))
        return out_BTC


def fan_out(config: ModelConfig) -> int:
    """Return the number of outputs of the first matrix: F, or F gates and F values for 'swiglu'."""
    return config.hidden_width * (2 if config.activation == "swiglu" else 1)


def activate(x: Tensor, activation: str) -> Tensor:
    """Return the activation (..., F) of x (..., F); for 'swiglu', x is (..., 2 F), gates first.

    'gelu_exact' is GELU, and 'gelu' is its tanh approximation, which GPT-2 uses (Hendrycks and
    Gimpel, 2016). 'swiglu' is silu(gate) * value (Shazeer, 2020). 'relu2' is max(x, 0)^2
    ("Primer", So et al., 2021).
    """
    if activation == "swiglu":
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value
    if activation == "relu2":
        return F.relu(x).square()
    return F.gelu(x, approximate="none" if activation == "gelu_exact" else "tanh")
