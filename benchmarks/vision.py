"""Train a vision transformer with `gptfast train`, and print its accuracy beside classical models.

    python benchmarks/vision.py digits|mnist|fashion [--out FOLDER] [--images DEB]

All are tested with the same images. The classical models learn from the train and the val images,
because they choose nothing by the val images; the vision transformer learns from the train images.
Needs the extra `vision`.

Legend: N images, D pixels of an image.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from gptfast.data.images import LabelledImages, load_images
from gptfast.train.vision_config import load_vision_preset

MOST_FOR_SVM = 10_000
"""Images that the SVM learns from: its time grows with their square, to hours for 60,000."""


@dataclass(frozen=True)
class Row:
    """What one model reached."""

    model: str
    accuracy: float
    cpu_seconds: float
    wall_seconds: float
    n_trained_on: int


def flat(images: LabelledImages) -> np.ndarray:
    """Pixels from 0 to 1, (N, D)."""
    return images.pixels_NKSS.reshape(len(images), -1) / np.float32(255)


def classical(train: LabelledImages, test: LabelledImages) -> list[Row]:
    models: dict[str, Callable[[], Any]] = {
        "logistic regression": lambda: LogisticRegression(max_iter=200),
        "3 nearest neighbours": lambda: KNeighborsClassifier(3),
        "SVM (RBF, C=10)": lambda: SVC(C=10),
    }
    rows = []
    for name, make in models.items():
        n = min(len(train), MOST_FOR_SVM) if "SVM" in name else len(train)
        chosen = train.at(range(n))
        cpu, wall = time.process_time(), time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # stopped after max_iter
            model = make().fit(flat(chosen), chosen.labels_N)
        accuracy = float(model.score(flat(test), test.labels_N))
        rows.append(Row(name, accuracy, time.process_time() - cpu, time.monotonic() - wall, n))
    return rows


def vision_transformer(preset: str, out: Path, arguments: list[str], n: int) -> Row:
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "gptfast.train", "--preset", preset, "--out", str(out)]
    subprocess.run([*command, *arguments], check=True, stdout=sys.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    result = json.loads((out / "run.json").read_text())["result"]
    name = f"vision transformer, {preset}"
    return Row(name, result["measured"]["test_accuracy"], cpu, time.monotonic() - wall, n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", choices=["digits", "mnist", "fashion"])
    parser.add_argument("--images", dest="path", help="where the images are, if not installed")
    parser.add_argument("--out", type=Path, help="a folder for the model")
    parser.add_argument("--max-steps", type=int, help="fewer or more than the preset's")
    given = parser.parse_args()
    config = load_vision_preset(f"vit-{given.images}")
    arguments = [] if given.path is None else ["--images", given.path]
    if given.max_steps is not None:
        arguments += ["--max-steps", str(given.max_steps)]
    data = load_images(
        given.path or config.images,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
    )
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data.train) + len(data.val))
    both = LabelledImages(
        np.concatenate([data.train.pixels_NKSS, data.val.pixels_NKSS])[order],
        np.concatenate([data.train.labels_N, data.val.labels_N])[order],
    )
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder) / "vit"
        rows = [vision_transformer(config.preset, out, arguments, len(data.train))]
    rows += classical(both, data.test)
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(
        f"{data.name}: {len(data.test):,} test images; {os.cpu_count()} cores, "
        f"OMP_NUM_THREADS {threads}\n"
    )
    print("| model | trained on | test images right | standard error | CPU s | wall s |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        error = (row.accuracy * (1 - row.accuracy) / len(data.test)) ** 0.5
        print(
            f"| {row.model} | {row.n_trained_on:,} | {row.accuracy:.1%} | {error:.1%} | "
            f"{row.cpu_seconds:.1f} | {row.wall_seconds:.1f} |"
        )
    best = max(rows, key=lambda row: row.accuracy)
    print(f"\nbest: {best.model}")


if __name__ == "__main__":
    main()
