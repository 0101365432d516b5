"""Which files of a folder, a glob or an archive are read, and what is said of the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from gptfast.data.documents.names import bare_name, family_of, suffix_of
from gptfast.data.documents.notes import say_once
from gptfast.data.documents.sniff import is_records

_SUFFIX = re.compile(r"\.[a-z][a-z0-9]*")  # unlike the end of train.00000-of-01024
# Files of a data set's folder that describe it. Hadoop, Spark and `datasets` write the last ones.
_ABOUT = re.compile(
    r"(readme|licen[cs]es?)([._-].*)?|(copying|notice|authors|changelog|contributing"
    r"|code_of_conduct|security|citation)(\.(md|markdown|txt|text|rst|cff|bib|html))?"
    r"|(dataset_infos?|dataset_dict|config|metadata|croissant|state)\.json"
    r"|_success|_(committed|started)_.*|_(common_)?metadata",
    re.IGNORECASE,
)
_BACKUP = re.compile(r".*(~|\.bak|\.swp|\.tmp)|#.*#", re.IGNORECASE)
_DESCRIBED = ("json lines", "table", "parquet", "tar", "zip")  # readme-texts.jsonl is data


def is_hidden(parts: Sequence[str]) -> bool:
    """Return whether a path has a hidden name.

    It begins with a dot or two underscores; that of a folder, all but the last of `parts`, also
    with one, as in Spark's _temporary.
    """
    return any(name[:1] in "._" and name not in (".", "..", "") for name in parts[:-1]) or (
        parts[-1].startswith((".", "__")) and parts[-1] not in (".", "..")
    )


def is_about(name: str) -> bool:
    """Return whether a file's name says that it describes data or programs, or is a backup."""
    if _BACKUP.fullmatch(name):
        return True
    return _ABOUT.fullmatch(bare_name(name)) is not None and family_of(name) not in _DESCRIBED


def is_data(name: str, look: Callable[[], bytes]) -> bool:
    """Return whether a file in a folder or an archive is to be read: by its name, if that says it.

    look: returns the first bytes, of which a name without suffix says nothing.
    """
    if family_of(name) is not None:
        return True
    return not _SUFFIX.fullmatch(suffix_of(bare_name(name))) and is_records(look())


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
            "about": ("file about the data or backup", "files about the data or backups"),
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
        return ", ".join(names).replace("\n", "\\n") + (
            ", ..." if self._counts[kind] > len(names) else ""
        )
