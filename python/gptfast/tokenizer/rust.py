"""What the tokenizers use of the Rust extension, and its errors as UserErrors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptfast.errors import UserError

if TYPE_CHECKING:
    from gptfast import _rust

try:
    from gptfast._rust import utf8_error
except ImportError:  # a plain checkout without the compiled extension

    def utf8_error(data: bytes) -> int | None:
        """Return the position of the first byte that is not UTF-8, or None."""
        try:
            data.decode()
        except UnicodeDecodeError as error:
            return error.start
        return None


__all__ = ["RUST_ERRORS", "rust_bpe", "user_error", "utf8_error"]

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
    if isinstance(error, UnicodeEncodeError):
        surrogate = ord(error.object[error.start])
        return UserError(
            f"the text has the lone surrogate U+{surrogate:04X} at position {error.start}, which "
            f"is no character: expected valid Unicode; replace it, for instance by U+FFFD"
        )
    return UserError(str(error))
