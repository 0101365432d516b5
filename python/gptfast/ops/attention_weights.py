"""Look at the weights of attention, which no fast backend ever holds whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from gptfast.ops.dispatch import use_backend

# A plain global, for the reasons that dispatch.py gives for the default backend.
_keep: Callable[[Tensor], None] | None = None


def _whole(weights_BHTS: Tensor) -> Tensor:
    return weights_BHTS


@contextmanager
def return_weights(part: Callable[[Tensor], Tensor] = _whole) -> Iterator[list[Tensor]]:
    """Return the weights of attention from a model, by a list that a `with` block fills.

        with torch.no_grad(), ops.return_weights() as weights:
            model(ids)

    Each call of `ops.attention` in the block takes the definition, and appends its weights after
    the softmax, (B, H, T, S) in float32, before dropout. A model's layers follow in order. part:
    what to keep of the weights of a call, which takes less memory than all of them.
    """
    global _keep
    before, kept = _keep, list[Tensor]()
    _keep = lambda weights_BHTS: kept.append(part(weights_BHTS))  # noqa: E731
    try:
        with use_backend("reference"):
            yield kept
    finally:
        _keep = before


def keep(weights_BHTS: Tensor) -> None:
    """Hand the weights of a call to the `return_weights` around it, if there is one."""
    if _keep is not None:
        _keep(weights_BHTS)
