"""How close a fast path must come to its definition: one table by (op, dtype).

The definition is computed in float64 on the same inputs. Values of order 1 are assumed: an error
may be as large as `atol + rtol * |expected|`.
"""

import torch

TOLERANCES = {  # (rtol, atol)
    ("attention", torch.float64): (1e-10, 1e-10),
    ("attention", torch.float32): (1e-5, 1e-5),
    ("attention", torch.float16): (4e-3, 4e-3),
    ("attention", torch.bfloat16): (3e-2, 3e-2),
    ("decode_attention", torch.float64): (1e-10, 1e-10),
    ("decode_attention", torch.float32): (1e-5, 1e-5),
    ("decode_attention", torch.float16): (4e-3, 4e-3),
    ("decode_attention", torch.bfloat16): (3e-2, 3e-2),
    ("layer_norm", torch.float64): (1e-10, 1e-10),
    ("layer_norm", torch.float32): (1e-5, 1e-5),
    ("layer_norm", torch.float16): (2e-3, 2e-3),
    ("layer_norm", torch.bfloat16): (2e-2, 2e-2),
    ("linear_cross_entropy", torch.float64): (1e-10, 1e-10),
    ("linear_cross_entropy", torch.float32): (1e-5, 1e-5),
    ("linear_cross_entropy", torch.float16): (4e-3, 4e-3),
    ("linear_cross_entropy", torch.bfloat16): (3e-2, 3e-2),
    ("quantized_linear", torch.float64): (1e-10, 1e-10),
    ("quantized_linear", torch.float32): (1e-5, 1e-5),
    ("quantized_linear", torch.float16): (2e-3, 2e-3),
    ("quantized_linear", torch.bfloat16): (1e-2, 1e-2),
    ("rms_norm", torch.float64): (1e-10, 1e-10),
    ("rms_norm", torch.float32): (1e-5, 1e-5),
    ("rms_norm", torch.float16): (2e-3, 2e-3),
    ("rms_norm", torch.bfloat16): (2e-2, 2e-2),
    # Computed in float32 and rounded once; in the interpreter, bfloat16 is cut off instead.
    ("rotary", torch.float64): (1e-12, 1e-12),
    ("rotary", torch.float32): (1e-6, 1e-6),
    ("rotary", torch.float16): (5e-4, 1e-6),
    ("rotary", torch.bfloat16): (8e-3, 1e-6),
}


def assert_close(
    op: str, actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype | None = None
) -> None:
    """Compare under the tolerance of `op` in `dtype`, by default the dtype of `actual`."""
    rtol, atol = TOLERANCES[op, dtype or actual.dtype]
    torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=atol)
