"""Multi-head self-attention, the one place where tokens exchange information.

Legend: B batch, T time, C channels (n_embd), H query heads, G key and value heads, D head width
(C / H unless head_dim is given), P channel pairs that rotary positions rotate.
"""

from __future__ import annotations

from torch import Tensor, nn

from gptfast import ops
from gptfast.model.config import ModelConfig
from gptfast.model.dropout import Dropout
from gptfast.model.kv_cache import NewTokens
from gptfast.model.norm import RMSNorm


class SelfAttention(nn.Module):
    """Computes softmax(q k^T / sqrt(D)) v for H heads; each token sees itself and the past.

    Without `config.causal`, each token sees all tokens, as in a vision transformer.
    "Attention Is All You Need" (Vaswani et al., 2017), section 3.2, with GPT-2's names. If G is
    less than H, query heads share keys and values ("GQA", Ainslie et al., 2023).
    """

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__()
        self.heads = (config.n_head, config.key_value_heads, config.key_value_heads)
        self.dropout = config.dropout
        self.causal = config.causal
        self.window = config.layer_window(layer)
        self.rotates = config.layer_rotates(layer)
        self.layer = layer
        C, D = config.n_embd, config.head_width
        # Queries, keys and values of all heads in one matrix product.
        self.c_attn = nn.Linear(C, sum(self.heads) * D, bias=config.bias or config.qkv_bias)
        self.c_proj = nn.Linear(config.n_head * D, C, bias=config.bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(D, config.norm_eps)
            self.k_norm = RMSNorm(D, config.norm_eps)
        self.qk_norm = config.qk_norm
        self.resid_dropout = Dropout(config.dropout)

    def forward(
        self,
        x_BTC: Tensor,
        rotation: tuple[Tensor, Tensor] | None = None,
        cache: NewTokens | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """Mix the tokens of x (B, T, C) and return (B, T, C).

        rotation: cos and sin of the tokens' positions, (T, P) or (B, T, P) each. cache: the tokens'
        place in a cache, whose past they also see. cu_seqlens: document boundaries, as in
        `ops.attention`.
        """
        # One matrix product makes all queries, keys and values: (B, T, C) -> (B, T, H + 2 G, D).
        # Heads then move before time, because each head attends independently: (B, H, T, D).
        qkv_BTHD = self.c_attn(x_BTC).unflatten(-1, (sum(self.heads), -1))
        q_BHTD, k_BGTD, v_BGTD = qkv_BTHD.transpose(1, 2).split(self.heads, dim=1)
        if self.qk_norm:
            q_BHTD, k_BGTD = self.q_norm(q_BHTD), self.k_norm(k_BGTD)
        # Rotate by position, so that q k^T depends only on the distance between two tokens.
        if rotation is not None and self.rotates:
            q_BHTD, k_BGTD = ops.rotary(q_BHTD, k_BGTD, *rotation)
        # When sampling, the keys and values of the past come from the cache.
        if cache is not None:
            y_BHTD = cache.attend(self.layer, q_BHTD, k_BGTD, v_BGTD, self.window)
        else:
            y_BHTD = ops.attention(
                q_BHTD,
                k_BGTD,
                v_BGTD,
                causal=self.causal,
                window=self.window,
                dropout_p=self.dropout if self.training else 0.0,
                cu_seqlens=cu_seqlens,
            )
        # Concatenate the heads and mix them: (B, H, T, D) -> (B, T, H D) -> (B, T, C).
        out_BTC: Tensor = self.resid_dropout(self.c_proj(y_BHTD.transpose(1, 2).flatten(2)))
        return out_BTC
