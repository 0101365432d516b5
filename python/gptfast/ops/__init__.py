"""The operations of the model. Each has its definition and its fast backends in one module.

`set_backend` and `use_backend` choose the backend.

`from gptfast.ops import attention, layer_norm` imports the functions. Their definitions and
`why_not` are in the modules: `from gptfast.ops.attention import attention_reference`.
"""

from collections.abc import Callable
from importlib import import_module

import torch

from gptfast.ops.attention import attention
from gptfast.ops.attention_weights import return_weights
from gptfast.ops.decode_attention import decode_attention
from gptfast.ops.dispatch import offered, preference, set_backend, use_backend
from gptfast.ops.dropout import dropout
from gptfast.ops.linear_cross_entropy import linear_cross_entropy
from gptfast.ops.norm import layer_norm, rms_norm
from gptfast.ops.quantized_linear import quantized_linear
from gptfast.ops.rotary import rotary
from gptfast.ops.rules import Work

__all__ = [
    "attention",
    "backends",
    "decode_attention",
    "dropout",
    "layer_norm",
    "linear_cross_entropy",
    "quantized_linear",
    "return_weights",
    "rms_norm",
    "rotary",
    "set_backend",
    "use_backend",
]


def backends() -> list[tuple[str, str, str | None]]:
    """Return (op, backend, reason) for every op and backend, for GPT-2's shapes on this machine.

    The calls are uncompiled and train, except for `decode_attention` and `quantized_linear`. The
    reason is None for the backend that `auto` chooses, and one sentence for every other backend.
    """
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda" if on_cuda else "cpu")
    dtype = torch.bfloat16 if on_cuda else torch.float32
    q = torch.empty(1, 12, 1024, 64, device=device, dtype=dtype, requires_grad=True)
    x = torch.empty(1, 1024, 768, device=device, dtype=dtype, requires_grad=True)
    cached = q.detach()
    new = cached[:, :, :1]
    # The functions imported above shadow their modules.
    attention_, decode_, norm_, loss_, quantized_, rotary_ = (
        import_module(f"gptfast.ops.{name}")
        for name in (
            "attention",
            "decode_attention",
            "norm",
            "linear_cross_entropy",
            "quantized_linear",
            "rotary",
        )
    )
    ops: list[tuple[Work, Callable[[str], str | None]]] = [
        (attention_.work(q, q, q, False, 0.0), lambda b: attention_.why_not(b, q)),
        (
            decode_.work(new, cached, False),
            lambda b: decode_.why_not(b, new, cached),
        ),
        (norm_.work("layer_norm", x), lambda b: norm_.why_not(b, x)),
        (loss_.work(x, x), lambda b: loss_.why_not(b, x)),
        (quantized_.work(cached), lambda b: quantized_.why_not(b, cached)),
        (norm_.work("rms_norm", x), lambda b: norm_.why_not(b, x)),
        (rotary_.work(q, q), lambda b: rotary_.why_not(b, q)),
    ]
    rows = []
    for work, why_not in ops:
        chosen = next(b for b in preference(work, device) if why_not(b) is None)
        for backend in offered(work.op):
            reason = why_not(backend) or f"could run, but auto takes {chosen}"
            rows.append((work.op, backend, None if backend == chosen else reason))
    return rows
