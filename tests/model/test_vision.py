"""The vision transformer: transformers' forward, folders both ways, order, attention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from gptfast import load, load_vision, ops
from gptfast.data.image_files import read_image
from gptfast.errors import UserError
from gptfast.model.config import ModelConfig
from gptfast.model.folder import describe_model, save_weights
from gptfast.model.transformer import GPT
from gptfast.model.vision import VisionTransformer, normalised
from gptfast.model.vision_config import VisionConfig

LABELS = ("cat", "dog", "tree")


def config(**changes: Any) -> VisionConfig:
    settings: dict[str, Any] = {
        "image_size": 12, "channels": 3, "labels": LABELS, "patch_size": 4, "n_layer": 2,
        "n_head": 2, "n_embd": 16,
    }  # fmt: skip
    return VisionConfig(**settings | changes)


def new_model(**changes: Any) -> VisionTransformer:
    """A model whose biases and gains are no zeros and ones."""
    torch.manual_seed(0)
    model = VisionTransformer(config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(n: int = 5, channels: int = 3, size: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


def saved(model: VisionTransformer, folder: Path) -> Path:
    describe_model(folder, model, None)
    save_weights(model, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "changes", [{}, {"channels": 1, "n_hidden": 24, "activation": "gelu_exact"}]
)
def test_transformers_loads_our_folder_and_computes_the_same(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    model = new_model(**changes)
    folder = saved(model, tmp_path / "ours")
    theirs, info = ViTForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())  # nothing missing, unexpected or of another shape
    pixels = normalised(images(channels=model.vision.channels))
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), theirs(pixels).logits, atol=1e-5, rtol=0)
    assert theirs.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("act", ["gelu", "gelu_pytorch_tanh"])
def test_we_load_the_folder_of_transformers_and_compute_the_same(tmp_path: Path, act: str) -> None:
    torch.manual_seed(0)
    theirs = ViTForImageClassification(
        ViTConfig(
            image_size=12, patch_size=3, num_channels=1, hidden_size=16, num_hidden_layers=2,
            num_attention_heads=4, intermediate_size=40, hidden_act=act, num_labels=5,
            initializer_range=0.3,
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path)
    ours = load_vision(tmp_path)
    pixels = normalised(images(channels=1))
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs(pixels).logits, atol=1e-5, rtol=0)
    assert ours.labels == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4")


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_transformers_prepares_an_image_alike(tmp_path: Path, mode: str) -> None:
    channels = len(mode)
    folder = saved(new_model(channels=channels), tmp_path / "ours")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    file = tmp_path / "image.png"
    Image.fromarray(pixels).convert(mode).save(file)
    processor = ViTImageProcessorPil.from_pretrained(folder)
    with Image.open(file) as image:
        theirs = processor(image, return_tensors="pt")["pixel_values"]
    ours = normalised(torch.from_numpy(read_image(file, channels))[None])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("changes", [{"pooling": "mean"}, {"positions": "none"}])
def test_what_transformers_lacks_is_stored_in_our_own_format(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    model = new_model(**changes)
    again = load_vision(saved(model, tmp_path / "ours"))
    assert again.vision == model.vision
    pixels = normalised(images())
    with torch.no_grad():
        assert torch.equal(again(pixels), model(pixels))
    described = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert described["model_type"] == "gptfast-vit"


def reordered(pixels: Tensor, P: int) -> Tensor:
    """The same patches in another order."""
    n = pixels.shape[-1] // P
    cut = [pixels[:, :, i * P : i * P + P, j * P : j * P + P] for i in range(n) for j in range(n)]
    order = torch.randperm(n * n, generator=torch.Generator().manual_seed(3)).tolist()
    assert order != sorted(order)
    rows = [torch.cat([cut[order[i * n + j]] for j in range(n)], 3) for i in range(n)]
    return torch.cat(rows, 2)


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_without_positions_the_order_of_the_patches_changes_nothing(pooling: str) -> None:
    pixels = normalised(images())
    others = reordered(pixels, 4)
    with torch.no_grad():
        blind = new_model(pooling=pooling, positions="none")
        torch.testing.assert_close(blind(others), blind(pixels), atol=1e-5, rtol=0)
        placed = new_model(pooling=pooling)
        assert (placed(others) - placed(pixels)).abs().max() > 1e-2


def test_every_patch_sees_every_other() -> None:
    model = new_model()
    pixels = normalised(images(1))
    with torch.no_grad(), ops.return_weights() as weights:
        model(pixels)
    assert len(weights) == 2
    for weights_BHTT in weights:
        assert weights_BHTT.shape == (1, 2, 10, 10)
        assert weights_BHTT.min() > 0
        torch.testing.assert_close(weights_BHTT.sum(-1), torch.ones(1, 2, 10), atol=1e-6, rtol=0)


def test_a_language_model_must_not_see_the_future() -> None:
    with pytest.raises(UserError, match="would see the tokens that it has to predict"):
        GPT(ModelConfig(10, block_size=8, n_layer=1, n_head=1, n_embd=8, causal=False))


def test_it_names_the_likeliest_class() -> None:
    model = new_model()
    named = model.classify(images(300))
    with torch.no_grad():
        best = torch.cat([model(normalised(images(300)[i : i + 1])) for i in range(300)])
    assert [label for label, _ in named] == [LABELS[i] for i in best.argmax(-1)]
    expected = best.softmax(-1).amax(-1)
    torch.testing.assert_close(torch.tensor([p for _, p in named]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 5}, "patch_size is 5, but the images have 12 x 12 pixels: expected a "
         "divisor, one of 2, 3, 4, 6, 12"),
        ({"pooling": "max"}, "unknown pooling 'max': expected 'class' or 'mean'"),
        ({"n_head": 3}, "n_embd 16 can't be divided into n_head 3 heads"),
        ({"image_size": 0}, "image_size is 0: expected at least 1"),
    ],
)  # fmt: skip
def test_impossible_shapes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**changes)


def test_other_pixels_are_refused() -> None:
    model = new_model()
    with pytest.raises(UserError, match=r"pixels are torch.uint8; expected a float tensor"):
        model(images())
    with pytest.raises(UserError, match=r"shape \(5, 1, 12, 12\); expected \(images, 3, 12, 12\)"):
        model(normalised(images(channels=1)))


def test_other_folders_are_refused(tmp_path: Path) -> None:
    folder = saved(new_model(), tmp_path / "ours")
    with pytest.raises(UserError, match="vision transformer, which reads images and not text"):
        load(folder)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"qkv_bias": False}))
    with pytest.raises(UserError, match="it has qkv_bias False: gptfast has only True"):
        load_vision(folder)
    (folder / "config.json").write_text(json.dumps(described | {"architectures": ["ViTModel"]}))
    with pytest.raises(UserError, match="gptfast reads ViTForImageClassification only"):
        load_vision(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UserError, match="reads text: expected a vision transformer"):
        load_vision(folder)
    with pytest.raises(UserError, match="no model in"):
        load_vision(tmp_path)
