"""Open the model folder that a run of fine-tuning starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gptfast.errors import UserError
from gptfast.finetune.settings.common import FinetuneConfig
from gptfast.finetune.settings.distill import DistillConfig
from gptfast.model import build_model
from gptfast.model.adapter_folder import (
    PRECISIONS,
    Base,
    LoraSettings,
    find_base,
    is_adapter,
    read_settings,
    relative_path,
    weights_sha256,
)
from gptfast.model.base import LanguageModel
from gptfast.model.config import ModelConfig
from gptfast.model.finite import check_weights
from gptfast.model.folder import load_float_model, with_adapter
from gptfast.model.lora import add_lora, set_lora_dropout
from gptfast.model.quantized import compute_exactly, quantize, round_to_blocks
from gptfast.tokenizer import Tokenizer, load_tokenizer
from gptfast.tokenizer.chat import read_chat_template
from gptfast.train.checkpoint import has_started
from gptfast.train.init_from import stored_config
from gptfast.train.objective import Objective, Source, Task
from gptfast.train.record import read_record


@dataclass(frozen=True)
class NewAdapter:
    """The adapter of a run with LoRA."""

    settings: LoraSettings
    base: Base
    continues: Path | None
    """The adapter folder that it starts as; None for a new one, or if a checkpoint has it."""

    def add(self, model: LanguageModel, tokenizer: Tokenizer) -> None:
        """Add it to its base, in place. The base's weights go into blocks if it says so."""
        if self.base.bits is not None:
            quantize(model, PRECISIONS[self.base.bits]).train()
            compute_exactly(model)  # so that what is sampled or measured is what is trained
        if self.continues is None:
            add_lora(model, self.settings, self.base)
        else:
            with_adapter(self.continues, model, tokenizer, self.base)
            set_lora_dropout(model.train(), self.settings.dropout)


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
    adapter: NewAdapter | None = None

    def new_model(
        self,
        build: Callable[[ModelConfig], LanguageModel] = build_model,
        *,
        balances: bool = False,
        **changes: Any,
    ) -> Callable[[torch.device], LanguageModel]:
        """Return what makes the initial model, with its adapter.

        build: makes a model, whose body is a GPT's and whose head may be another; a head that the
        folder lacks keeps its new weights. balances: whether the method's loss includes the loss
        that balances experts; UserError for a model that needs it otherwise. changes: fields of
        ModelConfig to change, such as dropout=0.0, for which an adapter may have no dropout,
        either: UserError otherwise.
        """
        config = replace(self.config, **changes)
        if config.n_expert and config.expert_balance == "loss" and not balances:
            raise UserError(
                f"the model has {config.n_expert} experts, balanced by a loss that this method "
                f"does not compute: start from a model without experts, or with expert_balance "
                f"'bias'"
            )
        p = 0.0 if self.adapter is None else self.adapter.settings.dropout
        if p and changes.get("dropout") == 0:
            raise UserError(
                f"lora_dropout is {p}, but this method computes without dropout: leave it out"
            )

        def make(device: torch.device) -> LanguageModel:
            model = build(config)
            if self.weights_from is not None:
                loaded, _ = load_float_model(self.weights_from, "fine-tuning")
                check_weights(loaded)
                own, found = model.state_dict(), loaded.state_dict()
                model.load_state_dict({name: found.get(name, own[name]) for name in own})
            if self.adapter is not None:
                self.adapter.add(model, self.tokenizer)
            return model.to(device)

        return make

    def task(
        self,
        source: Source,
        objective: Objective,
        new_model: Callable[[torch.device], LanguageModel],
        notes: list[str],
        **record: Any,
    ) -> Task:
        """Return the task of a run from here. record: what run.json says besides the checksum."""
        return Task(
            source,
            objective,
            self.tokenizer,
            new_model,
            self.chat_template,
            {"start_sha256": self.sha256, **record},
            notes,
        )


def open_start(config: FinetuneConfig) -> Start:
    """Read what config.model holds but the weights. Raises MissingFileError or UserError.

    An adapter folder is one model with its base, or, with LoRA, the adapter to go on with.
    """
    if not has_started(config):
        return start_from(config, config.model, weights_sha256(config.model))
    sha256 = read_record(config.out)["start_sha256"]
    check_model(config, sha256)
    return start_from(config, config.model, sha256)


def start_from(config: FinetuneConfig | DistillConfig, model: Path, sha256: str) -> Start:
    """Read what the folder `model`, or that of a run that resumes, holds but the weights.

    sha256: checksum of the weights in `model`. Raises MissingFileError or UserError.
    """
    resumes = has_started(config)
    folder = config.out if resumes else model
    adapter = _new_adapter(config, model, resumes, sha256) if config.lora_rank else None
    weights_from = None if resumes else folder
    if adapter is not None:
        weights_from = adapter.base.folder
        if weights_from.resolve() == config.out.resolve():
            raise UserError(
                f"out is {config.out}, which holds the base of the adapter in {folder}: choose "
                f"another --out"
            )
    return Start(
        config=stored_config(weights_from or folder),
        tokenizer=load_tokenizer(folder),
        chat_template=read_chat_template(folder),
        sha256=sha256,
        weights_from=weights_from,
        adapter=adapter,
    )


def check_model(config: FinetuneConfig, *expected: str) -> None:
    """Raise UserError if a run that resumes names another model than the one it was started from.

    expected: checksums of its weights. A path that the run's record has need not exist any more.
    """
    then = read_record(config.out)["config"]["model"]
    if str(config.model) != then and weights_sha256(config.model) not in expected:
        raise UserError(
            f"the weights in {config.model} are not those that the run in {config.out} was started "
            f"from: give --model {then}, or --overwrite to start again"
        )


def load_reference(config: FinetuneConfig, start: Start) -> LanguageModel:
    """Return the model that a run started from, frozen. Raises UserError if it has changed."""
    if weights_sha256(config.model) != start.sha256:
        raise UserError(
            f"the weights in {config.model} are not those that the run started from, from which "
            f"the divergence is measured: give that model as --model"
        )
    reference, _ = load_float_model(config.model, "a reference")
    if config.quantized_base is not None and not is_adapter(config.model):
        round_to_blocks(reference, PRECISIONS[config.quantized_base])
    return reference.eval().requires_grad_(False)


def _new_adapter(
    config: FinetuneConfig | DistillConfig, model: Path, resumes: bool, sha256: str
) -> NewAdapter:
    """Return the adapter that the settings ask for, a new one or that in the folder."""
    folder = config.out if resumes else model
    settings = LoraSettings(
        rank=config.lora_rank,
        alpha=2.0 * config.lora_rank if config.lora_alpha is None else config.lora_alpha,
        dropout=config.lora_dropout,
        targets=config.lora_targets,
    )
    if not is_adapter(folder):
        base = Base(folder, sha256, config.quantized_base, relative_path(folder, config.out))
        return NewAdapter(settings, base, None)
    base = find_base(folder, *([model] if resumes else []))
    base = replace(base, relative=relative_path(base.folder, config.out))
    stored = replace(read_settings(folder), dropout=settings.dropout)
    if resumes:  # the folder's own weights are not needed, and may be damaged
        return NewAdapter(stored, base, None)
    asked = (settings.rank, config.lora_alpha or stored.alpha, config.quantized_base)
    if asked != (stored.rank, stored.alpha, base.bits) or config.lora_targets:
        bits = "" if base.bits is None else f" --quantized-base {base.bits}"
        raise UserError(
            f"{folder} holds an adapter: to go on with it, give --lora-rank {stored.rank}{bits} "
            f"without --lora-alpha and --lora-targets; for another, merge it first (`gptfast "
            f"finetune merge {folder} --out FOLDER`)"
        )
    return NewAdapter(stored, base, folder)
