"""Expand files, folders and globs into a list of files."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from gptfast.data.documents.names import endings, family_of
from gptfast.data.documents.own import Own
from gptfast.data.documents.pipes import copy_of_pipe
from gptfast.data.documents.unpack import HEAD_BYTES
from gptfast.data.documents.wanted import LeftOut, is_about, is_data, is_hidden
from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer.checks import as_path, check_kind

Paths: TypeAlias = str | Path | Sequence[str | Path]


def find_files(paths: Paths) -> list[Path]:
    """Return the files that paths name, each once; those of a folder or glob are sorted.

    A path of one file names it whatever it is. A pipe, or `-` for standard input, is copied to a
    temporary file. Folders are searched to any depth for files whose names end as data does
    (`names.FAMILIES`), and for others without a suffix that hold JSON lines, Parquet or an archive.
    Links are followed, and no folder is entered twice.

    Left out of folders and globs, and said once on stderr: hidden names (`wanted.is_hidden`);
    README, backups and other files about the data (`wanted.is_about`), unless there is nothing
    else; what gptfast wrote there itself, such as the output of an earlier run; files of other
    kinds in a folder. Raises MissingFileError if a path names no file, UserError if no path is
    given, or a folder or link inside a folder can't be read.
    """
    return _each_once([file for path in _path_list(paths) for file in _find(path)])


def _each_once(files: list[Path]) -> list[Path]:
    """Return the files without those that are an earlier one by another name, such as a link."""
    folder_of = functools.cache(os.path.realpath)

    def resolved(file: Path) -> str:
        if file.is_symlink():
            return os.path.realpath(file)
        return os.path.join(folder_of(file.parent), file.name)

    names: dict[str, Path] = {}
    for file in files:
        names.setdefault(resolved(file), file)
    return list(names.values())


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
    if (copy := copy_of_pipe(path)) is not None:
        return [copy]
    if path.is_file():
        return [path]
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is neither a file, a folder nor a pipe: expected one")
    left_out, own = LeftOut(str(path)), Own()
    if path.is_dir():
        found = sorted(_inside(path, left_out, own))
        problem = (
            f"no file in the folder {path} ends in one of {endings()}, with or without that of a "
            f"packing"
        )
    else:
        found = sorted(_matches(path, left_out, own))
        problem = f"there is no {path}: expected a file, a folder, or a glob that matches files"
    # The links go first: in a cache of the Hub, they tell more than the names of its blobs.
    found = sorted(_each_once(sorted(found, key=lambda file: not file.is_symlink())))
    data = [file for file in found if not is_about(file.name)]
    if data:
        for file in found:
            if is_about(file.name):
                left_out.add("about", file.name)
    if not found:
        sentence = ", ".join(filter(None, (left_out.sentence(), own.sentence())))
        raise MissingFileError(problem + (f"; there are {sentence}" if sentence else ""))
    left_out.say()
    own.say(str(path))
    return data or found


def _matches(pattern: Path, left_out: LeftOut, own: Own) -> Iterator[Path]:
    """Yield the files that a glob matches, but not what is hidden or own below its fixed part."""
    parts = pattern.parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    asks_for_hidden = is_hidden(parts[first:] or ("",))
    for path in map(Path, glob.glob(str(pattern), recursive=True)):
        if not path.is_file():
            continue
        if not asks_for_hidden and is_hidden(path.parts[first:]):
            left_out.add("hidden", str(path))
        elif not own.holds(path, first):
            yield path


def _inside(folder: Path, left_out: LeftOut, own: Own) -> Iterator[Path]:
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
        hidden = {name for name in folders if is_hidden((name, ""))}
        for name in (*hidden, *(name for name in names if is_hidden((name,)))):
            left_out.add("hidden", name)
        # Sorted so that a folder with two names is always entered by the same one.
        n_outer = len(Path(place).parts)
        folders[:] = sorted(
            name
            for name in folders
            if not (name in hidden or own.holds(Path(place, name), n_outer))
        )
        for name in names:
            file = Path(place, name)
            if is_hidden((name,)) or own.holds(file, n_outer):
                continue
            if family_of(name) and not os.path.exists(file):
                raise UserError(
                    f"{file} is a broken link, or can't be accessed: repair it, or move it "
                    f"elsewhere"
                )
            if os.path.isfile(file) and is_data(name, functools.partial(_beginning, file)):
                yield file
            else:
                left_out.add("about" if is_about(name) else "other", name)


def _beginning(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(HEAD_BYTES)
    except OSError:
        return b""
