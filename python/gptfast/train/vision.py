"""Image classification: name the class of an image.

Legend: B images, N classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.data.batch import Batch
from gptfast.data.images import ImageData, LabelledImages, image_batch, load_images, shifted
from gptfast.data.shuffled import ShuffledSource
from gptfast.errors import UserError
from gptfast.model.base import LanguageModel
from gptfast.model.vision import VisionTransformer, normalised
from gptfast.model.vision_config import VisionConfig, VisionOptions
from gptfast.train.distributed import World
from gptfast.train.evaluate import sums_over
from gptfast.train.objective import Evaluation, Objective, Task
from gptfast.train.vision_config import VisionTrainConfig


def prepare_images(config: VisionTrainConfig, console: Console) -> Task:
    """Read the images. Raises UserError or MissingFileError if they can't be learned from."""
    data = load_images(
        config.images,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        image_size=config.image_size,
    )
    vision = vision_config(config.model, data)
    if config.shift >= vision.image_size:
        raise UserError(
            f"shift is {config.shift}, but the images have {vision.image_size} x "
            f"{vision.image_size} pixels: expected less, or nothing is left of an image"
        )
    n_tokens = vision.body.block_size

    def make(indices: Sequence[int], n_before: int) -> Batch:
        images = data.train.at(indices)
        if config.shift:
            # Seeded by the batch, so that a resumed run moves it in the same way.
            rng = np.random.default_rng((config.seed, n_before))
            pixels = shifted(images.pixels_NKSS, config.shift, rng)
            images = LabelledImages(pixels, images.labels_N)
        return image_batch(images, n_tokens)

    size = f"{vision.image_size} x {vision.image_size}"
    note = (
        f"images {config.images}: train on {len(data.train):,}, validate on {len(data.val):,}, "
        f"test with {len(data.test):,}; {len(data.classes)} classes, {size} pixels, "
        f"{vision.n_patches} patches"
    )
    return Task(
        source=ShuffledSource(
            len(data.train), config.batch_size, config.seed, make, 0, data.fingerprint
        ),
        objective=ImageClassification(config, data, n_tokens),
        tokenizer=None,
        new_model=lambda device: VisionTransformer(vision).to(device),
        notes=[note],
    )


def vision_config(options: VisionOptions, data: ImageData) -> VisionConfig:
    """Return the configuration of a model for some images. Raises UserError if it doesn't fit."""
    _, channels, size, _ = data.train.pixels_NKSS.shape
    chosen = {field.name: getattr(options, field.name) for field in fields(VisionOptions)}
    return VisionConfig(**chosen, image_size=size, channels=channels, labels=data.classes)


class ImageClassification(Objective):
    """The mean cross entropy of the class, in nats per image."""

    def __init__(self, config: VisionTrainConfig, data: ImageData, n_tokens: int) -> None:
        self.config, self.data, self.n_tokens = config, data, n_tokens

    def count(self, batch: Batch) -> int:
        """Return the number of images."""
        return len(batch)

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross entropy of the images' classes: -log softmax(logits)[label].

        With label smoothing, the target has the probability 1 - s + s / N, and any other s / N
        ("Rethinking the Inception Architecture", Szegedy et al., 2016, section 7).
        """
        logits_BN = engine(normalised(batch.extras["pixels"]))
        smoothing = self.config.label_smoothing
        return F.cross_entropy(logits_BN.float(), batch.extras["label"], label_smoothing=smoothing)

    def evaluate(self, model: LanguageModel, world: World, *, whole: bool) -> Evaluation:
        """Measure the loss and the accuracy on val images; at the end also on the test images."""
        loss, accuracy = self._measure(model, self.data.val, world, whole)
        measured = {"accuracy": accuracy}
        summary = f"val loss {loss:.4f} nats/image, {accuracy:.1%} right"
        if whole:
            test_loss, test_accuracy = self._measure(model, self.data.test, world, whole)
            n = len(self.data.test)
            error = (test_accuracy * (1 - test_accuracy) / n) ** 0.5
            measured |= {
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
                "test_accuracy_stderr": error,
            }
        return Evaluation(loss, measured, summary)

    def _measure(
        self, model: LanguageModel, images: LabelledImages, world: World, whole: bool
    ) -> tuple[float, float]:
        """Return the mean loss without smoothing, and the share of images that are named right."""
        n = len(images) if whole else min(self.config.eval_windows, len(images))
        chosen = np.linspace(0, len(images) - 1, n).astype(int)
        size = self.config.windows_at_a_time(world.size)
        batches = [
            image_batch(images.at(chosen[i : i + size]), self.n_tokens) for i in range(0, n, size)
        ]
        loss, right = sums_over(model, batches, loss_and_right, world)
        return loss / n, right / n


def loss_and_right(model: LanguageModel, batch: Batch) -> tuple[float, float]:
    """Return the sum of the losses of a batch in nats, and how many images are named right."""
    logits_BN = model(normalised(batch.extras["pixels"])).float()
    label_B = batch.extras["label"]
    loss = F.cross_entropy(logits_BN, label_B, reduction="sum")
    return loss.item(), torch.sum(logits_BN.argmax(-1) == label_B).item()
