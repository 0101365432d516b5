"""The text of a growing list of tokens: whole characters, up to a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class GrowingText:
    """Decodes bytes as they come, and ends at the first of the stop strings that the text holds.

    What may be the beginning of a stop string, or of a character, is held back. A stop string is
    found wherever the borders of the tokens lie: the text is read character by character, and the
    first stop string to be complete ends it. Of two that are complete at once, the longer one ends
    it.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.shown = ""
        """What may be shown: it won't change, only grow."""
        self.stopped_by: str | None = None
        self._stop = stop
        self._held = ""
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, data: bytes) -> None:
        """Append the bytes of a token."""
        self._append(self._utf8.decode(data))

    def finish(self) -> None:
        """Show what was held back; an incomplete character becomes U+FFFD."""
        self._append(self._utf8.decode(b"", final=True))
        if self.stopped_by is None:
            self.shown += self._held
            self._held = ""

    def _append(self, text: str) -> None:
        if not self._stop:
            self.shown += text
        elif text and self.stopped_by is None:
            text = self._held + text
            starts = {stop: text.find(stop) for stop in self._stop if stop in text}
            if starts:
                # The first to end, and of those the longest: the first to begin.
                by = min(starts, key=lambda stop: (starts[stop] + len(stop), starts[stop]))
                self.stopped_by = by
                self.shown += text[: starts[by]]
                self._held = ""
                return
            n_held = max(_overlap(text, stop) for stop in self._stop)
            self.shown += text[: len(text) - n_held]
            self._held = text[len(text) - n_held :]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of the text with which the stop string begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
