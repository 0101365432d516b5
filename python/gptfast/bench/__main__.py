"""`python -m gptfast.bench gpu --out DIR`: check every kernel on this GPU, then measure it.

Needs PyTorch and Triton only, so that it runs from a plain checkout (`PYTHONPATH=python`) on a
machine that has nothing else: no Rust extension, and argparse where our other commands have tyro.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gptfast import cli
from gptfast.errors import RunError, UserError

if TYPE_CHECKING:
    from gptfast.bench.measure import Measurement
    from gptfast.bench.training import Speed
    from gptfast.bench.verify import Verdict
    from gptfast.bench.workloads import Setting

TIME_LIMIT_S = 480.0


def main(argv: Sequence[str]) -> int:
    """Run a benchmark. Returns 0; raises RunError if a kernel is wrong or could not run."""
    parser = argparse.ArgumentParser("python -m gptfast.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    gpu = commands.add_parser("gpu", help="check every op, then measure it beside its peers")
    gpu.add_argument("--out", type=Path, required=True, help="folder for gpu.json, .md and .png")
    ops = commands.add_parser("ops", help="check every op, then time what 'auto' chooses from")
    ops.add_argument(
        "--write-rules",
        action="store_true",
        help="have 'auto' take the fastest on this GPU from now on",
    )
    train = commands.add_parser("train", help="train nanoGPT's model; the speed of GPT-2 124M")
    train.add_argument("--out", type=Path, required=True, help="folder for train.json, .md, .png")
    train.add_argument("--data", type=Path, required=True, help="a text, as tinyshakespeare.txt")
    train.add_argument("--nanogpt", type=Path, help="a clone of karpathy/nanoGPT to compare with")
    for command in (gpu, ops, train):
        command.add_argument(
            "--rehearse",
            action="store_true",
            help="everything once on tiny shapes in Triton's interpreter, without a GPU or a time",
        )
    arguments = parser.parse_args(argv)
    if arguments.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton or the ops
    import torch

    if not arguments.rehearse and not torch.cuda.is_available():
        raise UserError(
            "PyTorch sees no CUDA device here: run this on a machine with one, or add --rehearse"
        )
    if arguments.command == "gpu":
        return _gpu(arguments.out, arguments.rehearse)
    if arguments.command == "train":
        from gptfast.bench import training

        report = training.run(
            arguments.out, arguments.data, arguments.nanogpt, TIME_LIMIT_S, arguments.rehearse
        )
        print(f"\n{report.markdown()}\nwritten to {arguments.out}")
        _raise_if_no_speed(report.speeds)
        return 0
    return _ops(arguments.write_rules, arguments.rehearse)


def _gpu(out: Path, rehearse: bool) -> int:
    from gptfast.bench import report, workloads
    from gptfast.bench.measure import measure

    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)  # if it can't be, that is known before the work
    about = report.machine()
    print("\n".join(f"{name}: {value}" for name, value in about.items()), flush=True)
    verdicts = _verify(rehearse)
    are_right = all(v.is_right for v in verdicts)
    measured: report.Measured = []
    left_out = []
    for workload in workloads.workloads(_setting(rehearse)) if are_right else ():
        name = f"{workload.op}, {workload.title}, {workload.passes.value}"
        if time.monotonic() - started > TIME_LIMIT_S:
            left_out.append(name)
            continue
        rows = measure(workload, timed=not rehearse)
        measured.append((workload, rows))
        for m in rows:
            print(f"{name}: {m.implementation}: {m.result}", flush=True)
        report.save_text(out, about, verdicts, measured)  # a later crash costs nothing
    about["seconds"] = f"{time.monotonic() - started:.0f}"
    if left_out:
        about["left out for want of time"] = "; ".join(left_out)
    paths = report.save(out, about, verdicts, measured)
    print(f"\n{report.markdown(about, verdicts, measured)}")
    print(f"written: {', '.join(map(str, paths))}")
    _raise_if_wrong(verdicts)
    _raise_if_failed([rows[0] for _, rows in measured])
    return 0


def _ops(write_rules: bool, rehearse: bool) -> int:
    import torch

    from gptfast.bench import report, rules
    from gptfast.ops.rules import describe, user_file

    path = None
    if write_rules and not rehearse:
        path = user_file(torch.cuda.get_device_name())
        if path is None:
            raise UserError("there is no cache folder to write to: set GPTFAST_CACHE to one")
        path.parent.mkdir(parents=True, exist_ok=True)
    _raise_if_wrong(_verify(rehearse))
    timed, ours = [], []
    for case, measurements in rules.time_cases(_setting(rehearse), timed=not rehearse):
        timed.append(case)
        ours.append(measurements[0])
        times = "; ".join(f"{m.implementation} {m.result}" for m in measurements)
        print(f"{case.rule}, size {case.size:,}: {times}", flush=True)
    for rule, bounds in rules.bounds(timed).items():
        print(f"{rule}: {describe(bounds)}")
    _raise_if_failed(ours)
    if path is not None:
        rules.write(path, report.machine(), timed)
        print(f"written: {path}")
    return 0


def _setting(rehearse: bool) -> Setting:
    import torch

    from gptfast.bench.workloads import Setting

    if rehearse:
        return Setting("cpu", torch.float32, tiny=True)
    return Setting("cuda", torch.bfloat16, tiny=False)


def _verify(rehearse: bool) -> list[Verdict]:
    import torch

    from gptfast.bench.verify import checks, verify

    device = "cpu" if rehearse else "cuda"
    # The interpreter multiplies bfloat16 matrices wrongly.
    dtypes = [torch.float32, torch.float16] + ([] if rehearse else [torch.bfloat16])
    verdicts = []
    for check in checks(device, tiny=rehearse):
        for dtype in dtypes:
            verdict = verify(check, dtype, device)
            verdicts.append(verdict)
            state = "right" if verdict.is_right else f"WRONG {verdict.errors}"
            share = f"{verdict.ratio:.2f} of what is allowed"
            print(f"{check}, {verdict.dtype}: {share}, {state}", flush=True)
    return verdicts


def _raise_if_wrong(verdicts: Sequence[Verdict]) -> None:
    wrong = [v for v in verdicts if not v.is_right]
    if wrong:
        raise RunError(
            f"{len(wrong)} of {len(verdicts)} checks failed, the first one {wrong[0].op}, "
            f"{wrong[0].title}, {wrong[0].dtype}; nothing was timed"
        )


def _raise_if_failed(ours: Sequence[Measurement]) -> None:
    failed = [m for m in ours if m.reason is not None]
    if failed:
        raise RunError(
            f"{len(failed)} of our kernels could not run, the first one {failed[0].op}, "
            f"{failed[0].title}: {failed[0].reason}"
        )


def _raise_if_no_speed(speeds: Sequence[Speed]) -> None:
    failed = [s for s in speeds if s.reason is not None]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(speeds)} could not train, the first one "
            f"{failed[0].implementation}, {failed[0].kernels}: {failed[0].reason}"
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
