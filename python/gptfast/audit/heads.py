"""What a head of attention does, in numbers: where it looks, and how evenly.

Legend: L layers, H heads, T tokens, B random sequences, N tokens of a sequence before it repeats.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from gptfast import ops
from gptfast.model import LanguageModel

SEQUENCES = 8
LONGEST_SEQUENCE = 64


@dataclass(frozen=True)
class Head:
    """The scores of a head. None where no token can look there, as with a window of one token."""

    layer: int
    """Counted from 1, like `head`."""
    head: int
    entropy: float | None
    """Mean entropy in nats of the weights of a token that sees more than itself."""
    most_entropy: float | None
    """The entropy if all these weights were equal."""
    previous_token: float | None
    """Mean weight of the token before, over the tokens that see it."""
    first_token: float | None
    """Mean weight of the first token of the text or document, over the others that see it."""
    induction: float | None
    """Mean weight, in the second copy of a random sequence, of the token that followed the same
    token in the first copy ("In-context Learning and Induction Heads", Olsson et al. 2022)."""


def scores(weights_TT: Tensor, sees_TT: Tensor, first_T: Tensor) -> dict[str, float | None]:
    """Return the scores of one head on a text, by the names of `Head`.

    weights_TT: row t has the weights of token t. sees_TT: True where token t may see token s.
    first_T: the first token of each token's document.
    """
    t_T = torch.arange(len(first_T))
    before_T = (t_T - 1).clamp(min=0)
    has_choice_T = sees_TT.sum(1) > 1
    entropy_T = -torch.special.xlogy(weights_TT, weights_TT).sum(1)
    return {
        "entropy": _mean(entropy_T[has_choice_T]),
        "most_entropy": _mean(sees_TT.sum(1).log()[has_choice_T]),
        "previous_token": _mean(weights_TT[t_T, before_T][sees_TT[t_T, before_T] & (t_T > 0)]),
        "first_token": _mean(weights_TT[t_T, first_T][sees_TT[t_T, first_T] & (first_T < t_T)]),
    }


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None


@dataclass(frozen=True)
class Induction:
    """What a model does with random sequences that repeat."""

    length: int
    """N, the tokens of a sequence before it repeats."""
    sequences: int
    scores: list[list[float]]
    """The induction score of each layer's heads."""
    loss_of_first_copy: float
    """Mean cross entropy in nats per token, without the first token of the sequence."""
    loss_of_second_copy: float
    """That of the same tokens when they come again. It is less if the model copies."""


def measure_induction(
    model: LanguageModel, ids: Collection[int], longest: int, seed: int
) -> Induction | None:
    """Return what a model does with random sequences of different ids, each repeated once.

    ids: the ids to draw from. longest: the most tokens to which a token of the model can look back,
    itself included. Returns None if there is no room for two different tokens, twice.
    """
    choice = torch.tensor(sorted(ids))
    N = min(LONGEST_SEQUENCE, model.config.block_size // 2, len(choice), longest)
    if N < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    drawn = [choice[torch.randperm(len(choice), generator=generator)[:N]] for _ in range(SEQUENCES)]
    ids_BT = torch.stack(drawn).repeat(1, 2).to(next(model.parameters()).device)
    with ops.return_weights(_induction_of) as of_layers:
        logits_BTV = model(ids_BT)
    losses_BT = torch.nn.functional.cross_entropy(
        logits_BTV[:, :-1].mT.float(), ids_BT[:, 1:], reduction="none"
    )
    return Induction(
        length=N,
        sequences=SEQUENCES,
        scores=[score_H.tolist() for score_H in of_layers],
        loss_of_first_copy=float(losses_BT[:, : N - 1].double().mean()),
        loss_of_second_copy=float(losses_BT[:, N:].double().mean()),
    )


def _induction_of(weights_BHTT: Tensor) -> Tensor:
    """Return each head's mean weight from token t of the second copy to token t - N + 1, (H,)."""
    N = weights_BHTT.size(2) // 2
    followed_BHN = weights_BHTT.diagonal(1 - N, dim1=2, dim2=3)[..., 1:]
    assert followed_BHN.size(2) == N
    return followed_BHN.double().mean((0, 2)).cpu()
