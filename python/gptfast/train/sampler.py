"""Sample from the model during training."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gptfast.model import LanguageModel
from gptfast.tokenizer import Tokenizer
from gptfast.train.evaluate import eval_mode

WriteSample = Callable[[LanguageModel, Tokenizer], str]
"""Returns a text that a model in evaluation mode writes."""


class Sampler:
    """Samples every `interval` steps, without any effect on training; never if that is 0."""

    def __init__(self, write: WriteSample, tokenizer: Tokenizer, interval: int) -> None:
        self.write = write
        self.tokenizer = tokenizer
        self.interval = interval

    def is_due(self, step: int) -> bool:
        """Return whether a sample is due after `step` steps; never at step 0 or interval 0."""
        return self.interval > 0 and step > 0 and step % self.interval == 0

    def sample(self, model: LanguageModel) -> str:
        """Return a sample. The model's mode and the random state stay as they were."""
        device = next(model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with eval_mode(model), torch.random.fork_rng(devices):
            return self.write(model, self.tokenizer)
