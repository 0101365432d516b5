"""The task of a run: data, an objective, a model and a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from gptfast.model.base import LanguageModel
from gptfast.tokenizer import Tokenizer
from gptfast.train.objective import Objective, Source


@dataclass
class Task:
    """The parts of a run that are not in its RunConfig: what is learned, and from which data."""

    source: Source
    objective: Objective
    tokenizer: Tokenizer
    """Saved beside the model."""
    new_model: Callable[[torch.device], LanguageModel]
    """Makes the initial model. New weights are drawn from PyTorch's global generator."""
    record: dict[str, Any] = field(default_factory=dict)
    """The description of the data for run.json."""
    notes: list[str] = field(default_factory=list)
    """Lines to print before training starts."""
    examine: Callable[[], Iterator[str]] | None = None
    """Slow checks of the data that yield lines to print. Called only if training will start."""
