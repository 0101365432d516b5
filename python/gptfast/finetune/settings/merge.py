"""Settings of merging an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Add an adapter to its base, and write one model folder.

    The sum is computed in float32 and stored in the type of the base's weights; what rounding loses
    of the adapter is printed. gptfast's commands merge in memory what they load; other programs
    need a merged folder, or the library PEFT.
    """

    adapter: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")]
    """The adapter folder, such as runs/chat."""
    out: Path
    """The model folder to write: a new or an empty one."""
