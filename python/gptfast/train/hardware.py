"""What the hardware could compute, and how a run uses its memory."""

from __future__ import annotations

import ctypes
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


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU, from now on have the C library keep the memory of freed tensors for the next ones.

    By itself glibc hands large pieces back to the system when they are freed, so that each step
    faults in most of its pages once more: an eighth of the time of a step of `shakespeare-12min`.
    It holds until the process ends, or until a tokenizer is trained within a memory limit. Other C
    libraries are left as they are.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    m_mmap_max, m_trim_threshold = -4, -1  # malloc.h
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(m_mmap_max, 0)  # all comes from the heap
        mallopt(m_trim_threshold, -1)  # whose end is never handed back


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held so far.

    On CUDA of the device's memory, by PyTorch's tensors. Else its resident set, everything since
    the process began included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
