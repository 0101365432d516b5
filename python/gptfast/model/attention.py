"""Causal multi-head self-attention, the one place where tokens look at one another.

Legend: B batch, T time, C channels (n_embd), H heads, D head width (C = H * D).
"""

from __future__ import annotations

from torch import Tensor, nn

from gptfast import ops
from gptfast.model.config import ModelConfig
from gptfast.model.kv_cache import KVCache


class CausalSelfAttention(nn.Module):
    """softmax(q k^T / sqrt(D)) v for H heads side by side, each token seeing itself and the past.

    "Attention Is All You Need" (Vaswani et al., 2017), section 3.2, with GPT-2's names.
    """

    def __init__(self, config: ModelConfig, kernels: str = "auto") -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.kernels = kernels
        # Queries, keys and values of all heads in one matrix product.
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        """Mix the tokens of x (B, T, C). With a cache, T new tokens attend to the past as well."""
        qkv_BTHD = self.c_attn(x_BTC).unflatten(-1, (3 * self.n_head, -1))
        q_BHTD, k_BHTD, v_BHTD = qkv_BTHD.transpose(1, 2).chunk(3, dim=1)
        if cache is not None:
            k_BHTD, v_BHTD = cache.append(layer, k_BHTD, v_BHTD)
        y_BHTD = ops.attention(
            q_BHTD,
            k_BHTD,
            v_BHTD,
            causal=True,
            dropout_p=self.dropout if self.training else 0.0,
            backend=self.kernels,
        )
        y_BTC = y_BHTD.transpose(1, 2).flatten(2)
        out_BTC: Tensor = self.resid_dropout(self.c_proj(y_BTC))
        return out_BTC
