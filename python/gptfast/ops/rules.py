"""Measured rules: the fastest backend of an op on this GPU, by kind and size of the work.

`gptfast bench ops --write-rules` measures the rules and writes them to a file in the cache folder.
gptfast may also ship rules for a type of GPU in the folder `measured/` beside this file. A rule
file looks like this:

    {"machine": {...}, "rules": {"attention, training, half, width 64": [[1448, "triton"],
     [null, "torch"]]}, "measured": [...]}

With this rule, `auto` chooses "triton" up to 1,448 keys and "torch" beyond. A kind of work without
a rule was not measured; `preference` in dispatch.py defines the choice for it. Rules from another
minor version of PyTorch or Triton are ignored, because its kernels may be faster or slower.
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
from gptfast.system.files import cache_path

SHIPPED = Path(__file__).parent / "measured"

_log = logging.getLogger("gptfast.ops")


@dataclass(frozen=True)
class Work:
    """The properties of a call that rules distinguish."""

    op: str
    kind: str
    """Everything but the size, for instance "training, half, width 64"."""
    size: int
    """The number of keys of attention, elements of a norm, or tokens of a loss."""

    @property
    def rule(self) -> str:
        """The name of the rule for this work."""
        return f"{self.op}, {self.kind}"


@dataclass(frozen=True)
class RuleFile:
    """The content of a rule file."""

    path: Path
    machine: dict[str, str]
    """The GPU, the versions and the date of the measurement."""
    rules: dict[str, tuple[tuple[float, str], ...]]
    """The rules by name: pairs (largest size, backend), with sizes that ascend to infinity."""


def training_and_dtype(*tensors: Tensor) -> str:
    """Return the part of `Work.kind` that all ops share, such as "training, half"."""
    is_training = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    passes = "training" if is_training else "inference"
    return f"{passes}, {'half' if tensors[0].dtype.itemsize == 2 else 'float32'}"


def fastest(work: Work, device: torch.device) -> str | None:
    """Return the fastest backend on this GPU by the measured rules; None without a rule."""
    for up_to, backend in _bounds(work.rule, device):
        if work.size <= up_to:
            return backend
    return None


def _bounds(rule: str, device: torch.device) -> tuple[tuple[float, str], ...]:
    file = current_rules(device)
    return () if file is None else file.rules.get(rule, ())


# torch.compile calls this while tracing and keeps the result, instead of tracing the file access.
# The decorator torch.compiler.assume_constant_result sets the same attribute, but would import the
# whole compiler here.
_bounds._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def current_rules(device: torch.device) -> RuleFile | None:
    """Return the rules that `auto` follows on this GPU, or None.

    The files are read once per process. A file that can't be used is skipped with a warning.
    """
    file, left_out = read_rules(device)
    for note in left_out:
        _log.warning(note)
    return file


def read_rules(device: torch.device) -> tuple[RuleFile | None, list[str]]:
    """Return the rules for this GPU, and a sentence about each file that can't be used.

    The user's own rules come before those that gptfast ships. None means that there are no rules.
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
            why = f"is not a valid rule file ({error})"
        else:
            differing = _other_versions(file.machine)
            if not differing:
                return file, left_out
            why = f"is not used: it was measured with {differing}"
        left_out.append(f"{path} {why}; `gptfast bench ops --write-rules` replaces it")
    return None, left_out


def _other_versions(machine: dict[str, str]) -> str:
    """Return a phrase about the versions in which a measurement differs from this environment."""
    here = {"torch": torch.__version__, "triton": TRITON_VERSION or "unknown"}
    return " and ".join(
        f"{name} {machine.get(name, 'unknown')}, this is {version}"
        for name, version in here.items()
        if version.split(".")[:2] != machine.get(name, "unknown").split(".")[:2]
    )


def _parse(path: Path, content: Any) -> RuleFile:
    """Return the rules in `content`. Raise ValueError if it is not a valid rule file."""
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
        # Phrased so that NaN fails the check, too.
        if not (isinstance(up_to, int | float) and up_to > (parsed[-1][0] if parsed else 0)):
            raise expected
        parsed.append((up_to, bound[1]))
    if parsed[-1][0] != math.inf:
        raise expected
    return tuple(parsed)


def describe(bounds: Iterable[tuple[float | None, str]]) -> str:
    """Return a rule in words, such as "triton up to 1,448, then torch"."""
    words = [
        backend if up_to in (None, math.inf) else f"{backend} up to {up_to:,.0f}"
        for up_to, backend in bounds
    ]
    return ", then ".join(words)


def user_file(gpu: str) -> Path | None:
    """Return the path of the user's own rules for this GPU, or None if there is no cache folder."""
    try:
        folder = cache_path()
    except ImportError:  # a plain checkout may lack a dependency
        return None
    return folder / "rules" / f"{re.sub('[^A-Za-z0-9]+', '_', gpu)}.json"
