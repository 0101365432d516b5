from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from gptfast.data.documents import find_files
from gptfast.errors import UserError


def test_links_in_a_folder_are_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    for name in ("in/a.txt", "elsewhere/b.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (folder / "link").symlink_to(elsewhere)
    (folder / "same").symlink_to(elsewhere)
    (folder / "c.txt").symlink_to(tmp_path / "c.txt")
    (elsewhere / "loop").symlink_to(folder)
    (folder / "broken").symlink_to(tmp_path / "none")  # that is no text
    assert find_files(folder) == [folder / name for name in ("a.txt", "c.txt", "link/b.txt")]
    (elsewhere / "d.txt").symlink_to(tmp_path / "none")
    with pytest.raises(UserError, match=r"in/link/d\.txt is a broken link, .*: repair it, or move"):
        find_files(folder)


def test_a_folder_in_a_folder_that_can_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "a.txt").touch()
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if Path(path).name == "secret":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    with pytest.raises(UserError, match=r"the folder .*secret can't be read \(Permission denied\)"):
        find_files(tmp_path)


def test_folders_and_globs_are_listed_sorted(tmp_path: Path) -> None:
    names = ["b.txt", "a.md", "deep/c.jsonl", "deep/d.PARQUET", "e.txt.gz", "f.jsonl.zst", "y.json"]
    for name in [*names, "x.bin", "deep/z.bin.gz", ".a.txt.1.tmp"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_files(tmp_path) == [tmp_path / name for name in sorted(names)]
    assert find_files(str(tmp_path / "*.txt")) == [tmp_path / "b.txt"]
    assert find_files([tmp_path / "x.bin", str(tmp_path / "*.bin")]) == [tmp_path / "x.bin"]
    with pytest.raises(UserError, match="a path is empty: expected a path"):
        find_files([tmp_path, ""])
    odd = tmp_path / "[1].txt"
    odd.touch()
    assert find_files(odd) == [odd]
