"""Compile every kernel for a GPU that need not be here: `python compile_ahead.py sm_90`.

Prints a JSON list, one row per kernel: its name, what it is part of, its bytes of shared memory and
of spilled registers. A script of its own, because the tests beside it may run in the interpreter.
Nothing is launched: each launch is recorded and then compiled for the arguments that it had.
"""

import json
import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from gptfast.kernels import flash_attention
from gptfast.kernels.cross_entropy import cross_entropy
from gptfast.kernels.decode_attention import decode_attention
from gptfast.kernels.flash_attention import flash_attention_backward, flash_attention_forward
from gptfast.kernels.norm import norm_backward, norm_forward
from gptfast.kernels.rotary import rotate

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int32: "i32",
    torch.int64: "i64",
}
OPTIONS = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")


def empty(*shape, dtype):
    return torch.empty(shape, dtype=dtype, device="meta")


def attend(q_BHTD, k_BGSD, causal=True, *, every_option=False):
    """Launch attention forward and backward."""
    B, _, T, D = q_BHTD.shape
    docs_B2T = empty(B, 2, T, dtype=torch.int32) if every_option else None
    seed = empty(1, dtype=torch.int64) if every_option else None
    rest = (256, 0.1) if every_option else (None, 0.0)
    options = (causal, D**-0.5, *rest)
    inputs = (q_BHTD, k_BGSD, k_BGSD, docs_B2T, seed)
    out, lse2 = flash_attention_forward(*inputs, *options)
    flash_attention_backward(out, *inputs, out, lse2, *options)


def decode(q_BHTD, k_BGSD, *, every_option=False):
    B, D = q_BHTD.shape[0], q_BHTD.shape[3]
    lengths_B = empty(B, dtype=torch.int64) if every_option else None
    window = 256 if every_option else None
    decode_attention(q_BHTD, k_BGSD, k_BGSD, lengths_B, D**-0.5, window)


def launch_defaults(D, dtype):
    """Launch every kernel at GPT-2's sizes, with 12 heads of width D."""
    q_BHTD = empty(2, 12, 1024, D, dtype=dtype)
    attend(q_BHTD, q_BHTD)
    attend(q_BHTD, q_BHTD, every_option=True)
    decode(q_BHTD[:, :, :1], q_BHTD, every_option=True)
    x_BTC = empty(2, 1024, 12 * D, dtype=dtype)
    weight_C = empty(12 * D, dtype=dtype)
    for x, weight, bias, centered in (
        (x_BTC, weight_C, weight_C, True),
        (x_BTC, weight_C, None, False),
        (q_BHTD, weight_C[:D], weight_C[:D], True),  # many rows in a program
    ):
        out, mean, rstd = norm_forward(x, weight, bias, 1e-5, centered, dtype)
        norm_backward(out, x, weight, mean, rstd, bias is not None, centered)
    cos_TP = empty(1024, D // 4, dtype=torch.float32)  # half of the channels are rotated
    rotate(q_BHTD, q_BHTD, cos_TP, cos_TP, inverse=True)
    logits_NV = empty(1024, 50_304, dtype=dtype)
    targets_N = empty(1024, dtype=torch.int64)
    cross_entropy(logits_NV, targets_N, -100, None, True)
    cross_entropy(logits_NV, targets_N, -100, 30.0, True)


def launch_variants():
    """Launch what else compiles differently: full attention, one query, grouped heads."""
    q_BHTD = empty(2, 12, 1024, 64, dtype=torch.float16)
    k_BGSD = empty(2, 4, 1000, 64, dtype=torch.float16)
    attend(q_BHTD, k_BGSD, causal=False)
    attend(q_BHTD[:, :, :1], k_BGSD)
    decode(q_BHTD[:, :, :1], k_BGSD)


def launch_table(D, dtype):
    """Launch attention with the other rows of the tables of blocks, or with a width in between."""
    q_BHTD = empty(2, 12, 1024, D, dtype=dtype)
    attend(q_BHTD, q_BHTD)
    decode(q_BHTD[:, :, :1], q_BHTD)


def launch_wide_norms():
    """Launch norms of which fewer or no tiles are on their way at once."""
    for C, dtype in ((4096, torch.float32), (8192, torch.bfloat16), (65_536, torch.float32)):
        x_MC, weight_C = empty(4096, C, dtype=dtype), empty(C, dtype=dtype)
        out, mean, rstd = norm_forward(x_MC, weight_C, weight_C, 1e-5, True, dtype)
        norm_backward(out, x_MC, weight_C, mean, rstd, True, True)


def source(kernel, arguments):
    """Tell the compiler what a launch with these arguments would have told it."""
    signature, constants, attributes = {}, {}, {}

    def describe(path, value, is_constexpr=False):
        if isinstance(value, tuple):
            return tuple(describe((*path, i), item) for i, item in enumerate(value))
        if isinstance(value, TensorDescriptor):
            return f"tensordesc<{TYPES[value.base.dtype]}{value.block_shape}>"
        if isinstance(value, torch.Tensor):
            attributes[path] = [["tt.divisibility", 16]]
            return "*" + TYPES[value.dtype]
        if is_constexpr or value is None or (isinstance(value, int) and value == 1):
            constants[path] = value
            return "constexpr"
        if isinstance(value, int) and value % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return "i32" if isinstance(value, int) else "fp32"

    for i, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        signature[parameter.name] = describe((i,), value, parameter.is_constexpr)
    return ASTSource(kernel, signature, constants, attributes)


def spilled_bytes(assembly):
    if "amdgcn" in assembly:
        return sum(4 * int(n) for n in re.findall(r"vgpr_spill_count:\s*(\d+)", assembly["amdgcn"]))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(assembly["cubin"])
        cubin.flush()
        usage = subprocess.check_output(
            [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", cubin.name], text=True
        )
    # The kernels keep nothing else on the stack.
    return int(re.search(r"STACK:(\d+)", usage)[1])


def main(target):
    rows = []
    flash_attention.has_copy_engine = lambda _: target == "sm_90"

    def compile_instead(kernel, *arguments, grid, warmup, **keywords):
        options = {name: keywords.pop(name) for name in OPTIONS if name in keywords}
        arguments = {**dict(zip(kernel.arg_names, arguments, strict=False)), **keywords}
        compiled = triton.compile(source(kernel, arguments), TARGETS[target], options)
        every_option = " with every option" if arguments.get("seed") is not None else ""
        rows.append(
            {
                "kernel": kernel.__name__ + every_option,
                "part": part,
                "shared_memory": compiled.metadata.shared,
                "spilled": spilled_bytes(compiled.asm),
            }
        )

    JITFunction.run = compile_instead
    part = "defaults"
    launch_defaults(64, torch.float16)
    launch_defaults(128, torch.bfloat16)
    part = "variants"
    launch_variants()
    part = "table"
    for D in (16, 96, 256):
        launch_table(D, torch.float16)
    # Float32 products use no tensor cores, so NVIDIA's GPUs get the same code; sm_80 has the least
    # shared memory.
    for D in (64, 128, 256) if target in ("sm_80", "gfx942") else ():
        launch_table(D, torch.float32)
    launch_wide_norms()
    part = "pointers"
    flash_attention.has_copy_engine = lambda _: False
    launch_table(64, torch.float16)  # as in the defaults, which compile once without descriptors
    launch_table(128, torch.bfloat16)
    part = "table"
    launch_table(256, torch.float16)
    print(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1])
