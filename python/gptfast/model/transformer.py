"""The GPT: GPT-2's decoder-only transformer, from one layer for a laptop to 48 for GPT-2 XL.

Legend: B batch, T time, C channels (n_embd), V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.model.attention import CausalSelfAttention
from gptfast.model.base import LanguageModel
from gptfast.model.config import ModelConfig
from gptfast.model.kv_cache import KVCache
from gptfast.model.mlp import MLP
from gptfast.model.norm import LayerNorm


class Block(nn.Module):
    """Pre-norm residual block: communicate (attention), then compute (MLP).

    Each half reads a normalised copy of the residual stream and adds its result to it, so that
    gradients reach the first layer undiminished through the sums.
    """

    def __init__(self, config: ModelConfig, kernels: str = "auto") -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, kernels)
        self.attn = CausalSelfAttention(config, kernels)
        self.ln_2 = LayerNorm(config.n_embd, kernels)
        self.mlp = MLP(config)

    def forward(self, x_BTC: Tensor, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x_BTC = x_BTC + self.attn(self.ln_1(x_BTC), cache, layer)
        out_BTC: Tensor = x_BTC + self.mlp(self.ln_2(x_BTC))
        return out_BTC


class GPT(LanguageModel):
    """GPT-2 ("Language Models are Unsupervised Multitask Learners", Radford et al., 2019).

    Parameter names are GPT-2's, so that its weights fit (model/folder.py transposes four matrices
    per block, which GPT-2 stores as (in, out)). The output matrix is the token embedding (tied).
    """

    def __init__(self, config: ModelConfig, kernels: str = "auto") -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, kernels) for _ in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, kernels)
        self.apply(_init_weights)
        # Each block adds two outputs to the residual stream. Divided by sqrt(2 n_layer), their sum
        # has the same variance however deep the model is (GPT-2, section 2.3).
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer))

    def hidden(self, idx_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """The final normalised residual stream (B, T, C) for int64 ids (B, T)."""
        start = cache.length if cache is not None else 0
        T = idx_BT.size(1)
        if start + T > self.config.block_size:
            raise ValueError(
                f"{start + T} tokens don't fit into the context of {self.config.block_size}"
            )
        positions_T = torch.arange(start, start + T, device=idx_BT.device)
        x_BTC = self.drop(self.wte(idx_BT) + self.wpe(positions_T))
        for layer, block in enumerate(self.h):
            x_BTC = block(x_BTC, cache, layer)
        if cache is not None:
            cache.advance(T)
        h_BTC: Tensor = self.ln_f(x_BTC)
        return h_BTC

    def logits(self, idx_BT: Tensor) -> Tensor:
        """Unnormalised log-probabilities (B, T, V) of the next token, for int64 ids (B, T)."""
        return F.linear(self.hidden(idx_BT), self.wte.weight)

    def next_token_logits(self, idx_BT: Tensor, cache: KVCache | None) -> Tensor:
        """The logits (B, V) that follow the last of the T new tokens; the cache keeps the past."""
        return F.linear(self.hidden(idx_BT, cache)[:, -1], self.wte.weight)

    def new_cache(self, batch_size: int) -> KVCache:
        """An empty cache on this model's device, in its dtype."""
        c, weight = self.config, self.wte.weight
        head_width = c.n_embd // c.n_head
        return KVCache(
            c.n_layer, batch_size, c.n_head, c.block_size, head_width,
            device=weight.device, dtype=weight.dtype,
        )  # fmt: skip


def _init_weights(module: nn.Module) -> None:
    """GPT-2's initialisation: N(0, 0.02) for matrices and embeddings, zero for biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
