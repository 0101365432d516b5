"""Look at the weights of attention, which no fast backend ever holds whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

# A plain global, for the reasons that ops/dispatch.py gives for the default backend.
_keep: Callable[[Tensor], None] | None = None


def _whole(weights_BHTS: Tensor) -> Tensor:
    return weights_BHTS


@contextmanager
def return_weights(part: Callable[[Tensor], Tensor] = _whole) -> Iterator[list[Tensor]]:
    """Return the weights of attention from a model, by a list that a `with` block fills.

        with torch.no_grad(), ops.return_weights() as weights:
            model(ids)

    Each call of `ops.attention` in the block takes the definition, whatever its backend, and
    appends its weights after the softmax, (B, H, T, S) in float32, before dropout. A model's layers
    follow in order; the other ops are as outside. part: what to keep of the weights of a call,
    which takes less memory than all of them.
    """
    global _keep
    before, kept = _keep, list[Tensor]()
    _keep = lambda weights_BHTS: kept.append(part(weights_BHTS))  # noqa: E731
    try:
        yield kept
    finally:
        _keep = before


def are_wanted() -> bool:
    """Return whether there is a `return_weights` around the call."""
    return _keep is not None


def keep(weights_BHTS: Tensor) -> None:
    """Hand the weights of a call to the `return_weights` around it, if there is one."""
    if _keep is not None:
        _keep(weights_BHTS)
