"""Files that are either the old one or the new one, whole."""

from __future__ import annotations

import errno
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gptfast.system.files import write_atomically, write_folder_atomically


def test_threads_that_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    path, n = tmp_path / "a", 8
    barrier = threading.Barrier(n)
    names = set()

    def write(i: int) -> None:
        def fill(temporary: Path) -> None:
            names.add(temporary.name)
            temporary.write_text(str(i) * 1000)
            barrier.wait(timeout=60)  # all have a file before any is renamed

        write_atomically(path, fill)

    with ThreadPoolExecutor(n) as pool:
        list(pool.map(write, range(n)))
    assert path.read_text() in {str(i) * 1000 for i in range(n)}
    assert list(tmp_path.iterdir()) == [path]
    assert len(names) == n
    assert all(re.fullmatch(rf"\.a\.{os.getpid()}\..+\.tmp", name) for name in names)


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    def fail(temporary: Path) -> None:
        (temporary / "half").touch()
        raise KeyError

    with pytest.raises(KeyError):
        write_folder_atomically(tmp_path / "a", fail)
    assert not list(tmp_path.iterdir())
    write_folder_atomically(tmp_path / "a", lambda temporary: (temporary / "b").touch())
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]


def test_everything_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def watched_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(("fsync", re.sub(r"^\.(\w+)\..*\.tmp$", r"half \1", path.name)))
        fsync(descriptor)

    def watched_rename(path: Path, target: Path) -> None:
        done.append(("rename", target.name))
        rename(path, target)

    def watched_replace(path: Path, target: Path) -> None:
        done.append(("rename", target.name))
        replace(path, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs Linux's /proc")
    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    monkeypatch.setattr(Path, "replace", watched_replace)
    parent = ("fsync", tmp_path.name)
    write_atomically(tmp_path / "a", lambda temporary: temporary.touch())
    assert done == [("fsync", "half a"), ("rename", "a"), parent]
    done.clear()
    write_folder_atomically(tmp_path / "b", lambda temporary: (temporary / "c").touch())
    assert done == [("fsync", "c"), ("fsync", "half b"), ("rename", "b"), parent]


def test_an_error_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def too_large(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    with pytest.raises(OSError, match=rf"\[Errno \d+\] File too large: '{path}'"):
        write_atomically(path, too_large)
    with pytest.raises(FileNotFoundError, match=r"nowhere/a'$"):
        write_atomically(tmp_path / "nowhere" / "a", Path.touch)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
