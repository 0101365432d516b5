"""Decide what a resumed run may change, and describe what its changes do."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gptfast.data.documents import TextOptions
from gptfast.data.sources import NAMED_SOURCES
from gptfast.errors import UserError
from gptfast.train.checkpoint import newest_step
from gptfast.train.config import RunConfig

CHANGEABLE = (
    "out", "sample_interval", "log_to", "checkpoint_interval", "keep_checkpoints",
    "max_loss_spike", "max_rollbacks", "micro_batch_size", "activation_checkpointing", "compile",
    "kernels", "device", "parallel", "dtype", "learning_rate", "matrix_learning_rate", "max_steps",
    "eval_interval", "eval_windows",
)  # fmt: skip
"""Settings that --resume may change: to train longer, to measure otherwise, to move a run to
another machine, or to rescue a failed run. The learning rates and max_steps change what is learned.
The others change only when the run gives up, what it measures, and how it is computed: rounding,
dropout's random numbers, and the tokens that experts balance over."""

_PEAKS = ("learning_rate", "matrix_learning_rate")

PATHS = (
    "corpus", "mix_corpora", "init_from", "tokenizer", "model", "data", "val_data", "prompts",
    "val_prompts", "teacher", "reward_model", "images",
)  # fmt: skip
"""Settings that may name the same files in another way. Checksums decide whether they do."""

READING = tuple(field.name for field in fields(TextOptions))
"""Settings by which files are read. Checksums of the text decide whether it is the same."""

_NAMES = (*NAMED_SOURCES, "bpe", "char")
"""Values of the settings in PATHS that are no paths."""


def check_changes(older: dict[str, Any], config: RunConfig) -> None:
    """Raise UserError if the run of an older record can't go on with this configuration."""
    refused = [
        f"{name}={then!r}"
        for name, (then, now) in changed(older, config).items()
        if name not in (*CHANGEABLE, *READING) and not (name in PATHS and _are_paths(then, now))
    ]
    if refused:
        raise UserError(
            f"the run in {config.out} was started with {', '.join(refused)}: --resume can't change "
            f"that; give the same arguments, or --overwrite to start again"
        )
    done = newest_step(config.out)
    if done is None and older["result"] and not is_finished(older, config):
        raise UserError(
            f"the run in {config.out} is finished, and its checkpoints are gone: --max-steps can't "
            f"continue it; start from its weights with --init-from and another --out"
        )
    if done is not None and config.max_steps < done:
        raise UserError(
            f"max_steps is {config.max_steps}, but the run in {config.out} has already taken "
            f"{done} steps: give --max-steps {done} or more, or --overwrite to start again"
        )


def is_finished(older: dict[str, Any], config: RunConfig) -> bool:
    """Return whether the run of an older record has taken all the steps that are asked for."""
    return bool(older["result"]) and older["result"]["steps"] >= config.max_steps


def changed(older: dict[str, Any], config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ from an older record, as name: (then, now)."""
    then, now = flat(older["config"]), flat(config.to_json())
    if now["dtype"] == "auto":
        now["dtype"] = then.get("dtype")  # a run keeps its first dtype
    return {name: (then.get(name), now[name]) for name in now if now[name] != then.get(name)}


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a run's configuration, merged with those of a model that it describes.

    In fine-tuning, `model` is a path.
    """
    model = config.get("model")
    if not isinstance(model, dict):
        return config
    return {k: v for k, v in config.items() if k != "model"} | model


def _are_paths(then: Any, now: Any) -> bool:
    """Return whether two values of a setting are paths, or equally many paths."""
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(map(_are_paths, then, now))
    if then == now:
        return True
    return all(isinstance(value, str) and value not in _NAMES for value in (then, now))


def check_same_data(folder: Path, older: dict[str, Any], fingerprint: str) -> None:
    """Raise UserError if the data or the tokenizer has changed since the run started."""
    if older["fingerprint"] != fingerprint:
        raise UserError(
            f"the data, the tokenizer or the model to start from has changed since the run in "
            f"{folder} was started: --resume can't continue with other data; give --overwrite to "
            f"start again"
        )


def describe_changes(older: dict[str, Any], config: RunConfig) -> list[str]:
    """Return a line for each changed setting, and one about the learning rates' new course."""
    changes = changed(older, config)
    lines = [
        f"continuing with {name} {now} instead of {then}" for name, (then, now) in changes.items()
    ]
    done = newest_step(config.out)
    if done is not None and not changes.keys().isdisjoint(("max_steps", *_PEAKS)):
        then = {name: older["config"][name] for name in ("max_steps", *_PEAKS)}
        before, after = (
            _learning_rates(replace(config, **then), done),
            _learning_rates(config, done),
        )
        rates = [
            f"{name} is {after[name]:.3g}, "
            + (
                "as before"
                if math.isclose(before[name], after[name])
                else f"not {before[name]:.3g}"
            )
            for name in after
        ]
        lines.append(
            f"after step {done}, {' and '.join(rates)}; the schedule {config.schedule!r} ends at "
            f"step {config.max_steps}"
        )
    return lines


def _learning_rates(config: RunConfig, step: int) -> dict[str, float]:
    """Return the learning rates at a step that the optimizer uses, by the names of their peaks."""
    used = _PEAKS if config.optimizer == "muon" else _PEAKS[:1]
    return {name: getattr(config, name) * config.lr_factor(step) for name in used}
