"""Expand files, folders and globs into a list of files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer.checks import as_path, check_kind

Paths: TypeAlias = str | Path | Sequence[str | Path]

FOLDER_SUFFIXES = (
    *(".txt", ".txt.gz", ".txt.zst", ".md", ".md.gz", ".md.zst"),
    *(".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"),
)
"""Endings of the files read from a folder. A path or a glob can name any file."""


def find_files(paths: Paths) -> list[Path]:
    """Return the files that paths name, each once; those of a folder or glob are sorted.

    Folders are searched to any depth for files that end in one of FOLDER_SUFFIXES. Links are
    followed, and no folder is entered twice. Raises MissingFileError if a path names no file,
    UserError if no path is given, or a folder or link inside a folder can't be read.
    """
    return list(dict.fromkeys(file for path in _path_list(paths) for file in _find(path)))


def _path_list(paths: Paths) -> list[Path]:
    """Return one or several paths as a list. Raises UserError if there are none, or one is empty.

    An empty path would mean the current folder with everything in it.
    """
    check_kind("paths", paths, (str, Path, Sequence), "a path or a list of paths")
    given = [paths] if isinstance(paths, (str, Path)) else paths
    if not given:
        raise UserError("no files were given: expected at least one file, folder or glob")
    return [as_path("a path", path) for path in given]


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(_inside(path))
        problem = f"no file in the folder {path} ends in one of {' '.join(FOLDER_SUFFIXES)}"
    else:
        found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
        problem = f"there is no {path}: expected a file, a folder, or a glob that matches files"
    if not found:
        raise MissingFileError(problem)
    return found


def _inside(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(
            f"the folder {error.filename} can't be read ({error.strerror}): change its "
            f"permissions, or move it elsewhere"
        ) from error

    entered: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        stat = os.stat(place)
        if (stat.st_dev, stat.st_ino) in entered:
            folders.clear()
            continue
        entered.add((stat.st_dev, stat.st_ino))
        folders.sort()  # so that a folder with two names is always entered by the same one
        for file in (Path(place, name) for name in names if name.lower().endswith(FOLDER_SUFFIXES)):
            if os.path.isfile(file):
                yield file
            elif not os.path.exists(file):
                raise UserError(
                    f"{file} is a broken link, or can't be accessed: repair it, or move it "
                    f"elsewhere"
                )
