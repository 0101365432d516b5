"""Check and measure the kernels, and training, on this GPU.

`python -m gptfast.bench gpu --out DIR` checks every kernel, then measures it. `python -m
gptfast.bench train` trains, and measures that.

Needs PyTorch and Triton only, so that it runs from a plain checkout (`PYTHONPATH=python`) on a
machine that has nothing else: no Rust extension, and argparse where our other commands have tyro.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gptfast.cli import cli
from gptfast.errors import RunError, UserError

if TYPE_CHECKING:
    from gptfast.bench.training_report import Speed

OPS = ("attention", "decode_attention", "layer_norm", "linear_cross_entropy", "rms_norm", "rotary")
TIME_LIMIT_S = 480.0
TRAIN_TIME_LIMIT_S = 420.0  # leaves a minute for what has begun by then


def main(argv: Sequence[str]) -> int:
    """Run a benchmark. Returns 0; raises RunError if a kernel is wrong or could not run."""
    arguments = _parser().parse_args(argv)
    if arguments.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton or the ops
    import torch

    if not arguments.rehearse and not torch.cuda.is_available():
        raise UserError(
            "PyTorch sees no CUDA device here: run this on a machine with one, or add --rehearse"
        )
    if arguments.command == "train":
        from gptfast.bench import training

        report = training.run(
            arguments.out,
            arguments.data,
            arguments.nanogpt,
            arguments.time_limit,
            arguments.rehearse,
        )
        print(f"\n{report.markdown()}\nwritten to {arguments.out}")
        _raise_if_no_speed(report.speeds)
        return 0
    from gptfast.bench.session import Session, run_gpu, run_ops

    session = Session(arguments.rehearse, arguments.only, arguments.time_limit)
    if arguments.command == "gpu":
        run_gpu(session, arguments.out)
    else:
        run_ops(session, arguments.write_rules)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser("python -m gptfast.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    gpu = commands.add_parser("gpu", help="check every op, then measure it beside its peers")
    gpu.add_argument(
        "--out", type=cli.path, required=True, help="folder for gpu.json, .md and .png"
    )
    ops = commands.add_parser("ops", help="check every op, then time what 'auto' chooses from")
    ops.add_argument(
        "--write-rules",
        action="store_true",
        help="have 'auto' take the fastest on this GPU from now on",
    )
    for command in (gpu, ops):
        command.add_argument(
            "--only",
            metavar="OP",
            action="append",
            choices=OPS,
            default=[],
            help=f"leave out every other op; may be repeated: {', '.join(OPS)}",
        )
    train = commands.add_parser("train", help="train nanoGPT's model; the speed of GPT-2 124M")
    for name, required, what in (
        ("--out", True, "folder for train.json, .md, .png"),
        ("--data", True, "a text, as tinyshakespeare.txt"),
        ("--nanogpt", False, "a clone of karpathy/nanoGPT to compare with"),
    ):
        train.add_argument(name, type=cli.path, required=required, help=what)
    limits = {gpu: TIME_LIMIT_S, ops: TIME_LIMIT_S, train: TRAIN_TIME_LIMIT_S}
    for command, limit in limits.items():
        command.add_argument(
            "--time-limit",
            metavar="SECONDS",
            type=float,
            default=limit,
            help="begin nothing new after this time; default %(default)s",
        )
        command.add_argument(
            "--rehearse",
            action="store_true",
            help="everything once on tiny shapes in Triton's interpreter, without a GPU or a time",
        )
    return parser


def _raise_if_no_speed(speeds: Sequence[Speed]) -> None:
    failed = [s for s in speeds if s.reason is not None]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(speeds)} could not train, the first one "
            f"{failed[0].implementation}, {failed[0].kernels}: {failed[0].reason}"
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
