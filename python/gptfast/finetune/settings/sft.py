"""Settings of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gptfast.errors import UserError
from gptfast.finetune.settings.common import COMMON_GROUPS, FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class SFTOptions:
    """The conversations to learn from."""

    data: Path
    """JSON lines or a JSON list of objects with 'messages' (each with a 'role' and a 'content'),
    with 'instruction', 'input' and 'output', or with 'prompt' and 'completion'."""
    val_data: Path | None = None
    """Conversations to evaluate on. By default, a share of `data` is held out, split by prompt."""
    val_fraction: float = 0.1
    """The share of the conversations of `data` to hold out, without `val_data`."""


@dataclass(frozen=True, kw_only=True)
class SFTConfig(FinetuneConfig, SFTOptions):
    """The settings of supervised fine-tuning. Raises UserError for impossible values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.val_fraction < 1:
            raise UserError(
                f"val_fraction is {self.val_fraction}: expected a number between 0 and 1"
            )


GROUPS: dict[str, type] = {"conversations": SFTOptions, **COMMON_GROUPS}
