"""Hugging Face's formats of a GPT: GPT-2, Llama, Mistral, Mixtral, Qwen 2 and 3, SmolLM 3.

A format defines config.json and the names of the tensors. A configuration that none of them can
express is stored in gptfast's own format: ModelConfig's fields, and the parameters under their
names in this package. To add a format, write a `Format` (base.py) and add its module and class to
FORMATS. Each is imported on first use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache
from importlib import import_module
from typing import Any, get_args

import torch
from torch import Tensor

from gptfast.errors import UserError
from gptfast.model.config import ModelConfig, Precision
from gptfast.model.formats.base import Format, Stored, spelled_shortest
from gptfast.model.formats.others import PARTS

FORMATS = {
    "gpt2": "gpt2.GPT2",
    "llama": "llama.Llama",
    "mistral": "llama.Mistral",
    "mixtral": "mixtral.Mixtral",
    "qwen2": "qwen.Qwen2",
    "qwen3": "qwen.Qwen3",
    "smollm3": "smollm3.SmolLM3",
}
"""The module and the class of each format, keyed by the model_type in config.json. A model is
stored in the first format that expresses it."""

IMAGES = ("vit", "gptfast-vit")
"""The model_types of models that read images (vit.py)."""
OURS = "gptfast"
_CLASSIFIER = "ForSequenceClassification"

__all__ = [
    "FORMATS",
    "describe",
    "describe_classifier",
    "format_of",
    "from_stored",
    "labels_of",
    "one_or_all",
    "parse",
    "pieces",
    "precision_of",
    "to_stored",
    "why_not_transformers",
]


@cache
def _format(name: str) -> Format:
    module, _, kind = FORMATS[name].partition(".")
    loaded: Format = getattr(import_module(f"{__name__}.{module}"), kind)()
    return loaded


@cache
def format_of(config: ModelConfig) -> str:
    """Return the name of the first format that fully expresses `config`, or 'gptfast'."""
    if config.architecture != "gpt":
        return OURS
    for name in FORMATS:
        if _expresses(_format(name), config):
            return name
    return OURS


def why_not_transformers(config: ModelConfig) -> str | None:
    """Return in a sentence why no class of `transformers` computes this model; None if one does.

    The sentence names the fields of ModelConfig that the closest class lacks.
    """
    if config.architecture != "gpt":
        return f"architecture is {config.architecture!r}: transformers has only transformers"
    if format_of(config) != OURS:
        return None
    wanted, lacks = asdict(spelled_shortest(config)), {}
    for name in FORMATS:
        try:
            had = asdict(_format(name).parse(_format(name).describe(config)))
        except UserError:  # for instance, Mixtral's format of a model without experts
            continue
        # The width of the MLP may be spelled in two ways, and every format has it.
        differ = [f for f, value in wanted.items() if had[f] != value and f != "n_hidden"]
        lacks[_format(name).architecture] = differ
    closest = min(lacks, key=lambda architecture: len(lacks[architecture]))
    listed = ", ".join(f"{field} {wanted[field]!r}" for field in lacks[closest])
    return f"{closest}, the closest, lacks {listed}"


def _expresses(format: Format, config: ModelConfig) -> bool:
    try:
        return format.parse(format.describe(config)) == spelled_shortest(config)
    except UserError:  # for instance, Mixtral's format of a model without experts
        return False


def describe(
    config: ModelConfig,
    *,
    bos: int | None = None,
    eos: Sequence[int] = (),
    pad: int | None = None,
    precision: Precision | None = None,
) -> dict[str, Any]:
    """Return the content of config.json; bos and pad are the ids of the tokens' roles.

    eos: the ids at which sampling stops. precision: what the model was quantized to. Weights in
    blocks need gptfast's own format: `transformers` would skip an unknown quantization, and load
    random weights.
    """
    if precision in ("int8", "int4"):
        quantization = {"quant_method": OURS, "precision": precision}
        return {
            "model_type": OURS,
            "gptfast": asdict(config),
            "quantization_config": quantization,
        }
    dtype = {} if precision is None else {"dtype": "bfloat16", "gptfast_precision": precision}
    name = format_of(config)
    if name == OURS:
        return {"model_type": name, "gptfast": asdict(config), **dtype}
    return {
        **dtype,
        "model_type": name,
        "architectures": [_format(name).architecture],
        **_format(name).describe(config),
        "bos_token_id": bos,
        "eos_token_id": one_or_all(eos),
        # transformers' Llama never trains the embedding of this token, so it can't be eos.
        "pad_token_id": pad if pad not in eos else None,
    }


def one_or_all(ids: Sequence[int]) -> int | list[int] | None:
    """Return ids as `transformers` writes them: alone if there is one, None if there is none."""
    return list(ids) if len(ids) > 1 else next(iter(ids), None)


def precision_of(stored: Stored) -> Precision | None:
    """Return what the model of a config.json was quantized to; None for float weights.

    Raises UserError for another project's quantization.
    """
    quantization = stored.get("quantization_config")
    if quantization is None:
        return "bf16" if stored.get("gptfast_precision") == "bf16" else None
    if quantization["quant_method"] != OURS:
        raise UserError(
            f"its weights are quantized by {quantization['quant_method']!r}: gptfast reads float "
            f"weights and its own quantization; take the folder that it was made from"
        )
    for precision in get_args(Precision):
        if precision == quantization["precision"]:
            known: Precision = precision
            return known
    raise UserError(f"its precision is {quantization['precision']!r}: expected 'int8' or 'int4'")


def describe_classifier(
    described: Mapping[str, Any], labels: Sequence[str], pad: int | None
) -> dict[str, Any]:
    """Return the content of a classifier's config.json, given that of a model with its body.

    pad: the id that pads a text, by which `transformers` finds the text's last token.
    """
    (of_body,) = described.get("architectures", ["GPTForCausalLM"])
    kind = of_body.replace("LMHeadModel", _CLASSIFIER).replace("ForCausalLM", _CLASSIFIER)
    return {
        **described,
        "architectures": [kind],
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "pad_token_id": pad,
    }


def labels_of(stored: Stored) -> tuple[str, ...] | None:
    """Return the labels in a classifier's config.json, in order; None if it is no classifier's.

    Raises UserError, KeyError or another exception if `stored` is not a valid config.json.
    """
    _check_object(stored)
    (kind, *_) = stored.get("architectures") or [""]
    if not kind.endswith(_CLASSIFIER):
        return None
    names = stored.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # transformers' default
    return tuple(str(names[str(i)]) for i in range(len(names)))


def parse(stored: Stored) -> ModelConfig:
    """Return the configuration that a config.json describes.

    Raises UserError for a model that gptfast can't compute. Raises KeyError, TypeError or another
    exception if `stored` is not a valid config.json.
    """
    _check_object(stored)
    name = stored["model_type"]
    if name == OURS:
        return _parse_ours(stored["gptfast"])
    if name in IMAGES:
        raise UserError(
            "it describes a vision transformer, which reads images and not text: expected a "
            "language model; `gptfast eval FOLDER --images IMAGES` names what images show"
        )
    if not isinstance(name, str) or name not in FORMATS:
        part = f", which has {PARTS[name]}" if isinstance(name, str) and name in PARTS else ""
        raise UserError(
            f"it describes a {name!r} model{part}: gptfast reads {', '.join(map(repr, FORMATS))} "
            f"and its own format"
        )
    return _format(name).parse(stored)


def _check_object(stored: object) -> None:
    if not isinstance(stored, Mapping):
        raise UserError(f"it holds a {type(stored).__name__}: expected an object with model_type")


def _parse_ours(settings: Any) -> ModelConfig:
    names = {field.name for field in fields(ModelConfig)}
    if not isinstance(settings, Mapping):
        raise UserError(f"gptfast is a {type(settings).__name__}: expected an object")
    for name in settings:
        if name not in names:
            raise UserError(f"it has {name}, which this version of gptfast does not know")
    return ModelConfig(**{"vocab_size": settings["vocab_size"], **settings})


def to_stored(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's tensors with the names and shapes of its format."""
    name = format_of(config)
    if name == OURS:
        return dict(state)
    format = _format(name)
    stored: dict[str, Tensor] = {}
    for ours, tensor in state.items():
        if format.is_transposed(ours):
            tensor = tensor.T
        if tensor.ndim == 3:
            tensor = tensor.flatten(0, 1)  # stack the experts' rows
        counts = pieces(config, ours, len(tensor))
        stored |= dict(zip(counts, torch.split(tensor, list(counts.values())), strict=True))
    return stored


def pieces(config: ModelConfig, name: str, n_rows: int) -> dict[str, int]:
    """Return the number of rows of each stored part of a parameter, by the part's stored name.

    n_rows: the rows of the parameter.
    """
    kind = format_of(config)
    names = [name] if kind == OURS else _format(kind).names(name, config)
    return dict(zip(names, _row_counts(name, config, len(names), n_rows), strict=True))


def from_stored(
    config: ModelConfig, state: Mapping[str, Tensor], stored: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Undo `to_stored`, for a model whose tensors are shaped like `state`.

    Missing tensors are left out and unexpected ones are kept, so that the caller can report them.
    Raises RuntimeError if the parts of a tensor have shapes that don't match, UserError if the
    output matrix of a model with tied embeddings has other values than these.
    """
    name = format_of(config)
    if name == OURS:
        return dict(stored)
    format = _format(name)
    rest, found = dict(format.canonical(stored)), {}
    if config.tie_embeddings and (head := rest.pop("lm_head.weight", None)) is not None:
        (table,) = format.names("wte.weight", config)
        if not torch.equal(rest.setdefault(table, head), head):
            raise UserError(
                f"lm_head.weight differs from {table}, but tie_word_embeddings in config.json says "
                f"that they are one: set it to false"
            )
    for ours, tensor in state.items():
        names = format.names(ours, config)
        if all(name in rest for name in names):
            rows = torch.cat([rest.pop(name) for name in names])
            if format.is_transposed(ours):
                rows = rows.T
            found[ours] = rows.view(tensor.shape) if rows.numel() == tensor.numel() else rows
    return found | rest


def _row_counts(name: str, config: ModelConfig, n_parts: int, n_rows: int) -> list[int]:
    """Return the number of rows of each part. Only queries, keys and values differ in size."""
    if n_parts == 3 and "attn.c_attn" in name:
        heads = (config.n_head, config.key_value_heads, config.key_value_heads)
        return [n * config.head_width for n in heads]
    return [n_rows // n_parts] * n_parts
