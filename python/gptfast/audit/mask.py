"""Check that attention keeps its mask: in the weights, and by what a changed token changes.

Legend: L layers, H heads, T tokens, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptfast import ops
from gptfast.model import LanguageModel
from gptfast.model.attention import SelfAttention

ROW_SUM_TOLERANCE = 1e-6
AGREEMENT_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
HALF_TOLERANCE = 2e-2
EXPERTS_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Check:
    """Something that must hold, and what was found."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class Place:
    """The tokens of a text, and the documents that they belong to."""

    ids_1T: Tensor
    cu_seqlens: Tensor | None
    first_T: Tensor
    """The first token of each token's document."""

    def run(self, model: LanguageModel, ids_1T: Tensor | None = None) -> Tensor:
        """Return the model's logits, (T, V), for its own ids or others."""
        logits_1TV: Tensor = model(self.ids_1T if ids_1T is None else ids_1T, None, self.cu_seqlens)
        return logits_1TV[0]

    def sees(self, window: int | None) -> Tensor:
        """Return where token t may see token s, (T, T), by the rule itself and no op's mask."""
        t_T = torch.arange(len(self.first_T))
        ago_TT = t_T[:, None] - t_T
        sees_TT = (ago_TT >= 0) & (self.first_T[:, None] == self.first_T)
        return sees_TT if window is None else sees_TT & (ago_TT < window)


def check_weights(weights_LHTT: Tensor, sees_LTT: Tensor) -> list[Check]:
    """Check the weights of all heads against the mask."""
    off_LHT = (weights_LHTT.double().sum(-1) - 1).abs()
    hidden_LHTT = weights_LHTT.masked_fill(sees_LTT[:, None], 0)
    wrong = hidden_LHTT.ne(0).nonzero()  # a NaN isn't 0, either
    alone_LT = sees_LTT.sum(-1) == 1
    own_LHT = weights_LHTT.diagonal(dim1=2, dim2=3)
    not_one_LHT = (own_LHT != 1) & alone_LT[:, None]
    return [
        Check(
            "the weights of a token sum to 1",
            bool((off_LHT <= ROW_SUM_TOLERANCE).all()),
            f"largest difference {float(off_LHT.max()):.1e}, at most {ROW_SUM_TOLERANCE:.0e}",
        ),
        Check(
            "weights beyond the mask are exactly 0",
            not len(wrong),
            _named(wrong, weights_LHTT) if len(wrong) else "all are 0",
        ),
        Check(
            "a token that sees only itself has all its weight",
            not bool(not_one_LHT.any()),
            f"{int(not_one_LHT.sum())} of {int(alone_LT.sum()) * weights_LHTT.size(1)} are not 1",
        ),
    ]


def _named(wrong: Tensor, weights_LHTT: Tensor) -> str:
    layer, head, t, s = wrong[0].tolist()
    when = "which comes later" if s > t else "which its mask hides"
    return (
        f"{len(wrong)} are not: first, in layer {layer + 1}, head {head + 1}, token {t + 1} gives "
        f"{float(weights_LHTT[layer, head, t, s]):.2g} to token {s + 1}, {when}"
    )


def check_paths(model: LanguageModel, layers: Sequence[SelfAttention], place: Place) -> list[Check]:
    """Check attention by its definition and as the machine computes it, and that these agree."""
    checks = [_check_past(model, place, "as this machine computes it")]
    with ops.use_backend("reference"):
        checks.append(_check_past(model, place, "by the definition"))
    return [*checks, _check_agreement(model, layers, place)]


def _check_past(model: LanguageModel, place: Place, how: str) -> Check:
    """Check that changing a token leaves what the model predicts before it, to the last bit.

    Experts are an exception: the number of an expert's tokens decides how their matrix product is
    computed, so the last bits of other tokens may change.
    """
    name = f"changing a token leaves all logits before it, {how}"
    bound = EXPERTS_TOLERANCE if model.config.n_expert else 0.0
    before_TV = place.run(model)
    largest = 0.0
    for changed in range(1, place.ids_1T.size(1)):
        other_1T = place.ids_1T.clone()
        other_1T[0, changed] = (other_1T[0, changed] + 1) % model.config.vocab_size
        after_TV = place.run(model, other_1T)
        moved_T = (after_TV[:changed] - before_TV[:changed]).abs().amax(-1)
        wrong = (~(moved_T <= bound)).nonzero()
        if len(wrong):
            t = int(wrong[0])
            found = f"changing token {changed + 1} changes the logits of token {t + 1}"
            return Check(name, False, f"{found} by {float(moved_T[t]):.2g}")
        largest = max(largest, float(moved_T.max()))
    found = "equal bits, for each token changed in turn"
    if largest:
        found = f"at most {largest:.1e}: experts compute other tokens beside each other"
    return Check(name, True, found)


def _check_agreement(model: LanguageModel, layers: Sequence[SelfAttention], place: Place) -> Check:
    """Check the output of each layer's attention against the definition, given the same input."""
    outputs: list[Tensor] = []  # of each layer, as computed and as defined, before its c_proj

    def keep(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        outputs.append(inputs[0])

    def repeat(layer: torch.nn.Module, inputs: tuple[object, ...], _: Tensor) -> None:
        with ops.return_weights():
            layer.forward(*inputs)

    hooks = [layer.c_proj.register_forward_pre_hook(keep) for layer in layers]
    hooks += [layer.register_forward_hook(repeat) for layer in layers]
    try:
        place.run(model)
    finally:
        for hook in hooks:
            hook.remove()
    differences = [
        float((computed - defined).abs().max() / defined.abs().max().clamp(min=1))
        for computed, defined in zip(outputs[::2], outputs[1::2], strict=True)
    ]
    most = AGREEMENT_TOLERANCE.get(outputs[0].dtype, HALF_TOLERANCE)
    return Check(
        "what this machine computes agrees with the definition",
        all(difference <= most for difference in differences),  # none is NaN, either
        f"largest difference {max(differences):.1e}, at most {most:.0e}",
    )
