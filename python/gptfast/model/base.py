"""What every model of this package is: token ids in, logits and a loss out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.model.config import ModelConfig
from gptfast.model.kv_cache import KVCache


class LanguageModel(nn.Module):
    """A causal language model: position t's logits depend on tokens 0..t and predict token t + 1.

    Subclasses implement `logits`.
    """

    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def logits(self, idx_BT: Tensor) -> Tensor:
        """Unnormalised log-probabilities (B, T, V) of the next token, for int64 ids (B, T)."""
        raise NotImplementedError

    def forward(
        self, idx_BT: Tensor, targets_BT: Tensor, cu_seqlens: Tensor | None = None
    ) -> Tensor:
        """The mean cross entropy in nats per token, a scalar; targets of -100 don't count.

        cu_seqlens: borders of documents that don't see each other, as `ops.attention` takes them.
        Only the GPT makes use of them; the rungs below it see across.
        """
        logits_BTV = self.logits(idx_BT)
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())

    def next_token_logits(self, idx_BT: Tensor, cache: KVCache | None) -> Tensor:
        """The logits (B, V) that follow the last token. Only the GPT makes use of a cache."""
        return self.logits(idx_BT)[:, -1]

    def new_cache(self, batch_size: int) -> KVCache | None:
        """A cache for generating token by token; None where the model has no use for one."""
        return None

    def end_step(self, sum_over_processes: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Finish an optimizer step; return what the model has counted in it, for metrics.jsonl.

        sum_over_processes: adds up a tensor over all processes, in place.
        """
        return {}

    def forget_step(self) -> None:
        """Drop what forward passes have counted since the last `end_step`."""

    def n_parameters(self) -> int:
        """The number of trainable parameters; tied ones count once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
