"""A stand-in for nanoGPT's model.py: its interface, and our own model underneath.

The environment's FAULT can make it wrong, or die in training.
"""

from pathlib import Path

MODEL = """
import os
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional as F
import gptfast.model

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.transformer = gptfast.model.GPT(gptfast.model.ModelConfig(
            c.vocab_size, block_size=c.block_size, n_layer=c.n_layer, n_head=c.n_head,
            n_embd=c.n_embd, dropout=c.dropout, bias=c.bias, activation="gelu_exact"))
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, idx, targets):
        if os.environ.get("FAULT") == "dies" and idx.shape[1] == 8:
            os._exit(7)
        scale = 1.01 if os.environ.get("FAULT") == "other losses" else 1.0
        logits = self.transformer(idx)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten()) * scale

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        parameters = list(self.parameters())
        return torch.optim.AdamW([
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ], lr=learning_rate, betas=betas)
"""


def clone_in(folder: Path) -> Path:
    """What passes for a clone of karpathy/nanoGPT."""
    clone = folder / "nanoGPT"
    clone.mkdir()
    (clone / "model.py").write_text(MODEL)
    return clone
