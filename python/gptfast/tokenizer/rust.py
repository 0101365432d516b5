"""What the tokenizers use of the Rust extension, and its errors as UserErrors."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gptfast.errors import UserError
from gptfast.system.cpu import n_cores
from gptfast.tokenizer.checks import check_between, id_list

if TYPE_CHECKING:
    from gptfast import _rust

try:
    from gptfast._rust import Names, hash_documents, json_texts, shared_windows, utf8_error
except ImportError:  # a plain checkout without the compiled extension

    class Names:  # type: ignore[no-redef]
        """Names that texts may have in them."""

        def __init__(self, names: Sequence[bytes]) -> None:
            self._pattern = re.compile(b"|".join(map(re.escape, names)))

        def are_in(self, data: bytes) -> bool:
            """Return whether any of the names is in data."""
            return self._pattern.search(data) is not None

    def hash_documents(documents: _rust._Documents) -> bytes:
        """Return the BLAKE2b hashes of the documents, 16 bytes each, one after another."""
        data, starts, ends = documents
        texts = (data[start:end] for start, end in zip(starts, ends, strict=True))
        return b"".join(hashlib.blake2b(text, digest_size=16).digest() for text in texts)

    def json_texts(
        lines: bytes, field: str, part_bytes: int, longest: int, n_threads: int
    ) -> tuple[list[_rust._JsonTexts], list[tuple[int, int, int]], int]:
        """Leave each line that is not blank to another parser: its number, start and end."""
        others, end = [], -1
        for number, line in enumerate(lines.removesuffix(b"\n").split(b"\n")):
            start, end = end + 1, end + 1 + len(line)
            if line and not line.isspace():
                others.append((number, start, end))
        return [], others, number + 1

    def shared_windows(
        train: Iterable[str | bytes], val: Iterable[str | bytes], n_bytes: int, n_threads: int
    ) -> tuple[int, int]:
        """Return how many windows of val's texts occur in train's, and how many val has."""

        def windows(texts: Iterable[str | bytes]) -> Iterator[bytes]:
            for text in texts:
                data = text.encode() if isinstance(text, str) else text
                yield from (data[i : i + n_bytes] for i in range(len(data) - n_bytes + 1))

        counts = Counter(windows(val))
        found = set(filter(counts.__contains__, windows(train)))
        return sum(counts[window] for window in found), counts.total()

    def utf8_error(data: bytes) -> int | None:
        """Return the position of the first byte that is not UTF-8, or None."""
        try:
            data.decode()
        except UnicodeDecodeError as error:
            return error.start
        return None


__all__ = [
    "RUST_ERRORS", "Names", "hash_documents", "ids_for_rust", "json_texts", "rust_bpe",
    "shared_windows", "thread_count", "user_error", "utf8_error",
]  # fmt: skip

_MAX_THREADS = 1024  # each allocates its own tables
_ID_DTYPES = (np.dtype(np.uint16), np.dtype(np.uint32), np.dtype(np.int64))

RUST_ERRORS = (ValueError, TypeError, OverflowError)
"""What Rust raises for input that it can't use.

Every method catches these itself: a context manager would take as long as encoding a short text.
"""


def rust_bpe() -> type[_rust.BPE]:
    """Return the Rust class. Raises UserError in a plain checkout, where it was not built."""
    try:
        from gptfast._rust import BPE
    except ImportError as error:
        raise UserError(
            f"byte-level BPE needs the Rust extension ({error}): build it with `make build` or "
            f"`maturin develop --release`, or use the character tokenizer"
        ) from error
    return BPE


def user_error(error: Exception) -> Exception:
    """Return an error that Rust raised about its input as a UserError."""
    if isinstance(error, UserError):
        return error
    cause = error.__cause__ or error  # the error of one of many texts names it, and has a cause
    if isinstance(cause, UnicodeEncodeError):
        surrogate = ord(cause.object[cause.start])
        return UserError(
            f"{'the text' if cause is error else error} has the lone surrogate U+{surrogate:04X} "
            f"at position {cause.start}, which is no character: expected valid Unicode; replace "
            f"it, for instance by U+FFFD"
        )
    return UserError(str(error))


def ids_for_rust(ids: Sequence[int] | npt.NDArray[Any]) -> list[int] | npt.NDArray[Any]:
    """Return the ids as a list, or as an array that Rust reads directly."""
    if isinstance(ids, np.ndarray) and ids.dtype in _ID_DTYPES and ids.ndim == 1:
        return np.require(ids, requirements=["C", "A"])
    return id_list(ids)


def thread_count(n_threads: int | None) -> int:
    """Return `n_threads`; for None, the number of cores that this process may use.

    Raises UserError unless it is an int from 1 to 1,024.
    """
    if n_threads is None:
        return n_cores()
    check_between("n_threads", n_threads, 1, _MAX_THREADS)
    return n_threads
