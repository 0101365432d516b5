"""Checks of arguments that would otherwise fail later, or be misunderstood silently."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptfast.errors import UserError, check_at_least

_LONGEST_PATH = 4096
_SUFFIX = (
    r"\.(txt|text|md|rst|html?|xml|jsonl?|ndjson|csv|tsv|parquet|arrow|tar|gz|tgz|zst|xz|bz2|lz4|zip"
    r"|7z|rar|pdf|docx?|rtf|odt|epub|warc|wet)"
)
_NAME = r"[^\s/\\]+( [^\s/\\]+){0,2}"  # of a folder or file: up to three words
_ROOT = r"(~|\.{1,2}|[A-Za-z]:|\\)"
_LIKE_A_PATH = re.compile(
    "|".join(
        [
            rf"{_NAME}{_SUFFIX}",  # the name of a file of a kind that may hold text
            rf"(?=\S*[/\\])\S*[\w*](\.[A-Za-z]\w{{1,7}}|{_SUFFIX})",  # no spaces, and a suffix
            rf"{_ROOT}?[/\\](?=[\w.~*])({_NAME}[/\\])+({_NAME})?",  # two parts after the root
            rf"{_ROOT}[/\\](?=[\w.~*]){_NAME}",
            r"[a-z][a-z\d]+://\S+",
        ]
    ),
    re.IGNORECASE,
)


def check_kind(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise UserError unless the argument `name` is a `kind`, which `expected` describes."""
    if not isinstance(value, kind):
        raise UserError(f"{name} is {kind_of(value)}: expected {expected}")


def check_between(name: str, value: int, smallest: int, largest: int, why: str = "") -> None:
    """Raise UserError unless the argument `name` is an int from `smallest` to `largest`."""
    check_at_least(name, value, smallest, why)
    if value > largest:
        raise UserError(f"{name} is {value}: expected at most {largest:,}")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise UserError unless the argument `name` is one of `choices`."""
    if not (isinstance(value, str) and value in choices):
        raise UserError(f"{name} is {value!r}: expected {' or '.join(map(repr, choices))}")


def check_names(name: str, value: object) -> None:
    """Raise UserError unless the argument `name` is a list or tuple of str.

    A set is refused, because its order, and hence the ids, would differ between processes.
    """
    check_kind(name, value, (list, tuple), "a list of str")
    for element in value if isinstance(value, (list, tuple)) else ():
        check_kind(f"{name} has an element that", element, str, "a list of str")
        if any("\ud800" <= char <= "\udfff" for char in element):
            raise UserError(
                f"{name} has {element!r} with a lone surrogate, which is no character: expected "
                f"valid Unicode"
            )


def check_texts(texts: object, n_threads: int | None) -> None:
    """Raise UserError unless `texts` is a list or another sequence, but not one text.

    The number of threads may be None, or at least 1.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise UserError(f"texts is a {type(texts).__name__}: expected a list of texts")
    if n_threads is not None:
        check_at_least("n_threads", n_threads, 1)


def check_no_path(text: object) -> None:
    """Raise UserError if the only text to learn from is a path, or looks like one."""
    if is_path(text):
        raise path_error(text)


def is_path(text: object) -> bool:
    """Return whether a text is a Path, names a file or folder that exists, or looks like a path."""
    if isinstance(text, Path):
        return True
    # A text such as "." or "/" is more likely to be a text.
    if not isinstance(text, str) or len(text) > _LONGEST_PATH or re.search(r"\w", text) is None:
        return False
    if _LIKE_A_PATH.fullmatch(text):
        return True
    try:
        return os.path.exists(text)
    except ValueError:  # NUL, or what the file system can't encode
        return False


def path_error(path: object) -> UserError:
    """Return the error for a path that was given in the place of a text."""
    return UserError(
        f"{str(path)!r} is a path, not a text: expected the text itself (or, to learn from the "
        f"name, bytes); gptfast.data.train_tokenizer.train_tokenizer learns from files"
    )


def check_codec_errors(errors: object) -> None:
    """Raise UserError unless `errors` is an error handler of `bytes.decode`."""
    check_kind("errors", errors, str, "a name such as 'strict' or 'replace'")
    try:
        codecs.lookup_error(str(errors))
    except (LookupError, ValueError):
        raise UserError(
            f"errors is {errors!r}: expected 'strict', 'replace' or another that bytes.decode knows"
        ) from None


def as_path(name: str, value: str | Path) -> Path:
    """Return the argument `name` as a Path. Raises UserError if it can't be one."""
    check_kind(name, value, (str, Path), "a path, a str or Path")
    if str(value) == "":
        raise UserError(f"{name} is empty: expected a path")
    if "\0" in str(value):
        raise UserError(f"{name} is {str(value)!r}: expected a path without NUL")
    return Path(value)


def kind_of(value: object) -> str:
    """Return what a value of the wrong type is, for an error message."""
    return "None" if value is None else f"a {type(value).__name__}"


def shorten(value: Any) -> str:
    """Return a value's repr for an error message, cut to 80 characters."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def id_list(ids: Sequence[int] | npt.NDArray[Any]) -> list[int]:
    """Return ids in a list, a NumPy array or a PyTorch tensor as a list of int.

    Raises UserError for any other type.
    """
    if not isinstance(ids, Iterable) or isinstance(ids, (str, bytes)) or np.ndim(ids) == 0:
        raise UserError(f"the ids are a {type(ids).__name__}: expected a list or array of ids")
    return ids.tolist() if hasattr(ids, "tolist") else list(ids)
