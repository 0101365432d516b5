"""Choosing which implementation of an op runs: by name, or `auto`, which says when it falls back.

The backends are `triton` (our kernels), `torch` (PyTorch's own fused op, or the best that can be
made of its ops) and `reference` (the definition, which serves everything that the op accepts).
An op that is called without a backend takes the process's: `auto`, unless `set_backend` or
`use_backend` says otherwise. It is a plain global: torch.compile guards on it while tracing, and
the threads in which autograd recomputes activations see it, which is not so of a context variable.
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
from gptfast.ops.rules import Work, fastest
from gptfast.ops.versions import TRITON_VERSION, release

BACKENDS = ("triton", "torch", "reference")
# Ops that PyTorch has no fused op for.
ONLY_OURS = ("rotary",)
# Ops that torch.compile fuses with what is around them, if they are PyTorch's own operators.
FUSED_BY_COMPILER = ("layer_norm", "rms_norm", "rotary")

TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Both are settled before the first kernel is imported and can't change afterwards.
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
    """Set the backend of ops that are called without one: "auto", "triton", "torch", "reference".

    For the whole process, until it is set again. With "torch", ops that PyTorch has none for take
    "reference". Raises UserError for an unknown name.
    """
    global _default
    if name not in ("auto", *BACKENDS):
        raise UserError(f"backend is {name!r}; use 'auto' or one of {BACKENDS}")
    _default = name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Set the backend as `set_backend` does, but within a `with` block only.

    A model's backward pass belongs into the block with its forward pass.
    """
    before = _default
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def choose(
    work: Work, backend: str | None, device: torch.device, why_not: Callable[[str], str | None]
) -> str:
    """Return the backend that does `work`; None asks for the process's default.

    `auto` takes the first of `preference(work, device)` that can serve and says so once when that
    isn't the first choice. Raises UserError for an unknown name, and for a backend asked for by
    name that can't serve: `why_not(backend)` is the sentence.
    """
    op = work.op
    if backend is None:
        backend = "reference" if _default == "torch" and op in ONLY_OURS else _default
    if backend == "auto":
        first, *others = preference(work, device)
        reason = why_not(first)
        if reason is None:
            return first
        chosen = next(name for name in others if why_not(name) is None)
        _notice_once(f"{op}: using backend {chosen!r} instead of {first!r}: {reason}")
        return chosen
    if backend not in BACKENDS:
        raise UserError(f"{op}: backend is {backend!r}; use 'auto' or one of {BACKENDS}")
    reason = why_not(backend)
    if reason is not None:
        raise UserError(f"{op}: backend {backend!r} can't serve these inputs: {reason}")
    return backend


def preference(work: Work, device: torch.device) -> tuple[str, ...]:
    """Return the order in which `auto` tries the backends on this device.

    On CUDA the one first that a rule says is the fastest; without a rule, PyTorch's op. In a graph
    for the compiler nothing of ours where it fuses: rules measure an op by itself.
    """
    theirs = () if work.op in ONLY_OURS else ("torch",)
    is_fused = work.op in FUSED_BY_COMPILER and torch.compiler.is_compiling()
    if device.type != "cuda" or is_fused:
        return (*theirs, "reference")
    if theirs and fastest(work, device) == "triton":
        return ("triton", "torch", "reference")
    return (*theirs, "triton", "reference")


def why_not_triton(x: torch.Tensor) -> str | None:
    """Return why no Triton kernel can run on `x`, or None: the part that all ops share."""
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
    """Return the tensors in the dtype that PyTorch's matrix products would have them in here.

    That is their own, unless autocast is on for their device; float64 stays float64.
    """
    device = tensors[0].device.type
    if not _autocasts(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x.to(dtype) if x.dtype in TRITON_DTYPES else x for x in tensors)


def _autocasts(device: str) -> bool:
    # Asking PyTorch which devices have autocast breaks a compiled graph before 2.12.
    return device != "meta" and torch.is_autocast_enabled(device)


def without_autocast(
    function: Callable[Concatenate[torch.Tensor, P], R],
) -> Callable[Concatenate[torch.Tensor, P], R]:
    """Have a function that chooses its own dtypes compute in them, also where autocast is on."""

    @functools.wraps(function)
    def wrapped(first: torch.Tensor, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if not _autocasts(first.device.type):
            return function(first, *args, **kwargs)
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return wrapped


def no_second_derivative(op: str) -> Callable[..., NoReturn]:
    """Return the autograd formula of a backward kernel, which has no derivative of its own."""

    def refuse(*_: object) -> NoReturn:
        raise UserError(
            f"{op}: this backend has no second derivative; use backend='reference' there"
        )

    return refuse


def _notice_once(message: str) -> None:
    if message not in _noticed:
        _noticed.add(message)
        _log.warning(message)


# torch.compile calls this once, while tracing, instead of breaking the graph at the logger. It is
# what torch.compiler.assume_constant_result sets, which would import the whole compiler here.
_notice_once._dynamo_marked_constant = True  # type: ignore[attr-defined]
