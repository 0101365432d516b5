"""Checks of arguments that Python would let pass, to fail later or to mean something else."""

from __future__ import annotations

import codecs
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gptfast.errors import UserError, check_at_least


def check_kind(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise UserError if the argument called `name` is no `kind`, which `expected` describes."""
    if not isinstance(value, kind):
        raise UserError(f"{name} is {_kind_of(value)}: expected {expected}")


def check_between(name: str, value: int, smallest: int, largest: int, why: str = "") -> None:
    """Raise UserError if the argument called `name` is no int from `smallest` to `largest`."""
    check_at_least(name, value, smallest, why)
    if value > largest:
        raise UserError(f"{name} is {value}: expected at most {largest:,}")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise UserError if the argument called `name` is none of `choices`."""
    if not (isinstance(value, str) and value in choices):
        raise UserError(f"{name} is {value!r}: expected {' or '.join(map(repr, choices))}")


def check_names(name: str, value: object) -> None:
    """Raise UserError if the argument called `name` is no list or tuple of str.

    A set is refused too: its order, and with it the ids, differ from one process to the next.
    """
    check_kind(name, value, (list, tuple), "a list of str")
    for element in value if isinstance(value, (list, tuple)) else ():
        check_kind(f"{name} has an element that", element, str, "a list of str")


def check_keywords(given: dict[str, Any], known: Collection[str]) -> None:
    """Raise UserError if a keyword argument is none of the `known` ones."""
    for name in given.keys() - known:
        raise UserError(f"there is no argument {name!r}: expected some of {', '.join(known)}")


def check_codec_errors(errors: object) -> None:
    """Raise UserError if `bytes.decode` has no such way of seeing to errors."""
    check_kind("errors", errors, str, "a name such as 'strict' or 'replace'")
    try:
        codecs.lookup_error(str(errors))
    except (LookupError, ValueError):
        raise UserError(
            f"errors is {errors!r}: expected 'strict', 'replace' or another that bytes.decode knows"
        ) from None


def as_path(name: str, value: str | Path) -> Path:
    """Return the argument called `name` as a Path. Raises UserError if it can't be one."""
    check_kind(name, value, (str, Path), "a path, a str or Path")
    if str(value) == "":
        raise UserError(f"{name} is empty: expected a path")
    if "\0" in str(value):
        raise UserError(f"{name} is {str(value)!r}: expected a path without NUL")
    return Path(value)


def _kind_of(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
