"""One session on a GPU: check the kernels, then time those that are right, within a time limit.

A GPU may be lent for minutes only. Every finding is therefore written at once, an error ends only
the check or measurement that raised it, and the report lists what was not run.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from gptfast.bench import report, rules
from gptfast.bench.cases import Setting
from gptfast.bench.checks import checks
from gptfast.bench.measure import Measurement, gpu_failure, measure
from gptfast.bench.verify import Check, Verdict, verify
from gptfast.bench.workloads import Pass, workloads
from gptfast.errors import RunError, UserError
from gptfast.ops.rules import describe, user_file

# Compiling ahead may take this share of the time limit at most.
WARM_UP_SHARE = 0.25


@dataclass
class Session:
    """What to run, until when, and what became of it."""

    rehearse: bool
    only: Collection[str]
    """The ops to check and measure; all if empty."""
    time_limit: float
    """Seconds, after which nothing new begins."""
    started: float = field(default_factory=time.monotonic)
    verdicts: list[Verdict] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """What of ours could not run or gave something else while it was measured, and why."""
    not_run: list[str] = field(default_factory=list)
    """What had not begun when the time limit was reached."""
    stopped: str | None = None
    """Why the GPU could not be used any more."""

    @property
    def setting(self) -> Setting:
        """Where everything runs."""
        if self.rehearse:
            return Setting("cpu", torch.float32, tiny=True)
        return Setting("cuda", torch.bfloat16, tiny=False)

    def wants(self, op: str) -> bool:
        """Return whether to run the op. The copy always runs: it measures the machine."""
        return not self.only or op in self.only or op == "copy"

    def may_begin(self, name: str) -> bool:
        """Return whether the GPU works and time is left for `name`; record it if none is left."""
        if self.stopped is None:
            if time.monotonic() - self.started <= self.time_limit:
                return True
            self.not_run.append(name)
        return False

    def red_ops(self) -> set[str]:
        """Return the ops that a check found wrong."""
        return {v.op for v in self.verdicts if not v.is_right}

    def after_each(self) -> None:
        """Find out whether the GPU is still usable, and free the memory that PyTorch keeps."""
        self.stopped = gpu_failure()
        if self.stopped is None:
            torch.cuda.empty_cache()

    def verify(self, after_each: Callable[[], object] = lambda: None) -> None:
        """Run every check in every dtype, calling `after_each` between them."""
        setting = self.setting
        if not self.rehearse:
            n = os.cpu_count() or 1
            limit = self.time_limit * WARM_UP_SHARE
            run_parts(partial(verify_part, setting, tuple(self.only)), n, limit)
        for check, dtype in _selected(setting, self.only):
            if self.may_begin(f"check {check}"):
                # The interpreter runs programs in a fixed order: the bits can't differ.
                twice = not self.rehearse
                self.verdicts.append(verify(check, dtype, setting.device, twice=twice))
                print(self.verdicts[-1], flush=True)
                self.after_each()
                after_each()

    def notes(self) -> dict[str, str]:
        """Return what a reader of the results must know about how they came to be."""
        notes = {
            "seconds": f"{time.monotonic() - self.started:.0f}",
            "not timed, as a check failed": ", ".join(sorted(self.red_ops())),
            "not run, time limit reached": "; ".join(dict.fromkeys(self.not_run)),
            "stopped, as the GPU failed": self.stopped or "",
        }
        return {name: note for name, note in notes.items() if note}

    def raise_if_failed(self) -> None:
        """Raise RunError if the GPU failed, a check is red, or ours could not be measured."""
        wrong = [str(v) for v in self.verdicts if not v.is_right]
        said = []
        if self.stopped is not None:
            said.append(f"the GPU failed ({self.stopped})")
        if wrong:
            said.append(f"{len(wrong)} of {len(self.verdicts)} checks failed, first: {wrong[0]}")
        if self.failed:
            said.append(f"{len(self.failed)} of ours were not measured, first: {self.failed[0]}")
        if said:
            raise RunError("; ".join(said))


def run_gpu(session: Session, out: Path) -> None:
    """Check and measure everything into `out`: gpu.json, gpu.md, gpu.png.

    Raises RunError at the end, with all of it written, if anything of ours failed.
    """
    out.mkdir(parents=True, exist_ok=True)  # if it can't be, that is known before the work
    about = report.machine()
    print("\n".join(f"{name}: {value}" for name, value in about.items()), flush=True)
    measured: report.Measured = []

    def save() -> list[Path]:
        return report.save(out, about | session.notes(), session.verdicts, measured)

    session.verify(after_each=save)
    red = session.red_ops()
    for workload in workloads(session.setting):
        name = f"{workload.op}, {workload.title}, {workload.passes.value}"
        if not session.wants(workload.op) or workload.op in red or not session.may_begin(name):
            continue
        # In a graph a copy is done by another engine, which is slower.
        as_graph = workload.op != "copy"
        rows = measure(workload, timed=not session.rehearse, as_graph=as_graph)
        measured.append((workload, rows))
        _note_failure(session, name, rows[0])
        for m in rows:
            print(f"{name}: {m.implementation}: {m.result}", flush=True)
        session.after_each()
        save()
    paths = save()
    print(f"\n{report.markdown(about | session.notes(), session.verdicts, measured)}")
    print(f"written: {', '.join(map(str, paths + report.save_plot(out, about, measured)))}")
    session.raise_if_failed()


def run_ops(session: Session, write_rules: bool) -> None:
    """Check every op, time what `auto` chooses from, and write the rules after each case.

    Raises RunError at the end, with the rules written, if anything of ours failed: `auto` then
    takes PyTorch's op there.
    """
    path = None
    if write_rules and not session.rehearse:
        path = user_file(torch.cuda.get_device_name())
        if path is None:
            raise UserError("there is no cache folder to write to: set GPTFAST_CACHE to one")
    session.verify()
    red = session.red_ops()
    about = report.machine()
    timed = [] if path is None else rules.of_others(path, about, session.only)

    def save() -> None:
        if path is not None and timed:
            rules.write(path, about | session.notes(), timed)

    for work, workload in rules.cases(session.setting):
        name = f"{work.rule}, size {work.size:,}"
        if not session.wants(work.op) or work.op in red or not session.may_begin(name):
            continue
        # In training the host starts a call while the GPU still works on others; in inference it
        # waits for what it needs to start the next.
        as_graph = workload.passes == Pass.BOTH
        rows = measure(workload, timed=not session.rehearse, as_graph=as_graph)
        timed.append(rules.Timed.of(work, rows))
        _note_failure(session, name, rows[0])
        print(f"{name}: " + "; ".join(f"{m.implementation} {m.result}" for m in rows), flush=True)
        session.after_each()
        save()
    save()  # with the note of what was not run
    for rule, bounds in rules.bounds(timed).items():
        print(f"{rule}: {describe(bounds)}")
    for what, why in session.notes().items():
        print(f"{what}: {why}")
    if path is not None and timed:
        print(f"written: {path}")
    session.raise_if_failed()


def _note_failure(session: Session, name: str, ours: Measurement) -> None:
    if ours.reason is not None:
        session.failed.append(f"{name}: {ours.reason}")


# ---- compiling ahead -----------------------------------------------------------------------------


def _selected(setting: Setting, only: Collection[str]) -> Iterator[tuple[Check, torch.dtype]]:
    # The interpreter multiplies bfloat16 matrices wrongly.
    dtypes = [torch.float32, torch.float16] + ([] if setting.tiny else [torch.bfloat16])
    for check in checks(setting.device, setting.tiny):
        for dtype in dtypes:
            if not only or check.op in only:
                yield check, dtype


def verify_part(setting: Setting, only: Collection[str], part: int, n_parts: int) -> None:
    """Run each `n_parts`-th check for what it leaves in Triton's cache, whatever its verdict."""
    for i, (check, dtype) in enumerate(_selected(setting, only)):
        if i % n_parts == part:
            verify(check, dtype, setting.device)


def run_parts(work: Callable[[int, int], None], n_parts: int, time_limit: float) -> None:
    """Run `work(part, n_parts)` in a process for each part; end those that take too long.

    The checks compile about 250 kernels, minutes of work for one core. A process that fails, or is
    ended, costs time only: what it would have compiled is then compiled where it is needed.
    """
    deadline = time.monotonic() + time_limit
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    processes = [context.Process(target=work, args=(i, n_parts)) for i in range(n_parts)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
