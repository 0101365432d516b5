"""A vision transformer: the GPT's blocks, which read the patches of an image instead of tokens.

"An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021). Three things differ from the GPT: a
token is a patch of pixels, mapped by a matrix instead of looked up in a table; attention is not
causal; and one vector is read, to name the class of the whole image.

Legend: B images, K colour channels, S height and width, P of a patch, T tokens, C channels of the
residual stream (n_embd), N classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gptfast.errors import MissingFileError, UserError
from gptfast.model.base import LanguageModel
from gptfast.model.config import ModelConfig
from gptfast.model.dropout import Dropout
from gptfast.model.embeddings import PositionEmbedding
from gptfast.model.folder import load_weights, read_vision_config
from gptfast.model.formats import vit
from gptfast.model.norm import build_norm
from gptfast.model.transformer import Block, init_weights
from gptfast.model.vision_config import VisionConfig
from gptfast.system.files import is_file

_IMAGES_AT_A_TIME = 256


def normalised(pixels_BKSS: Tensor) -> Tensor:
    """Return pixels from 0 to 255 as float32 from -1 to 1, as `transformers` does for ViT."""
    return pixels_BKSS.float() / 127.5 - 1


class PatchEmbedding(nn.Linear):
    """Maps each patch of P x P pixels to a vector (C,) by one matrix."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config.channels * config.patch_size**2, config.n_embd)
        self.patch_size = config.patch_size

    def forward(self, pixels_BKSS: Tensor) -> Tensor:
        """Return (B, T, C), row by row of the image, for pixels (B, K, S, S)."""
        P = self.patch_size
        # Cut both sides into pieces of P, and put those of a patch together:
        # (B, K, S, S) -> (B, rows, columns, K, P, P) -> (B, T, K P P).
        B, K, S, _ = pixels_BKSS.shape
        cut = pixels_BKSS.reshape(B, K, S // P, P, S // P, P).permute(0, 2, 4, 1, 3, 5)
        return super().forward(cut.flatten(3).flatten(1, 2))


class VisionTransformer(LanguageModel):
    """Names the class of an image. Its folder is that of ViTForImageClassification.

    It is a LanguageModel for what training and folders need, and can't continue a text.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config.body)
        body = config.body
        self.vision, self.labels = config, config.labels
        self.patches = PatchEmbedding(config)
        if config.pooling == "class":
            self.cls_token = nn.Parameter(torch.empty(1, config.n_embd))
        if config.positions == "learned":
            self.wpe = PositionEmbedding(body)
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(body, layer) for layer in range(config.n_layer))
        self.ln_f = build_norm(body)
        self.head = nn.Linear(config.n_embd, len(config.labels))
        init_weights(self)

    def forward(self, pixels_BKSS: Tensor) -> Tensor:  # type: ignore[override]
        """Return a logit per class, (B, N), for normalised pixels, float (B, K, S, S).

        Raises UserError for another type or shape.
        """
        self._check(pixels_BKSS)
        x_BTC = self.embedded(pixels_BKSS)
        for block in self.h:
            x_BTC = block(x_BTC)
        h_BTC = self.ln_f(x_BTC)
        pooled_BC = h_BTC[:, 0] if self.vision.pooling == "class" else h_BTC.mean(1)
        logits_BN: Tensor = self.head(pooled_BC)
        return logits_BN

    def embedded(self, pixels_BKSS: Tensor) -> Tensor:
        """Return the input of the first block, (B, T, C)."""
        x_BTC = self.patches(pixels_BKSS)
        if self.vision.pooling == "class":
            x_BTC = torch.cat([self.cls_token.expand(len(x_BTC), 1, -1), x_BTC], 1)
        if self.vision.positions == "learned":
            x_BTC = x_BTC + self.wpe.weight
        dropped_BTC: Tensor = self.drop(x_BTC)
        return dropped_BTC

    def _check(self, pixels: Tensor) -> None:
        c = self.vision
        expected = (c.channels, c.image_size, c.image_size)
        if not isinstance(pixels, Tensor) or not pixels.is_floating_point():
            kind = pixels.dtype if isinstance(pixels, Tensor) else type(pixels).__name__
            raise UserError(
                f"VisionTransformer: the pixels are {kind}; expected a float tensor, as "
                f"gptfast.model.vision.normalised makes of pixels from 0 to 255"
            )
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
            raise UserError(
                f"VisionTransformer: the pixels have the shape {tuple(pixels.shape)}; expected "
                f"(images, {', '.join(map(str, expected))})"
            )

    @torch.no_grad()
    def probabilities(self, pixels: Tensor) -> Tensor:
        """Return the probability of each class, (B, N) on the CPU, for pixels from 0 to 255."""
        device = self.head.weight.device
        parts = [
            self(normalised(part.to(device))).float().softmax(-1).cpu()
            for part in torch.split(pixels, _IMAGES_AT_A_TIME)
        ]
        return torch.cat(parts)

    def classify(self, pixels: Tensor) -> list[tuple[str, float]]:
        """Return the likeliest label of each image and its probability, for pixels 0 to 255.

        pixels: (B, K, S, S), as `gptfast.data.images` reads them. Raises UserError for another
        shape.
        """
        best_B = self.probabilities(pixels).max(-1)
        pairs = zip(best_B.indices.tolist(), best_B.values.tolist(), strict=True)
        return [(self.labels[label], probability) for label, probability in pairs]

    # ---- what a model folder holds -------------------------------------------------------------

    def description(
        self, *, bos: int | None, eos: Sequence[int], pad: int | None
    ) -> dict[str, dict[str, Any]]:
        """Return config.json and preprocessor_config.json."""
        return {
            "config.json": vit.describe(self.vision),
            "preprocessor_config.json": vit.describe_preprocessor(self.vision),
        }

    def stored_state(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with the names and shapes of the model's format."""
        return vit.to_stored(self.vision, own)

    def restored_state(
        self,
        stored: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        stored_as: ModelConfig | None = None,
    ) -> dict[str, Tensor]:
        """Undo `stored_state`, as `Stored` says."""
        return vit.from_stored(self.vision, own, stored)


def load_vision(folder: str | Path) -> VisionTransformer:
    """Load the folder of a vision transformer, in evaluation mode on the CPU.

    It is a folder of `gptfast train --preset vit-*`, or of transformers' ViTForImageClassification.
    Raises MissingFileError if the folder holds no model, UserError if it holds another kind of
    model or if its files are damaged.
    """
    folder = Path(folder)
    if not is_file(folder / "config.json"):
        raise MissingFileError(f"no model in {folder}: expected a vision transformer's folder")
    config = read_vision_config(folder)
    if config is None:
        raise UserError(
            f"the model in {folder} reads text: expected a vision transformer, as "
            f"`gptfast train --preset vit-digits` makes one"
        )
    model = VisionTransformer(config)
    load_weights(model, folder / "model.safetensors")
    return model.eval()
