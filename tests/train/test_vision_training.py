"""`gptfast train --preset vit-*` and `gptfast eval --images`: learning, resuming, naming."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits
from torch.nn import functional as F

from gptfast import load_vision
from gptfast.data.image_files import read_image
from gptfast.errors import UserError
from gptfast.eval.__main__ import main as evaluate
from gptfast.model.vision import normalised
from gptfast.model.weights_file import read_weights
from gptfast.train.__main__ import main as train
from gptfast.train.checkpoint import State
from gptfast.train.distributed import SINGLE_PROCESS
from gptfast.train.vision import prepare_images
from gptfast.train.vision_config import VisionTrainConfig, load_vision_preset
from measured import measured
from processes import start

SMALL = [
    "--preset", "vit-digits", "--n-layer", "1", "--n-head", "2", "--n-embd", "64",
    "--max-steps", "80", "--eval-interval", "20", "--warmup-steps", "5", "--batch-size", "32",
    "--device", "cpu", "--dtype", "float32",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert train([*SMALL, "--out", str(out)]) == 0
    return out


def test_digits_are_learned(run: Path) -> None:
    result = json.loads((run / "run.json").read_text())["result"]["measured"]
    accuracies = [m["accuracy"] for m in measured(run) if "val_loss" in m]
    assert accuracies[0] < 0.3 < 0.4 < accuracies[-1]  # 10% by chance
    assert 0.4 < result["test_accuracy"] < 1
    assert not (run / "tokenizer.json").exists()


def test_the_result_is_that_of_the_saved_weights(run: Path) -> None:
    result = json.loads((run / "run.json").read_text())["result"]
    task = prepare_images(config(run), Console(quiet=True))
    data = task.objective.data  # type: ignore[attr-defined]
    model = load_vision(run)
    for part, loss, accuracy in (
        (data.val, result["val_loss"], result["measured"]["accuracy"]),
        (data.test, result["measured"]["test_loss"], result["measured"]["test_accuracy"]),
    ):
        with torch.no_grad():
            logits_BN = model(normalised(torch.from_numpy(part.pixels_NKSS)))
        labels_B = torch.from_numpy(part.labels_N)
        assert F.cross_entropy(logits_BN, labels_B).item() == pytest.approx(loss, abs=1e-6)
        assert (logits_BN.argmax(-1) == labels_B).double().mean().item() == pytest.approx(accuracy)


def config(out: Path, **changes: Any) -> VisionTrainConfig:
    return VisionTrainConfig(out=out, **{"batch_size": 8, "dtype": "float32"} | changes)


def test_a_stopped_run_resumes_to_the_same_bits(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    # Ends at step 40 of a schedule of 80, as a kill would, by deleting what came later.
    assert train([*SMALL, "--out", str(out), "--keep-checkpoints", "9"]) == 0
    for step in (60, 80):
        folder = out / "training" / f"step-{step:08d}"
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"result": None}))
    assert train([*SMALL, "--out", str(out), "--keep-checkpoints", "9", "--resume"]) == 0
    weights, again = (read_weights(folder / "model.safetensors") for folder in (run, out))
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_run_killed_goes_on_to_the_same_bits(run: Path, tmp_path: Path) -> None:
    arguments = [*SMALL, "--out", str(tmp_path / "killed")]
    team = start(1, arguments, tmp_path / "printed", train_and_be_killed, grouped=False)
    assert team.exit_codes() == [-signal.SIGKILL], team.printed()
    saved = tmp_path / "killed" / "training"
    assert max(path.name for path in saved.glob("step-*")) == "step-00000040"
    assert train([*arguments, "--resume"]) == 0
    weights, again = (read_weights(p / "model.safetensors") for p in (run, tmp_path / "killed"))
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert measured(tmp_path / "killed") == measured(run)


def train_and_be_killed(arguments: list[str]) -> int:
    """Train until the weights have changed in step 50, ten steps after a checkpoint."""
    lap = State.lap

    def lap_or_be_killed(state: State) -> float:
        if state.progress.step == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        return lap(state)

    State.lap = lap_or_be_killed  # type: ignore[assignment,method-assign]
    return train(arguments)


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    arguments = [*SMALL, "--max-steps", "20", "--eval-interval", "5", "--micro-batch-size", "8"]
    assert train([*arguments, "--out", str(tmp_path / "one")]) == 0
    start(2, [*arguments, "--out", str(tmp_path / "two")], tmp_path / "printed").finished()
    one, two = (
        [
            value
            for line in measured(tmp_path / name)
            for key, value in line.items()
            if key in ("loss", "val_loss", "accuracy")
        ]
        for name in ("one", "two")
    )
    assert len(one) >= 2 * 5 + 2
    assert two == pytest.approx(one, abs=1e-5)
    results = [
        json.loads((tmp_path / name / "run.json").read_text())["result"]["measured"]
        for name in ("one", "two")
    ]
    assert results[1] == pytest.approx(results[0], abs=1e-5)


def test_shifts_depend_on_the_seed_and_the_batch_alone(tmp_path: Path) -> None:
    console = Console(quiet=True)
    first, second, other, still = (
        prepare_images(config(tmp_path, **changes), console).source
        for changes in ({}, {}, {"seed": 3}, {"shift": 0})
    )
    first.next_batch()
    second.load_state_dict(first.state_dict())
    pixels = first.next_batch().extras["pixels"]
    assert torch.equal(second.next_batch().extras["pixels"], pixels)
    other.next_batch(), still.next_batch()
    assert not torch.equal(other.next_batch().extras["pixels"], pixels)
    assert not torch.equal(still.next_batch().extras["pixels"], pixels)


def test_a_shift_must_leave_something_of_an_image(tmp_path: Path) -> None:
    prepare_images(config(tmp_path, shift=7), Console(quiet=True))
    with pytest.raises(UserError, match="shift is 8, but the images have 8 x 8 pixels"):
        prepare_images(config(tmp_path, shift=8), Console(quiet=True))


def test_label_smoothing_is_that_of_its_definition(tmp_path: Path) -> None:
    task = prepare_images(config(tmp_path, label_smoothing=0.1), Console(quiet=True))
    model = task.new_model(torch.device("cpu")).eval()
    batch = task.source.next_batch()
    target_BN = 0.9 * F.one_hot(batch.extras["label"], 10) + 0.01
    with torch.no_grad():
        logits_BN = model(normalised(batch.extras["pixels"]))
        found = task.objective.loss(model, batch)
    expected = -(target_BN * logits_BN.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    evaluated = task.objective.evaluate(model, SINGLE_PROCESS, whole=False)
    assert evaluated.loss != pytest.approx(found.item(), abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift": -1}, "shift is -1: expected 0 or more"),
        ({"image_size": 0}, "image_size is 0: expected at least 1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0: expected from 0 to 1"),
        ({"test_fraction": 0.0}, "test_fraction is 0.0: expected 0 < test_fraction < 1"),
        ({"sample_interval": 5}, "a vision transformer writes no text"),
        ({"activation_checkpointing": True}, "activation_checkpointing: a vision transformer"),
        ({"parallel": "fsdp"}, "can't shard a vision transformer: give ddp"),
    ],
)
def test_settings_that_do_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(Path("out"), **changes)


@pytest.mark.parametrize("name", ["vit-digits", "vit-mnist", "vit-fashion"])
def test_presets_fit_their_images(name: str) -> None:
    preset = load_vision_preset(name)
    assert preset.preset == name
    assert preset.out == Path("runs") / name
    size = 8 if name == "vit-digits" else 28
    assert size % preset.model.patch_size == 0


# ---- gptfast eval --images -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 40 digits, in a folder for each class."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels, labels = load_digits(return_X_y=True)
    for i in range(40):
        (folder / str(labels[i])).mkdir(exist_ok=True)
        image = np.round(pixels[i].reshape(8, 8) * 255 / 16).astype(np.uint8)
        Image.fromarray(image).save(folder / str(labels[i]) / f"{i}.png")
    return folder


def test_a_folder_of_classes_is_measured(
    run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate([str(run), "--images", str(pictures), "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)["images"]
    pixels, labels = load_digits(return_X_y=True)
    model = load_vision(run)
    exact = np.round(pixels[:40].reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8)
    with torch.no_grad():
        logits = model(normalised(torch.from_numpy(exact)))
    target = torch.from_numpy(labels[:40])
    assert found["n"] == 40
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == target).double().mean().item())
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, target).item(), abs=1e-5)


def test_an_image_is_named_and_its_attention_drawn(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, picture = next((pictures / "0").iterdir()), tmp_path / "new" / "heads.png"
    arguments = [str(run), "--images", str(file), "--attention", str(picture), "--json"]
    assert evaluate([*arguments, "--device", "cpu"]) == 0
    (named,) = json.loads(capsys.readouterr().out)["images"]["images"]
    model = load_vision(run)
    probability_N = model.probabilities(torch.from_numpy(read_image(file, 1))[None])[0]
    assert named["class"] == model.labels[int(probability_N.argmax())]
    assert named["probability"] == pytest.approx(probability_N.max().item(), abs=1e-6)
    with Image.open(picture) as image:
        assert image.format == "PNG"
    assert picture.stat().st_size < 120_000


def test_scaling_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "wide.png")
    assert evaluate([str(run), "--images", str(tmp_path), "--device", "cpu"]) == 0
    assert "note: 1 image scaled to the model's 8 x 8 pixels" in capsys.readouterr().out


def test_what_can_not_be_named_is_refused(run: Path, pictures: Path, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        with pytest.raises(UserError) as caught:
            evaluate([str(run), *arguments, "--device", "cpu"])
        return str(caught.value)

    assert "no model reads text and images" in refused("--images", "x", "--text", "y")
    assert "expected one image file" in refused("--images", str(tmp_path), "--attention", "a.png")
    assert "has no images: expected files" in refused("--images", str(tmp_path))
    assert "no image at" in refused("--images", str(tmp_path / "none.png"))
    assert "--attention was given without --images" in refused("--text", "y", "--attention", "a")
    (tmp_path / "in" / "cat").mkdir(parents=True)
    (tmp_path / "in" / "dog").mkdir(parents=True)
    for name in ("cat", "dog"):
        Image.new("L", (8, 8)).save(tmp_path / "in" / name / "1.png")
    assert "cat is no class of the model" in refused("--images", str(tmp_path / "in"))
    given = refused("--images", str(pictures), str(pictures))
    assert "give a folder of classes alone" in given
