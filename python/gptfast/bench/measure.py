"""Times and memory of a workload's implementations, each compared with ours first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gptfast.bench.workloads import Implementation, Pass, Result, Workload

# The largest difference from our output, as a share of the largest value: half precision's.
AGREEMENT = 0.02


@dataclass(frozen=True)
class Timing:
    """What one implementation took, and reached."""

    milliseconds: float
    """The median."""
    milliseconds_20: float
    """A fifth of the calls were this fast, or faster."""
    milliseconds_80: float
    """Four fifths were."""
    speed: float
    """Work of the median, in the workload's unit."""
    peak_bytes: int
    """Memory beyond the inputs."""


@dataclass(frozen=True)
class Measurement:
    """How one implementation did on one workload."""

    op: str
    title: str
    passes: str
    implementation: str
    unit: str
    timing: Timing | None = None
    """None in a rehearsal, and where `reason` says why there is none."""
    reason: str | None = None

    @property
    def result(self) -> str:
        """In a few words."""
        if self.timing is None:
            return self.reason or "ran"
        speed = f", {self.timing.speed:,.0f} {self.unit}" if self.timing.speed > 0 else ""
        return f"{self.timing.milliseconds:.3f} ms{speed}"


def measure(workload: Workload, timed: bool = True) -> list[Measurement]:
    """Run every implementation. Whatever one of them raises becomes the reason it has no time."""
    inputs = workload.make_inputs()
    expected: list[Tensor] | None = None
    measurements = []
    for name, implementation in workload.implementations.items():
        about = (workload.op, workload.title, workload.passes.value, name, workload.unit)
        try:
            results = [x.detach() for x in _tensors(implementation(*inputs))]
            expected = expected or results
            _check_agreement(results, expected)
            del results
            call = _call(implementation, inputs, workload.passes)
            call()  # so that nothing compiles in what follows
            timing = _time(call, workload) if timed else None
            measurements.append(Measurement(*about, timing))
        except Exception as error:  # a peer's failure is a finding, not the end
            reason = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
            measurements.append(Measurement(*about, reason=reason))
    if timed:
        torch.compiler.reset()  # else the ninth shape of a function is no longer compiled
    return measurements


def _time(call: Callable[[], object], workload: Workload) -> Timing:
    from triton.testing import do_bench

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    peak = torch.cuda.max_memory_allocated() - before
    # do_bench overwrites the second-level cache before each call.
    median, fast, slow = do_bench(call, quantiles=(0.5, 0.2, 0.8))
    scale = {"TFLOP/s": 1e12, "GB/s": 1e9}[workload.unit]
    return Timing(median, fast, slow, workload.work / (median * 1e-3) / scale, peak)


def _call(
    implementation: Implementation, inputs: list[Tensor], passes: Pass
) -> Callable[[], object]:
    leaves = [x for x in inputs if x.requires_grad]

    def gradients(out: Result, keep: bool = False) -> tuple[Tensor, ...]:
        return torch.autograd.grad(_tensors(out), leaves, douts, retain_graph=keep)

    if passes == Pass.FORWARD:

        def forward() -> Result:
            with torch.no_grad():
                return implementation(*inputs)

        return forward
    graph = implementation(*inputs)
    douts = [torch.randn_like(x) for x in _tensors(graph)]
    if passes == Pass.BACKWARD:
        return lambda: gradients(graph, keep=True)
    return lambda: gradients(implementation(*inputs))


def _check_agreement(results: list[Tensor], expected: list[Tensor]) -> None:
    for x, e in zip(results, expected, strict=True):
        difference = (x - e).abs().max() / e.abs().max()
        if not difference <= AGREEMENT:  # NaN, too
            raise ArithmeticError(
                f"the output differs from ours by {difference:.3g} of the largest"
            )


def _tensors(out: Result) -> list[Tensor]:
    return list(out) if isinstance(out, tuple) else [out]
