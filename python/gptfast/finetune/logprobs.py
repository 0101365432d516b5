"""Log-probabilities of answers, with their gradients.

Legend: B rows, T time.
"""

from __future__ import annotations

from torch import Tensor, nn

from gptfast.data.batch import Batch


def token_logprobs(engine: nn.Module, batch: Batch) -> Tensor:
    """Return the log-probability of each target, (B, T), float32, in nats; 0 where it is IGNORED.

    engine: the model, or its wrapper for several processes.
    """
    losses_BT: Tensor = engine(batch.ids_BT, batch.targets_BT, batch.cu_seqlens, reduction="none")
    return -losses_BT


def answer_logprobs(engine: nn.Module, batch: Batch) -> Tensor:
    """Return the log-probability of each row's targets together: their sum, (B,), in nats."""
    return token_logprobs(engine, batch).sum(-1)
