"""What a library does while the clock runs, and what is compared afterwards."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.uint32]


class Unsupported(Exception):
    """A library can't do what is asked for. The message says why."""


@dataclass(frozen=True)
class Call:
    """What is timed, and how to get from its output what is compared."""

    run: Callable[[], Any]
    result: Callable[[Any], Any]


def as_ids(output: Any) -> Ids:
    return np.asarray(output, dtype=np.uint32)


def marked_ids(sequences: Any) -> Ids:
    """The sequences' ids end to end, each followed by a mark that is no id."""
    mark = np.array([2**32 - 1], dtype=np.uint32)
    parts = [part for ids in sequences for part in (np.asarray(ids, dtype=np.uint32), mark)]
    return np.concatenate(parts)


def joined_text(texts: Iterable[str | bytes]) -> bytes:
    """The texts in UTF-8, each followed by a byte that UTF-8 never has."""
    return b"".join((t.encode() if isinstance(t, str) else t) + b"\xff" for t in texts)


def one_by_one(function: Callable[[Any], Any], given: Sequence[Any], join: Any) -> Call:
    """A call for each input. The timed loop keeps no output: the comparison calls once more."""
    return Call(
        run=lambda: deque(map(function, given), maxlen=0),
        result=lambda _: join(map(function, given)),
    )
