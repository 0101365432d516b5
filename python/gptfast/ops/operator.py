"""Our kernels as PyTorch operators, and a short way to them.

torch.library makes an operator of a function: torch.compile keeps it whole, fake tensors know the
shapes of its results, autograd its gradient. But through the code that does all this a call with
its gradient takes the host several times as long as launching the kernels does. So an ordinary call
takes a short way: an autograd.Function around the same function and the same gradient. It gets its
arguments as they are: torch.library would have made a float of a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


class Operator:
    """A function of tensors, as `torch.ops.gptfast.<name>` and to be called.

    Its results share no memory with its inputs or with each other, and it changes none.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.registered = torch.library.custom_op(f"gptfast::{name}", function, mutates_args=())
        self._short: Callable[..., Any] = function

    def __call__(self, *inputs: Any) -> Any:
        """Call the function; the registered operator where a tracer or a mode must see that."""
        return (self.registered if _is_watched(inputs) else self._short)(*inputs)

    def register_fake(self, fake: Callable[..., Any]) -> None:
        """Register what computes the results' shapes and dtypes alone."""
        self.registered.register_fake(fake)

    def register_autograd(
        self, backward: Callable[..., Any], setup_context: Callable[..., None] | None = None
    ) -> None:
        """Register the gradient, as torch.library.register_autograd takes it."""
        self.registered.register_autograd(backward, setup_context=setup_context)
        function = self.function

        class Short(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                output = function(*inputs)
                if setup_context is not None:
                    setup_context(ctx, inputs, output)
                return output

        Short.__name__ = self.name  # what profilers and grad_fn show
        Short.backward = staticmethod(backward)  # type: ignore[method-assign]
        self._short = Short.apply


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make an operator of a function, whose arguments are annotated as torch.library wants them."""
    return lambda function: Operator(name, function)


def _is_watched(inputs: tuple[Any, ...]) -> bool:
    """Whether a call is traced, watched by a mode, or has tensors with rules of their own.

    As by torch.compile; by FakeTensorMode, FlopCounterMode, selective checkpointing; as DTensor.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or any(isinstance(x, Tensor) and type(x) not in (Tensor, Parameter) for x in inputs)
    )
