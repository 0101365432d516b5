"""Notice that a model has changed: its modules, their options, or the memory of its tensors."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, is_, methodcaller
from typing import Any

from torch import Tensor, nn

_OF_TRAINING = frozenset(["training", "balance_loss"])
"""Options of modules that change with every training step, and that sampling doesn't read."""
_dtype, _shape = attrgetter("dtype"), attrgetter("shape")
_is_contiguous = methodcaller("is_contiguous")


def memory_of(tensors: list[Tensor]) -> list[Any]:
    """Return where each tensor lies and how it lies there. The values don't matter."""
    return [
        *map(Tensor.data_ptr, tensors),
        *map(_dtype, tensors),
        *map(_shape, tensors),
        *map(_is_contiguous, tensors),
    ]


class Watch:
    """What a model was when the watch began.

    `.to()`, `p.data = ...` and `load_state_dict(assign=True)` replace memory; assignments replace
    modules, parameters, options and methods. Changes of values in place are no changes.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        # Every table of the tree of modules, and every method, that may hold something else later.
        self._tables: list[dict[str, Any]] = [
            table for m in modules for table in (m._modules, m._parameters, m._buffers, vars(m))
        ]
        self._sizes = [*map(len, self._tables)]
        self._places = [
            (table, key)
            for table in self._tables
            for key in table
            if not key.startswith("_") and key not in _OF_TRAINING
        ]
        self._contents = [table[key] for table, key in self._places]
        self._modules, self._classes = modules, [*map(type, modules)]
        self._kinds: list[Any] = list(set(self._classes))
        self._methods = [kind.forward for kind in self._kinds]
        self._tensors = [content for content in self._contents if isinstance(content, Tensor)]
        # Aliases, which keep the memory as long as the watch lives: `p.data = ...` frees it.
        self._aliases = [tensor.detach() for tensor in self._tensors]
        self._memory = memory_of(self._tensors)

    def sees_a_change(self) -> bool:
        """Return whether the model is another one now."""
        contents = (table.get(key) for table, key in self._places)
        return not (
            # Compare identities: == would compare the values of tensors.
            _are(contents, self._contents)
            and [*map(len, self._tables)] == self._sizes
            and _are(map(type, self._modules), self._classes)
            and _are((kind.forward for kind in self._kinds), self._methods)
            and memory_of(self._tensors) == self._memory
        )


def _are(now: Iterable[object], then: Iterable[object]) -> bool:
    return all(map(is_, now, then))
