"""Optimizers: Muon for the matrices of attention and MLP, AdamW for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from gptfast.model.attention import SelfAttention
from gptfast.model.mlp import MLP
from gptfast.model.moe import MixtureOfExperts
from gptfast.train.config import RunConfig

_MOST_STACKED = 2**24  # most elements in a stack of small matrices: 64 MB in float32


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized: each update moves all directions of a matrix equally far.

    "Muon: An optimizer for hidden layers in neural networks" (Jordan et al., 2024), with Nesterov
    momentum and decoupled weight decay. The update of an (out, in) matrix is scaled by
    sqrt(max(1, out / in)), so that its effect on the output doesn't depend on the shape.

    dtype: precision of the matrix products that orthogonalize an update.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient: matrices, or stacks of them (experts)."""
        for group in self.param_groups:
            for parameters in _of_one_shape(p for p in group["params"] if p.grad is not None):
                self._update(parameters, group["lr"], group["weight_decay"], group["momentum"])

    def _update(
        self, parameters: list[nn.Parameter], lr: float, weight_decay: float, momentum: float
    ) -> None:
        averages = torch.stack([self._accumulate(p, momentum) for p in parameters])
        for p, update in zip(parameters, orthogonalize(averages, self.dtype), strict=True):
            p.mul_(1 - lr * weight_decay)
            p.add_(_share(p, update), alpha=-lr * max(1.0, p.size(-2) / p.size(-1)) ** 0.5)

    def _accumulate(self, p: nn.Parameter, momentum: float) -> Tensor:
        """Add the gradient to the moving average; return the unsharded Nesterov momentum."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - momentum)
        nesterov = p.grad.lerp(state["momentum"], momentum)
        return nesterov.full_tensor() if isinstance(nesterov, DTensor) else nesterov


def orthogonalize(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return approximately U V^T for each matrix (..., out, in) = U S V^T.

    Five steps of a quintic Newton-Schulz iteration. Its coefficients, from Jordan et al. (2024),
    raise small singular values fast; all of them end between about 0.7 and 1.2.

    dtype: precision of the matrix products. The result has the matrix's dtype.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.size(-2) > matrix.size(-1)
    x = matrix.mT if tall else matrix  # smaller side first, which makes x x^T smaller
    x = x.flatten(0, -3) if x.ndim > 2 else x[None]  # baddbmm takes (N, out, in)
    # Singular values must not exceed 1. Divide before the cast: float16 loses small gradients.
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrix.dtype).view_as(matrix)


def _of_one_shape(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield lists of parameters to stack: many small products at once keep the processor busy."""
    by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
    for p in parameters:
        by_shape[p.shape].append(p)
    for same in by_shape.values():
        n = max(_MOST_STACKED // same[0].numel(), 1)
        yield from (same[first : first + n] for first in range(0, len(same), n))


def _share(p: nn.Parameter, whole: Tensor) -> Tensor:
    """Return the rows of `whole` that this process holds of p; all of them without FSDP."""
    if not isinstance(p, DTensor):
        return whole
    # Every process has computed the same tensor, so nothing needs to be sent.
    return distribute_tensor(whole, p.device_mesh, p.placements, src_data_rank=None)


class Optimizer:
    """Both optimizers behind one interface, for all parameters that require a gradient.

    matrix_learning_rate: Muon's peak learning rate; None to train everything with AdamW.
    """

    def __init__(
        self,
        model: nn.Module,
        learning_rate: float,
        matrix_learning_rate: float | None,
        weight_decay: float,
        *,
        beta2: float = 0.95,
        momentum: float = 0.95,
        muon_dtype: torch.dtype = torch.float32,
    ) -> None:
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        by_muon = hidden_matrices(model) & trained.keys() if matrix_learning_rate else set()
        matrices = [p for n, p in trained.items() if n in by_muon]
        others = [p for n, p in trained.items() if n not in by_muon]
        groups = [
            {"params": [p for p in others if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]  # all of one may be frozen
        self.parts: list[tuple[torch.optim.Optimizer, float]] = []
        if groups:
            adamw = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, beta2), fused=True)
            self.parts.append((adamw, learning_rate))
        if matrix_learning_rate and matrices:
            muon = Muon(matrices, matrix_learning_rate, weight_decay, momentum, muon_dtype)
            self.parts.append((muon, matrix_learning_rate))

    def step(self, lr_factor: float) -> None:
        """Update the weights at `lr_factor` times the peak learning rates; clear the gradients."""
        for optimizer, peak in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = peak * lr_factor
            optimizer.step()
            optimizer.zero_grad()


def build_optimizer(config: RunConfig, model: nn.Module) -> Optimizer:
    """Return the optimizer that the configuration asks for."""
    return Optimizer(
        model,
        config.learning_rate,
        config.matrix_learning_rate if config.optimizer == "muon" else None,
        config.weight_decay,
        beta2=config.beta2,
        momentum=config.muon_momentum,
        muon_dtype=getattr(torch, config.resolved_dtype),
    )


def optimizer_bytes(config: RunConfig, model: nn.Module) -> int:
    """Return the size of the optimizer's state in bytes: Muon keeps one average, AdamW two."""
    by_muon = hidden_matrices(model) if config.optimizer == "muon" else set()
    return sum(
        (1 if name in by_muon else 2) * 4 * p.numel()
        for name, p in model.named_parameters()
        if p.requires_grad
    )


_HIDDEN_MATRICES: dict[type[nn.Module], tuple[str, ...]] = {
    SelfAttention: ("c_attn.weight", "c_proj.weight"),
    MLP: ("c_fc.weight", "c_proj.weight"),
    MixtureOfExperts: ("c_fc", "c_proj"),  # not the router, which has few rows
}
"""Parameters that Muon trains, by the type of the module that owns them. AdamW trains anything else
in these modules, such as an adapter."""


def hidden_matrices(model: nn.Module) -> set[str]:
    """Return the names of the parameters that Muon trains: attention's and MLP's matrices."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in _HIDDEN_MATRICES.get(type(module), ())
    }
