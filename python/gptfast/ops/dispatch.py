"""Choose the backend of an op: by name, or with `auto`, which logs when it falls back.

The backends are `triton` (gptfast's kernels), `torch` (PyTorch's fused op, or the best composition
of its ops) and `reference` (the definition, which accepts every valid input). One op also has
`rust`, the kernels of gptfast's extension for CPUs. An op called without
a backend uses the default of the process: `auto`, unless `set_backend` or `use_backend` changes it.
The default is a plain global. Unlike a context variable, it is guarded by torch.compile while
tracing, and visible to the threads in which autograd recomputes activations.

In the transforms of torch.func and in forward mode AD, `auto` takes the definition, which PyTorch
can differentiate and vectorize in every way.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Concatenate, NoReturn, ParamSpec, TypeVar

import torch

from gptfast.errors import UserError
from gptfast.ops.operator import is_transformed
from gptfast.ops.rules import Work, fastest
from gptfast.ops.versions import TRITON_VERSION, release

BACKENDS = ("triton", "torch", "reference")
_USUAL = ("triton", "torch", "reference")
_OTHERS = {
    "rotary": ("triton", "reference"),  # PyTorch has no such op
    "quantized_linear": ("rust", "torch", "reference"),
}
# Ops that torch.compile fuses with their surroundings if they consist of PyTorch's operators.
FUSED_BY_COMPILER = ("layer_norm", "rms_norm", "rotary")

TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Both are fixed before the first kernel is imported.
TRITON_INSTALLED = find_spec("triton") is not None
TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OLDEST_TRITON = (3, 6)
OLDEST_TORCH = (2, 11)

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("gptfast.ops")
_noticed: set[str] = set()
_default = "auto"


if release(torch.__version__) < OLDEST_TORCH:
    raise UserError(
        f"this is PyTorch {torch.__version__}; gptfast needs {'.'.join(map(str, OLDEST_TORCH))} or "
        "newer: pip install --upgrade torch"
    )


def set_backend(name: str) -> None:
    """Set the default backend of the process: "auto", "triton", "torch" or "reference".

    An op without the backend uses "reference" with "torch", and otherwise what "auto" chooses.
    Raises UserError for an unknown name.
    """
    global _default
    if name not in ("auto", *BACKENDS):
        raise UserError(f"backend is {name!r}; use 'auto' or one of {BACKENDS}")
    _default = name


def default_backend() -> str:
    """Return the default backend of the process."""
    return _default


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Set the default backend within a `with` block.

    Run a model's backward pass in the same block as its forward pass.
    """
    before = _default
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def offered(op: str) -> tuple[str, ...]:
    """Return the backends that an op has, in the order in which `auto` tries them by default."""
    return _OTHERS.get(op, _USUAL)


def choose(
    work: Work, backend: str | None, device: torch.device, why_not: Callable[[str], str | None]
) -> str:
    """Return the backend for `work`. A `backend` of None means the default of the process.

    `auto` chooses the first backend of `preference(work, device)` that can serve, and logs once if
    that isn't the first choice. Raises UserError for an unknown name, and for a backend chosen by
    name that can't serve; `why_not(backend)` returns the reason.
    """
    op = work.op
    if backend is None:
        backend = _default
        if backend != "auto" and backend not in offered(op):
            backend = "reference" if backend == "torch" else "auto"
    if backend == "auto" and is_transformed():
        return "reference"
    if backend == "auto":
        first, *others = preference(work, device)
        reason = why_not(first)
        if reason is None:
            return first
        chosen = next(name for name in others if why_not(name) is None)
        _notice_once(f"{op}: using backend {chosen!r} instead of {first!r}: {reason}")
        return chosen
    if backend not in offered(op):
        raise UserError(f"{op}: backend is {backend!r}; use 'auto' or one of {offered(op)}")
    reason = why_not(backend)
    if reason is not None:
        raise UserError(f"{op}: backend {backend!r} can't serve these inputs: {reason}")
    return backend


def preference(work: Work, device: torch.device) -> tuple[str, ...]:
    """Return the order in which `auto` tries the backends on this device.

    On CUDA, the first is the fastest by the measured rules, or PyTorch's op if no rule applies.
    Under torch.compile, ops that the compiler fuses leave out the kernels, because the rules were
    measured without fusion.
    """
    names = tuple(name for name in offered(work.op) if name != "rust" or device.type == "cpu")
    is_fused = work.op in FUSED_BY_COMPILER and torch.compiler.is_compiling()
    if device.type != "cuda" or is_fused:
        return tuple(name for name in names if name != "triton")
    if names == _USUAL and fastest(work, device) == "triton":
        return names
    return tuple(name for name in ("torch", "triton", "reference") if name in names)


def why_not_triton(x: torch.Tensor) -> str | None:
    """Return the reason why no Triton kernel can run on `x`, or None. All ops share this check."""
    if not TRITON_INSTALLED:
        return "triton is not installed; pip install triton"
    if TRITON_VERSION is not None and release(TRITON_VERSION) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return f"this is Triton {TRITON_VERSION}; the kernels need {oldest} or newer"
    if x.dtype not in TRITON_DTYPES:
        return f"the kernels take float32, float16 and bfloat16, not {x.dtype}"
    if TRITON_INTERPRETED or x.is_cuda:
        return None
    return (
        f"on the {x.device.type} device Triton runs only in its interpreter, which is slow and "
        "meant for tests; set TRITON_INTERPRET=1 before Python starts"
    )


def autocast(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the tensors in the dtype in which PyTorch would multiply them here.

    This is the autocast dtype if autocast is on for their device, except for float64. Otherwise it
    is their own dtype.
    """
    device = tensors[0].device.type
    if not _autocasts(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x.to(dtype) if x.dtype in TRITON_DTYPES else x for x in tensors)


def _autocasts(device: str) -> bool:
    # Before PyTorch 2.12, asking which devices support autocast breaks a compiled graph.
    return device != "meta" and torch.is_autocast_enabled(device)


def without_autocast(
    function: Callable[Concatenate[torch.Tensor, P], R],
) -> Callable[Concatenate[torch.Tensor, P], R]:
    """Disable autocast inside `function`, which chooses its own dtypes."""

    @functools.wraps(function)
    def wrapped(first: torch.Tensor, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if not _autocasts(first.device.type):
            return function(first, *args, **kwargs)
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return wrapped


def no_second_derivative(op: str) -> Callable[..., NoReturn]:
    """Return the autograd formula of a backward kernel, which raises UserError."""

    def refuse(*_: object) -> NoReturn:
        raise UserError(
            f"{op}: this backend has no second derivative: compute the loss and its gradients in "
            f'`with gptfast.ops.use_backend("reference"):`'
        )

    return refuse


def _notice_once(message: str) -> None:
    if message not in _noticed:
        _noticed.add(message)
        _log.warning(message)


# torch.compile calls this once while tracing, instead of breaking the graph at the logger. The
# decorator torch.compiler.assume_constant_result sets the same attribute, but would import the
# whole compiler here.
_notice_once._dynamo_marked_constant = True  # type: ignore[attr-defined]
