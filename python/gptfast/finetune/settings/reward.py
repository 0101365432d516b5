"""The settings of `gptfast finetune reward`."""

from __future__ import annotations

from dataclasses import dataclass

from gptfast.finetune.settings.common import COMMON_GROUPS, FinetuneConfig
from gptfast.finetune.settings.pairs import PairOptions, check_pair_options


@dataclass(frozen=True, kw_only=True)
class RewardConfig(FinetuneConfig, PairOptions):
    """The settings of a reward model. Raises UserError for impossible values."""

    eval_windows: int = 256
    """Val pairs per evaluation, spread evenly. The final evaluation uses all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pair_options(self)


GROUPS: dict[str, type] = {"pairs": PairOptions, **COMMON_GROUPS}
