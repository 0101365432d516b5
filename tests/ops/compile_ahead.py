"""Compile every kernel for a GPU that need not be here: `python compile_ahead.py sm_90`.

Prints one JSON list, a row per kernel launch: its name, dtype, width, bytes of shared memory and
of spilled registers. A script of its own, because it needs the real compiler in a process where
the other tests run the interpreter. No kernel runs: a launch is recorded, then compiled with the
arguments that it had.
"""

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

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


def launches(D, dtype):
    """Return (kernel, arguments, options) of every launch, at GPT-2's sizes."""
    recorded = []

    def record(self, *args, grid, warmup, **kwargs):
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        recorded.append((self, {**dict(zip(self.arg_names, args, strict=False)), **kwargs}, options))

    JITFunction.run = record
    q = torch.empty(2, 12, 1024, D, dtype=dtype, device="meta")
    out, lse = flash_attention_forward(q, q, q, True, 0.125)
    flash_attention_backward(out, None, q, q, q, out, lse, True, 0.125)
    return recorded


def source(kernel, arguments):
    """Say to the compiler what a launch with these arguments would have said."""
    signature, constants, attributes = {}, {}, {}

    def describe(path, value, constant=False):
        if isinstance(value, tuple):
            return tuple(describe((*path, i), item) for i, item in enumerate(value))
        if isinstance(value, torch.Tensor):
            attributes[path] = [["tt.divisibility", 16]]
            return "*" + TYPES[value.dtype]
        if constant or value is None or value == 1:
            constants[path] = value
            return "constexpr"
        if isinstance(value, int) and value % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return "i32" if isinstance(value, int) else "fp32"

    for i, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        signature[parameter.name] = describe((i,), value, parameter.is_constexpr)
    return ASTSource(kernel, signature, constants, attributes)


def spilled_bytes(compiled):
    if "amdgcn" in compiled.asm:
        return sum(4 * int(n) for n in re.findall(r"_spill_count:\s*(\d+)", compiled.asm["amdgcn"]))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", cubin.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    if "-v" in sys.argv: print(usage.splitlines()[-1], file=sys.stderr)
    return int(re.search(r"STACK:(\d+)", usage)[1])


if __name__ == "__main__":
    import time
    target = TARGETS[sys.argv[1]]
    rows = []
    for D in map(int, sys.argv[2].split(",")):
        for dtype in [getattr(torch,x) for x in sys.argv[3].split(',')]:
            for kernel, arguments, options in launches(D, dtype):
                t=time.time()
                compiled = triton.compile(source(kernel, arguments), target, options)
                print(sys.argv[1], kernel.__name__, D, TYPES[dtype], compiled.metadata.shared/1024, spilled_bytes(compiled), round(time.time()-t,1))
