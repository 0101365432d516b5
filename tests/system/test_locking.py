"""One run at a time in a folder, whatever becomes of it."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from gptfast.errors import UserError
from gptfast.system.locking import folder_lock

HOLD = """
import sys, time
from pathlib import Path
from gptfast.system.locking import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_process_keeps_others_out_until_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another run is writing into"), folder_lock(tmp_path):
            pass
        process.kill()
    assert (tmp_path / ".lock").exists()
    with folder_lock(tmp_path):
        pass
    assert not any(tmp_path.iterdir())


def fail_with(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(fcntl, "flock", fail)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_no_reason_not_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fail_with(code, monkeypatch)
    with folder_lock(tmp_path):
        pass


def test_a_lock_that_can_not_be_had_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(errno.EIO, monkeypatch)
    expected = r"can't lock .*: choose another --out"
    with pytest.raises(UserError, match=expected), folder_lock(tmp_path):
        pass
