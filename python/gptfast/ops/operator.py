"""The kernels as PyTorch operators, with a fast path for ordinary calls.

torch.library turns a function into an operator: torch.compile keeps it whole, fake tensors know the
shapes of its results, and autograd knows its gradient. On the host, however, a call with its
gradient then takes several times as long as launching the kernels. An ordinary call therefore takes
a fast path: an autograd.Function with the same forward and the same gradient. The fast path does
not convert its arguments; torch.library would convert an int passed for a float parameter.

torch.func has no rule for an operator's gradient, and its forward mode would silently return zeros.
`choose` in dispatch.py therefore takes the definitions there, and a call of an operator is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, is_legacy_batchedtensor
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad
from torch.nn import Parameter

from gptfast.errors import UserError


class Operator:
    """A function of tensors, registered as `torch.ops.gptfast.<name>` and callable.

    The function must not modify its inputs. Its results share no memory with the inputs or with
    each other.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.registered = torch.library.custom_op(f"gptfast::{name}", function, mutates_args=())
        self.registered.register_vmap(self._one_by_one)
        self._short: Callable[..., Any] = function

    def __call__(self, *inputs: Any) -> Any:
        """Call the function, through the registered operator if a tracer or mode must see it.

        Raises UserError where torch.func or forward mode AD would differentiate it.
        """
        if is_transformed():
            levels = retrieve_all_functorch_interpreters()
            if forward_ad._current_level >= 0 or any(
                level.key() != TransformType.Vmap for level in levels
            ):
                raise UserError(
                    f"{self.name}: this backend has no rule for torch.func and forward mode AD: "
                    f'compute in `with gptfast.ops.use_backend("reference"):`'
                )
            return self.registered(*inputs)
        return (self.registered if is_watched(inputs) else self._short)(*inputs)

    def _one_by_one(self, info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        """Compute vmap, as torch.library.register_vmap takes it: a call for each batch entry."""
        results = [
            self.registered(
                *(
                    x if dim is None else x.select(dim, i)
                    for x, dim in zip(inputs, in_dims, strict=True)
                )
            )
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])

    def register_fake(self, fake: Callable[..., Any]) -> None:
        """Register a function that computes only the shapes and dtypes of the results."""
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

        Short.__name__ = self.name  # the name in profilers and grad_fn
        Short.backward = staticmethod(backward)  # type: ignore[method-assign]
        self._short = Short.apply


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Turn a function into an operator. Its arguments need the annotations of torch.library."""
    return lambda function: Operator(name, function)


def is_transformed() -> bool:
    """Return whether this runs in a transform of torch.func, such as vmap, or forward mode AD."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


# torch.compile calls this while tracing, inside its transforms, and keeps the result. It
# guards both states. The decorator torch.compiler.assume_constant_result sets the same attribute,
# but would import the whole compiler here.
is_transformed._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_traced() -> bool:
    """Return whether torch.jit.trace records this."""
    return torch._C._get_tracing_state() is not None


def is_watched(inputs: tuple[Any, ...]) -> bool:
    """Return whether a call is traced, inside a dispatch mode, or has tensor subclasses.

    Examples: torch.compile traces; FakeTensorMode, FlopCounterMode and selective checkpointing are
    modes; DTensor is a subclass. autograd.grad(is_grads_batched=True) hides a batch in a tensor.
    """
    return (
        torch.compiler.is_compiling()
        or is_traced()
        or torch._C._len_torch_dispatch_stack() > 0
        or any(
            isinstance(x, Tensor)
            and (type(x) not in (Tensor, Parameter) or is_legacy_batchedtensor(x))
            for x in inputs
        )
    )
