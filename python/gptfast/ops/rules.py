"""Measured rules: which backend of an op is the fastest on this GPU, by kind of work and its size.

`gptfast bench ops --write-rules` measures them and writes a file into the cache folder; rules for a
type of GPU may also come with gptfast, in the folder `measured/` beside this file. A rule file is

    {"machine": {...}, "rules": {"attention, training, half, width 64": [[1448, "triton"],
     [null, "torch"]]}, "measured": [...]}

Up to 1,448 keys `auto` takes "triton" there, beyond that "torch". A kind of work that has no rule
was not measured; `preference` in dispatch.py says what happens then.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptfast.cache import cache_path

SHIPPED = Path(__file__).parent / "measured"

_log = logging.getLogger("gptfast.ops")


@dataclass(frozen=True)
class Work:
    """What an op is asked to do, as far as rules tell one call from another."""

    op: str
    kind: str
    """For instance "training, half, width 64"."""
    size: int
    """What the op's speed grows with: keys of attention, elements of a norm, tokens of a loss."""

    @property
    def rule(self) -> str:
        """The name of the rule that this falls under."""
        return f"{self.op}, {self.kind}"


@dataclass(frozen=True)
class RuleFile:
    """A rule file's contents."""

    path: Path
    machine: dict[str, str]
    """GPU, versions and date of the measurement."""
    rules: dict[str, tuple[tuple[float, str], ...]]
    """By name: (up to which size, which backend), sizes ascending to infinity."""


def training_and_dtype(*tensors: Tensor) -> str:
    """Return the part of `Work.kind` that all ops share: "training, half" or the like."""
    is_training = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    passes = "training" if is_training else "inference"
    return f"{passes}, {'half' if tensors[0].dtype.itemsize == 2 else 'float32'}"


def fastest(work: Work, device: torch.device) -> str | None:
    """Return the backend that was measured to be the fastest on this GPU; None without a rule."""
    for up_to, backend in _bounds(work.rule, device):
        if work.size <= up_to:
            return backend
    return None


def _bounds(rule: str, device: torch.device) -> tuple[tuple[float, str], ...]:
    file = current_rules(device)
    return () if file is None else file.rules.get(rule, ())


# torch.compile calls this while tracing and keeps the answer, instead of tracing how a file is
# read: what torch.compiler.assume_constant_result sets, which would import the whole compiler here.
_bounds._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def current_rules(device: torch.device) -> RuleFile | None:
    """Return the user's own rules for this GPU, or else those that came with gptfast, or None.

    Read once in a process. A file that can't be read is left out, with a warning.
    """
    own = user_file(torch.cuda.get_device_name(device))
    major, minor = torch.cuda.get_device_capability(device)
    for path in ([] if own is None else [own]) + [SHIPPED / f"sm_{major}{minor}.json"]:
        if path.is_file():
            try:
                return _parse(path, json.loads(path.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.warning(
                    "%s is no rule file (%s); `gptfast bench ops --write-rules` writes it anew",
                    path,
                    error,
                )
    return None


def _parse(path: Path, content: Any) -> RuleFile:
    rules = {
        str(name): tuple((math.inf if up_to is None else float(up_to), str(backend))
                         for up_to, backend in bounds)
        for name, bounds in content["rules"].items()
    }  # fmt: skip
    for bounds in rules.values():
        if not {backend for _, backend in bounds} <= {"triton", "torch"}:
            raise ValueError(f"backends are {bounds}: expected 'triton' and 'torch'")
    return RuleFile(path, dict(content["machine"]), rules)


def describe(bounds: Iterable[tuple[float | None, str]]) -> str:
    """Say a rule in words: "triton up to 1,448, then torch"."""
    words = [
        backend if up_to in (None, math.inf) else f"{backend} up to {up_to:,.0f}"
        for up_to, backend in bounds
    ]
    return ", then ".join(words)


def user_file(gpu: str) -> Path | None:
    """Return where the user's own rules for this GPU are, or None where there is no such place."""
    try:
        folder = cache_path()
    except ImportError:  # a plain checkout has what the machine has
        return None
    return folder / "rules" / f"{re.sub('[^A-Za-z0-9]+', '_', gpu)}.json"
