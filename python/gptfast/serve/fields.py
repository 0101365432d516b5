"""Read the fields of a JSON object, and refuse what is wrong in one sentence that names the field.

A field that is null counts as missing, as it does for OpenAI.
"""

from __future__ import annotations

import json
import math
from typing import Any

from gptfast.serve.errors import ApiError


class Fields:
    """The fields of a request. Each is read once; `refuse_others` refuses those that nobody read.

    Every method raises ApiError (400) for a value of another type or out of range.
    """

    def __init__(self, data: dict[str, Any], within: str = "", n_bytes: int = 0) -> None:
        """Take the fields. within: what their names begin with. n_bytes: size of the whole body."""
        self._left = {name: value for name, value in data.items() if value is not None}
        self._within, self.n_bytes = within, n_bytes

    def wrong(self, name: str, value: object, expected: str) -> ApiError:
        """Return the error for a field's value."""
        path = f"{self._within}{name}"
        return ApiError(400, f"{path} is {shown(value)}: expected {expected}", param=path)

    def take(self, name: str) -> Any:
        """Return a field as it is; None if it is missing."""
        return self._left.pop(name, None)

    def integer(self, name: str, default: int | None, least: int, most: int) -> Any:
        """Return a whole number from `least` to `most`."""
        if (value := self.take(name)) is None:
            return default
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(name, value, f"a whole number from {least} to {most}")
        return value

    def number(self, name: str, default: float | None, least: float, most: float) -> Any:
        """Return a number from `least` to `most`, as a float."""
        if (value := self.take(name)) is None:
            return default
        # A whole number may be too large for a float, so it is compared as it is.
        if type(value) not in (int, float) or not least <= value <= most:
            raise self.wrong(name, value, f"a number from {least:g} to {most:g}")
        return float(value)

    def boolean(self, name: str) -> bool:
        """Return true or false; false if it is missing."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return bool(value)

    def text(self, name: str) -> str | None:
        """Return a string of Unicode characters; None if it is missing."""
        value = self.take(name)
        if value is not None and not is_text(value):
            raise self.wrong(name, value, "a string of Unicode characters")
        return value  # type: ignore[no-any-return]

    def object(self, name: str) -> Fields:
        """Return the fields of an object; none if it is missing."""
        value = self.take(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, value, "an object")
        return Fields(value or {}, f"{self._within}{name}.")

    def names(self) -> list[str]:
        """Return the names of the fields that were not read yet."""
        return list(self._left)

    def only(self, name: str, *allowed: Any, why: str) -> None:
        """Refuse every value but the allowed ones, which have no effect here."""
        value = self.take(name)
        if value is not None and not any(value == a and type(value) is type(a) for a in allowed):
            path = f"{self._within}{name}"
            raise ApiError(400, f"{path}: {why}", param=path, code="unsupported_parameter")

    def refuse_others(self) -> None:
        """Raise ApiError (400) if a field was given that nobody has read."""
        for name in self._left:
            path = f"{self._within}{name}"
            message = f"unknown field {shown(path)}: check its spelling, or leave it out"
            raise ApiError(400, message, param=path[:64], code="unknown_parameter")


def is_text(value: object) -> bool:
    """Return whether a value is a string that UTF-8 can spell: without lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: object) -> str:
    """Return a value as JSON spells it, or its type where that takes more than a few words."""
    if isinstance(value, (str, int, float, bool)) or value in (None, [], {}):
        try:
            spelled = json.dumps(value)
        except ValueError:  # an int of too many digits
            return "a number"
        if len(spelled) <= 60:
            return spelled
    kinds = {str: "a string", list: "an array", dict: "an object", int: "a number"}
    return kinds.get(type(value), "a number")


class _NotJson(ValueError):
    """Python reads it, JSON has no such value."""


def parse_object(body: bytes) -> Fields:
    """Return the fields of a JSON object. Raises ApiError (400) for anything else."""

    def refuse(constant: str) -> None:
        raise _NotJson(f"{constant} is not JSON")

    def finite(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise _NotJson("a number is beyond a float's range")
        return value

    try:
        data = json.loads(body.decode("utf-8"), parse_constant=refuse, parse_float=finite)
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        what = f"not JSON ({error})"
        if isinstance(error, UnicodeDecodeError):
            what = "not UTF-8"
        elif not isinstance(error, (_NotJson, json.JSONDecodeError)):  # Python's limit for an int
            what = "not read, because a number has too many digits"
        message = f"the body is {what}: expected a JSON object"
        raise ApiError(400, message, code="invalid_json") from None
    if not isinstance(data, dict):
        raise ApiError(400, f"the body is {shown(data)}: expected a JSON object")
    return Fields(data, n_bytes=len(body))
