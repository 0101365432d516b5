"""Notice that a model has changed: its modules, their options, or the memory of its tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import attrgetter, is_
from typing import Any

from torch import Tensor, nn

_n_bytes, _forward = attrgetter("nbytes"), attrgetter("forward")


def memory_of(tensors: list[Tensor]) -> list[Any]:
    """Return where each tensor lies and how it lies there. The values don't matter.

    Not told apart are contiguous tensors of as many bytes at one address: with another shape or
    type, a tensor would not fit the others.
    """
    return [
        *map(Tensor.data_ptr, tensors),
        *map(_n_bytes, tensors),
        *map(Tensor.is_contiguous, tensors),
    ]


class Watch:
    """What a model was when the watch began.

    `.to()`, `p.data = ...` and `load_state_dict(assign=True)` replace memory; assignments replace
    modules, parameters, methods and options. Changes of values in place are no changes. A look
    costs 15 us for 4 layers, so it has no loops in Python.
    """

    def __init__(self, model: nn.Module, options: Collection[str]) -> None:
        """options: names of the modules' attributes to watch, besides modules and tensors."""
        modules = list(model.modules())
        self._modules = modules[1:]  # without the model: the watch would keep it alive
        self._classes = [*map(type, self._modules)]
        self._kind = type(model)
        self._kinds: list[Any] = list({self._kind, *self._classes})
        self._methods = [*map(_forward, self._kinds)]
        # A table that grows holds something new.
        self._own: list[dict[str, Any]] = [*map(vars, modules)]
        self._sizes = [*map(len, self._own)]
        # The tables of the tree of modules.
        self._parts: list[dict[str, Any]] = [
            table for m in modules for table in (m._modules, m._parameters, m._buffers)
        ]
        self._copies = [*map(dict, self._parts)]
        contents = [(part, key) for part in self._parts for key in part]
        self._tensors = [part[key] for part, key in contents if isinstance(part[key], Tensor)]
        # Aliases, which keep the memory as long as the watch lives: `p.data = ...` frees it.
        self._aliases = [tensor.detach() for tensor in self._tensors]
        self._memory = memory_of(self._tensors)
        # What must be the same object, as others may be equal: options, and tensors of one number.
        places = [(table, key) for table in self._own for key in table if key in options]
        places += [
            (part, key)
            for part, key in contents
            if isinstance(part[key], Tensor) and part[key].numel() == 1
        ]
        self._where: list[Any] = [table for table, _ in places]
        self._keys = [key for _, key in places]
        self._objects = [table[key] for table, key in places]

    def sees_a_change(self, model: nn.Module) -> bool:
        """Return whether the model is another one now."""
        try:
            return not (
                type(model) is self._kind
                and self._parts == self._copies
                and _are(map(dict.get, self._where, self._keys), self._objects)
                and [*map(len, self._own)] == self._sizes
                and _are(map(type, self._modules), self._classes)
                and _are(map(_forward, self._kinds), self._methods)
                and memory_of(self._tensors) == self._memory
            )
        except (RuntimeError, TypeError):  # == of two tensors is no bool, so there is another one
            return True


def _are(now: Iterable[object], then: Iterable[object]) -> bool:
    return all(map(is_, now, then))
