"""Measuring which backend `auto` should take on this GPU, and writing it where `auto` looks.

Each kind of work is timed at a few sizes. Between two sizes with different winners the rule changes
at their geometric mean; beyond the largest the last winner stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from gptfast.bench.cases import (
    Case,
    Setting,
    attention_case,
    decode_attention_case,
    linear_cross_entropy_case,
    norm_cases,
)
from gptfast.bench.measure import Measurement
from gptfast.bench.workloads import Pass, Workload
from gptfast.ops.rules import Work
from gptfast.system.files import write_text_atomically

# What of a machine's description says which code was measured.
CODE = ("torch", "triton", "gptfast", "commit")
# What a rule may name: of these, ours first.
CANDIDATES = ("triton", "torch")


@dataclass(frozen=True)
class Timed:
    """A kind of work at one size, and how long each backend took."""

    rule: str
    size: int
    milliseconds: dict[str, float]
    """Of the backends that could do it, and agreed with PyTorch's."""

    @staticmethod
    def of(work: Work, measurements: Sequence[Measurement]) -> Timed:
        """Return what was measured of a kind of work."""
        milliseconds = {m.implementation: m.timing.milliseconds for m in measurements if m.timing}
        return Timed(work.rule, work.size, milliseconds)


def cases(setting: Setting) -> Iterator[tuple[Work, Workload]]:
    """Return everything that rules are made from: training and inference, in the setting's dtype.

    Nothing is allocated before `make_inputs`.
    """
    for is_training in (True, False):
        for case in (*_attention(setting), *_norms(setting), *_losses(setting)):
            yield _between_backends(case, setting, is_training)
    for case in _decoding(setting):
        yield _between_backends(case, setting, is_training=False)


def bounds(timed: Iterable[Timed]) -> dict[str, list[tuple[float | None, str]]]:
    """Return for each rule (up to which size, which backend), ascending; None is no bound."""
    groups: dict[str, list[Timed]] = {}
    for case in timed:
        if case.milliseconds:
            groups.setdefault(case.rule, []).append(case)
    rules = {}
    for rule, group in groups.items():
        group.sort(key=lambda case: case.size)
        winners = [min(case.milliseconds, key=case.milliseconds.__getitem__) for case in group]
        found: list[tuple[float | None, str]] = []
        for i, winner in enumerate(winners[:-1]):
            if winner != winners[i + 1]:
                found.append((math.sqrt(group[i].size * group[i + 1].size), winner))
        rules[rule] = [*found, (None, winners[-1])]
    return rules


def write(path: Path, machine: dict[str, str], timed: Iterable[Timed]) -> None:
    """Write a rule file, whole or not at all."""
    timed = list(timed)
    content: dict[str, Any] = {
        "machine": machine,
        "rules": bounds(timed),
        "measured": [
            {"rule": case.rule, "size": case.size, "milliseconds": case.milliseconds}
            for case in timed
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(content, indent=1) + "\n")


def of_others(path: Path, machine: dict[str, str], only: Collection[str]) -> list[Timed]:
    """Return what a rule file holds of other ops than `only`, if this same code was measured.

    Nothing if `only` is empty, which means all ops, or if there is no such file.
    """
    if not only:
        return []
    try:
        content = json.loads(path.read_bytes())
        same = all(content["machine"].get(name) == machine.get(name) for name in CODE)
        timed = [Timed(**case) for case in content["measured"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [case for case in timed if same and case.rule.split(",")[0] not in only]


def _between_backends(case: Case, setting: Setting, is_training: bool) -> tuple[Work, Workload]:
    workload = Workload(
        case.op,
        case.title,
        Pass.BOTH if is_training else Pass.FORWARD,
        lambda: case.make_inputs(setting, is_training),
        {backend: partial(case.call, backend=backend) for backend in CANDIDATES},
        work=0.0,
        unit="GB/s",
    )
    on_paper = case.make_inputs(replace(setting, device="meta"), is_training)
    return case.work(*on_paper), workload


def _attention(setting: Setting) -> Iterator[Case]:
    widths, lengths = ((16,), (9, 20)) if setting.tiny else ((64, 128), (256, 1024, 4096, 16_384))
    for D in widths:
        for T in lengths:
            B, H = (1, 1) if setting.tiny else (16_384 // T, 1024 // D)
            yield attention_case(B, H, T, D)
            yield attention_case(B, H, T, D, window=max(T // 4, 8))


def _norms(setting: Setting) -> Iterator[Case]:
    if setting.tiny:
        yield from norm_cases(5, 70)
    else:
        for C in (768, 4096):
            for M in (256, 4096, 65_536):
                yield from norm_cases(M, C)


def _losses(setting: Setting) -> Iterator[Case]:
    if setting.tiny:
        yield linear_cross_entropy_case(20, 130, 16)
    else:
        yield linear_cross_entropy_case(1024, 50_304, 768)
        yield linear_cross_entropy_case(16_384, 50_304, 768)


def _decoding(setting: Setting) -> Iterator[Case]:
    heads = ((4, 2, 16),) if setting.tiny else ((12, 12, 64), (32, 8, 128))
    sizes = ((1, 20), (2, 40)) if setting.tiny else ((1, 1024), (8, 1024), (8, 8192), (64, 8192))
    for H, G, D in heads:
        for B, S in sizes:
            yield decode_attention_case(B, H, G, S, D)
            yield decode_attention_case(B, H, G, S, D, has_lengths=True)
