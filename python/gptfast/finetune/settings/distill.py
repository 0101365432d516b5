"""Settings of `gptfast finetune distill`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from gptfast.cli.path import PATH
from gptfast.errors import UserError
from gptfast.finetune.settings.common import LoraOptions, check_lora
from gptfast.train.config import GROUPS as TRAIN_GROUPS
from gptfast.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """The teacher, and what the student learns from it."""

    teacher: Annotated[tuple[Path, ...], PATH]
    """Model folders to learn from. The probabilities of several are averaged."""
    temperature: float = 1.0
    """Divisor of the logits of teacher and student. Above 1, unlikely tokens count more."""
    hard_weight: float = 0.0
    """Weight of the ordinary loss, of the text itself, from 0 to 1. The rest is the teacher's."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig(TrainConfig, LoraOptions, DistillOptions):
    """The settings of distillation: those of pre-training, and a teacher.

    The student is new, with the sizes of the preset and the model group, or starts from the folder
    in init_from, where LoRA may train an adapter instead of it. Its tokenizer is the teacher's.
    Raises UserError for impossible values.
    """

    out: Path = field()  # without the default of pre-training
    groups: ClassVar[dict[str, type]] = {
        "distillation": DistillOptions, "LoRA": LoraOptions, **TRAIN_GROUPS,
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teacher:
            raise UserError("teacher is empty: expected at least one model folder")
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}: expected a number above 0")
        if not 0 <= self.hard_weight <= 1:
            raise UserError(f"hard_weight is {self.hard_weight}: expected from 0 to 1")
        if self.model.n_expert:
            raise UserError(
                f"n_expert is {self.model.n_expert}: expected 0, as distillation has no loss that "
                f"balances the experts of a student"
            )
        check_lora(self, self)
        if self.lora_rank and self.init_from is None:
            raise UserError(
                f"lora_rank is {self.lora_rank}, but the student is new, without weights to keep: "
                f"give --init-from FOLDER, too"
            )
