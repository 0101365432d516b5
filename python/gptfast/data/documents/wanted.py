"""Which files of a folder, a glob or an archive are read, and what is said of the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePath

from gptfast.data.documents.names import family_of, packing_of, suffix_of, unpacked_name
from gptfast.data.documents.notes import say_once
from gptfast.data.documents.sniff import is_records

_SUFFIX = re.compile(r"\.[a-z][a-z0-9]*")  # unlike the end of train.00000-of-01024
_HIDDEN = (".", "__")
# Files of a data set's folder that describe it. Hadoop, Spark and `datasets` write the last ones.
_ABOUT = re.compile(
    r"readme([._-].*)?|(licen[cs]e|copying|notice|authors|changelog|contributing|code_of_conduct"
    r"|security|citation)(\.(md|txt|rst|cff))?|_success|_(committed|started)_.*|_(common_)?metadata"
    r"|dataset_infos?\.json|dataset_dict\.json|state\.json",
    re.IGNORECASE,
)


def is_hidden(name: str) -> bool:
    """Return whether a file's or a folder's name begins with a dot or two underscores."""
    return name.startswith(_HIDDEN) and name not in (".", "..")


def is_about(name: str) -> bool:
    """Return whether a name is that of a file which describes a data set or a program."""
    return _ABOUT.fullmatch(name) is not None


def is_data(name: str, look: Callable[[], bytes]) -> bool:
    """Return whether a file in a folder or an archive is to be read: by its name, if that says it.

    look: returns the first bytes, of which a name without suffix says nothing.
    """
    while packing_of(name):
        name = unpacked_name(name)
    if family_of(name) is not None:
        return True
    return not _SUFFIX.fullmatch(suffix_of(name)) and is_records(look())


class LeftOut:
    """Counts the names that are left out of a folder, a glob or an archive, to say it once."""

    def __init__(self, where: str) -> None:
        """where: how the note names the folder, the glob or the archive."""
        self._where = where
        self._names: dict[str, list[str]] = {"hidden": [], "about": [], "other": []}
        self._counts = dict.fromkeys(self._names, 0)

    def add(self, kind: str, name: str) -> None:
        """Count a name. kind: 'hidden', 'about' or 'other'."""
        self._counts[kind] += 1
        if len(self._names[kind]) < 3:
            self._names[kind].append(name)

    def sentence(self) -> str | None:
        """Return what was left out, or None for nothing."""
        kinds = {
            "hidden": ("hidden file or folder", "hidden files and folders"),
            "about": ("file about the data", "files about the data"),
            "other": ("file of another kind", "files of other kinds"),
        }
        parts = [
            f"{count:,} {kinds[kind][count > 1]} ({self._shown(kind)})"
            for kind, count in self._counts.items()
            if count
        ]
        return ", ".join(parts) or None

    def say(self) -> None:
        """Say it, if there is anything."""
        if sentence := self.sentence():
            say_once(f"left out of {self._where}: {sentence}; a file that is named itself is read")

    def _shown(self, kind: str) -> str:
        names = sorted(self._names[kind])
        return ", ".join(names) + (", ..." if self._counts[kind] > len(names) else "")


def about_beside_data(names: Sequence[str]) -> set[str]:
    """Return those of the paths that describe data of another format at or below their folder."""
    about = [name for name in names if is_about(PurePath(name).name)]
    if not about:
        return set()
    families: dict[str, set[str | None]] = {}
    for name in set(names).difference(about):
        for folder in map(str, PurePath(name).parents):
            families.setdefault(folder, set()).add(_format_of(name))
    return {
        name
        for name in about
        if families.get(str(PurePath(name).parent), set()) - {_format_of(name)}
    }


def _format_of(name: str) -> str | None:
    """Return the family of a name, with markdown as a family of its own."""
    while packing_of(name):
        name = unpacked_name(name)
    return "markdown" if suffix_of(name) in (".md", ".markdown") else family_of(name)
