"""Print to streams that lack characters, or fail: a full disk, a closed pipe or terminal."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from gptfast.system.escape import escaped


def escape_unprintable() -> None:
    """Let standard output and error escape the characters that their encoding lacks.

    A stream that was closed before the process started, standard input included, becomes the null
    device.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, it stays open
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, it stays open
        elif isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):  # it may be full or closed already
                stream.reconfigure(errors="backslashreplace")


def one_line(text: str) -> str:
    """Escape line breaks and other characters of `text` that no terminal can show."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


class LossyStream:
    """A text stream that escapes the characters that its encoding lacks, and drops what fails.

    Other attributes are those of the stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | ValueError | None = None
        """Why text was dropped last; None if all of it was written."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text, or drop it. Return its length."""
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(escaped(text, self._stream.encoding or "ascii"))
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or drop what it holds."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._drop(error)

    def _drop(self, error: OSError | ValueError) -> None:
        """Empty the stream's buffer, which would fail again at each later call and at the exit."""
        self.failure = error
        with contextlib.suppress(OSError, ValueError):
            descriptor = self._stream.fileno()
            kept, null = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(null, descriptor)
                self._stream.flush()
            finally:
                os.dup2(kept, descriptor)
                os.close(kept)
                os.close(null)


@contextlib.contextmanager
def lossy_output() -> Iterator[None]:
    """Let the block go on without what it can't print, for work that outlasts its log.

    At the end, say on standard error why something on standard output was dropped.
    """
    before = sys.stdout, sys.stderr
    if before[0] is None or before[1] is None:
        escape_unprintable()
    out, err = LossyStream(sys.stdout), LossyStream(sys.stderr)
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        out.flush()
        if out.failure is not None:
            err.write(f"note: output was dropped, because it can't be written ({out.failure})\n")
        err.flush()
        sys.stdout, sys.stderr = before
