"""Kill `gptfast finetune` with SIGKILL and resume it: the result is bitwise as if it never died."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gptfast.finetune.__main__ import main
from gptfast.train.checkpoint import State
from measured import measured
from processes import start


def check_killed_and_resumed(
    arguments: list[str], folder: Path, *, n_processes: int = 1, step: int
) -> None:
    """Run the command whole, and killed after a step and resumed; compare the two runs bitwise.

    arguments: those of `gptfast finetune`, METHOD first, without --out. folder: an empty folder.
    step: there must be a checkpoint of an earlier step, and steps after it.
    """

    def run(name: str, out: str, step_to_die: str = "never", *further: str) -> list[int | None]:
        command = [step_to_die, *arguments, "--out", str(folder / out), *further]
        output = folder / f"{name}.txt"
        team = start(n_processes, command, output, die_at, grouped=n_processes > 1)
        codes = team.exit_codes()
        print(team.printed())  # pytest shows it if the test fails
        return codes

    assert set(run("whole", "whole")) == {0}
    assert -signal.SIGKILL in run("killed", "killed", str(step))
    assert set(run("resumed", "killed", "never", "--resume")) == {0}
    assert "from step" in " ".join((folder / "resumed.txt").read_text(encoding="utf-8").split())
    whole, killed = folder / "whole", folder / "killed"
    assert measured(killed) == measured(whole)
    weights = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert len(weights) >= 2  # the best, and a checkpoint's
    for name in weights:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def check_on_one_and_on_two_processes(arguments: list[str], folder: Path, *, step: int) -> None:
    """Kill and resume the command on 1 process and on 2, which reach the same losses."""
    lines = []
    for n in (1, 2):
        (folder / str(n)).mkdir()
        check_killed_and_resumed(arguments, folder / str(n), n_processes=n, step=step)
        lines.append(measured(folder / str(n) / "whole"))
    one, two = lines
    assert [m["step"] for m in one] == [m["step"] for m in two]
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "val_loss", "logprob_rejected"):
            assert a.get(name) == pytest.approx(b.get(name), abs=1e-4)


def die_at(arguments: list[str]) -> int:
    """Run `gptfast finetune` with all arguments but the first; kill this process at that step."""
    step_to_die, *argv = arguments
    lap = State.lap

    def lap_or_die(state: State) -> float:
        if str(state.progress.step) == step_to_die:
            os.kill(os.getpid(), signal.SIGKILL)
        return lap(state)

    State.lap = lap_or_die  # type: ignore[method-assign]
    return main(argv)
