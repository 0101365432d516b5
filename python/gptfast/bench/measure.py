"""Times and memory of a workload's implementations, each compared with PyTorch's own first.

The time of the GPU and that of the host are told apart: a call is recorded as a CUDA graph, whose
replay costs the host next to nothing, and how long the host takes to start a call is another
number. In training the GPU works on one call while the host starts the next; but where calls are
small the host is what counts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gptfast.bench.cases import Implementation
from gptfast.bench.verify import SEED, Result, in_a_line
from gptfast.bench.workloads import Pass, Workload

# How far a row may differ from the expected one, as a share of its norm. Half precision's products
# come to a few thousandths.
AGREEMENT = 0.02
# A row whose norm is less than this share of the usual one is mostly rounding: it is compared as if
# it had that norm. (The gradient of the first query is all cancellation.)
SMALL_ROW = 0.1
# Calls that the host starts one after the other, to see how long it takes.
HOST_CALLS = 20


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
    host_microseconds: float
    """What the host takes to start a call."""


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


def measure(workload: Workload, timed: bool = True, as_graph: bool = False) -> list[Measurement]:
    """Run every implementation; whatever one of them raises becomes the reason it has no time.

    The results of each, and its gradients where the backward is measured, are compared with those
    of the first peer that runs: were ours compared with and wrong, the peers would get the blame.
    With `as_graph` the time is that of the GPU alone; else that of a call, in which the GPU may
    have to wait for the host. Returns one measurement for each implementation, in the workload's
    order.
    """
    names = list(workload.implementations)
    with _own_stream() if timed else contextlib.nullcontext():
        measurements = _measure(workload, [*names[1:], names[0]], timed, as_graph)  # ours is first
    if timed:
        torch.compiler.reset()  # else the ninth shape of a function is no longer compiled
    return [measurements[name] for name in names]


def _own_stream() -> contextlib.AbstractContextManager[None]:
    """Return a side stream: graphs can't be recorded on the default one."""
    return torch.cuda.stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]


def _measure(
    workload: Workload, names: list[str], timed: bool, as_graph: bool
) -> dict[str, Measurement]:
    measurements = {}
    standard: tuple[str, list[Tensor]] | None = None
    inputs: list[Tensor] | None = None
    for name in names:
        implementation = workload.implementations[name]
        timing = reason = None
        try:
            inputs = inputs or workload.make_inputs()
            results = _results(implementation, inputs, workload.passes)
            standard = standard or (name, results)
            _check_agreement(results, *standard)
            del results
            call = _call(implementation, inputs, workload.passes)
            call()  # so that nothing compiles in what follows
            timing = _time(call, workload, as_graph) if timed else None
            del call  # and what autograd keeps for it
        except Exception as error:  # a peer's failure is a finding, not the end
            reason = in_a_line(error)
        about = (workload.op, workload.title, workload.passes.value, name, workload.unit)
        measurements[name] = Measurement(*about, timing, reason)
    return measurements


def gpu_failure() -> str | None:
    """Return why the GPU can't be used any more, as after an illegal access, or None."""
    if not torch.cuda.is_available():
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return in_a_line(error)
    return None


def _time(call: Callable[[], object], workload: Workload, as_graph: bool) -> Timing:
    from triton.testing import do_bench

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    peak = torch.cuda.max_memory_allocated() - before
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(HOST_CALLS):
        call()
    host = (time.perf_counter() - started) / HOST_CALLS
    # do_bench overwrites the second-level cache before each call.
    median, fast, slow = do_bench(recorded(call) if as_graph else call, quantiles=(0.5, 0.2, 0.8))
    scale = {"TFLOP/s": 1e12, "GB/s": 1e9}[workload.unit]
    return Timing(median, fast, slow, workload.work / (median * 1e-3) / scale, peak, host * 1e6)


def recorded(call: Callable[[], object]) -> Callable[[], object]:
    """Return the replay of the CUDA graph of a call."""
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin()  # torch.cuda.graph would collect garbage first, which takes long
    try:
        call()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # of what went wrong, the first counts
            graph.capture_end()
        raise
    graph.capture_end()
    return graph.replay


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
    out = implementation(*inputs)
    douts = [torch.randn_like(x) for x in _tensors(out)]
    if passes == Pass.BACKWARD:
        return lambda: gradients(out, keep=True)
    return lambda: gradients(implementation(*inputs))


def _results(implementation: Implementation, inputs: list[Tensor], passes: Pass) -> list[Tensor]:
    """Return the outputs and, unless the pass is the forward alone, the inputs' gradients."""
    outputs = _tensors(implementation(*inputs))
    gradients: tuple[Tensor, ...] = ()
    if passes != Pass.FORWARD:
        torch.manual_seed(SEED)
        # Not randn_like, which draws in the order in which an output lies in memory.
        douts = [torch.randn(x.shape, device=x.device, dtype=x.dtype) for x in outputs]
        leaves = [x for x in inputs if x.requires_grad]
        gradients = torch.autograd.grad(outputs, leaves, douts)
    return [x.detach() for x in (*outputs, *gradients)]


def _check_agreement(results: list[Tensor], name: str, expected: list[Tensor]) -> None:
    for i, (x, e) in enumerate(zip(results, expected, strict=True)):
        difference, norm = (
            torch.linalg.vector_norm(y.reshape(-1, y.shape[-1] if y.dim() else 1), dim=1,
                                     dtype=torch.float32)
            for y in (x - e, e)
        )  # fmt: skip
        usual = norm.square().mean().sqrt()
        worst = (difference / norm.clamp_min(SMALL_ROW * usual)).max()
        # Equal zeros agree; a NaN does not.
        if not (worst <= AGREEMENT or torch.equal(x, e)):
            raise ArithmeticError(
                f"tensor {i}: a row differs from that of {name} by {worst:.3g} of its norm"
            )


def _tensors(out: Result) -> list[Tensor]:
    return list(out) if isinstance(out, tuple) else [out]
