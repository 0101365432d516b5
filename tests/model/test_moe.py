"""The mixture of experts against its definition: a loop over tokens and their experts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from gptfast.model import GPT, ModelConfig
from gptfast.model.moe import MixtureOfExperts

CONFIG = ModelConfig(
    65, n_embd=16, n_head=2, n_hidden=24, bias=False, n_expert=5, activation="swiglu"
)


def build(config: ModelConfig) -> MixtureOfExperts:
    torch.manual_seed(0)
    moe = MixtureOfExperts(config)
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter)
    return moe


@pytest.mark.parametrize("n_active", [2, 3, 5])
@pytest.mark.parametrize("activation", ["swiglu", "gelu", "gelu_exact", "relu2"])
def test_each_token_gets_the_weighted_sum_of_its_experts(n_active: int, activation: str) -> None:
    config = replace(CONFIG, n_expert_active=n_active, activation=activation)
    moe = build(replace(config, expert_balance="bias"))
    moe.bias_E.copy_(torch.tensor([0.3, -0.2, 0.0, 0.1, 0.0]))
    x = torch.randn(3, 7, 16)
    expected = torch.zeros_like(x)
    for b, t in torch.cartesian_prod(torch.arange(3), torch.arange(7)).tolist():
        scores = (moe.router.weight @ x[b, t]).softmax(0)
        chosen = sorted(range(5), key=lambda e: -(scores[e] + moe.bias_E[e]).item())[:n_active]
        for e in chosen:
            up = moe.c_fc[e] @ x[b, t]
            hidden = {
                "swiglu": lambda up: F.silu(up[:24]) * up[24:],
                "gelu": lambda up: F.gelu(up, approximate="tanh"),
                "gelu_exact": lambda up: up * (1 + torch.erf(up / math.sqrt(2))) / 2,
                "relu2": lambda up: up.clamp(min=0) ** 2,
            }[activation](up)
            weight = scores[e] / sum(scores[other] for other in chosen)
            expected[b, t] += weight * (moe.c_proj[e] @ hidden)
    torch.testing.assert_close(moe(x), expected, atol=1e-4, rtol=1e-4)


def test_no_token_is_dropped_when_all_want_the_same_experts() -> None:
    moe = build(CONFIG).eval()
    with torch.no_grad():
        moe.router.weight.zero_()
        moe.router.weight[3] = moe.router.weight[1] = 1.0
    x = torch.rand(4, 50, 16)
    expected = torch.zeros_like(x)
    for e in (1, 3):
        gate, up = (x @ moe.c_fc[e].T).chunk(2, -1)
        expected += (F.silu(gate) * up) @ moe.c_proj[e].T / 2
    torch.testing.assert_close(moe(x), expected, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_router_and_every_expert_in_use() -> None:
    moe = build(CONFIG)
    moe(torch.randn(4, 20, 16)).square().sum().backward()
    assert moe.router.weight.grad.abs().min() > 0
    assert (moe.c_fc.grad.flatten(1).abs().sum(1) > 0).all()
    assert (moe.c_proj.grad.flatten(1).abs().sum(1) > 0).all()


def test_the_balance_loss_is_1_when_all_are_equally_busy_and_more_otherwise() -> None:
    moe = build(replace(CONFIG, n_expert=4, n_embd=8, expert_balance_rate=1.0)).train()
    with torch.no_grad():  # a token with a 1 in channels i and j chooses experts i and j
        moe.router.weight.copy_(torch.eye(4, 8) * 20)
    low, high = torch.eye(8)[:2].sum(0), torch.eye(8)[2:4].sum(0)
    moe(torch.stack([low, high] * 10)[None])
    assert moe.balance_loss.item() == pytest.approx(1, abs=1e-6)
    moe.balance_loss = None
    moe(torch.stack([low] * 20)[None])
    # All choose experts 0 and 1, whose mean scores are nearly 1/2: 4 (1/2 1/2 + 1/2 1/2).
    assert moe.balance_loss.item() == pytest.approx(2, abs=1e-6)


def test_no_tokens_loss_has_a_part_of_the_balance_loss() -> None:
    torch.manual_seed(0)
    model = GPT(replace(CONFIG, block_size=8, n_layer=2, expert_balance_rate=1.0))
    ids = torch.randint(65, (2, 8))
    losses = model(ids, ids, reduction="none")
    balance = torch.stack([moe.balance_loss for moe in model.experts()]).mean()
    assert balance > 0.9
    torch.testing.assert_close(model(ids, ids), losses.mean() + balance)


def test_the_bias_makes_a_lopsided_router_even() -> None:
    moe = build(replace(CONFIG, expert_balance="bias", expert_balance_rate=0.01)).train()
    with torch.no_grad():
        moe.router.weight.normal_(std=0.1)
        moe.router.weight[2] += 0.3
    x = torch.randn(8, 64, 16) + 0.5
    shares = []
    for _ in range(200):
        moe(x)
        shares.append(moe.end_step())
    assert shares[0].max() > 0.3
    assert torch.stack(shares[-50:]).mean(0).max() < 0.22
    assert all(share.sum().item() == pytest.approx(1) for share in shares)
    assert moe.balance_loss is None


def test_choices_are_counted_in_training_only() -> None:
    moe = build(CONFIG)
    moe.eval()(torch.randn(2, 8, 16))
    assert moe.chosen_E.sum() == 0
    moe.train()(torch.randn(2, 8, 16))
    moe(torch.randn(2, 8, 16))
    assert moe.chosen_E.sum() == 2 * 2 * 8 * 2
    moe.end_step()
    assert moe.chosen_E.sum() == 0


def test_bfloat16_autocast_multiplies_in_bfloat16_and_returns_the_streams_dtype() -> None:
    moe = build(CONFIG).eval()
    x = torch.randn(2, 8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out = moe(x)
    assert out.dtype == torch.float32
    assert not torch.equal(out, moe(x))
    torch.testing.assert_close(out, moe(x), atol=2, rtol=0.1)
