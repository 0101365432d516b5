"""nanoGPT's model beside ours: loaded from a clone, with the same weights, for the same step."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from gptfast.data.batch import Batch
from gptfast.errors import MissingFileError, UserError
from gptfast.model import GPT
from gptfast.model.config import ModelConfig
from gptfast.train.objective import Objective


def load_nanogpt(folder: Path) -> ModuleType:
    """Import nanoGPT's model.py. Raises MissingFileError or UserError."""
    path = folder / "model.py"
    if not path.is_file():
        raise MissingFileError(f"no model.py in {folder}: expected a clone of karpathy/nanoGPT")
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} can't be imported: expected a clone of karpathy/nanoGPT")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def twin_of(ours: GPT, nanogpt: ModuleType) -> nn.Module:
    """Return nanoGPT's model of our model's configuration, with its weights."""
    config: ModelConfig = ours.config
    names = ("block_size", "vocab_size", "n_layer", "n_head", "n_embd", "dropout", "bias")
    settings = {name: getattr(config, name) for name in names}
    theirs: nn.Module = nanogpt.GPT(nanogpt.GPTConfig(**settings))
    state = {f"transformer.{name}": tensor for name, tensor in ours.state_dict().items()}
    with torch.no_grad():
        theirs.load_state_dict(state | {"lm_head.weight": ours.head_VC})
    return theirs


class NanoGPTLoss(Objective):
    """The loss that nanoGPT's forward returns beside its logits."""

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Return the mean over a micro-batch."""
        _, loss = engine(batch.ids_BT, batch.targets_BT)
        assert isinstance(loss, Tensor)
        return loss
