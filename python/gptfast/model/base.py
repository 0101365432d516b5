"""The interface of every model in this package: token ids in, logits or a loss out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.model.config import ModelConfig
from gptfast.model.kv_cache import KVCache
from gptfast.ops.linear_cross_entropy import Reduction


class LanguageModel(nn.Module):
    """A causal language model: the logits at position t see tokens 0..t and predict token t + 1.

    `model(ids)` returns logits; `model(ids, targets)` returns the loss. Subclasses implement
    `_logits`.
    """

    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        idx_BT: Tensor,
        targets_BT: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        *,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """Return logits (B, T, V) or, if targets are given, the cross entropy in nats.

        Args:
            idx_BT: token ids, int64.
            targets_BT: the ids to predict, int64. Targets of -100 are ignored.
            cu_seqlens: boundaries of documents that must not see each other, as in
                `ops.attention`. Only the GPT uses them; the ladder's simpler models ignore them.
            reduction: "mean" for the mean over the targets that are not ignored, a scalar; "none"
                for the loss of each token, (B, T) in float32, 0 where the target is -100.
        """
        logits_BTV = self._logits(idx_BT)
        if targets_BT is None:
            return logits_BTV
        losses = F.cross_entropy(
            logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction=reduction
        )
        return losses.view(targets_BT.shape) if reduction == "none" else losses

    def _logits(self, idx_BT: Tensor) -> Tensor:
        """Return the unnormalised log-probabilities (B, T, V) of the next token."""
        raise NotImplementedError

    def next_token_logits(self, idx_BT: Tensor, cache: KVCache | None) -> Tensor:
        """Return the logits (B, V) of the token after the last of the ids (B, T).

        Only the GPT uses the cache.
        """
        return self._logits(idx_BT)[:, -1]

    def new_cache(self, batch_size: int) -> KVCache | None:
        """Return an empty cache for generation, or None if the model uses no cache."""
        return None

    def end_step(self, sum_over_processes: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Finish an optimizer step; return the model's statistics of that step for metrics.jsonl.

        sum_over_processes: sums a tensor over all processes, in place.
        """
        return {}

    def forget_step(self) -> None:
        """Discard the statistics gathered by forward passes since the last `end_step`."""

    def n_parameters(self) -> int:
        """Return the number of trainable parameters. Tied parameters count once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def __repr__(self) -> str:
        """Return one line with the non-default settings and the number of parameters.

        `nn.Module.__repr__(model)` returns the tree of modules.
        """
        settings = ", ".join(
            f"{field.name}={getattr(self.config, field.name)!r}"
            for field in fields(self.config)
            if field.name != "architecture" and getattr(self.config, field.name) != field.default
        )
        return f"{type(self).__name__}({settings}; {self.n_parameters():,} parameters)"
