"""The GPT: a decoder-only transformer, from one layer for a laptop to 48 for GPT-2 XL.

Legend: B batch, T time, C channels (n_embd), V vocabulary, P pairs of channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gptfast import ops
from gptfast.model.attention import CausalSelfAttention
from gptfast.model.base import LanguageModel
from gptfast.model.config import ModelConfig
from gptfast.model.dropout import Dropout
from gptfast.model.embeddings import TokenEmbedding, build_embeddings
from gptfast.model.kv_cache import KVCache
from gptfast.model.mlp import MLP
from gptfast.model.moe import MixtureOfExperts
from gptfast.model.norm import build_norm
from gptfast.model.positions import rotation
from gptfast.ops.linear_cross_entropy import Reduction


class Block(nn.Module):
    """Pre-norm residual block: communicate (attention), then compute (MLP).

    Each half reads a normalised copy of the residual stream and adds its result to it, so that
    gradients reach the first layer undiminished through the sums.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = build_norm(config)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = build_norm(config)
        self.mlp = MixtureOfExperts(config) if config.n_expert else MLP(config)

    def forward(
        self,
        x_BTC: Tensor,
        cos_sin: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """Return (B, T, C) for x (B, T, C)."""
        # Each half reads a normalised copy and adds its result: the stream itself stays a sum.
        x_BTC = x_BTC + self.attn(self.ln_1(x_BTC), cos_sin, cache, cu_seqlens)
        out_BTC: Tensor = x_BTC + self.mlp(self.ln_2(x_BTC))
        return out_BTC


class GPT(LanguageModel):
    """GPT-2 ("Language Models are Unsupervised Multitask Learners", Radford et al., 2019).

    By its configuration also Llama, Mistral, Mixtral or a speed-runner's model. Parameter names are
    GPT-2's; model/formats/ has those of Hugging Face's formats.
    """

    wte: TokenEmbedding
    cos_TP: Tensor
    sin_TP: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.activation_checkpointing = False
        """Whether to keep only a block's input for its gradient, and compute the rest once more in
        the backward pass: less memory, a third more work."""
        embeddings = build_embeddings(config)
        for name, embedding in embeddings.items():
            self.add_module(name, embedding)
        self.embedding_names = tuple(embeddings)
        if config.positions == "rotary":
            for name, table_TP in zip(("cos_TP", "sin_TP"), rotation(config), strict=True):
                self.register_buffer(name, table_TP, persistent=False)
        self.ln_emb = build_norm(config) if config.embedding_norm else nn.Identity()
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = build_norm(config)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Set GPT-2's initial weights: N(0, 0.02) for matrices and embeddings, zero for biases.

        Each block adds two outputs to the residual stream. With their last matrices divided by
        sqrt(2 n_layer), the sum has the same variance however deep the model is (GPT-2, section
        2.3); with `zero_init` these matrices start at zero.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        residual_std = 0.0 if self.config.zero_init else 0.02 / math.sqrt(2 * self.config.n_layer)
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2 and "c_proj" in name:
                nn.init.normal_(parameter, std=residual_std)

    @property
    def head_VC(self) -> Tensor:
        """The output matrix (V, C): the token embedding again, if the two are tied."""
        return self.wte.weight if self.config.tie_embeddings else self.lm_head.weight

    def hidden(
        self, idx_BT: Tensor, cache: KVCache | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor:
        """Return the final normalised residual stream (B, T, C) for int64 ids (B, T).

        cache: the ids continue the text in it. cu_seqlens: borders of documents that don't see each
        other, as `ops.attention` takes them. Raises ValueError for more tokens than block_size.
        """
        start = cache.length if cache is not None else 0
        T = idx_BT.size(1)
        if start + T > self.config.block_size:
            raise ValueError(
                f"{start + T} tokens don't fit into the context of {self.config.block_size}"
            )
        # Each token starts as a sum of vectors that say what and where it is: (B, T) -> (B, T, C).
        seen_BT = idx_BT if cache is None else cache.append_ids(idx_BT)
        x_BTC, *others = (
            self.get_submodule(name)(seen_BT, start, cu_seqlens) for name in self.embedding_names
        )
        for embedded in others:
            x_BTC = x_BTC + embedded
        cos_sin = None
        if self.config.positions == "rotary":
            cos_sin = self.cos_TP[start : start + T], self.sin_TP[start : start + T]
        x_BTC = self.drop(self.ln_emb(x_BTC))
        # The residual stream: every block reads it and adds to it, and its shape never changes.
        for block in self.h:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x_BTC = checkpoint(block, x_BTC, cos_sin, cache, cu_seqlens, use_reentrant=False)
            else:
                x_BTC = block(x_BTC, cos_sin, cache, cu_seqlens)
        if cache is not None:
            cache.advance(T)
        h_BTC: Tensor = self.ln_f(x_BTC)
        return h_BTC

    def forward(
        self,
        idx_BT: Tensor,
        targets_BT: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        *,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """Return logits (B, T, V), or with targets the cross entropy in nats, as `LanguageModel`.

        The loss is computed in chunks of tokens: all logits at once never exist. In training,
        experts that are balanced by a loss add theirs to the mean, but to no token's loss.
        """
        for moe in self.experts():
            moe.balance_loss = None
        # Position t's vector now holds what is needed to predict token t + 1, for all t at once.
        h_BTC = self.hidden(idx_BT, cu_seqlens=cu_seqlens)
        if targets_BT is None:
            return self._logits_of(h_BTC)
        loss = ops.linear_cross_entropy(
            h_BTC,
            self.head_VC,
            targets_BT,
            softcap=self.config.logit_softcap,
            reduction=reduction,
        )
        balance_losses = [
            moe.balance_loss for moe in self.experts() if moe.balance_loss is not None
        ]
        if balance_losses and reduction == "mean":
            loss = loss + torch.stack(balance_losses).mean()
        return loss

    @torch.no_grad()
    def next_token_logits(self, idx_BT: Tensor, cache: KVCache | None) -> Tensor:
        """Return logits (B, V) for what follows the last of the T new ids (B, T).

        The cache holds the past, and afterwards the new tokens as well.
        """
        return self._logits_of(self.hidden(idx_BT, cache)[:, -1])

    def new_cache(self, batch_size: int) -> KVCache:
        """Return an empty cache on this model's device, in its dtype."""
        c, weight = self.config, self.wte.weight
        return KVCache(
            c.n_layer, batch_size, c.key_value_heads, c.block_size, c.head_width,
            device=weight.device, dtype=weight.dtype,
        )  # fmt: skip

    def experts(self) -> list[MixtureOfExperts]:
        """Return the mixtures of experts, one for each layer; none in a dense model."""
        return [block.mlp for block in self.h if isinstance(block.mlp, MixtureOfExperts)]

    def end_step(self, sum_over_processes: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Balance the experts; return each layer's shares of tokens, if there are experts."""
        shares = []
        for moe in self.experts():
            sum_over_processes(moe.chosen_E)
            shares.append(moe.end_step().tolist())
        return {"expert_shares": shares} if shares else {}

    def forget_step(self) -> None:
        """Forget how often each expert was chosen since the last `end_step`."""
        for moe in self.experts():
            moe.chosen_E.zero_()

    def _logits_of(self, hidden: Tensor) -> Tensor:
        logits = F.linear(hidden, self.head_VC)
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)
