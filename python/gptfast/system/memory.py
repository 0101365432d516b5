"""Control and measure the memory of a process."""

from __future__ import annotations

import ctypes
import os
import sys

import torch


def keep_freed_memory(device: torch.device) -> None:
    """Make glibc keep freed memory for later tensors, if `device` is a CPU.

    By default, glibc returns large freed blocks to the system, and each training step faults most
    of its pages in again: an eighth of a step of `shakespeare-12min`. The setting holds until the
    process ends, or until a tokenizer is trained with a memory limit (`limit_malloc` in
    rust/src/util/memory.rs). Other C libraries are not changed.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    m_mmap_max, m_trim_threshold = -4, -1  # malloc.h
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(m_mmap_max, 0)  # allocate everything from the heap
        mallopt(m_trim_threshold, -1)  # never shrink the heap


def total_memory(device: torch.device) -> int | None:
    """Return the bytes of the device's memory, or None if the system does not report them.

    Memory that other processes use is included.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # Windows has no sysconf, some systems lack a name
        return None


def peak_memory(device: torch.device) -> int:
    """Return the peak memory of this process so far, in bytes.

    On CUDA, the device memory that PyTorch has allocated to tensors; elsewhere, the resident set.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # which Windows lacks

    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
