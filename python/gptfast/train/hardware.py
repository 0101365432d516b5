"""What the hardware could compute, and how much of its memory a run has taken."""

from __future__ import annotations

import resource
import sys

import torch

# Matrix products of bfloat16 without sparsity, in FLOP/s, from NVIDIA's data sheets ("A100", 2021;
# "H100", 2023; "H200", 2024). Whole names: other forms of the same chip (PCIe, NVL) and slices of
# it (MIG) are slower.
_PEAK_FLOPS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device: torch.device) -> float | None:
    """The most FLOP/s that a device can do in bfloat16; None if that isn't known, as for CPUs."""
    if device.type != "cuda":
        return None
    return _PEAK_FLOPS.get(torch.cuda.get_device_name(device))


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held so far.

    On CUDA of the device's memory, by PyTorch's tensors. Else its resident set, everything since
    the process began included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
