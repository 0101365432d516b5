"""The exceptions that a command reports in one line instead of a traceback.

Any other exception that reaches the user is a bug and keeps its traceback. Here are also the
checks of an argument that all parts share.
"""

import sys
import warnings
from numbers import Integral, Real


class UserError(ValueError):
    """Invalid input. The message says what was given, what was expected and what to do. Exit 2."""


class MissingFileError(UserError, FileNotFoundError):
    """A missing file, folder or corpus. Exit 2."""


class RunError(RuntimeError):
    """The failure of a run after its start, such as a NaN loss or a full disk. Exit 1."""


def as_int(name: str, value: object) -> int:
    """Return a whole number as an int. Raise UserError for other types, such as 2.0 and True."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UserError(f"{name} is {shown(value)}: expected a whole number")
    return int(value)


def as_int64(name: str, value: object) -> int:
    """Return a whole number that fits into an element of a tensor, as `as_int` does."""
    number = as_int(name, value)
    if not -(2**63) <= number < 2**63:
        raise UserError(f"{name} is beyond 64 bits: expected a whole number below 2^63")
    return number


def as_float(name: str, value: object) -> float:
    """Return a number as a float. Raise UserError for other types and beyond a float's range."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise UserError(f"{name} is {shown(value)}: expected a number")
    try:
        return float(value)
    except OverflowError as error:
        raise UserError(f"{name} is beyond a float's range: expected a smaller number") from error


def check_bool(name: str, value: object) -> None:
    """Raise UserError unless the value is True or False."""
    if not isinstance(value, bool):
        raise UserError(f"{name} is {shown(value)}: expected true or false")


def check_at_least(name: str, value: object, smallest: int, why: str = "") -> None:
    """Raise UserError if the argument called `name` is not an int, or is less than `smallest`."""
    if as_int(name, value) < smallest:
        raise UserError(f"{name} is {shown(value)}: expected at least {smallest:,}{why}")


def warn_after_work(message: str, stacklevel: int = 1) -> None:
    """Warn, but print the warning where a filter makes an error of it, which would lose the work.

    stacklevel: 1 for the caller's line, as for `warnings.warn`.
    """
    try:
        warnings.warn(message, stacklevel=stacklevel + 1)
    except UserWarning:
        print(f"warning: {message}", file=sys.stderr)


def shown(value: object) -> str:
    """Return the value as Python spells it, or its type where that takes more than a line."""
    try:
        spelled = repr(value)
    except ValueError:  # an int of too many digits
        spelled = "\n"
    return spelled if len(spelled) <= 40 and "\n" not in spelled else f"a {type(value).__name__}"
