"""Keep weights as they are: the parameters whose names match a pattern are not trained."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from gptfast.errors import UserError
from gptfast.model.base import LanguageModel
from gptfast.model.moe import MixtureOfExperts

_EXAMPLES = 5
"""Number of names in an error."""


def freeze(model: LanguageModel, patterns: Sequence[str]) -> str:
    """Freeze the parameters that match any of the patterns; return a line that says how many.

    A frozen parameter gets no gradient and no optimizer state, and experts behind a frozen router
    are not balanced. patterns: shell patterns of whole names, such as `wte.weight` or `h.0.*`.
    Raises UserError if a pattern matches no parameter, or if nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    frozen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in parameters if fnmatchcase(name, pattern)}
        if not matched:
            raise UserError(
                f"freeze has {pattern!r}, which no parameter's name matches: expected a pattern of "
                f"names such as {', '.join([*parameters][:_EXAMPLES])}"
            )
        frozen |= matched
    if len(frozen) == len(parameters):
        raise UserError(
            f"freeze is {' '.join(patterns)}, which freezes all {len(parameters)} tensors: leave "
            f"some to be trained; `gptfast eval` measures a model without training it"
        )
    for name in frozen:
        parameters[name].requires_grad_(False)
    for module in model.modules():
        if isinstance(module, MixtureOfExperts) and not module.router.weight.requires_grad:
            module.balance_rate = 0.0  # balancing would change what a frozen router chooses
    n_frozen = sum(parameters[name].numel() for name in frozen)
    n_all = sum(p.numel() for p in parameters.values())
    return (
        f"frozen: {len(frozen)} of {len(parameters)} tensors, {n_frozen:,} of {n_all:,} parameters"
    )
