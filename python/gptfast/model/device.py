"""The device that a model runs on."""

from __future__ import annotations

import torch

from gptfast.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Return the device named by 'auto', 'cpu', 'cuda' or 'cuda:1'.

    Raises UserError if this machine has no such device.
    """
    n_gpus = torch.cuda.device_count()
    known = ["cpu", *(["cuda"] if n_gpus else []), *(f"cuda:{i}" for i in range(n_gpus))]
    if name == "auto":
        return torch.device("cuda" if n_gpus else "cpu")
    if name not in known:
        raise UserError(f"no device {name!r} here: expected auto or one of {', '.join(known)}")
    return torch.device(name)
