"""Start a run from the weights, the configuration and the tokenizer of a model folder."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gptfast.data.dataset import Mixture
from gptfast.errors import MissingFileError, UserError
from gptfast.model.adapter_folder import weights_sha256
from gptfast.model.base import LanguageModel
from gptfast.model.config import ModelConfig
from gptfast.model.finite import check_weights
from gptfast.model.folder import folder_config, load_model, refuse_blocks
from gptfast.model.foreign import refuse_pickles
from gptfast.tokenizer import load_tokenizer
from gptfast.train.checkpoint import has_started
from gptfast.train.config import TrainConfig
from gptfast.train.record import read_record

_MAY_DIFFER = ("block_size", "dropout", "ngram_dropout", "expert_balance_rate")
"""Model fields that may differ from the folder in init_from."""


def with_init(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the model and the tokenizer of init_from, if it is set.

    A run that resumes keeps the model in its record. Raises MissingFileError or UserError if the
    folder holds no model.
    """
    if config.init_from is None:
        return config
    resumes = has_started(config)
    model = recorded_config(config.out) if resumes else stored_config(config.init_from)
    return replace(config, model=model, tokenizer=str(config.init_from))


def stored_config(folder: Path) -> ModelConfig:
    """Read the configuration of a folder to start from. Raises MissingFileError or UserError.

    It names the context before rotary positions were stretched, on which they depend: a run with a
    shorter block_size keeps them.
    """
    refuse_pickles(folder)
    config = folder_config(folder)
    refuse_blocks(folder, "training")
    if config.rope_scaling in ("yarn", "llama3"):
        return replace(config, rope_original_context=config.original_context)
    return config


def recorded_config(folder: Path) -> ModelConfig:
    """Read the configuration of the model of a run. Raises UserError."""
    try:
        return ModelConfig(**read_record(folder)["config"]["model"])
    except (OSError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'run.json'} does not describe a model ({error!r}): give --overwrite to "
            f"train again"
        ) from error


def check_init(config: TrainConfig, folder: Path) -> None:
    """Raise UserError if the configured model can't start from the model in a folder."""
    stored = stored_config(folder)
    if config.out.resolve() == folder.resolve():
        raise UserError(
            f"out and init_from are both {config.out}, whose weights the run would replace: "
            f"choose another --out"
        )
    ours, theirs = asdict(config.model), asdict(stored)
    for name, value in ours.items():
        if value != theirs[name] and name not in _MAY_DIFFER:
            raise UserError(
                f"{name} is {value!r}, but the model in {folder} has {theirs[name]!r}: "
                f"leave {name} out; with --init-from only {', '.join(_MAY_DIFFER)} may differ"
            )
    if config.model.block_size > stored.block_size:
        raise UserError(
            f"block_size is {config.model.block_size}, but the model in {folder} was trained with "
            f"{stored.block_size}: expected at most the latter"
        )


def check_tokenizer(data: Mixture, folder: Path) -> None:
    """Raise UserError if the corpora were not encoded with the folder's tokenizer."""
    if load_tokenizer(folder).fingerprint != data.tokenizer.fingerprint:
        raise UserError(
            f"the model in {folder} was trained with another tokenizer than "
            f"{data.parts[0].report.corpus}: leave --tokenizer out, or prepare the corpus with "
            f"--tokenizer {folder}; no command gives a model further tokens, but in Python "
            f"gptfast.model.resize.add_tokens adds special ones"
        )


def started_from(config: TrainConfig) -> dict[str, Any]:
    """Return what run.json says about init_from: a checksum of its weights, if it is set.

    A run that resumes keeps what its record says. Raises UserError if its arguments name another
    model or tokenizer than those it started from. They may name them by another path, and paths in
    the record need not exist any more.
    """
    folder = config.init_from
    if not has_started(config):
        return {} if folder is None else {"init_from_sha256": weights_sha256(folder)}
    record = read_record(config.out)
    then = record["config"]
    if config.tokenizer not in ("bpe", "char", then.get("tokenizer")):
        option, before = ("--tokenizer", then.get("tokenizer"))
        if folder is not None:
            option, before = ("--init-from", then["init_from"])
        try:
            given = load_tokenizer(Path(config.tokenizer))
        except MissingFileError as error:
            raise MissingFileError(
                f"{error}; the run in {config.out} has a copy of what it needs: give {option} "
                f"{before} as at its start, whether that still exists or not"
            ) from error
        own = load_tokenizer(config.out)
        if own.fingerprint != given.fingerprint:
            raise UserError(
                f"the tokenizer in {config.tokenizer} is not the one that the run in {config.out} "
                f"was started with: leave --tokenizer as it was, or give --overwrite"
            )
    if folder is None:
        return {}
    sha256 = record.get("init_from_sha256")
    if str(folder) != then["init_from"] and weights_sha256(folder) != sha256:
        raise UserError(
            f"the weights in {folder} are not those that the run in {config.out} was started from: "
            f"leave --init-from as it was, or give --overwrite"
        )
    return {"init_from_sha256": sha256}


def copy_weights(folder: Path, model: LanguageModel) -> None:
    """Load a folder's weights into `model`, without learned positions beyond its context.

    Raises UserError for weights that are not finite, as training would blame the computation.
    """
    loaded, _ = load_model(folder)
    check_weights(loaded)
    state = loaded.state_dict()
    if "wpe.weight" in state:
        state["wpe.weight"] = state["wpe.weight"][: model.config.block_size]
    model.load_state_dict(state)
