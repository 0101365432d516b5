"""A small model on the Triton kernels equals the same model on the definitions."""

from __future__ import annotations

import functools

import pytest
import torch

from gptfast.model import LanguageModel, ModelConfig, build_model
from gptfast.ops import use_backend

GPT2 = ModelConfig(11, "gpt", 9, 2, 2, 24)
# Every op that GPT-2 has no use for: as Llama and Mistral have them.
LLAMA = ModelConfig(
    11, "gpt", 9, 2, 4, 32, n_kv_head=2, qk_norm=True, sliding_window=4, global_every=2,
    norm="rmsnorm", bias=False, positions="rotary", activation="swiglu",
)  # fmt: skip


@functools.cache
def results(
    config: ModelConfig, backend: str, device: str
) -> tuple[torch.Tensor, list[float], dict[str, torch.Tensor]]:
    """Return the logits and gradients of the first step, and the losses of a few."""
    model, ids = model_and_ids(config, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses, first_gradients = [], {}
    with use_backend(backend):
        logits = model(ids[:, :-1]).detach()
    for _ in range(3 if device == "cpu" else 20):  # the interpreter takes a second for each
        with use_backend(backend):
            loss = model(ids[:, :-1], ids[:, 1:])
            loss.backward()
        if not first_gradients:
            first_gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return logits, losses, first_gradients


def model_and_ids(config: ModelConfig, device: str) -> tuple[LanguageModel, torch.Tensor]:
    torch.manual_seed(0)
    ids = torch.randint(11, (2, 10), generator=torch.Generator().manual_seed(1))
    return build_model(config).to(device), ids.to(device)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["GPT-2", "Llama"])
def test_recomputing_blocks_changes_no_gradient(config: ModelConfig, device: str) -> None:
    model, ids = model_and_ids(config, device)
    model.activation_checkpointing = True
    with use_backend("triton"):
        model(ids[:, :-1], ids[:, 1:]).backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    _, _, expected = results(config, "triton", device)
    torch.testing.assert_close(gradients, expected, atol=0, rtol=0)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["GPT-2", "Llama"])
def test_the_whole_model_agrees_on_logits_losses_and_gradients(
    config: ModelConfig, device: str
) -> None:
    logits, losses, gradients = results(config, "triton", device)
    expected_logits, expected_losses, expected_gradients = results(config, "reference", device)
    torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(losses, expected_losses, atol=1e-4, rtol=0)
    assert losses[-1] < losses[0]
