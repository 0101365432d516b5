"""`gptfast audit scaling`: the same training in several sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from gptfast.audit.power_law import PowerLaw, Prediction
from gptfast.audit.scaling import Law, Scaling, matrix_parameters, target_size, training
from gptfast.audit.scaling_options import ScalingConfig
from gptfast.audit.scaling_report import remarks
from gptfast.cli import cli
from gptfast.errors import UserError
from gptfast.model import build_model


def test_matrix_parameters_are_those_of_the_layers_and_of_the_output() -> None:
    config = training(ScalingConfig(out=Path("x"), vocab_size=300), 48, 1)
    model = build_model(config.model)
    layers = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    assert matrix_parameters(config.model) == layers + 300 * 48


def test_sizes_differ_in_width_alone_or_with_fit_also_in_tokens() -> None:
    same = ScalingConfig(out=Path("x"), tokens=2048 * 100)
    narrow, wide = training(same, 32, 1), training(same, 64, 1)
    assert narrow.max_steps == wide.max_steps == 100
    assert (narrow.model.n_head, wide.model.n_head) == (2, 4)
    assert replace(wide.model, n_embd=32, n_head=2) == narrow.model
    fitted = replace(same, fit=True, sizes=(32, 48, 64, 80), seeds=(1, 2), tokens_per_parameter=10)
    for size in fitted.sizes:
        run = training(fitted, size, 1)
        assert run.max_steps * 2048 / matrix_parameters(run.model) == pytest.approx(10, rel=0.02)


def test_the_target_costs_about_four_times_as_much() -> None:
    config = ScalingConfig(
        out=Path("x"), fit=True, sizes=(32, 48, 64, 80), seeds=(1, 2), n_layer=2, vocab_size=512
    )
    target, largest = (training(config, size, 1) for size in (target_size(config), 80))
    # 6 N D with D = 20 N; attention's share, which grows with the context alone, is left out.
    cost = [matrix_parameters(run.model) ** 2 for run in (target, largest)]
    assert 3 < cost[0] / cost[1] < 5.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (64, 100)}, "size 100: expected multiples of 16"),
        ({"sizes": ()}, "expected one or more"),
        ({"seeds": (1, 1)}, r"seeds are \(1, 1\): expected one or more, each once"),
        ({"tokens": 0}, "tokens is 0: expected at least 1"),
        ({"fit": True, "seeds": (1, 2)}, "3 sizes given with --fit: expected 4 or more"),
        ({"fit": True, "sizes": (16, 32, 48, 64)}, "1 seeds given with --fit: expected 2 or more"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ScalingConfig(out=Path("x"), **options)  # type: ignore[arg-type]


@pytest.mark.integration
def test_two_sizes_are_trained_measured_and_not_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gptfast.audit.__main__ import main

    text = "\n\n".join(f"The {i}th line says {i * i} and then stops." for i in range(900))
    (tmp_path / "text.txt").write_text(text)
    command = [
        "scaling", "--corpus", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"),
        "--sizes", "16", "32", "--n-layer", "1", "--block-size", "32", "--vocab-size", "300",
        "--tokens", "2048",
    ]  # fmt: skip
    assert cli.run(main, command) == 0
    printed = capsys.readouterr().out
    assert "1 seed of each size: differences between neighbours may be chance" in printed
    assert max(map(len, printed[printed.index("means over") :].split("\n\n")[0].split("\n"))) <= 80
    content = json.loads((tmp_path / "out" / "scaling.json").read_text())
    small, large = content["runs"]
    for size, run in ((16, small), (32, large)):
        record = json.loads((tmp_path / "out" / f"size-{size}-seed-1" / "run.json").read_text())
        assert run["val_loss"] == record["result"]["val_loss"]
        assert run["tokens"] == record["result"]["steps"] * 16 * 32 == 2048
        assert (
            run["parameters"]
            == build_model(
                training(
                    ScalingConfig(out=tmp_path, n_layer=1, block_size=32, vocab_size=300), size, 1
                ).model
            ).n_parameters()
        )
    assert large["compute"] > 2 * small["compute"]
    assert content["law"] is None
    assert (tmp_path / "out" / "scaling.png").read_bytes().startswith(b"\x89PNG")

    weights = tmp_path / "out" / "size-32-seed-1" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert cli.run(main, command) == 0
    assert weights.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "out" / "scaling.json").read_text()) == content


@pytest.mark.integration
def test_a_missing_corpus_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from gptfast.audit.__main__ import main

    out = str(tmp_path / "out")
    assert cli.run(main, ["scaling", "--corpus", "nowhere.txt", "--out", out]) == 2
    said = capfd.readouterr().err
    assert "nowhere.txt" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("reached", "word"), [(2.05, "inside"), (2.3, "OUTSIDE")])
def test_a_miss_is_said(reached: float, word: str, tmp_path: Path) -> None:
    from gptfast.audit.scaling import Run, Writing

    writing = Writing(0.1, 0.1, 0.9, 0.8, "text")
    run = Run(96, 1, 1, 1, 1, 0.5, 1e12, reached, 2.0, 1.0, 1, 1, writing)
    law = Law(PowerLaw(1.0, 8.0, 0.1), Prediction(4e12, 2.1, 2.0, 2.2, 0.9), run)
    said = remarks(Scaling([run], law))[-1]
    assert word in said
    assert f"{2.1 / reached - 1:+.1%}" in said
