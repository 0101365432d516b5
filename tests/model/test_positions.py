"""Stretched rotary positions against transformers' and against what the papers say of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gptfast
from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig
from gptfast.model.folder import save_description, save_weights
from gptfast.model.positions import rotary_settings, rotation
from gptfast.ops.rotary import rotary_frequencies
from gptfast.tokenizer import CharTokenizer


def config(block_size: int, scaling: str = "none", factor: float = 1.0, head: int = 16):
    return ModelConfig(
        65, n_head=2, n_embd=2 * head, block_size=block_size, positions="rotary",
        rope_theta=10_000.0, rope_scaling=scaling, rope_factor=factor,
    )  # fmt: skip


@pytest.mark.parametrize(("factor", "head"), [(2.0, 16), (4.0, 64), (8.0, 128), (1.5, 2)])
def test_yarn_is_transformers_yarn(factor: float, head: int) -> None:
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    theirs = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=2 * head, num_attention_heads=2, max_position_embeddings=1536,
            rope_parameters={
                "rope_type": "yarn", "rope_theta": 10_000.0, "factor": factor,
                "original_max_position_embeddings": round(1536 / factor),
            },
        )
    )  # fmt: skip
    expected = theirs(torch.zeros(1, 1), torch.arange(1536)[None])
    for ours, cos_or_sin in zip(
        rotation(config(1536, "yarn", factor, head)), expected, strict=True
    ):
        torch.testing.assert_close(ours, cos_or_sin[0, :, : head // 2], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("factor", "head"), [(8.0, 128), (32.0, 64)], ids=["llama 3.1", "llama 3.2 1B"]
)
def test_llama_3s_scaling_is_transformers_with_the_published_numbers(
    factor: float, head: int
) -> None:
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    published = LlamaConfig(
        hidden_size=2 * head, num_attention_heads=2, max_position_embeddings=131_072,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500_000.0, "factor": factor,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )  # fmt: skip
    expected_P, scale = ROPE_INIT_FUNCTIONS["llama3"](published, "cpu")
    ours = replace(
        config(131_072, "llama3", factor, head), rope_theta=500_000.0, rope_original_context=8192
    )
    frequencies_P, our_scale = rotary_settings(ours)
    assert scale == our_scale == 1.0
    torch.testing.assert_close(frequencies_P.float(), expected_P, atol=0, rtol=1e-6)
    kinds = (frequencies_P / rotary_frequencies(head, 500_000.0)).unique()
    assert kinds[0] == pytest.approx(1 / factor)
    assert kinds[-1] == 1
    assert len(kinds) > 2  # some pairs are in between
    # At the last position, against the exact angles in float64.
    cos_TP, sin_TP = rotation(ours)
    angles_P = 131_071 * frequencies_P
    torch.testing.assert_close(cos_TP[-1].double(), angles_P.cos(), atol=1e-6, rtol=0)
    torch.testing.assert_close(sin_TP[-1].double(), angles_P.sin(), atol=1e-6, rtol=0)


def angles(cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The angle that each pair turns from position 0 to 1."""
    return torch.atan2(sin[1], cos[1])


def test_ntk_leaves_the_fastest_pair_and_slows_the_slowest_by_the_factor() -> None:
    plain = angles(*rotation(config(64)))
    ntk = angles(*rotation(config(256, "ntk", 4.0)))
    assert ntk[0].item() == pytest.approx(plain[0].item())
    assert ntk[-1].item() == pytest.approx(plain[-1].item() / 4, rel=1e-4)
    ratios = plain / ntk
    assert (ratios.diff() > 0).all()


def test_yarn_leaves_fast_pairs_divides_slow_ones_and_lengthens_queries_and_keys() -> None:
    plain_cos, plain_sin = rotation(config(512, head=64))
    cos, sin = rotation(config(2048, "yarn", 4.0, head=64))
    length = (cos.square() + sin.square()).sqrt()
    torch.testing.assert_close(length, torch.full_like(length, 1 + 0.1 * math.log(4)))
    ratios = angles(plain_cos, plain_sin) / angles(cos, sin)
    turns = angles(plain_cos, plain_sin) * 512 / (2 * math.pi)  # in the trained context
    torch.testing.assert_close(ratios[turns > 40], torch.ones_like(ratios[turns > 40]))
    torch.testing.assert_close(ratios[turns < 0.8], torch.full_like(ratios[turns < 0.8], 4.0))
    assert (turns > 40).sum() > 1 < (turns < 0.8).sum()


LLAMA = {"norm": "rmsnorm", "bias": False, "activation": "swiglu", "n_hidden": 64}


def save(model: GPT, folder: Path) -> None:
    tokenizer = CharTokenizer.train("".join(chr(i) for i in range(32, 97)))
    save_description(folder, model.config, tokenizer)
    save_weights(model, folder / "model.safetensors")


@pytest.mark.parametrize("scaling", ["ntk", "yarn"])
@pytest.mark.parametrize(
    "variant", [{}, LLAMA, LLAMA | {"n_expert": 2}], ids=["ours", "llama", "mixtral"]
)
def test_a_model_is_loaded_for_a_longer_context(
    tmp_path: Path, scaling: str, variant: dict[str, Any]
) -> None:
    """Also one that is stored in a layout that knows nothing of the longer context."""
    torch.manual_seed(0)
    trained = replace(config(16), n_layer=2, **variant)
    model = GPT(trained)
    save(model, tmp_path)
    stretched, _ = gptfast.load(tmp_path, rope_scaling=scaling, rope_factor=4.0)
    expected = GPT(replace(trained, block_size=64, rope_scaling=scaling, rope_factor=4.0))
    expected.load_state_dict(model.state_dict())
    ids = torch.randint(65, (1, 64))
    torch.testing.assert_close(stretched(ids), expected.eval()(ids))


def test_what_cant_be_stretched_is_refused(tmp_path: Path) -> None:
    save(GPT(replace(config(16), positions="learned")), tmp_path / "learned")
    save(GPT(config(32, "ntk", 2.0)), tmp_path / "ntk")
    for folder in ("learned", "ntk"):
        with pytest.raises(UserError, match="rope_scaling 'yarn' can't stretch"):
            gptfast.load(tmp_path / folder, rope_scaling="yarn", rope_factor=2.0)
    for factor in (0.5, -2.0, math.inf, math.nan):
        with pytest.raises(UserError, match=f"rope_factor is {factor}: expected at least 1, and"):
            gptfast.load(tmp_path / "ntk", rope_scaling="ntk", rope_factor=factor)
    again, _ = gptfast.load(tmp_path / "ntk", rope_scaling="ntk", rope_factor=2.0)
    assert (again.config.block_size, again.config.rope_factor) == (64, 4.0)
