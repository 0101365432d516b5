"""The two kinds of failure that a command turns into one line instead of a traceback.

Anything else that reaches the user is a bug, and keeps its traceback.
"""


class UserError(ValueError):
    """What was given can't be used; the message says what was expected and what to do. Exit 2."""


class MissingFileError(UserError, FileNotFoundError):
    """A file, folder or corpus that was named can't be had. Exit 2."""


class RunError(RuntimeError):
    """A run that began and could not go on (NaN loss, disk full). Exit 1."""
