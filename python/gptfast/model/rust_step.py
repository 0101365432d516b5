"""A whole step of a GPT on the CPU in Rust: no Python and no PyTorch between its layers.

`GPT.step` in PyTorch is the definition (model/base.py). The Rust extension computes the same in
float32 (rust/src/decode/), from the weights where they are. `why_not` says when it can't.

Legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from gptfast.model.config import ModelConfig
from gptfast.model.kv_cache import KVCache
from gptfast.ops.dispatch import default_backend
from gptfast.ops.quantized_blocks import BLOCK, BLOCK_BYTES

if TYPE_CHECKING:
    from gptfast import _rust
    from gptfast.model.transformer import GPT

_KINDS = {torch.float32: "f32", torch.bfloat16: "bf16"}
_dtype = attrgetter("dtype")
_PLAIN_MODULES = (nn.Linear, nn.Identity, nn.ModuleList)

_models: WeakKeyDictionary[GPT, _Prepared] = WeakKeyDictionary()
_caches: WeakKeyDictionary[KVCache, _rust.Cache] = WeakKeyDictionary()


def why_not(model: GPT, cache: KVCache) -> str | None:
    """Return the reason why Rust can't compute the next step of this model, or None if it can."""
    if default_backend() != "auto":
        return f"the backend is {default_backend()!r}: expected 'auto'"
    if not cache.ids_BT.is_cpu:
        return f"the model is on {cache.ids_BT.device}: Rust computes on the CPU"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on: Rust computes in float32"
    if model.training and (model.config.dropout or model.config.max_ngram > 1 or model.experts()):
        return "the model is in training mode: call model.eval()"
    prepared = _models.get(model)
    if prepared is None or not prepared.is_current():
        prepared = _models[model] = _Prepared(model)
    return prepared.refusal or prepared.hooks()


def step(model: GPT, ids: Sequence[int], cache: KVCache, rows: Sequence[int]) -> Tensor:
    """Append one id to each of n rows; return the logits (n, V), as `GPT.step` does.

    Call `why_not` before. The ids and rows must be valid.
    """
    prepared, cache_handle = _models[model], _caches.get(cache)
    assert prepared.decoder is not None
    if cache_handle is None:
        cache_handle = _caches[cache] = _handle(cache, model.config)
    n_threads = torch.get_num_threads()
    logits = torch.empty(len(ids), model.config.vocab_size, dtype=torch.float32)
    prepared.decoder.step(
        list(ids),
        list(rows),
        cache.lengths,
        cache_handle,
        n_threads,
        logits.data_ptr(),
    )
    for row in rows:
        cache.lengths[row] += 1
    return logits if prepared.dtype == torch.float32 else logits.to(prepared.dtype)


class _Prepared:
    """A model's decoder, and what tells that the model has changed since it was made."""

    def __init__(self, model: GPT) -> None:
        self.decoder: _rust.Decoder | None = None
        self.refusal: str | None = None
        self.dtype = model.ln_f.weight.dtype
        """Type of the logits."""
        modules = list(model.modules())
        # Every place of the tree of modules that could hold another module or tensor later.
        tables: list[dict[str, Any]] = [
            table for m in modules for table in (m._modules, m._parameters, m._buffers)
        ]
        self._places = [(table, key) for table in tables for key in table]
        self._contents = [table[key] for table, key in self._places]
        # The memory that tensors use: `.to()` and `.data = ...` keep the parameter and replace it.
        self._tensors = [content for content in self._contents if isinstance(content, Tensor)]
        self._memory = self._memory_now()
        self._hooks = [
            *(table for m in modules for table in (m._forward_hooks, m._forward_pre_hooks)),
            module_hooks._global_forward_hooks,
            module_hooks._global_forward_pre_hooks,
        ]
        try:
            from gptfast import _rust

            tensors = dict(_tensors(model, self.dtype))
            self.decoder = _rust.Decoder(model.config, tensors)
        except ImportError as error:
            self.refusal = f"the Rust extension is missing ({error})"
        except AttributeError as error:
            self.refusal = f"the Rust extension is older than this source ({error}): `make build`"
        except ValueError as error:
            self.refusal = str(error)

    def is_current(self) -> bool:
        """Whether the model still has the same modules, and its tensors the same memory.

        Values may change: Rust reads them anew in each step.
        """
        contents = [table.get(key) for table, key in self._places]
        # Compare identities; == would compare the values of tensors.
        same = all(map(is_, contents, self._contents))
        return same and self._memory == self._memory_now()

    def hooks(self) -> str | None:
        """Return the reason if a module has hooks, which expect to be called."""
        return "a module has a forward hook: PyTorch calls it" if any(self._hooks) else None

    def _memory_now(self) -> list[Any]:
        return [*map(Tensor.data_ptr, self._tensors), *map(_dtype, self._tensors)]


def _tensors(model: GPT, dtype: torch.dtype) -> Iterator[tuple[str, tuple[int, str, int, int]]]:
    """Yield each tensor's name and (address, kind, rows, columns).

    Raise ValueError if Rust can't use one.
    """
    for module_name, module in model.named_modules():
        known = type(module) in _PLAIN_MODULES or type(module).__module__.startswith("gptfast.")
        if not known or "forward" in vars(module):
            raise ValueError(f"{module_name} is a {type(module).__name__}, which Rust doesn't know")
    if dtype not in _KINDS:
        raise ValueError(f"the weights are {dtype}: expected torch.float32 or torch.bfloat16")
    for name, tensor in (*model.named_parameters(), *_constants(model)):
        if not tensor.is_cpu or not tensor.is_contiguous():
            raise ValueError(f"{name} is not contiguous on the CPU")
        if isinstance(tensor, nn.Parameter) and tensor.dtype != dtype:
            raise ValueError(f"{name} is {tensor.dtype}, but other weights are {dtype}")
        columns = tensor.shape[-1]
        yield name, (tensor.data_ptr(), _KINDS[tensor.dtype], tensor.numel() // columns, columns)
    for name, blocks in model.named_buffers():
        if not name.endswith(".blocks"):
            continue
        name = name.removesuffix(".blocks")
        kind: Any = model.get_submodule(name).kind  # a module of model/quantized.py
        # Where the module stands for a whole layer, its blocks are the layer's weight.
        if blocks.ndim == 2 and not name.endswith(".weight"):
            name += ".weight"
        rows = blocks.numel() // blocks.shape[-1]
        columns = blocks.shape[-1] // BLOCK_BYTES[kind] * BLOCK
        yield name, (blocks.data_ptr(), kind, rows, columns)


def _constants(model: GPT) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that are no parameters: angles of rotary positions, biases of experts."""
    if model.config.positions == "rotary":
        yield "rotation.cos", model.rotation.cos_TP
        yield "rotation.sin", model.rotation.sin_TP
    for i, block in enumerate(model.h):
        bias_E = getattr(block.mlp, "bias_E", None)
        if bias_E is not None:
            yield f"h.{i}.mlp.bias_E", bias_E


def _handle(cache: KVCache, config: ModelConfig) -> _rust.Cache:
    """Return where the cache's keys, values and ids are."""
    from gptfast import _rust

    layers = []
    for keys, values in zip(cache.k, cache.v, strict=True):
        B, G, S, D = keys.shape
        assert config.key_value_heads == G
        assert config.head_width == D
        assert values.shape == keys.shape
        assert keys.is_contiguous()
        assert values.is_contiguous()
        layers.append((keys.data_ptr(), values.data_ptr(), S))
    assert cache.ids_BT.shape == (B, config.block_size)
    assert cache.ids_BT.is_contiguous()
    is_bf16 = cache.k[0].dtype == torch.bfloat16
    return _rust.Cache(layers, B, cache.ids_BT.data_ptr(), is_bf16)
