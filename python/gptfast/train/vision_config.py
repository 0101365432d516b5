"""The settings of training a vision transformer. Needs no PyTorch, so that `--help` is quick."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gptfast.cli.path import PATH
from gptfast.errors import UserError
from gptfast.model.vision_config import VisionOptions
from gptfast.train.config import (
    PRESETS,
    DisplayOptions,
    EvaluationOptions,
    OptimizerOptions,
    PresetOptions,
    RunConfig,
    RunOptions,
)

VISION_PRESETS = PRESETS / "images"


@dataclass(frozen=True)
class ImageOptions:
    """The images to train on."""

    images: Annotated[str, PATH] = "digits"
    """'digits' (8 x 8 pixels, of scikit-learn), 'mnist-5k', 'fashion-mnist', a folder with a folder
    of images for each class, a folder of IDX files, or Debian's dataset-fashion-mnist_*.deb."""
    image_size: int | None = None
    """Height and width to which the images of a folder are scaled. By default, all must be squares
    of one size."""
    shift: int = 1
    """Move each image by up to this many pixels along both axes, at random, in training. Black
    comes in at the border."""
    label_smoothing: float = 0.0
    """Share of the target's probability that is spread over all classes, in training."""
    val_fraction: float = 0.1
    """Share of the images of each class that choose among the weights of the run."""
    test_fraction: float = 0.2
    """Share of the images of each class to test with, once, at the end. IDX files have a
    separate test part."""


_SMALL = VisionOptions()


@dataclass(frozen=True, kw_only=True)
class VisionTrainConfig(RunConfig, ImageOptions, PresetOptions):
    """The settings of training on images. Raises UserError for impossible values."""

    model: VisionOptions = _SMALL
    """The model."""
    batch_size: int = 64
    """Images per step."""
    eval_windows: int = 1000
    """Val images per evaluation, spread evenly. The final evaluation uses all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("val_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected 0 < {name} < 1")
        if self.image_size is not None and self.image_size < 1:
            raise UserError(f"image_size is {self.image_size}: expected at least 1")
        if self.shift < 0:
            raise UserError(f"shift is {self.shift}: expected 0 or more")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing is {self.label_smoothing}: expected from 0 to 1")
        if self.sample_interval:
            raise UserError("sample_interval: a vision transformer writes no text; leave it out")
        if self.activation_checkpointing:
            raise UserError("activation_checkpointing: a vision transformer has none; leave it out")
        if self.parallel == "fsdp":
            raise UserError("parallel 'fsdp' can't shard a vision transformer: give ddp")


GROUPS: dict[str, type] = {
    "preset": PresetOptions,
    "run": RunOptions,
    "images": ImageOptions,
    "model": VisionOptions,
    "optimizer": OptimizerOptions,
    "evaluation": EvaluationOptions,
    "display": DisplayOptions,
}
"""The groups of `gptfast train --preset vit-digits --help`, in the order of a user's needs."""


def is_vision_preset(name: str) -> bool:
    """Return whether a preset trains on images."""
    return name in {file.stem for file in VISION_PRESETS.glob("*.json")}


def load_vision_preset(name: str) -> VisionTrainConfig:
    """Load the configuration of a preset that trains on images."""
    values = json.loads((VISION_PRESETS / f"{name}.json").read_text(encoding="utf-8"))
    model = VisionOptions(**values.pop("model"))
    return VisionTrainConfig(preset=name, out=Path(f"runs/{name}"), model=model, **values)
