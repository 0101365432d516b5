"""What the backward pass keeps of a block, as docs/architecture.md lists it."""

from __future__ import annotations

import pytest
import torch

from gptfast.model import GPT, ModelConfig

B, T, C, H, V = 3, 16, 32, 4, 50


def kept_bytes(n_layer: int, dtype: torch.dtype, activation_checkpointing: bool = False) -> int:
    """Bytes of the distinct tensors that autograd keeps, without parameters."""
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=V, block_size=T, n_layer=n_layer, n_head=H, n_embd=C))
    model.activation_checkpointing = activation_checkpointing
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        is_weight = storage._cdata in own or (tensor.ndim == 2 and len(tensor) not in (B, B * T))
        if not is_weight:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    ids = torch.randint(V, (B, T))
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        alive = model(ids, ids)
    assert alive.isfinite()
    return sum(kept.values())


@pytest.mark.parametrize(
    ("dtype", "per_token"),
    [(torch.float32, 64 * C + 4 * H + 16), (torch.bfloat16, 36 * C + 4 * H + 16)],
)
def test_a_block_keeps_what_the_page_lists(dtype: torch.dtype, per_token: int) -> None:
    assert kept_bytes(3, dtype) - kept_bytes(2, dtype) == B * T * per_token


def test_checkpointing_keeps_the_input_of_each_block() -> None:
    one_more = kept_bytes(3, torch.float32, True) - kept_bytes(2, torch.float32, True)
    assert one_more == B * T * 4 * C
