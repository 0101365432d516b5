"""What a run is given: data, an objective, a model and a tokenizer."""

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
    """Everything of a run that is not in its RunConfig: what is learned, from what."""

    source: Source
    objective: Objective
    tokenizer: Tokenizer
    """Saved beside the model."""
    new_model: Callable[[torch.device], LanguageModel]
    """Makes the model that the run starts from; PyTorch's global seed decides fresh weights."""
    record: dict[str, Any] = field(default_factory=dict)
    """What run.json says of the data."""
    notes: list[str] = field(default_factory=list)
    """Lines to print before training starts."""
    examine: Callable[[], Iterator[str]] | None = None
    """Slow checks of the data, as lines to print; called only if there is something to train."""
