"""The configuration of a vision transformer. Needs no PyTorch, so that `--help` is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from gptfast.errors import UserError, as_int64
from gptfast.model.config import ModelConfig

Pooling = Literal["class", "mean"]
ViTPositions = Literal["learned", "none"]
ViTActivation = Literal["gelu", "gelu_exact"]


@dataclass(frozen=True, kw_only=True)
class VisionOptions:
    """The shape of a vision transformer, without what the images decide."""

    patch_size: int = 4
    """Height and width of a patch in pixels. Must divide the images' size. A patch is a token."""
    pooling: Pooling = "class"
    """What the classifier reads: 'class' is a learned token in front of the patches, as in ViT;
    'mean' is the mean of all patches."""
    n_layer: int = 4
    """Number of transformer blocks."""
    n_head: int = 4
    """Attention heads per block. Must divide n_embd."""
    n_embd: int = 64
    """Width C of the residual stream."""
    n_hidden: int | None = None
    """Width of the MLP. None means 4 n_embd."""
    dropout: float = 0.0
    """Probability of zeroing an element of the embeddings, the attention weights and the blocks'
    outputs in training."""
    positions: ViTPositions = "learned"
    """'learned' (a table) or 'none', which makes an image a set of patches without an order."""
    activation: ViTActivation = "gelu"
    """Activation of the MLP: 'gelu' is GPT-2's tanh approximation, 'gelu_exact' is GELU."""
    norm_eps: float = 1e-5
    """Added to the variance in the norms."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig(VisionOptions):
    """A vision transformer, including its images and classes. Raises UserError if impossible."""

    image_size: int
    """Height and width of an image in pixels."""
    channels: int
    """1 for grey images, 3 for red, green and blue."""
    labels: tuple[str, ...]
    """The names of the classes, in the order of the model's outputs."""
    body: ModelConfig = field(init=False, repr=False, compare=False)
    """The configuration of the blocks, which are a GPT's with causal=False. Its block_size is the
    number of tokens of an image, and its vocab_size the number of classes."""

    def __post_init__(self) -> None:
        for name in ("image_size", "channels", "patch_size"):
            if as_int64(name, getattr(self, name)) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.image_size % self.patch_size:
            fit = [n for n in range(2, self.image_size + 1) if self.image_size % n == 0]
            raise UserError(
                f"patch_size is {self.patch_size}, but the images have {self.image_size} x "
                f"{self.image_size} pixels: expected a divisor, one of {', '.join(map(str, fit))}"
            )
        if self.pooling not in get_args(Pooling):
            raise UserError(f"unknown pooling {self.pooling!r}: expected 'class' or 'mean'")
        body = ModelConfig(
            vocab_size=len(self.labels),
            block_size=self.n_patches + (self.pooling == "class"),
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_embd=self.n_embd,
            n_hidden=self.n_hidden,
            dropout=self.dropout,
            causal=False,
            positions=self.positions,
            activation=self.activation,
            norm_eps=self.norm_eps,
        )
        object.__setattr__(self, "body", body)

    @property
    def n_patches(self) -> int:
        """The number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def grid(self) -> int:
        """The number of patches in a row of an image."""
        return math.isqrt(self.n_patches)
