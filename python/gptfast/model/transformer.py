"""The GPT, a decoder-only transformer: from one layer on a laptop to GPT-2 XL's 48.

Legend: B batch, T time, C channels (n_embd), V vocabulary, P channel pairs of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptfast import ops
from gptfast.errors import UserError, as_int64, check_at_least
from gptfast.model import rust_step
from gptfast.model.attention import SelfAttention
from gptfast.model.base import LanguageModel
from gptfast.model.config import ModelConfig
from gptfast.model.dropout import Dropout
from gptfast.model.embeddings import TokenEmbedding, build_embeddings
from gptfast.model.kv_cache import KVCache, NewTokens
from gptfast.model.mlp import MLP
from gptfast.model.moe import MixtureOfExperts
from gptfast.model.norm import build_norm
from gptfast.ops.checks import Reduction
from gptfast.ops.operator import is_transformed


class Block(nn.Module):
    """A pre-norm residual block: communicate (attention), then compute (MLP).

    Each half reads a normalised copy of the residual stream and adds its result to the stream.
    Gradients pass through these sums undiminished to the first layer.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = build_norm(config)
        self.attn = SelfAttention(config, layer)
        self.ln_2 = build_norm(config)
        self.mlp = MixtureOfExperts(config) if config.n_expert else MLP(config)

    def forward(
        self,
        x_BTC: Tensor,
        cos_sin: tuple[Tensor, Tensor] | None = None,
        cache: NewTokens | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """Return (B, T, C) for x (B, T, C)."""
        # Both halves read a normalised copy, (B, T, C), and add to the stream, which stays a sum.
        x_BTC = x_BTC + self.attn(self.ln_1(x_BTC), cos_sin, cache, cu_seqlens)
        out_BTC: Tensor = x_BTC + self.mlp(self.ln_2(x_BTC))
        return out_BTC


@torch.no_grad()
def init_weights(model: LanguageModel) -> None:
    """Set GPT-2's initial weights: N(0, 0.02) for matrices and embeddings, zero for biases.

    The weights of norms start at one.

    Each block adds two outputs to the residual stream. The matrices that produce them are
    divided by sqrt(2 n_layer), so that the variance of the sum does not depend on the depth
    (GPT-2, section 2.3). With `zero_init`, these matrices start at zero.
    """
    config = model.config
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.ones_(parameter)
    residual_std = 0.0 if config.zero_init else 0.02 / math.sqrt(2 * config.n_layer)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "c_proj" in name:
            nn.init.normal_(parameter, std=residual_std)


class GPT(LanguageModel):
    """GPT-2 ("Language Models are Unsupervised Multitask Learners", Radford et al., 2019).

    Other configurations make it Llama, Mistral, Mixtral, Qwen, SmolLM 3 or a speedrun model.
    Parameters have GPT-2's names; model/formats/ maps them to the names in Hugging Face's formats.
    """

    wte: TokenEmbedding

    def __init__(self, config: ModelConfig) -> None:
        """Raise UserError without `config.causal`."""
        if not config.causal:
            raise UserError(
                "causal is False: a language model would see the tokens that it has to predict; "
                "leave it out"
            )
        super().__init__(config)
        self.activation_checkpointing = False
        """Keep only each block's input for the backward pass and compute the rest again: less
        memory for a third more work."""
        embeddings = build_embeddings(config)
        for name, embedding in embeddings.items():
            self.add_module(name, embedding)
        self.embedding_names = tuple(embeddings)
        if config.positions == "rotary":
            from gptfast.model.positions import Rotation

            self.rotation = Rotation(config)
        self.ln_emb = build_norm(config) if config.embedding_norm else nn.Identity()
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = build_norm(config)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Set the initial weights, also those of layers that a subclass has put in."""
        init_weights(self)

    @property
    def head_VC(self) -> Tensor:
        """The output matrix (V, C), which is the token embedding if the two are tied."""
        return self.wte.weight if self.config.tie_embeddings else self.lm_head.weight

    def hidden(
        self, idx_BT: Tensor, cache: NewTokens | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor:
        """Return the final normalised residual stream (B, T, C) for int64 ids (B, T).

        cache: the place of the ids in a cache, whose texts they continue. cu_seqlens: boundaries of
        documents that must not see each other, as in `ops.attention`. Raises UserError for ids that
        the model can't take; those in a cache are checked before.
        """
        if cache is None:
            idx_BT = self.checked_ids(idx_BT, cu_seqlens)
        # A token starts as a sum of embeddings of its id, its n-grams and its position:
        # (B, T) -> (B, T, C).
        x_BTC, *others = (
            self.get_submodule(name)(idx_BT, cache, cu_seqlens) for name in self.embedding_names
        )
        for embedded in others:
            x_BTC = x_BTC + embedded
        cos_sin = None
        if self.config.positions == "rotary":
            cos_sin = self.rotation(idx_BT, cache)
        # torch.func computes gradients without what checkpointing needs.
        is_checkpointed = (
            self.activation_checkpointing and torch.is_grad_enabled() and not is_transformed()
        )
        x_BTC = self.drop(self.ln_emb(x_BTC))
        # Every block reads the residual stream and adds to it; its shape stays (B, T, C).
        for block in self.h:
            if is_checkpointed:
                x_BTC = checkpoint(block, x_BTC, cos_sin, cache, cu_seqlens, use_reentrant=False)
            else:
                x_BTC = block(x_BTC, cos_sin, cache, cu_seqlens)
        if cache is not None:
            cache.finish()
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
        """Return logits (B, T, V) or, if targets are given, the loss, as in `LanguageModel`.

        The loss is computed in chunks of tokens, so all logits never exist at once. In training,
        the balancing loss of the experts is added to the mean, but not to the loss of each token.
        """
        experts = self.experts()
        for moe in experts:
            moe.balance_loss = None
        # The vector at position t, (C,), predicts token t + 1, for all t at once.
        h_BTC = self.hidden(idx_BT, cu_seqlens=cu_seqlens)
        balance_losses = [moe.balance_loss for moe in experts if moe.balance_loss is not None]
        for moe in experts:
            if moe.balance_loss is not None:  # keep the number, not the graph that led to it
                moe.balance_loss = moe.balance_loss.detach()
        if targets_BT is None:
            return self._logits_of(h_BTC)
        loss = ops.linear_cross_entropy(
            h_BTC,
            self.head_VC,
            targets_BT,
            softcap=self.config.logit_softcap,
            reduction=reduction,
        )
        if balance_losses and reduction == "mean":
            loss = loss + torch.stack(balance_losses).mean()
        return loss

    def new_cache(self, batch_size: int) -> KVCache:
        """Return an empty cache of `batch_size` rows. Raise UserError unless there is at least one.

        It is on the model's device, in the dtype of its activations.
        """
        check_at_least("batch_size", as_int64("batch_size", batch_size), 1)
        norm, n_layer = self.ln_f.weight, self.config.n_layer
        return KVCache(self.config, batch_size, n_layer, device=norm.device, dtype=norm.dtype)

    @torch.no_grad()
    def verify(self, ids: Sequence[int], cache: KVCache, row: int) -> Tensor:
        """Append T ids to a row; return the logits after each, (T, V), as in `LanguageModel`."""
        if not ids or rust_step.why_not(self, cache) is not None:
            return super().verify(ids, cache, row)
        self._check_new(ids, cache, cache.lengths[row] + len(ids))
        return rust_step.step(self, ids, cache, [row] * len(ids))

    def _step(self, ids: Sequence[int], cache: KVCache, rows: Sequence[int]) -> Tensor:
        # On a CPU, Rust computes the whole step if it can.
        if rust_step.why_not(self, cache) is None:
            return rust_step.step(self, ids, cache, rows)
        return super()._step(ids, cache, rows)

    def _next_logits(self, ids_BT: Tensor, new: NewTokens, all_logits: bool) -> Tensor:
        h_BTC = self.hidden(ids_BT, new)
        return self._logits_of(h_BTC if all_logits else h_BTC[:, -1:])

    def experts(self) -> list[MixtureOfExperts]:
        """Return the mixture of experts of each layer; an empty list for a dense model."""
        return [block.mlp for block in self.h if isinstance(block.mlp, MixtureOfExperts)]

    def end_step(self, sum_over_processes: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Balance the experts; return each expert's share of the tokens, layer by layer."""
        shares = []
        for moe in self.experts():
            sum_over_processes(moe.chosen_E)
            shares.append(moe.end_step().tolist())
        return {"expert_shares": shares} if shares else {}

    def forget_step(self) -> None:
        """Discard the counts of chosen experts since the last `end_step`."""
        for moe in self.experts():
            moe.chosen_E.zero_()

    def _logits_of(self, hidden: Tensor) -> Tensor:
        head = self.wte.logits if self.config.tie_embeddings else self.lm_head
        logits: Tensor = head(hidden)
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)
