"""The format of transformers' ViTForImageClassification, and of vision transformers it can't hold.

Mean pooling and images without positions are not in `transformers`. Such a model is stored in
gptfast's own format: VisionConfig's fields, and the parameters under their names in this package.

Legend: K colour channels, P height and width of a patch, C channels of the residual stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from gptfast.errors import UserError
from gptfast.model import formats
from gptfast.model.formats.base import Stored, refuse_others
from gptfast.model.formats.gpt2 import ACTIVATIONS
from gptfast.model.vision_config import VisionConfig

NAME, OURS = formats.IMAGES

_ARCHITECTURE = "ViTForImageClassification"
_NAMES = {
    "cls_token": ("vit.embeddings.cls_token",),
    "wpe.weight": ("vit.embeddings.position_embeddings",),
    "patches": ("vit.embeddings.patch_embeddings.projection",),
    "ln_f": ("vit.layernorm",),
    "head": ("classifier",),
    "ln_1": ("layernorm_before",),
    "ln_2": ("layernorm_after",),
    "attn.c_attn": (
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ),
    "attn.c_proj": ("attention.output.dense",),
    "mlp.c_fc": ("intermediate.dense",),
    "mlp.c_proj": ("output.dense",),
}
"""The names on disk of each parameter or module; those of a block follow `vit.encoder.layer.N.`."""


def describe(config: VisionConfig) -> dict[str, Any]:
    """Return the content of config.json."""
    if _is_ours(config):
        settings = {f.name: getattr(config, f.name) for f in fields(config) if f.init}
        return {"model_type": OURS, "gptfast": settings | {"labels": list(config.labels)}}
    return {
        "model_type": NAME,
        "architectures": [_ARCHITECTURE],
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.channels,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "intermediate_size": config.body.hidden_width,
        "hidden_act": "gelu" if config.activation == "gelu_exact" else "gelu_pytorch_tanh",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": True,
        "id2label": {str(i): label for i, label in enumerate(config.labels)},
        "label2id": {label: i for i, label in enumerate(config.labels)},
    }


def describe_preprocessor(config: VisionConfig) -> dict[str, Any]:
    """Return the content of preprocessor_config.json: how pixels are scaled and normalised."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": config.image_size, "width": config.image_size},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * config.channels,
        "image_std": [0.5] * config.channels,
    }


def parse(stored: Stored) -> VisionConfig | None:
    """Return the configuration that a config.json describes; None if it is no vision transformer's.

    Raises UserError for one that gptfast can't compute, and KeyError, TypeError or another
    exception if `stored` is not a valid config.json.
    """
    kind = stored["model_type"]
    if kind == OURS:
        settings = dict(stored["gptfast"])
        return VisionConfig(**settings | {"labels": tuple(settings["labels"])})
    if kind != NAME:
        return None
    if stored.get("architectures") != [_ARCHITECTURE]:
        raise UserError(
            f"it describes {stored.get('architectures')}: gptfast reads {_ARCHITECTURE} only"
        )
    refuse_others(stored, {"hidden_act": ("gelu", *ACTIVATIONS), "qkv_bias": (True,)})
    # What is left out has transformers' defaults, which are those of ViT-Base.
    width = stored.get("hidden_size", 768)
    hidden = stored.get("intermediate_size", 3072)
    labels = stored.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    return VisionConfig(
        image_size=stored.get("image_size", 224),
        channels=stored.get("num_channels", 3),
        labels=tuple(str(labels[str(i)]) for i in range(len(labels))),
        patch_size=stored.get("patch_size", 16),
        n_layer=stored.get("num_hidden_layers", 12),
        n_head=stored.get("num_attention_heads", 12),
        n_embd=width,
        n_hidden=None if hidden == 4 * width else hidden,
        dropout=stored.get("hidden_dropout_prob", 0.0),
        activation="gelu" if _is_tanh(stored) else "gelu_exact",
        norm_eps=stored.get("layer_norm_eps", 1e-12),
    )


def _is_tanh(stored: Stored) -> bool:
    return ACTIVATIONS[stored.get("hidden_act", "gelu")] == "gelu"


def _is_ours(config: VisionConfig) -> bool:
    return config.pooling != "class" or config.positions != "learned"


def to_stored(config: VisionConfig, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's tensors with the names and shapes of its format."""
    if _is_ours(config):
        return dict(own)
    stored: dict[str, Tensor] = {}
    for name, tensor in own.items():
        names = _stored_names(name)
        if name in ("cls_token", "wpe.weight"):
            tensor = tensor[None]  # (1, T, C)
        elif name == "patches.weight":  # that of a convolution whose stride is its size
            P = config.patch_size
            tensor = tensor.view(-1, config.channels, P, P)
        stored |= dict(zip(names, tensor.chunk(len(names)), strict=True))
    return stored


def from_stored(
    config: VisionConfig, own: Mapping[str, Tensor], stored: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Undo `to_stored`, for a model whose tensors are shaped like `own`.

    Missing tensors are left out and unexpected ones are kept, so that the caller can report them.
    Raises RuntimeError if the parts of a tensor have shapes that don't match.
    """
    if _is_ours(config):
        return dict(stored)
    rest, found = dict(stored), {}
    for name, tensor in own.items():
        names = _stored_names(name)
        if all(each in rest for each in names):
            whole = torch.cat([rest.pop(each) for each in names])
            fits = whole.numel() == tensor.numel()
            found[name] = whole.reshape(tensor.shape) if fits else whole
    return found | rest


def _stored_names(name: str) -> list[str]:
    """Return the stored names of a parameter, one for each part of its rows, in order."""
    if name in _NAMES:
        return list(_NAMES[name])
    module, _, kind = name.rpartition(".")
    prefix = ""
    if in_block := re.fullmatch(r"h\.(\d+)\.(.+)", module):
        prefix, module = f"vit.encoder.layer.{in_block[1]}.", in_block[2]
    return [f"{prefix}{stored}.{kind}" for stored in _NAMES[module]]
