"""The operations of the model, each with its definition and its fast paths in one file.

`from gptfast.ops import attention, layer_norm` gives the functions; their definitions and
`why_not` are in the modules, `from gptfast.ops.attention import attention_reference`.
"""

from collections.abc import Callable

import torch

from gptfast.ops.attention import attention
from gptfast.ops.attention import why_not as _attention_why_not
from gptfast.ops.decode_attention import decode_attention
from gptfast.ops.decode_attention import why_not as _decode_attention_why_not
from gptfast.ops.dispatch import BACKENDS, preference
from gptfast.ops.linear_cross_entropy import linear_cross_entropy
from gptfast.ops.linear_cross_entropy import why_not as _linear_cross_entropy_why_not
from gptfast.ops.norm import layer_norm, rms_norm
from gptfast.ops.norm import why_not as _norm_why_not
from gptfast.ops.rotary import rotary
from gptfast.ops.rotary import why_not as _rotary_why_not

__all__ = [
    "attention",
    "backends",
    "decode_attention",
    "layer_norm",
    "linear_cross_entropy",
    "rms_norm",
    "rotary",
]


def backends() -> list[tuple[str, str, str | None]]:
    """Return (op, backend, reason) for every op and backend, for GPT-2's shapes on this machine.

    The reason is None for the backend that `auto` chooses; for the others it is one sentence.
    """
    device, dtype = (
        ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    )
    q_BHTD = torch.empty(1, 12, 1024, 64, device=device, dtype=dtype)
    x_BTC = torch.empty(1, 1024, 768, device=device, dtype=dtype)
    ops: dict[str, Callable[[str], str | None]] = {
        "attention": lambda backend: _attention_why_not(backend, q_BHTD),
        "decode_attention": lambda backend: _decode_attention_why_not(
            backend, q_BHTD[:, :, :1], q_BHTD
        ),
        "layer_norm": lambda backend: _norm_why_not(backend, x_BTC),
        "linear_cross_entropy": lambda backend: _linear_cross_entropy_why_not(backend, x_BTC),
        "rms_norm": lambda backend: _norm_why_not(backend, x_BTC),
        "rotary": lambda backend: _rotary_why_not(backend, q_BHTD),
    }
    rows = []
    for op, why_not in ops.items():
        chosen = next(backend for backend in preference(op, device) if why_not(backend) is None)
        for backend in BACKENDS:
            reason = (
                None
                if backend == chosen
                else why_not(backend) or f"could run, but auto takes {chosen}"
            )
            rows.append((op, backend, reason))
    return rows
