"""Compile every kernel for a GPU that need not be here: `python compile_ahead.py sm_90`.

Prints a JSON list, one row per kernel: its name, its bytes of shared memory and of spilled
registers. A script of its own, because the tests beside it may run in the interpreter. Nothing is
launched: each launch is recorded and then compiled for the arguments that it had.
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

from gptfast.kernels.flash_attention import flash_attention_backward, flash_attention_forward
from gptfast.kernels.layer_norm import layer_norm_backward, layer_norm_forward

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


def launch_all(D, dtype):
    """Launch every kernel at GPT-2's sizes, with 12 heads of width D."""
    q_BHTD = torch.empty(2, 12, 1024, D, dtype=dtype, device="meta")
    out, lse = flash_attention_forward(q_BHTD, q_BHTD, q_BHTD, True, D**-0.5)
    flash_attention_backward(out, lse, q_BHTD, q_BHTD, q_BHTD, out, lse, True, D**-0.5)
    x_BTC = torch.empty(2, 1024, 12 * D, dtype=dtype, device="meta")
    weight_C = torch.empty(12 * D, dtype=dtype, device="meta")
    out, mean, rstd = layer_norm_forward(x_BTC, weight_C, weight_C, 1e-5)
    layer_norm_backward(out, x_BTC, weight_C, mean, rstd, True)


def source(kernel, arguments):
    """Tell the compiler what a launch with these arguments would have told it."""
    signature, constants, attributes = {}, {}, {}

    def describe(path, value, is_constexpr=False):
        if isinstance(value, tuple):
            return tuple(describe((*path, i), item) for i, item in enumerate(value))
        if isinstance(value, torch.Tensor):
            attributes[path] = [["tt.divisibility", 16]]
            return "*" + TYPES[value.dtype]
        if is_constexpr or (isinstance(value, int) and value == 1):
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

    def compile_instead(kernel, *arguments, grid, warmup, **keywords):
        options = {name: keywords.pop(name) for name in OPTIONS if name in keywords}
        arguments = {**dict(zip(kernel.arg_names, arguments, strict=False)), **keywords}
        compiled = triton.compile(source(kernel, arguments), TARGETS[target], options)
        rows.append([kernel.__name__, compiled.metadata.shared, spilled_bytes(compiled.asm)])

    JITFunction.run = compile_instead
    launch_all(64, torch.float16)
    launch_all(128, torch.bfloat16)
    print(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1])
