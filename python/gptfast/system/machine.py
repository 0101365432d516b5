"""Describe what a measurement depends on: versions, commit, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gptfast import __version__

# Dense bfloat16 matrix products in FLOP/s, from NVIDIA's data sheets ("A100", 2021; "H100", 2023;
# "H200", 2024). Keys are full names: other forms of a chip (PCIe, NVL) and slices of it (MIG) are
# slower.
_PEAK_FLOPS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
_CHECKOUT = Path(__file__).parents[3]


def versions() -> dict[str, str | None]:
    """Return the versions of gptfast, Python and the numeric libraries; None for a missing one."""
    return {
        "gptfast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version_of("triton"),
        "numpy": version_of("numpy"),
    }


def hardware() -> dict[str, Any]:
    """Return the system, the CPU, and the first GPU if there is one."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        driver = _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        found |= {
            "gpu": properties.name,
            "capability": f"sm_{properties.major}{properties.minor}",
            "gpu_memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "multiprocessors": properties.multi_processor_count,
            "driver": driver.split("\n")[0],
            "cuda": str(torch.version.cuda or torch.version.hip),
            "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        }
    return found


def commit() -> str | None:
    """Return the commit of this checkout, marked if files have changed; None outside a checkout."""
    if not (_CHECKOUT / ".git").exists():
        return None
    return _output_of("git", "-C", str(_CHECKOUT), "describe", "--always", "--dirty") or None


def peak_flops(device: torch.device) -> float | None:
    """Return the peak bfloat16 FLOP/s of a GPU; None if unknown, as for CPUs."""
    if device.type != "cuda":
        return None
    return _PEAK_FLOPS.get(torch.cuda.get_device_name(device))


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def version_of(package: str) -> str | None:
    """Return the version of an installed package; None if it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output_of(*command: str) -> str:
    """Return what a command prints; the empty string if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
