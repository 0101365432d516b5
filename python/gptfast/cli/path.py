"""The mark of settings that may be paths. Imports nothing, so that configurations may use it."""

from __future__ import annotations

PATH = object()
"""Marks a field that is text, but may be a path: `corpus: Annotated[str, PATH]`. On the command
line, a leading ~ in it is the home folder."""
