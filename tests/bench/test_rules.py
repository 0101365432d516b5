"""Rules: from times to a file, and from the file to what `auto` takes."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch

from gptfast.bench.rules import Timed, bounds, write
from gptfast.doctor.__main__ import _rules as doctor_rules
from gptfast.ops import rules
from gptfast.ops.attention import work as attention_work
from gptfast.ops.dispatch import preference
from gptfast.ops.rules import Work, current_rules, describe, fastest
from gptfast.ops.versions import TRITON_VERSION

CUDA = torch.device("cuda", 0)
HERE = {"gpu": "NVIDIA H100 80GB", "torch": torch.__version__, "triton": TRITON_VERSION or ""}


def timed(rule: str, size: int, **milliseconds: float) -> Timed:
    return Timed(rule, size, milliseconds)


TIMES = [
    timed("attention, training", 4096, triton=4.0, torch=3.0),
    timed("attention, training", 256, triton=1.0, torch=2.0),
    timed("attention, training", 1024, triton=1.0, torch=2.0),
    timed("layer_norm, training", 10, triton=2.0, torch=1.0),
    timed("layer_norm, training", 1000, triton=1.0, torch=1.5),
    timed("rms_norm, training", 10, torch=1.0),  # ours could not run
    timed("decode_attention, inference", 10),  # neither could
]


def test_bounds_lie_between_the_sizes_measured() -> None:
    assert bounds(TIMES) == {
        "attention, training": [(2048.0, "triton"), (None, "torch")],  # the root of 1,024 * 4,096
        "layer_norm, training": [(100.0, "torch"), (None, "triton")],
        "rms_norm, training": [(None, "torch")],
    }


def test_a_rule_in_words() -> None:
    assert describe([(2048.4, "triton"), (math.inf, "torch")]) == "triton up to 2,048, then torch"
    assert describe([(None, "torch")]) == "torch"


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the rules of the GPU that these tests pretend to have are read."""
    monkeypatch.setenv("GPTFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA H100 80GB")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(rules, "SHIPPED", tmp_path / "shipped")
    current_rules.cache_clear()
    path = rules.user_file("NVIDIA H100 80GB")
    assert path == tmp_path / "cache" / "rules" / "NVIDIA_H100_80GB.json"
    yield path
    current_rules.cache_clear()


def test_auto_follows_the_users_rules(own_file: Path) -> None:
    short, long = (Work("attention", "training", size) for size in (2048, 2049))
    assert preference(short, CUDA) == ("torch", "triton", "reference")
    current_rules.cache_clear()
    write(own_file, HERE, TIMES)
    assert preference(short, CUDA) == ("triton", "torch", "reference")
    assert preference(long, CUDA) == ("torch", "triton", "reference")
    assert preference(short, torch.device("cpu")) == ("torch", "reference")
    # Not measured, and what only we have.
    assert preference(Work("attention", "inference", 9), CUDA) == ("torch", "triton", "reference")
    assert preference(Work("rotary", "training", 9), CUDA) == ("triton", "reference")


@pytest.mark.parametrize(
    ("op", "eager", "compiled"),
    [("layer_norm", "triton", "torch"), ("rms_norm", "triton", "torch"),
     ("rotary", "triton", "reference"), ("attention", "triton", "triton")],
)  # fmt: skip
def test_auto_leaves_to_the_compiler_what_it_fuses(
    own_file: Path, op: str, eager: str, compiled: str
) -> None:
    write(own_file, HERE, [*TIMES[:5], timed("rms_norm, training", 10, triton=1.0, torch=2.0)])
    numbers = {"triton": 1, "torch": 2, "reference": 3}

    def number(x: torch.Tensor) -> torch.Tensor:
        return x * numbers[preference(Work(op, "training", 1000), CUDA)[0]]

    one = torch.ones(1)
    assert number(one).item() == numbers[eager]
    assert torch.compile(number, fullgraph=True, backend="eager")(one).item() == numbers[compiled]


def test_the_users_rules_come_before_those_shipped(own_file: Path) -> None:
    work = Work("layer_norm", "training", 10)
    shipped = rules.SHIPPED / "sm_90.json"
    write(shipped, HERE, [timed("layer_norm, training", 5, triton=1.0, torch=2.0)])
    assert fastest(work, CUDA) == "triton"
    current_rules.cache_clear()
    write(own_file, HERE, TIMES)
    assert fastest(work, CUDA) == "torch"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"machine": {}}',
        '{"machine": {}, "rules": []}',
        '{"machine": {"torch": 2}, "rules": {}}',
        *(
            json.dumps({"machine": HERE, "rules": {"a": bounds}})
            for bounds in (
                None,
                [],
                [[None, "cuda"]],
                [["x", "torch"], [None, "torch"]],
                [[math.nan, "triton"], [None, "torch"]],
                [[9, "triton"], [5, "torch"], [None, "torch"]],
                [[9, "triton"]],
            )
        ),
    ],
)
def test_a_damaged_file_is_left_out_with_a_warning(
    own_file: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    own_file.parent.mkdir(parents=True)
    own_file.write_text(content)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert fastest(Work("attention", "training", 1), CUDA) is None
    assert len(caplog.records) == 1
    assert "is not a valid rule file" in caplog.text
    assert "gptfast bench ops --write-rules" in caplog.text


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_rules_measured_with_another_version_are_not_followed(
    own_file: Path,
    name: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(own_file, {**HERE, name: "1.9.3"}, TIMES)
    with caplog.at_level(logging.WARNING):
        for size in (10, 20):
            assert fastest(Work("attention", "training", size), CUDA) is None
    (record,) = caplog.records
    assert f"it was measured with {name} 1.9.3, this is {HERE[name]}; " in record.message
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert doctor_rules()[0] == f"rules: {record.message}"


def test_a_patch_release_changes_no_rule(own_file: Path) -> None:
    write(own_file, {**HERE, "torch": ".".join(torch.__version__.split(".")[:2]) + ".99"}, TIMES)
    assert fastest(Work("attention", "training", 10), CUDA) == "triton"


def test_few_queries_are_a_kind_of_their_own() -> None:
    q, k = torch.empty(1, 2, 10, 64), torch.empty(1, 2, 40, 64)
    usual = attention_work(k, k, k, False, 0.0)
    assert attention_work(q, k, k, False, 0.0) == Work(
        "attention", usual.kind + ", few queries", 40
    )
    assert attention_work(k[:, :, :11], k, k, False, 0.0) == usual


def test_reading_the_rules_does_not_break_a_compiled_graph(own_file: Path) -> None:
    write(own_file, HERE, TIMES)

    def scale(x: torch.Tensor) -> torch.Tensor:
        chosen = preference(Work("attention", "training", x.shape[0]), CUDA)[0]
        return x * (2 if chosen == "triton" else 3)

    compiled = torch.compile(scale, fullgraph=True, dynamic=True, backend="eager")
    for size, factor in ((1000, 2), (3000, 3), (1001, 2)):
        assert compiled(torch.ones(size)).unique().item() == factor


def test_doctor_shows_the_rules(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "none for this GPU" in doctor_rules()[0]
    current_rules.cache_clear()
    write(own_file, HERE, TIMES)
    assert doctor_rules() == [
        f"rules: {own_file}, measured on gpu NVIDIA H100 80GB, torch {HERE['torch']}, "
        f"triton {HERE['triton']}",
        "  attention, training: triton up to 2,048, then torch",
        "  layer_norm, training: torch up to 100, then triton",
        "  rms_norm, training: torch",
    ]
