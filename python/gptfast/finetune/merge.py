"""`gptfast finetune merge`: add an adapter to its base, and write one model folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gptfast.cli import cli
from gptfast.cli.printing import lossy_output


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Add an adapter to its base, and write one model folder.

    The sum is computed in float32 and stored in the type of the base's weights, a classifier's in
    float32; what rounding loses of the adapter is printed. gptfast's commands merge in memory what
    they load; other programs need a merged folder, or the library PEFT.
    """

    adapter: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")]
    """The adapter folder, such as runs/chat."""
    out: Path
    """The model folder to write: a new or an empty one."""


def main(argv: Sequence[str]) -> int:
    """Merge; return 0. Raise UserError or MissingFileError for what can't be merged."""
    config = cli.parse(MergeConfig, argv, "gptfast finetune merge")
    # Imported late: PyTorch takes two seconds, which `--help` and a wrong flag don't need.
    from gptfast.model.merged_folder import merge_folder

    with lossy_output():
        report = merge_folder(config.adapter, config.out)
        cli.console().print(
            f"{config.out}: {report.n_matrices} matrices in "
            f"{str(report.dtype).removeprefix('torch.')}; rounding lost {report.lost:.1e} of what "
            f"the adapter adds"
        )
    return 0
