"""Settings of `gptfast finetune sft` and `gptfast finetune classify`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gptfast.data.split import check_fraction
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

    groups: ClassVar[dict[str, type]] = {"conversations": SFTOptions, **COMMON_GROUPS}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.val_fraction)


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
    groups: ClassVar[dict[str, type]] = {"data": ClassifyOptions, **COMMON_GROUPS}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.val_fraction)
