"""Measured rules: which backend of an op is the fastest on this GPU, by kind of work and its size.

`gptfast bench ops --write-rules` measures them and writes a file into the cache folder; rules for a
type of GPU may also come with gptfast, in the folder `measured/` beside this file. A rule file is

    {"machine": {...}, "rules": {"attention, training, half, width 64": [[1448, "triton"],
     [null, "torch"]]}, "measured": [...]}

Up to 1,448 keys `auto` takes "triton" there, beyond that "torch". A kind of work that has no rule
was not measured; `preference` in dispatch.py says what happens then. Rules measured with another
minor version of PyTorch or Triton, whose kernels may be faster or slower, are not followed.
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

from gptfast.ops.versions import TRITON_VERSION
from gptfast.system.cache import cache_path

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
    """Return the rules that `auto` follows on this GPU, or None.

    Read once in a process. A file that can't be followed is left out, with a warning.
    """
    file, left_out = read_rules(device)
    for note in left_out:
        _log.warning(note)
    return file


def read_rules(device: torch.device) -> tuple[RuleFile | None, list[str]]:
    """Return the user's own rules for this GPU, or else those that came with gptfast, or None.

    And a sentence about each file that is there but can't be followed.
    """
    own = user_file(torch.cuda.get_device_name(device))
    major, minor = torch.cuda.get_device_capability(device)
    left_out: list[str] = []
    for path in ([] if own is None else [own]) + [SHIPPED / f"sm_{major}{minor}.json"]:
        if not path.is_file():
            continue
        try:
            file = _parse(path, json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            why = f"is no rule file ({error})"
        else:
            differing = _other_versions(file.machine)
            if not differing:
                return file, left_out
            why = f"is not followed: it was measured with {differing}"
        left_out.append(f"{path} {why}; `gptfast bench ops --write-rules` writes it anew")
    return None, left_out


def _other_versions(machine: dict[str, str]) -> str:
    """Say which versions that a measurement was made with differ from those here."""
    here = {"torch": torch.__version__, "triton": TRITON_VERSION or "unknown"}
    return " and ".join(
        f"{name} {machine.get(name, 'unknown')}, this is {version}"
        for name, version in here.items()
        if version.split(".")[:2] != machine.get(name, "unknown").split(".")[:2]
    )


def _parse(path: Path, content: Any) -> RuleFile:
    """Raise ValueError unless `content` is what `gptfast bench ops` writes."""
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    for part in ("machine", "rules"):
        if not isinstance(content.get(part), dict):
            raise ValueError(f"expected an object {part!r}")
    for name, value in content["machine"].items():
        if not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}: expected a text")
    rules = {name: _parse_bounds(bounds) for name, bounds in content["rules"].items()}
    return RuleFile(path, content["machine"], rules)


def _parse_bounds(bounds: Any) -> tuple[tuple[float, str], ...]:
    expected = ValueError(
        f"a rule is {bounds!r}: expected [[size, backend], ..., [null, backend]], sizes ascending, "
        "backends 'triton' and 'torch'"
    )
    if not isinstance(bounds, list) or not bounds:
        raise expected
    parsed: list[tuple[float, str]] = []
    for bound in bounds:
        if not (isinstance(bound, list) and len(bound) == 2 and bound[1] in ("triton", "torch")):
            raise expected
        up_to = math.inf if bound[0] is None else bound[0]
        # Written so that a NaN is wrong, too.
        if not (isinstance(up_to, int | float) and up_to > (parsed[-1][0] if parsed else 0)):
            raise expected
        parsed.append((up_to, bound[1]))
    if parsed[-1][0] != math.inf:
        raise expected
    return tuple(parsed)


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
