"""Lines that a bug report needs: versions, system, memory, encodings, environment, cache."""

from __future__ import annotations

import locale
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from gptfast import __version__
from gptfast.cli.units import count, gib
from gptfast.errors import UserError
from gptfast.system.cpu import n_cores
from gptfast.system.files import cache_path
from gptfast.system.machine import commit, hardware, version_of
from gptfast.system.memory import total_memory
from gptfast.system.threads import SPINNING
from gptfast.train.precision import resolve_dtype

PACKAGES = (
    "triton", "numpy", "safetensors", "tokenizers", "transformers", "tiktoken", "datasets",
    "pyarrow",
)  # fmt: skip
"""Packages besides PyTorch whose versions matter, installed or not."""

PREFIXES = ("GPTFAST_", "OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "CUDA_", "NCCL_",
            "PYTORCH_", "TORCH_", "TORCHINDUCTOR_", "TRITON_", "HF_HOME", "HF_HUB_OFFLINE",
            "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONHASHSEED", "PYTHONOPTIMIZE", "LC_", "LANG",
            "TERM", "COLUMNS", "NO_COLOR", "LOCAL_WORLD_SIZE")  # fmt: skip
"""Beginnings of the names of environment variables that change what gptfast does."""

_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD", "CREDENTIAL", "AUTH")
"""Parts of the names of variables that are never shown."""

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "fma", "asimd",
          "bf16", "sve")  # fmt: skip
"""The flags of a CPU that decide how fast its matrix products are."""

_MB_OF_A_DEBUG_BUILD = 1.0
"""Speed of encoding, in MB/s, that only an unoptimized build stays below."""


def describe_machine() -> Iterator[str]:
    """Yield lines of the form `what: value`. They hold no secrets, and ~ for the home folder."""
    found = hardware()
    yield f"gptfast: {__version__}{_commit()}"
    yield f"python: {platform.python_version()} ({platform.python_implementation()})"
    others = (f"{name} {version_of(name) or '-'}" for name in PACKAGES)
    yield f"packages: torch {torch.__version__}, {', '.join(others)}"
    yield f"rust extension: {_rust_state()}"
    yield f"system: {platform.platform()}, {' '.join(platform.libc_ver()).strip() or 'no libc'}"
    yield f"cpu: {found['cpu']}, {_cpu_flags()}"
    yield (
        f"cores: {n_cores()} of {os.cpu_count()} may be used; PyTorch has "
        f"{count(torch.get_num_threads(), 'thread')} and uses "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )
    memory = total_memory(torch.device("cpu"))
    yield f"memory: {gib(memory) if memory else 'unknown'}{_memory_limit()}"
    yield from _devices(found)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = resolve_dtype(device)
    yield f"dtype auto: {precision.dtype}, because {precision.reason}"
    yield (
        f"encodings: stdout {sys.stdout.encoding} ({sys.stdout.errors}), stderr "
        f"{sys.stderr.encoding}, files {sys.getfilesystemencoding()}, locale "
        f"{locale.getlocale()[1] or 'C'}"
    )
    yield f"environment: {' '.join(_environment()) or 'nothing set that matters'}"
    yield f"cache: {_cache()}"


def _commit() -> str:
    checkout = commit()
    return f", commit {checkout}" if checkout else ""


def _rust_state() -> str:
    try:
        from gptfast.tokenizer import BPETokenizer

        # The words are distinct, so that no cache hides the speed.
        text = " ".join(f"word{i * i}" for i in range(20_000))
        tokenizer = BPETokenizer.train([text[:1000]], 257)
    except (ImportError, UserError) as error:
        return f"missing ({error}); build it with `maturin develop --release`: no BPE without it"
    start = time.perf_counter()
    tokenizer.encode_ordinary(text)
    speed = len(text) / 1e6 / (time.perf_counter() - start)
    build = "a release build" if speed > _MB_OF_A_DEBUG_BUILD else "built without --release?"
    return f"loaded, {build} (encodes {speed:.1f} MB/s)"


def _cpu_flags() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Feat"))]
    found = [flag for flag in _FLAGS if named and flag in named[0]]
    return " ".join(found) or "flags unknown"


def _memory_limit() -> str:
    """Return the limit that a container sets, which the system's total does not show."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(name)
        limit = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        if limit.isdecimal() and int(limit) < 2**60:
            return f", limited to {gib(int(limit))} by the container"
    return ""


def _devices(found: dict[str, object]) -> Iterator[str]:
    if not torch.cuda.is_available():
        yield f"gpu: PyTorch ({torch.version.cuda or torch.version.hip or 'cpu'} build) finds none"
        return
    yield f"driver: {found['driver']}, CUDA {found['cuda']}, cuDNN {found['cudnn']}"
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        yield (
            f"gpu {i}: {properties.name}, sm_{properties.major}{properties.minor}, "
            f"{gib(properties.total_memory)}, float32 and {'' if has_bfloat16 else 'no '}bfloat16"
        )


def _environment() -> list[str]:
    """Return the variables that matter, without secrets and what gptfast itself has set."""
    return [
        f"{name}={_private(value)}"
        for name, value in sorted(os.environ.items())
        if name.startswith(PREFIXES)
        and not any(part in name.upper() for part in _SECRET)
        and (name, value) != SPINNING
    ]


def _cache() -> str:
    path = cache_path()
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    what = "" if path.is_dir() else ", not made yet"
    writable = "" if os.access(existing, os.W_OK) else ", not writable"
    free = shutil.disk_usage(existing).free
    return f"{_private(str(path))}{what}{writable}, {gib(free)} free"


def _private(text: str) -> str:
    """Return a path or a value with ~ for the home folder, and *** for a password in an address."""
    text = re.sub(r"(?<=://)[^/\s@]+@", "***@", text)
    home = os.path.expanduser("~").rstrip("/")
    begin, end = r"(?<![^\s:;,=])", r"(?![^\s:;,/])"
    return re.sub(f"{begin}{re.escape(home)}{end}", "~", text) if home else text
