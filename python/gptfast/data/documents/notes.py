"""Say on stderr what was left out or read otherwise than its name suggests, once each."""

from __future__ import annotations

import sys
from collections.abc import Hashable

_said: set[Hashable] = set()


def say_once(message: str, about: Hashable = None) -> None:
    """Print `note: message` on stderr, unless this process has said the same.

    about: what makes two notes the same; by default the message.
    """
    key = message if about is None else about
    if key not in _said:
        _said.add(key)
        print(f"note: {message}", file=sys.stderr)
