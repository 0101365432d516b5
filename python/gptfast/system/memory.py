"""How a run uses its memory."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU, have the C library keep the memory of freed tensors for the next ones.

    By default glibc hands large pieces back to the system when they are freed, so that each step
    faults in most of its pages once more: an eighth of the time of a step of `shakespeare-12min`.
    The setting holds until the process ends, or until a tokenizer is trained within a memory limit
    (rust/src, `limit_malloc`). Other C libraries are left as they are.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    m_mmap_max, m_trim_threshold = -4, -1  # malloc.h
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(m_mmap_max, 0)  # everything comes from the heap
        mallopt(m_trim_threshold, -1)  # and the heap never shrinks


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held so far.

    On CUDA, what PyTorch's tensors have taken of the device's memory. Else the resident set.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
