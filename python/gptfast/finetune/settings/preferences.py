"""Settings of the methods that learn from pairs of answers: `dpo` and `reward`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from gptfast.data.split import check_fraction
from gptfast.errors import UserError
from gptfast.finetune.settings.common import COMMON_GROUPS, FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """The pairs to learn from."""

    data: Path
    """JSON lines or a JSON list of objects with 'prompt' (a text or messages), 'chosen' and
    'rejected' (texts)."""
    val_data: Path | None = None
    """Pairs to evaluate on. By default, a share of `data` is held out, split by prompt."""
    val_fraction: float = 0.1
    """The share of the prompts of `data` to hold out, without `val_data`."""


@dataclass(frozen=True, kw_only=True)
class PairConfig(FinetuneConfig, PairOptions):
    """The settings of both methods."""

    eval_windows: int = 256
    """Val pairs per evaluation, spread evenly. The final evaluation uses all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.val_fraction)


@dataclass(frozen=True, kw_only=True)
class RewardConfig(PairConfig):
    """The settings of a reward model. Raises UserError for impossible values."""

    groups: ClassVar[dict[str, type]] = {"pairs": PairOptions, **COMMON_GROUPS}


@dataclass(frozen=True)
class DPOOptions:
    """The loss."""

    loss: Literal["dpo", "ipo", "simpo"] = "dpo"
    """'dpo' (Rafailov et al., 2023), 'ipo' (Azar et al., 2023), which aims at a margin instead of
    the largest one, or 'simpo' (Meng et al., 2024), which needs no reference model."""
    beta: float | None = None
    """Strength of the pull to the starting model in 'dpo' and 'ipo', which calls it tau; scale of
    the rewards in 'simpo'. By default 0.1, and 2 for 'simpo'."""
    simpo_gamma: float = 0.5
    """Margin between the rewards that 'simpo' aims at."""
    sft_weight: float = 0.0
    """Weight of the ordinary loss of the chosen answers, in nats per token, which is added. Without
    it, chosen answers may become less likely, too, as long as rejected ones do so faster."""


@dataclass(frozen=True, kw_only=True)
class DPOConfig(PairConfig, DPOOptions):
    """The settings of DPO. Raises UserError for impossible values."""

    learning_rate: float = 5e-5
    max_loss_spike: float = 10.0
    """Maximum loss of a step above the mean of the last 50 steps. A pair that is ranked wrong costs
    as much as its margin, so losses differ more than in other methods."""
    groups: ClassVar[dict[str, type]] = {"pairs": PairOptions, "DPO": DPOOptions, **COMMON_GROUPS}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.resolved_beta < math.inf:
            raise UserError(f"beta is {self.beta}: expected more than 0, and finite")
        for name in ("simpo_gamma", "sft_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}: expected 0 or more, and finite")
        if self.lora_dropout:
            raise UserError(
                f"lora_dropout is {self.lora_dropout}: expected 0, as DPO compares probabilities "
                f"with those of the starting model, which has no dropout"
            )

    @property
    def resolved_beta(self) -> float:
        """Return beta, or the default of the loss."""
        return self.beta if self.beta is not None else {"simpo": 2.0}.get(self.loss, 0.1)
