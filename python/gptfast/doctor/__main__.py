"""Print what a bug report needs: versions, machine, environment, and which kernels run and why.

The output holds no secrets and can be pasted as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from gptfast import ops
from gptfast.cli import cli
from gptfast.doctor.machine import describe_machine
from gptfast.errors import UserError
from gptfast.ops.rules import describe, read_rules
from gptfast.system import cpu, threads


def main(argv: Sequence[str]) -> int:
    """Print the machine, its environment and the backends of every op. Return 0."""
    if list(argv) in (["-h"], ["--help"]):
        print(f"usage: gptfast doctor\n\n{__doc__}")
        return 0
    if argv:
        raise UserError(f"unexpected {' '.join(argv)!r}: gptfast doctor takes no arguments")
    console = cli.console()
    for line in describe_machine():
        console.print(line)
    console.print(f"beside other programs: {_sharing()}")
    console.print(f"amx: {cpu.notice or _amx_state()}")
    console.print("kernels: what 'auto' runs here, uncompiled")
    for op, backend, reason in ops.backends():  # no table, which a narrow terminal would cut
        console.print(f"  {op}, {backend}: {'runs' if reason is None else reason}")
    for line in _rules():
        console.print(line)
    return 0


def _amx_state() -> str:
    masked = cpu.amx_is_masked()
    if masked is None:
        return "unknown without the Rust extension"
    return "masked, but capped by your ONEDNN_MAX_CPU_ISA" if masked else "not masked"


def _sharing() -> str:
    if threads.can_share():
        return "waiting threads sleep while others are busy, so that a run keeps its share"
    return "not needed: fewer threads than cores, or an OpenMP other than libgomp"


def _rules() -> list[str]:
    """Return lines about the measured rules that `auto` follows on the first GPU."""
    if not torch.cuda.is_available():
        return []
    file, left_out = read_rules(torch.device("cuda"))
    notes = [f"rules: {note}" for note in left_out]
    if file is None:
        return [
            *notes,
            "rules: none for this GPU, so 'auto' uses PyTorch's ops where they exist; "
            "`gptfast bench ops --write-rules` measures this GPU",
        ]
    rows = [f"  {name}: {describe(bounds)}" for name, bounds in file.rules.items()]
    measured = ", ".join(f"{name} {value}" for name, value in file.machine.items())
    return [*notes, f"rules: {file.path}, measured on {measured}", *rows]


if __name__ == "__main__":
    sys.exit(cli.run(main))
