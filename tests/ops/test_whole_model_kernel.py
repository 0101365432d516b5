"""A small GPT on the Triton kernels equals the same GPT on the definitions."""

from __future__ import annotations

import torch

from gptfast.model import ModelConfig, build_model


def losses_and_gradients(kernels: str, device: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = build_model(ModelConfig(11, "gpt", 9, 2, 2, 24), kernels).to(device)
    ids = torch.randint(11, (2, 10), generator=torch.Generator().manual_seed(1)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses, first_gradients = [], {}
    for _ in range(20):
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        if not first_gradients:
            first_gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, first_gradients


def test_the_whole_model_agrees_on_losses_and_gradients(device: str) -> None:
    triton, triton_gradients = losses_and_gradients("triton", device)
    reference, reference_gradients = losses_and_gradients("reference", device)
    torch.testing.assert_close(triton_gradients, reference_gradients, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(triton, reference, atol=1e-4, rtol=0)
    assert reference[-1] < reference[0]
