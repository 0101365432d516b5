"""Notice that a model has changed: its modules, their options, or the memory of its tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import attrgetter, is_
from typing import Any

from torch import Tensor, nn

_dtype, _shape, _forward = attrgetter("dtype"), attrgetter("shape"), attrgetter("forward")


def memory_of(tensors: list[Tensor]) -> list[Any]:
    """Return where each tensor lies and how it lies there. The values don't matter."""
    return [
        *map(Tensor.data_ptr, tensors),
        *map(_dtype, tensors),
        *map(_shape, tensors),
        *map(Tensor.stride, tensors),
    ]


class Watch:
    """What a model was when the watch began.

    `.to()`, `p.data = ...` and `load_state_dict(assign=True)` replace memory; assignments replace
    modules, parameters, methods and options. Changes of values in place are no changes. A look
    costs 25 us for 4 layers, so it has no loops in Python.
    """

    def __init__(self, model: nn.Module, options: Collection[str]) -> None:
        """options: names of the modules' attributes to watch, besides modules and tensors."""
        self._modules = list(model.modules())
        self._classes = [*map(type, self._modules)]
        self._kinds: list[Any] = list(set(self._classes))
        self._methods = [*map(_forward, self._kinds)]
        # The tables of the tree of modules. A table that grows holds something new.
        parts: list[dict[str, Any]] = [
            table for m in self._modules for table in (m._modules, m._parameters, m._buffers)
        ]
        own = [*map(vars, self._modules)]
        self._tables: list[dict[str, Any]] = [*own, *(m._modules for m in self._modules)]
        self._sizes = [*map(len, self._tables)]
        places = [(table, key) for table in parts for key in table]
        places += [(table, key) for table in own for key in table if key in options]
        self._where: list[Any] = [table for table, _ in places]
        self._keys = [key for _, key in places]
        self._contents = [table[key] for table, key in places]
        self._tensors = [content for content in self._contents if isinstance(content, Tensor)]
        # Aliases, which keep the memory as long as the watch lives: `p.data = ...` frees it.
        self._aliases = [tensor.detach() for tensor in self._tensors]
        self._memory = memory_of(self._tensors)

    def sees_a_change(self) -> bool:
        """Return whether the model is another one now."""
        return not (
            # Compare identities: == would compare the values of tensors.
            _are(map(dict.get, self._where, self._keys), self._contents)
            and [*map(len, self._tables)] == self._sizes
            and _are(map(type, self._modules), self._classes)
            and _are(map(_forward, self._kinds), self._methods)
            and memory_of(self._tensors) == self._memory
        )


def _are(now: Iterable[object], then: Iterable[object]) -> bool:
    return all(map(is_, now, then))
