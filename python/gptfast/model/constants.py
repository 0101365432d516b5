"""Tensors of a module that are not trained, and that no cast or `to_empty` may change."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def device_with_values() -> torch.device:
    """Return the default device, or the CPU within `torch.device("meta")`, which has no values."""
    device = torch.get_default_device()
    return torch.device("cpu") if device.type == "meta" else device


def moved(tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the tensor on the device to which `fn` moves it, with its own values and dtype.

    fn: what `nn.Module._apply` applies, for instance for `.to`, `.half` or `to_empty`. The tensor
    does not move to the meta device, where it would lose its values.
    """
    device = fn(tensor).device
    return tensor if device.type == "meta" else tensor.to(device)
