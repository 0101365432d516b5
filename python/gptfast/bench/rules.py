"""Measuring which backend `auto` should take on this GPU, and writing it where `auto` looks.

Each kind of work is timed at a few sizes. Between two sizes with different winners the rule changes
at their geometric mean; beyond the largest the last winner stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptfast.bench.measure import Measurement
from gptfast.bench.workloads import Pass, Setting, Workload
from gptfast.ops import attention, decode_attention, layer_norm, linear_cross_entropy, rms_norm
from gptfast.ops.attention import work as attention_work
from gptfast.ops.decode_attention import work as decode_attention_work
from gptfast.ops.linear_cross_entropy import work as linear_cross_entropy_work
from gptfast.ops.norm import work as norm_work
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
    """Everything that rules are made from: training and inference, in the setting's dtype.

    Nothing is allocated before `make_inputs`.
    """
    for is_training in (True, False):
        yield from _attention(setting, is_training)
        yield from _norms(setting, is_training)
        yield from _losses(setting, is_training)
    yield from _decoding(setting)


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


def _case(
    work: Callable[..., Work],
    title: str,
    setting: Setting,
    is_training: bool,
    make_inputs: Callable[[Setting], list[Tensor]],
    op: Callable[..., Any],
) -> tuple[Work, Workload]:
    """Let `op(*inputs, backend=...)` be timed as what `work(*inputs)` describes."""
    described = work(*make_inputs(replace(setting, device="meta")))
    workload = Workload(
        described.op,
        title,
        Pass.BOTH if is_training else Pass.FORWARD,
        lambda: make_inputs(setting),
        {backend: partial(op, backend=backend) for backend in CANDIDATES},
        work=0.0,
        unit="GB/s",
    )
    return described, workload


def _attention(setting: Setting, is_training: bool) -> Iterator[tuple[Work, Workload]]:
    widths, lengths = ((16,), (17, 40)) if setting.tiny else ((64, 128), (256, 1024, 4096, 16_384))
    for D in widths:
        for T in lengths:
            B, H = (1, 2) if setting.tiny else (16_384 // T, 1024 // D)

            def make_inputs(
                setting: Setting, shape: tuple[int, ...] = (B, H, T, D)
            ) -> list[Tensor]:
                return [setting.randn(*shape, training=is_training) for _ in range(3)]

            for window in (None, max(T // 4, 8)):
                yield _case(
                    partial(attention_work, is_bounded=window is not None, dropout_p=0.0),
                    f"D{D} T{T}{', window' if window else ''}",
                    setting,
                    is_training,
                    make_inputs,
                    partial(attention, window=window),
                )


def _norms(setting: Setting, is_training: bool) -> Iterator[tuple[Work, Workload]]:
    sizes = [(5, 70)] if setting.tiny else [
        (M, C) for C in (768, 4096) for M in (256, 4096, 65_536)
    ]  # fmt: skip
    for M, C in sizes:
        row, vector = (M, C), (C,)
        for work, shapes, op in (
            (partial(norm_work, "layer_norm"), (row, vector, vector), layer_norm),
            (partial(norm_work, "rms_norm"), (row, vector), rms_norm),
        ):

            def make_inputs(
                setting: Setting, shapes: tuple[tuple[int, ...], ...] = shapes
            ) -> list[Tensor]:
                return [setting.randn(*shape, training=is_training) for shape in shapes]

            yield _case(
                work,
                f"{M} x {C}",
                setting,
                is_training,
                make_inputs,
                op,
            )


def _losses(setting: Setting, is_training: bool) -> Iterator[tuple[Work, Workload]]:
    V, C = (130, 16) if setting.tiny else (50_304, 768)
    for M in (20,) if setting.tiny else (1024, 16_384):

        def make_inputs(setting: Setting, M: int = M) -> list[Tensor]:
            hidden = setting.randn(M, C, training=is_training)
            weight = setting.randn(V, C, scale=C**-0.5, training=is_training)
            return [hidden, weight, torch.randint(V, (M,), device=setting.device)]

        yield _case(
            lambda hidden, weight, targets: linear_cross_entropy_work(hidden, weight),
            f"M{M} V{V} C{C}",
            setting,
            is_training,
            make_inputs,
            linear_cross_entropy,
        )


def _decoding(setting: Setting) -> Iterator[tuple[Work, Workload]]:
    heads = ((4, 2, 16),) if setting.tiny else ((12, 12, 64), (32, 8, 128))
    for H, G, D in heads:
        for B, S in (
            ((1, 40), (2, 150)) if setting.tiny else ((1, 1024), (8, 1024), (8, 8192), (64, 8192))
        ):
            q_shape, k_shape = (B, H, 1, D), (B, G, S, D)
            for has_lengths in (False, True):

                def make_inputs(
                    setting: Setting,
                    shapes: tuple[tuple[int, ...], ...] = (q_shape, k_shape, k_shape),
                    has_lengths: bool = has_lengths,
                ) -> list[Tensor]:
                    q, k, v = (setting.randn(*shape, training=False) for shape in shapes)
                    lengths = torch.full((k.shape[0],), k.shape[2] - 3, device=setting.device)
                    return [q, k, v, lengths] if has_lengths else [q, k, v]

                yield _case(
                    lambda q, k, v, lengths=None: decode_attention_work(q, k, lengths is not None),
                    f"D{D} B{B}, {S} keys{', lengths' if has_lengths else ''}",
                    setting,
                    is_training=False,
                    make_inputs=make_inputs,
                    op=decode_attention,
                )
