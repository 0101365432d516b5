"""Are the kernels right on this device? Every op, forward and backward, in every dtype.

The rule: the error against the definition in a wider dtype (float32 for half precision, float64 for
float32) is at most twice that of PyTorch's own op in the same dtype. Where PyTorch has no such op,
what a user would write in its place stands for it. One rounding of the largest value is granted, in
float32 a share of 1e-5: there PyTorch's op may sum in another order and be right by chance.
Computed twice, results and gradients are the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Result: TypeAlias = "Tensor | tuple[Tensor, ...]"
SEED = 0
FLOAT32_SHARE = 1e-5


@dataclass(frozen=True)
class Check:
    """One op with one set of options: three functions of the same tensors."""

    op: str
    title: str
    shapes: tuple[tuple[int, ...], ...]
    ours: Callable[..., Result]
    theirs: Callable[..., Result]
    definition: Callable[..., Result]
    has_gradient: bool = True
    scales: tuple[float, ...] = ()
    """What the random inputs are multiplied by; 1 if not given."""

    def __str__(self) -> str:
        return f"{self.op}, {self.title}"


@dataclass(frozen=True)
class Verdict:
    """How a check ended in one dtype."""

    op: str
    title: str
    dtype: str
    ratio: float
    """The largest error of ours, over results and gradients, as a share of what is allowed.

    Infinite if something is NaN, or could not be computed.
    """
    is_right: bool
    errors: dict[str, tuple[float, float]]
    """For each result and gradient the largest error of ours and of theirs."""
    reason: str | None = None
    """What else was wrong: an exception, bits that differ."""

    def __str__(self) -> str:
        state = "right" if self.is_right else f"WRONG {self.reason or self.errors}"
        return (
            f"{self.op}, {self.title}, {self.dtype}: {self.ratio:.2f} of what is allowed, {state}"
        )


def verify(check: Check, dtype: torch.dtype, device: str, *, twice: bool = True) -> Verdict:
    """Run a check. Whatever is raised makes its verdict wrong, and becomes the reason.

    twice: whether to compute ours again and compare the bits.
    """
    about = (check.op, check.title, str(dtype).removeprefix("torch."))
    try:
        errors, ratio, reason = _compare(check, dtype, device, twice)
    except Exception as error:  # one kernel's failure is a finding, not the end
        return Verdict(*about, math.inf, False, {}, in_a_line(error))
    return Verdict(*about, ratio, ratio <= 1 and reason is None, errors, reason)


def in_a_line(error: BaseException) -> str:
    """Return an exception's type and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]


def _compare(
    check: Check, dtype: torch.dtype, device: str, twice: bool
) -> tuple[dict[str, tuple[float, float]], float, str | None]:
    """Return `errors`, `ratio` and `reason` of a verdict."""
    generator = torch.Generator(device).manual_seed(SEED)
    scales = check.scales or (1.0,) * len(check.shapes)
    inputs = [
        (torch.randn(shape, device=device, generator=generator) * scale).to(dtype)
        for shape, scale in zip(check.shapes, scales, strict=True)
    ]
    wide = torch.float64 if dtype == torch.float32 else torch.float32
    expected = _results(check, check.definition, [x.to(wide) for x in inputs])
    ours = _results(check, check.ours, inputs)
    again = _results(check, check.ours, inputs) if twice else ours
    theirs = _results(check, check.theirs, inputs)
    errors, worst, reasons = {}, 0.0, []
    for name, e in expected.items():
        our, their = ours[name], theirs[name]
        our_error, their_error = ((x.to(wide) - e).abs().max().item() for x in (our, their))
        granted = max(torch.finfo(dtype).eps, FLOAT32_SHARE) * e.abs().max().item()
        allowed = 2 * their_error + granted
        errors[name] = (our_error, their_error)
        ratio = our_error / allowed if allowed > 0 else math.inf if our_error > 0 else 0.0
        worst = max(worst, math.inf if math.isnan(ratio) else ratio)
        if our.dtype != their.dtype:
            reasons.append(f"{name} is {our.dtype}, theirs {their.dtype}")
        elif not torch.equal(our, again[name]) and not our.isnan().any():
            reasons.append(f"{name} has other bits when computed again")
    return errors, worst, "; ".join(reasons) or None


def _results(
    check: Check, function: Callable[..., Result], inputs: list[Tensor]
) -> dict[str, Tensor]:
    """Return results and gradients by name; the results' gradients are the same for every one."""
    leaves = [x.detach().requires_grad_(check.has_gradient) for x in inputs]
    torch.manual_seed(SEED)  # for dropout
    out = function(*leaves)
    results = list(out) if isinstance(out, tuple) else [out]
    named = {f"result {i}": x for i, x in enumerate(results)}
    if check.has_gradient:
        generator = torch.Generator(inputs[0].device).manual_seed(SEED + 1)
        douts = [
            torch.randn(x.shape, device=x.device, generator=generator).to(inputs[0].dtype).to(x)
            for x in results
        ]
        gradients = torch.autograd.grad(results, leaves, douts)
        named |= {f"gradient {i}": x for i, x in enumerate(gradients)}
    return {name: x.detach() for name, x in named.items()}
