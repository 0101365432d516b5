"""The settings of `gptfast finetune classify`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gptfast.errors import UserError
from gptfast.finetune.settings.common import COMMON_GROUPS, FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """The texts to learn from, each with the name of its class."""

    data: Path
    """Lines of JSON such as {"text": "a fine film", "label": "good"}, or a CSV file with the
    columns text and label."""
    val_data: Path | None = None
    """A file of the same kind to validate on. By default, a part of `data`."""
    val_fraction: float = 0.1
    """Share of `data` to validate on, without `val_data`. The same text is never on both sides."""


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(FinetuneConfig, ClassifyOptions):
    """The settings of a classifier. Raises UserError for impossible values."""

    eval_windows: int = 256
    """Val texts per evaluation, spread evenly. The final evaluation uses all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.val_fraction < 1:
            raise UserError(f"val_fraction is {self.val_fraction}: expected 0 < val_fraction < 1")


GROUPS: dict[str, type] = {"data": ClassifyOptions, **COMMON_GROUPS}
