"""Open the model folder that a run of fine-tuning starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gptfast.finetune.settings.common import FinetuneConfig
from gptfast.model import build_model
from gptfast.model.adapter_folder import weights_sha256
from gptfast.model.base import LanguageModel
from gptfast.model.config import ModelConfig
from gptfast.model.finite import check_weights
from gptfast.model.folder import load_float_model
from gptfast.tokenizer import Tokenizer, load_tokenizer
from gptfast.tokenizer.chat import read_chat_template
from gptfast.train.checkpoint import has_started
from gptfast.train.init_from import stored_config
from gptfast.train.record import read_record


@dataclass(frozen=True)
class Start:
    """What a run starts from. A run that resumes takes all of it from its own folder."""

    config: ModelConfig
    tokenizer: Tokenizer
    chat_template: str | None
    sha256: str
    """Checksum of the weights of the model that the run was started from."""
    weights_from: Path | None
    """The folder to load weights from; None if a checkpoint replaces them."""

    def new_model(
        self, build: Callable[[ModelConfig], LanguageModel] = build_model, **changes: Any
    ) -> Callable[[torch.device], LanguageModel]:
        """Return what makes the initial model.

        build: makes a model, whose body is a GPT's and whose head may be another; a head that the
        folder lacks keeps its new weights. changes: fields of ModelConfig to change, such as
        dropout=0.0.
        """
        config = replace(self.config, **changes)

        def make(device: torch.device) -> LanguageModel:
            model = build(config)
            if self.weights_from is not None:
                loaded, _ = load_float_model(self.weights_from, "fine-tuning")
                check_weights(loaded)
                own, found = model.state_dict(), loaded.state_dict()
                model.load_state_dict({name: found.get(name, own[name]) for name in own})
            return model.to(device)

        return make


def open_start(config: FinetuneConfig) -> Start:
    """Read what config.model holds but the weights. Raises MissingFileError or UserError."""
    resumes = has_started(config)
    folder = config.out if resumes else config.model
    sha256 = read_record(folder)["start_sha256"] if resumes else weights_sha256(folder)
    return Start(
        config=stored_config(folder),
        tokenizer=load_tokenizer(folder),
        chat_template=read_chat_template(folder),
        sha256=sha256,
        weights_from=None if resumes else folder,
    )
