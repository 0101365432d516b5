"""Measuring which backend `auto` should take on this GPU, and writing it where `auto` looks.

Each kind of work is timed at a few sizes. Between two sizes with different winners the rule changes
at their geometric mean; beyond the largest the last winner stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptfast.bench.measure import Measurement, measure
from gptfast.bench.workloads import Pass, Setting, Workload
from gptfast.fsync import write_text_atomically
from gptfast.ops import attention, decode_attention, layer_norm, linear_cross_entropy, rms_norm
from gptfast.ops.attention import work as attention_work
from gptfast.ops.decode_attention import work as decode_attention_work
from gptfast.ops.linear_cross_entropy import work as linear_cross_entropy_work
from gptfast.ops.norm import work as norm_work
from gptfast.ops.rules import Work

# What a rule may name: of these, ours first.
CANDIDATES = ("triton", "torch")


@dataclass(frozen=True)
class Timed:
    """A kind of work at one size, and how long each backend took."""

    rule: str
    size: int
    milliseconds: dict[str, float]
    """Of the backends that could do it."""


def cases(setting: Setting) -> Iterator[tuple[Work, Workload]]:
    """Everything that rules are made from: training and inference, in the setting's dtype."""
    for is_training in (True, False):
        yield from _attention(setting, is_training)
        yield from _norms(setting, is_training)
        yield from _losses(setting, is_training)
    yield from _decoding(setting)


def time_cases(setting: Setting, timed: bool = True) -> Iterator[tuple[Timed, list[Measurement]]]:
    """Time every case, one after the other."""
    for work, workload in cases(setting):
        measurements = measure(workload, timed)
        milliseconds = {m.implementation: m.timing.milliseconds for m in measurements if m.timing}
        yield Timed(work.rule, work.size, milliseconds), measurements


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


def _workload(op: str, title: str, is_training: bool, **fields: Any) -> Workload:
    passes = Pass.BOTH if is_training else Pass.FORWARD
    return Workload(op, title, passes, work=0.0, unit="GB/s", **fields)


def _attention(setting: Setting, is_training: bool) -> Iterator[tuple[Work, Workload]]:
    widths, lengths = ((16,), (17, 40)) if setting.tiny else ((64, 128), (256, 1024, 4096, 16_384))
    for D in widths:
        for T in lengths:
            B, H = (1, 2) if setting.tiny else (16_384 // T, 1024 // D)
            for options in ({}, {"window": max(T // 4, 8)}):
                q, k, v = (setting.randn(B, H, T, D, training=is_training) for _ in range(3))
                yield (
                    attention_work(q, k, v, bool(options), 0.0),
                    _workload(
                        "attention",
                        f"D{D} T{T}{', window' if options else ''}",
                        is_training,
                        make_inputs=lambda q=q, k=k, v=v: [q, k, v],
                        implementations={
                            b: lambda *x, b=b, o=options: attention(*x, **o, backend=b)
                            for b in CANDIDATES
                        },
                    ),
                )


def _norms(setting: Setting, is_training: bool) -> Iterator[tuple[Work, Workload]]:
    sizes = [(5, 70)] if setting.tiny else [
        (M, C) for C in (768, 4096) for M in (256, 4096, 65_536)
    ]  # fmt: skip
    for M, C in sizes:
        x, residual = (setting.randn(M, C, training=is_training) for _ in range(2))
        weight, bias = (setting.randn(C, training=is_training) for _ in range(2))
        layer: dict[str, Any] = {
            b: lambda x, w, bias, b=b: layer_norm(x, w, bias, backend=b) for b in CANDIDATES
        }
        rms: dict[str, Any] = {b: lambda x, w, b=b: rms_norm(x, w, backend=b) for b in CANDIDATES}
        with_residual: dict[str, Any] = {
            b: lambda x, w, r, b=b: rms_norm(x, w, residual=r, backend=b) for b in CANDIDATES
        }
        for op, tensors, parts, implementations in (
            ("layer_norm", (x, weight, bias), (weight, bias, None), layer),
            ("rms_norm", (x, weight), (weight, None, None), rms),
            ("rms_norm", (x, weight, residual), (weight, None, residual), with_residual),
        ):
            yield (
                norm_work(op, x, *parts),
                _workload(
                    op,
                    f"{M} x {C}" + (", residual" if parts[2] is not None else ""),
                    is_training,
                    make_inputs=lambda tensors=tensors: list(tensors),
                    implementations=implementations,
                ),
            )


def _losses(setting: Setting, is_training: bool) -> Iterator[tuple[Work, Workload]]:
    V, C = (130, 16) if setting.tiny else (50_304, 768)
    for M in (20,) if setting.tiny else (1024, 16_384):
        hidden = setting.randn(M, C, training=is_training)
        weight = setting.randn(V, C, scale=C**-0.5, training=is_training)
        targets = torch.randint(V, (M,), device=setting.device)
        yield (
            linear_cross_entropy_work(hidden, weight),
            _workload(
                "linear_cross_entropy",
                f"M{M} V{V} C{C}",
                is_training,
                make_inputs=lambda hidden=hidden, weight=weight: [hidden, weight],
                implementations={
                    b: lambda h, w, b=b, t=targets: linear_cross_entropy(h, w, t, backend=b)
                    for b in CANDIDATES
                },
            ),
        )


def _decoding(setting: Setting) -> Iterator[tuple[Work, Workload]]:
    heads = ((4, 2, 16),) if setting.tiny else ((12, 12, 64), (32, 8, 128))
    for H, G, D in heads:
        for B, S in (
            ((1, 40), (2, 150)) if setting.tiny else ((1, 1024), (8, 1024), (8, 8192), (64, 8192))
        ):
            for has_lengths in (False, True):
                q = setting.randn(B, H, 1, D, training=False)
                k, v = (setting.randn(B, G, S, D, training=False) for _ in range(2))
                lengths = torch.full((B,), S - 3, device=setting.device) if has_lengths else None
                yield (
                    decode_attention_work(q, k, has_lengths),
                    _workload(
                        "decode_attention",
                        f"D{D} B{B}, {S} keys{', lengths' if has_lengths else ''}",
                        is_training=False,
                        make_inputs=lambda q=q, k=k, v=v: [q, k, v],
                        implementations={
                            b: lambda q, k, v, b=b, n=lengths: decode_attention(
                                q, k, v, n, backend=b
                            )
                            for b in CANDIDATES
                        },
                    ),
                )
