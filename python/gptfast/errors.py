"""The two kinds of failure that a command turns into one line instead of a traceback.

Anything else that reaches the user is a bug, and keeps its traceback.
"""


class UserError(ValueError):
    """What was given can't be used; the message says what was expected and what to do. Exit 2."""


class MissingFileError(UserError, FileNotFoundError):
    """A file, folder or corpus that was named can't be had. Exit 2."""


class RunError(RuntimeError):
    """A run that began and could not go on (NaN loss, disk full). Exit 1."""


def check_at_least(name: str, value: object, smallest: int, why: str = "") -> None:
    """Raise UserError if the argument called `name` is no int, or less than `smallest`."""
    if not isinstance(value, int):
        raise UserError(f"{name} is {value!r}: expected a whole number")
    if value < smallest:
        raise UserError(f"{name} is {value}: expected at least {smallest:,}{why}")
