"""Show images to a vision transformer: what it names, and how often it is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from gptfast.cli.units import count
from gptfast.data.image_files import is_image, read_image
from gptfast.data.images import class_files
from gptfast.errors import MissingFileError, UserError
from gptfast.eval.report import Section
from gptfast.model.vision import VisionTransformer


def name_images(model: VisionTransformer, paths: Sequence[Path]) -> Section:
    """Return the class of each image, with its probability.

    paths: image files, and folders of image files. Raises MissingFileError or UserError.
    """
    files = [file for path in paths for file in _files(path)]
    pixels, notes = read_for(model, files)
    named = model.classify(pixels)
    return Section(
        "images",
        f"what {count(len(files), 'image')} show{'s' * (len(files) == 1)}",
        ("file", "class", "probability"),
        tuple(
            (str(file), label, f"{probability:.1%}")
            for file, (label, probability) in zip(files, named, strict=True)
        ),
        {
            "images": [
                {"file": str(file), "class": label, "probability": probability}
                for file, (label, probability) in zip(files, named, strict=True)
            ]
        },
        notes,
    )


def measure_images(model: VisionTransformer, folder: Path) -> Section:
    """Return how often a model is right for the images of a folder with a folder for each class.

    Raises UserError for a class that the model lacks.
    """
    files = class_files(folder)
    for name in files:
        if name not in model.labels:
            raise UserError(
                f"{folder / name} is no class of the model: expected folders named as its classes, "
                f"{', '.join(model.labels)}"
            )
    paths = [path for of_class in files.values() for path in of_class]
    label_B = torch.tensor(
        [model.labels.index(name) for name, of_class in files.items() for _ in of_class]
    )
    pixels, notes = read_for(model, paths)
    probability_BN = model.probabilities(pixels)
    right_B = (probability_BN.argmax(-1) == label_B).double()
    n, accuracy = len(paths), right_B.mean().item()
    chosen_B = probability_BN.gather(1, label_B[:, None]).double()
    loss = -chosen_B.clamp_min(torch.finfo(torch.float32).tiny).log().mean().item()
    rows = []
    for name, of_class in files.items():
        right = int(right_B[label_B == model.labels.index(name)].sum())
        rows.append((name, f"{len(of_class):,}", f"{right / len(of_class):.1%}"))
    error = (accuracy * (1 - accuracy) / n) ** 0.5
    return Section(
        "images",
        f"{folder}: {accuracy:.1%} of {count(n, 'image')} right (standard error {error:.1%}), "
        f"loss {loss:.4f} nats/image",
        ("class", "images", "right"),
        tuple(rows),
        {"n": n, "accuracy": accuracy, "accuracy_stderr": error, "loss": loss},
        notes,
    )


def is_labelled(path: Path) -> bool:
    """Return whether a path is a folder of folders."""
    return path.is_dir() and any(p.is_dir() and not p.name.startswith(".") for p in path.iterdir())


def read_for(model: VisionTransformer, files: Sequence[Path]) -> tuple[Tensor, tuple[str, ...]]:
    """Return images as a model takes them, uint8 (B, K, S, S), and notes on what was changed."""
    from PIL import Image

    size = model.vision.image_size
    pixels = [torch.from_numpy(read_image(file, model.vision.channels, size)) for file in files]
    n_scaled = 0
    for file in files:
        with Image.open(file) as image:
            n_scaled += image.size != (size, size)
    notes = []
    if n_scaled:
        notes.append(f"{count(n_scaled, 'image')} scaled to the model's {size} x {size} pixels")
    return torch.stack(pixels), tuple(notes)


def _files(path: Path) -> list[Path]:
    """Return a file, or the image files in a folder."""
    if not path.is_dir():
        if not path.is_file():
            raise MissingFileError(f"no image at {path}")
        return [path]
    files = sorted(filter(is_image, path.iterdir()))
    if not files:
        raise UserError(f"{path} has no images: expected files such as .png or .jpg")
    return files
