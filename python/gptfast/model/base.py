"""What every model of this package does: token ids in, logits or a loss out."""

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
    """A causal language model: position t's logits depend on tokens 0..t and predict token t + 1.

    `model(ids)` returns logits, `model(ids, targets)` the loss. Subclasses implement `_logits`.
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
        """Return logits (B, T, V), or with targets the cross entropy in nats.

        Args:
            idx_BT: token ids, int64.
            targets_BT: the ids to predict, int64; those of -100 don't count.
            cu_seqlens: borders of documents that don't see each other, as `ops.attention` takes
                them. Only the GPT uses them; the rungs below it see across.
            reduction: "mean" for the mean over the targets that count, a scalar; "none" for the
                loss of each token, (B, T) in float32, 0 where the target is -100.
        """
        logits_BTV = self._logits(idx_BT)
        if targets_BT is None:
            return logits_BTV
        losses = F.cross_entropy(
            logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction=reduction
        )
        return losses.view(targets_BT.shape) if reduction == "none" else losses

    def _logits(self, idx_BT: Tensor) -> Tensor:
        """Return unnormalised log-probabilities (B, T, V) of the next token."""
        raise NotImplementedError

    def next_token_logits(self, idx_BT: Tensor, cache: KVCache | None) -> Tensor:
        """Return logits (B, V) for what follows the last of the ids (B, T).

        Only the GPT uses a cache.
        """
        return self._logits(idx_BT)[:, -1]

    def new_cache(self, batch_size: int) -> KVCache | None:
        """Return a cache for generating token by token, or None if the model uses none."""
        return None

    def end_step(self, sum_over_processes: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Finish an optimizer step; return what the model has counted in it, for metrics.jsonl.

        sum_over_processes: adds up a tensor over all processes, in place.
        """
        return {}

    def forget_step(self) -> None:
        """Drop what forward passes have counted since the last `end_step`."""

    def n_parameters(self) -> int:
        """Return the number of trainable parameters; tied ones count once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def __repr__(self) -> str:
        """Return a line: the settings that aren't the defaults, and the number of parameters.

        `nn.Module.__repr__(model)` shows the tree of modules.
        """
        settings = ", ".join(
            f"{field.name}={getattr(self.config, field.name)!r}"
            for field in fields(self.config)
            if field.name != "architecture" and getattr(self.config, field.name) != field.default
        )
        return f"{type(self).__name__}({settings}; {self.n_parameters():,} parameters)"
