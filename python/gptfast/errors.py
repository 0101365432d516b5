"""The exceptions that a command reports in one line instead of a traceback.

Any other exception that reaches the user is a bug and keeps its traceback.
"""

import sys
import warnings


class UserError(ValueError):
    """Invalid input. The message says what was given, what was expected and what to do. Exit 2."""


class MissingFileError(UserError, FileNotFoundError):
    """A missing file, folder or corpus. Exit 2."""


class RunError(RuntimeError):
    """The failure of a run after its start, such as a NaN loss or a full disk. Exit 1."""


def check_at_least(name: str, value: object, smallest: int, why: str = "") -> None:
    """Raise UserError if the argument called `name` is not an int, or is less than `smallest`."""
    if not isinstance(value, int):
        raise UserError(f"{name} is {value!r}: expected a whole number")
    if value < smallest:
        raise UserError(f"{name} is {value}: expected at least {smallest:,}{why}")


def warn_after_work(message: str, stacklevel: int = 1) -> None:
    """Warn, but print the warning where a filter makes an error of it, which would lose the work.

    stacklevel: 1 for the caller's line, as for `warnings.warn`.
    """
    try:
        warnings.warn(message, stacklevel=stacklevel + 1)
    except UserWarning:
        print(f"warning: {message}", file=sys.stderr)
