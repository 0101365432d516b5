"""Several models that predict as one.

Legend: M models, B batch, T time, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from gptfast.errors import UserError
from gptfast.model.base import LanguageModel


class Ensemble(LanguageModel):
    """The mean of several models' probabilities ("Simple and Scalable Predictive Uncertainty
    Estimation using Deep Ensembles", Lakshminarayanan et al., 2017, section 2.4).

    Models that differ in their seed alone learn the same of what the text teaches, and each its own
    of what it doesn't: over-fitting goes different ways, and the mean takes part of it back.
    """

    def __init__(self, members: Sequence[LanguageModel]) -> None:
        """Raises UserError for models of different vocabularies.

        The ensemble's context is the shortest of its members'.
        """
        sizes = {member.config.vocab_size for member in members}
        if len(sizes) > 1:
            raise UserError(
                f"the models have vocabularies of {', '.join(map(str, sorted(sizes)))} ids: "
                f"expected the same, to take the mean of their probabilities"
            )
        block_size = min(member.config.block_size for member in members)
        super().__init__(replace(members[0].config, block_size=block_size))
        self.members = nn.ModuleList(members)
        self.eval()  # nothing trains it: no dropout

    def _logits(self, idx_BT: Tensor) -> Tensor:
        """The log of the mean probability (B, T, V) of the next token, for int64 ids (B, T)."""
        members = cast("list[LanguageModel]", list(self.members))
        log_probs_MBTV = torch.stack([member(idx_BT).float().log_softmax(-1) for member in members])
        return log_probs_MBTV.logsumexp(0) - math.log(len(self.members))
