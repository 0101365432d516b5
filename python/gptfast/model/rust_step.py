"""A whole step of a GPT on the CPU in Rust: no Python and no PyTorch between its layers.

`GPT.step` in PyTorch is the definition (model/base.py). The Rust extension computes the same in
float32 (rust/src/decode/), from the weights where they are. `why_not` says when it can't.

Legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from gptfast.model.config import ModelConfig
from gptfast.model.kv_cache import KVCache
from gptfast.model.watch import Watch, memory_of
from gptfast.ops.dispatch import default_backend
from gptfast.ops.quantized_blocks import BLOCK, BLOCK_BYTES

if TYPE_CHECKING:
    from gptfast import _rust
    from gptfast.model.transformer import GPT

_KINDS = {torch.float32: "f32", torch.bfloat16: "bf16"}
_NORMS = {"layernorm": "norm.LayerNorm", "rmsnorm": "norm.RMSNorm"}
_KNOWN = {
    "transformer.GPT", "heads.ActorCritic", "transformer.Block", "attention.SelfAttention",
    "mlp.MLP", "moe.MixtureOfExperts", "embeddings.TokenEmbedding", "embeddings.PositionEmbedding",
    "ngrams.NGramEmbedding", "positions.Rotation", "dropout.Dropout", "norm.LayerNorm",
    "norm.RMSNorm", "quantized.QuantizedLinear", "quantized.QuantizedTable",
    "quantized.QuantizedEmbedding", "quantized.QuantizedExperts",
}  # fmt: skip
"""Modules of gptfast.model that the code in Rust knows."""
_KNOWN_OF_TORCH = (nn.Linear, nn.Identity, nn.ModuleList)

_models: WeakKeyDictionary[GPT, _Prepared] = WeakKeyDictionary()
_caches: WeakKeyDictionary[KVCache, tuple[tuple[list[Any], ModelConfig], _rust.Cache]] = (
    WeakKeyDictionary()
)


def why_not(model: GPT, cache: KVCache) -> str | None:
    """Return the reason why Rust can't compute the next step of this model, or None if it can."""
    if default_backend() != "auto":
        return f"the backend is {default_backend()!r}: expected 'auto'"
    if not cache.ids_BT.is_cpu:
        _models.pop(model, None)  # which keeps the memory that the weights had on the CPU
        return f"the model is on {cache.ids_BT.device}: Rust computes on the CPU"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on: Rust computes in float32"
    if model.training and (model.config.dropout or model.config.max_ngram > 1 or model.experts()):
        return "the model is in training mode: call model.eval()"
    prepared = _models.get(model)
    if prepared is None or prepared.watch.sees_a_change(model):
        _models.pop(model, None)
        prepared = _models[model] = _Prepared(model)
    return prepared.refusal or prepared.hooks() or _why_not_cache(cache, model.config)


def step(model: GPT, ids: Sequence[int], cache: KVCache, rows: Sequence[int]) -> Tensor:
    """Append n ids to some rows; return the logits after each, (n, V), as `GPT.step` does.

    Several ids of one row stand together, and get the logits of as many steps, bit by bit. Call
    `why_not` before. The ids and rows must be valid.
    """
    prepared = _models[model]
    assert prepared.decoder is not None
    logits = torch.empty(len(ids), model.config.vocab_size, dtype=torch.float32)
    prepared.decoder.step(
        list(ids),
        list(rows),
        cache.lengths,
        _caches[cache][1],
        torch.get_num_threads(),
        logits.data_ptr(),
    )
    for row in rows:
        cache.lengths[row] += 1
    return logits if prepared.dtype == torch.float32 else logits.to(prepared.dtype)


class _Prepared:
    """A model's decoder, and a watch that tells when it is out of date."""

    def __init__(self, model: GPT) -> None:
        self.decoder: _rust.Decoder | None = None
        self.refusal: str | None = None
        self.dtype = model.ln_f.weight.dtype
        """Type of the logits."""
        # It keeps aliases of the tensors, whose memory Rust reads.
        self.watch = Watch(
            model, [*_options(model.config), "window", "rotates", "kind", "cos_TP", "sin_TP"]
        )
        modules = list(model.modules())
        self._hooks = [
            *(table for m in modules for table in (m._forward_hooks, m._forward_pre_hooks)),
            module_hooks._global_forward_hooks,
            module_hooks._global_forward_pre_hooks,
        ]
        try:
            from gptfast import _rust

            _check_modules(model)
            self.decoder = _rust.Decoder(model.config, dict(_tensors(model, self.dtype)))
        except ImportError as error:
            self.refusal = f"the Rust extension is missing ({error})"
        except AttributeError as error:
            self.refusal = f"the Rust extension is older than this source ({error}): `make build`"
        except ValueError as error:
            self.refusal = str(error)

    def hooks(self) -> str | None:
        """Return the reason if a module has hooks, which expect to be called."""
        return "a module has a forward hook: PyTorch calls it" if any(self._hooks) else None


def _options(config: ModelConfig) -> dict[str, Any]:
    """Return what the options of modules are by the configuration, from which Rust takes them."""
    heads = (config.n_head, config.key_value_heads, config.key_value_heads)
    return {
        "eps": config.norm_eps, "activation": config.activation, "qk_norm": config.qk_norm,
        "n_active": config.n_expert_active, "heads": heads, "max_ngram": config.max_ngram,
        "n_rows": config.ngram_rows, "no_token": config.vocab_size, "max_norm": None,
        "config": config,
    }  # fmt: skip


def _check_modules(model: GPT) -> None:
    """Raise ValueError for a module that Rust doesn't know, or that isn't as configured."""
    config = model.config
    configured = _options(config)
    for name, module in model.named_modules():
        where, kind = type(module).__module__, type(module).__qualname__
        ours = f"{where.removeprefix('gptfast.model.')}.{kind}"
        if ours not in _KNOWN and type(module) not in _KNOWN_OF_TORCH:
            raise ValueError(f"{name} is a {kind}, which Rust doesn't know")
        forward = vars(module).get("forward") or vars(type(module)).get("forward")
        if forward is not None and forward.__qualname__ != f"{kind}.forward":
            raise ValueError(f"the forward of {name} was replaced by {forward.__qualname__}")
        is_of_stream = ours.startswith("norm.") and not name.endswith(("q_norm", "k_norm"))
        if is_of_stream and ours != _NORMS[config.norm]:
            raise ValueError(f"{name} is a {kind}, but the norm is {config.norm!r}")
        for option in configured.keys() & vars(module).keys():
            if vars(module)[option] != configured[option]:
                raise ValueError(f"{name}.{option} is not what the configuration says")
    for layer, block in enumerate(model.h):
        attention: Any = block.attn
        if attention.window != config.layer_window(layer):
            raise ValueError(f"the window of layer {layer} is not what the configuration says")
        if attention.rotates != config.layer_rotates(layer):
            raise ValueError(f"layer {layer} rotates otherwise than the configuration says")


def _tensors(model: GPT, dtype: torch.dtype) -> Iterator[tuple[str, tuple[int, str, int, int]]]:
    """Yield each tensor's name and (address, kind, rows, columns).

    Raise ValueError if Rust can't use one.
    """
    if dtype not in _KINDS:
        raise ValueError(f"the weights are {dtype}: expected torch.float32 or torch.bfloat16")
    parameters = model.own_state(dict(model.named_parameters()))  # not those of a critic
    for name, tensor in (*parameters.items(), *_constants(model)):
        _check_memory(name, tensor)
        if isinstance(tensor, nn.Parameter) and tensor.dtype != dtype:
            raise ValueError(f"{name} is {tensor.dtype}, but other weights are {dtype}")
        if tensor.dtype not in _KINDS:
            raise ValueError(f"{name} is {tensor.dtype}: expected torch.float32 or torch.bfloat16")
        columns = tensor.shape[-1]
        yield name, (tensor.data_ptr(), _KINDS[tensor.dtype], tensor.numel() // columns, columns)
    for name, blocks in model.named_buffers():
        if not name.endswith(".blocks"):
            continue
        _check_memory(name, blocks)
        name = name.removesuffix(".blocks")
        kind: Any = model.get_submodule(name).kind  # a module of model/quantized.py
        # Where the module stands for a whole layer, its blocks are the layer's weight.
        if blocks.ndim == 2 and not name.endswith(".weight"):
            name += ".weight"
        rows = blocks.numel() // blocks.shape[-1]
        columns = blocks.shape[-1] // BLOCK_BYTES[kind] * BLOCK
        yield name, (blocks.data_ptr(), kind, rows, columns)


def _check_memory(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless Rust can read the tensor as an array."""
    if not tensor.is_cpu or not tensor.is_contiguous():
        raise ValueError(f"{name} is not contiguous on the CPU")
    if tensor.numel() == 0 or tensor.data_ptr() % tensor.element_size():
        raise ValueError(f"{name} is empty, or its address is not a multiple of its element's size")


def _constants(model: GPT) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that are no parameters: angles of rotary positions, biases of experts."""
    if model.config.positions == "rotary":
        yield "rotation.cos", model.rotation.cos_TP
        yield "rotation.sin", model.rotation.sin_TP
    for i, block in enumerate(model.h):
        bias_E = getattr(block.mlp, "bias_E", None)
        if bias_E is not None:
            yield f"h.{i}.mlp.bias_E", bias_E


def _why_not_cache(cache: KVCache, config: ModelConfig) -> str | None:
    """Return the reason why Rust can't use a cache. Prepare it otherwise, if it has changed."""
    tensors = [*cache.k, *cache.v, cache.ids_BT]
    memory, known = memory_of(tensors), _caches.get(cache)
    if known is not None and known[0] == (memory, config):
        return None
    _caches.pop(cache, None)
    B, n_layer, dtype = len(cache.lengths), config.n_layer, cache.ids_BT.dtype
    if not len(cache.k) == len(cache.v) == n_layer:
        return f"the cache has {len(cache.k)} layers: expected {n_layer}"
    heads = (B, config.key_value_heads)
    for keys, values in zip(cache.k, cache.v, strict=True):
        S = keys.shape[2] if keys.ndim == 4 else 0
        if not keys.shape == values.shape == (*heads, S, config.head_width):
            return f"a layer of the cache is {tuple(keys.shape)}: expected {heads} first"
    if cache.ids_BT.shape != (B, config.block_size) or dtype != torch.int64:
        return f"the ids of the cache are {dtype} {tuple(cache.ids_BT.shape)}"
    kinds = {tensor.dtype for tensor in tensors[:-1]}
    if len(kinds) != 1 or not kinds <= _KINDS.keys():
        return "keys and values are neither all float32 nor all bfloat16"
    if not all(tensor.is_cpu and tensor.is_contiguous() for tensor in tensors):
        return "the cache is not contiguous on the CPU"
    from gptfast import _rust

    layers = [
        (keys.data_ptr(), values.data_ptr(), keys.shape[2])
        for keys, values in zip(cache.k, cache.v, strict=True)
    ]
    ids = cache.ids_BT.data_ptr()
    handle = _rust.Cache(config, layers, B, ids, kinds == {torch.bfloat16})
    _caches[cache] = (memory, config), handle
    return None
