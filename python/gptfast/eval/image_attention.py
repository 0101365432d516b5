"""A picture of where the heads of a vision transformer look.

Legend: L layers, H heads, T tokens, G patches in a row of an image.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gptfast import ops
from gptfast.model.vision import VisionTransformer, normalised
from gptfast.system.files import write_atomically


@torch.no_grad()
def attention_over_patches(model: VisionTransformer, pixels_KSS: Tensor) -> Tensor:
    """Return the weight of each patch in each head, (L, H, G, G), for pixels from 0 to 255.

    They are the weights of the class token, whose vector the classifier reads; with mean pooling,
    the mean of the weights of all patches. What the class token gives to itself is left out.
    """
    device = model.head.weight.device
    with ops.return_weights() as recorded:
        model(normalised(pixels_KSS[None].to(device)))
    weights_LHTT = torch.stack([weights_1HTT[0].cpu() for weights_1HTT in recorded])
    if model.vision.pooling == "class":
        over_LHT = weights_LHTT[:, :, 0, 1:]
    else:
        over_LHT = weights_LHTT.mean(2)
    return over_LHT.reshape(*over_LHT.shape[:2], model.vision.grid, model.vision.grid)


def draw_attention(model: VisionTransformer, pixels_KSS: Tensor, title: str, path: Path) -> None:
    """Write a PNG: the image, and a map of each head's weights, a row per layer.

    Each map is as bright as its own largest weight, which is printed above it.
    """
    from matplotlib.figure import Figure

    over_LHGG = attention_over_patches(model, pixels_KSS)
    L, H = over_LHGG.shape[:2]
    figure = Figure(figsize=(1.3 * (H + 1), 1.45 * L + 0.4), layout="constrained")
    axes = figure.subplots(L, H + 1, squeeze=False)
    image = pixels_KSS.permute(1, 2, 0).numpy()
    size = model.vision.image_size
    for layer in range(L):
        for column, axis in enumerate(axes[layer]):
            axis.set_xticks([])
            axis.set_yticks([])
            if image.shape[-1] == 1:
                axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
            else:
                axis.imshow(image)
            if column == 0:
                axis.set_ylabel(f"layer {layer + 1}", fontsize=8)
                continue
            map_GG = over_LHGG[layer, column - 1].numpy()
            extent = (-0.5, size - 0.5, size - 0.5, -0.5)
            axis.imshow(map_GG, cmap="inferno", alpha=0.75, vmin=0, extent=extent)
            axis.set_title(f"head {column}: {map_GG.max():.2f}", fontsize=8)
    figure.suptitle(title, fontsize=9)
    write_atomically(path, lambda p: figure.savefig(p, format="png", dpi=80))
