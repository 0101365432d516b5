"""What the model writes while it is trained."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gptfast.model import LanguageModel
from gptfast.tokenizer import Tokenizer

WriteSample = Callable[[LanguageModel, Tokenizer], str]
"""Makes a text of a model in evaluation mode."""


class Sampler:
    """A sample every `interval` steps, which leaves the training as it would be without."""

    def __init__(self, write: WriteSample, tokenizer: Tokenizer, interval: int) -> None:
        self.write = write
        self.tokenizer = tokenizer
        self.interval = interval

    def is_due(self, step: int) -> bool:
        """Return whether a sample is due after `step` steps; an interval of 0 means never."""
        return self.interval > 0 and step > 0 and step % self.interval == 0

    def sample(self, model: LanguageModel) -> str:
        """The text; the model's mode and the random state are as before."""
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            text = self.write(model, self.tokenizer)
        model.train(training)
        return text
