"""Read images: files that Pillow opens, and the IDX files of MNIST and its successors.

Legend: N images, K colour channels, S height and width, H height and W width.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from gptfast.errors import MissingFileError, UserError

Pixels = npt.NDArray[np.uint8]
T = TypeVar("T")

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Endings of the names of image files, in lower case."""

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
"""Pillow's modes whose pixels have 8 bits per colour or less."""
_IDX = re.compile(r"(train|t10k|test)[-_.](images|labels)[-_.]idx[13][-_.]ubyte(\.gz)?")

# ---- image files ---------------------------------------------------------------------------------


def is_image(path: Path) -> bool:
    """Return whether the name of a file is that of an image. Hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def is_grey(path: Path) -> bool:
    """Return whether an image file has no colours. Raises as `read_image` does."""
    return _opened(path, lambda image: bool(image.mode in ("1", "L", "LA")))


def read_image(path: Path, channels: int, image_size: int | None = None) -> Pixels:
    """Read an image, turned as its EXIF data says: (K, S, S), from 0 to 255.

    channels: 1 to convert to grey, 3 to red, green and blue. image_size: S, to which the image is
    scaled; None to keep its size, which must then be square. Raises MissingFileError, and UserError
    for a file that is damaged or no image, and for pixels of more than 8 bits per colour.
    """

    def read(image: Any) -> Pixels:
        from PIL import Image, ImageOps

        if image.mode not in _MODES:
            raise UserError(
                f"{path} has pixels of mode {image.mode!r}: expected 8 bits per colour, such as "
                f"'L' or 'RGB'; convert it"
            )
        image = ImageOps.exif_transpose(image)
        image = image.convert("L" if channels == 1 else "RGB")
        if image_size is not None and image.size != (image_size, image_size):
            image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
        if image.width != image.height:
            raise UserError(
                f"{path} has {image.width} x {image.height} pixels: expected a square; give "
                f"--image-size to scale all images"
            )
        pixels = np.asarray(image)
        return np.array(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))

    return _opened(path, read)


def _opened(path: Path, read: Callable[[Any], T]) -> T:
    from PIL import Image  # matplotlib needs it, so it is there

    if not path.is_file():
        raise MissingFileError(f"no image at {path}")
    try:
        with Image.open(path) as image:
            return read(image)
    except UserError:
        raise
    # Pillow's plugins raise most of these for damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        what = "it is damaged or no image" if isinstance(error, OSError) else str(error)
        raise UserError(f"{path} can't be read as an image: {what}") from error


# ---- IDX files -----------------------------------------------------------------------------------


def idx_part(name: str) -> tuple[str, str] | None:
    """Return the part, 'train' or 'test', and 'images' or 'labels', by the name of an IDX file.

    None if it is not the name of one.
    """
    match = _IDX.fullmatch(name)
    return None if match is None else ("train" if match[1] == "train" else "test", match[2])


def read_idx(data: bytes, name: str) -> Pixels:
    """Return the array of bytes in an IDX file, which may be compressed by gzip.

    The file has two zero bytes, the type (8 for bytes), the number of dimensions, their sizes in
    four big-endian bytes each, and the elements. Raises UserError if it is damaged.
    """
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{name} is damaged: {error}") from error
    if data[:3] != b"\0\0\x08" or len(data) < 4 or len(data) < 4 + 4 * data[3]:
        raise UserError(f"{name} is no IDX file of bytes: it begins with {data[:4].hex(' ')}")
    start = 4 + 4 * data[3]
    shape = np.frombuffer(data[4:start], ">u4").tolist()
    if len(data) - start != math.prod(shape):
        raise UserError(
            f"{name} is damaged: it has {len(data) - start:,} bytes of data, and its shape is "
            f"{' x '.join(map(str, shape))}"
        )
    array: Pixels = np.frombuffer(data[start:], np.uint8).reshape(shape)
    return array


def read_idx_folder(folder: Path) -> dict[str, tuple[Pixels, Pixels]]:
    """Return the images (N, 1, S, S) and labels (N,) of each part in a folder of IDX files.

    The parts are 'train' and, if it is there, 'test'. Raises UserError if a file is missing or
    damaged.
    """
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    return _idx_parts(files, folder)


def read_idx_deb(path: Path) -> dict[str, tuple[Pixels, Pixels]]:
    """Return what `read_idx_folder` does, from a Debian package, which is not installed."""
    packed = _member_of_ar(path.read_bytes(), "data.tar", path)
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            named = {m: Path(m.name).name for m in tar.getmembers() if m.isfile()}
            files = {
                name: file.read()
                for member, name in named.items()
                if idx_part(name) and (file := tar.extractfile(member)) is not None
            }
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return _idx_parts(files, path)


def _idx_parts(files: Mapping[str, bytes], place: Path) -> dict[str, tuple[Pixels, Pixels]]:
    found = {}
    for name, data in files.items():
        part_and_kind = idx_part(name)
        if part_and_kind is not None:
            found[part_and_kind] = read_idx(data, name)
    parts = {}
    for part in ("train", "test"):
        images, labels = found.get((part, "images")), found.get((part, "labels"))
        if images is None and labels is None:
            continue
        if images is None or labels is None:
            raise UserError(
                f"{place} has only the {'labels' if images is None else 'images'} of the {part} "
                f"part: expected both, such as {part}-images-idx3-ubyte and "
                f"{part}-labels-idx1-ubyte"
            )
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise UserError(
                f"{place}: the {part} part has images of shape {images.shape} and labels of shape "
                f"{labels.shape}: expected (images, height, width) and (images,)"
            )
        if images.shape[1] != images.shape[2]:
            raise UserError(f"{place}: the images have the shape {images.shape[1:]}, not square")
        parts[part] = (images[:, None], labels)
    if "train" not in parts:
        raise UserError(f"{place} has no IDX files named train-images-idx3-ubyte and so on")
    return parts


def _member_of_ar(data: bytes, prefix: str, path: Path) -> bytes:
    """Return the first member of an `ar` archive, as a Debian package is, by its name's beginning.

    A member has a header of 60 bytes, with the name in the first 16 and the size at 48.
    """
    place = 8
    while data.startswith(b"!<arch>\n") and place + 60 <= len(data):
        name = data[place : place + 16].decode("latin-1")
        size = data[place + 48 : place + 58].strip()
        if not size.isdigit():
            break
        place += 60
        if name.startswith(prefix):
            return data[place : place + int(size)]
        place += int(size) + int(size) % 2
    raise UserError(f"{path} is no Debian package: it has no {prefix}")
