"""Read what a run has left in its folder: settings, losses and samples, finished or not."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from gptfast.errors import MissingFileError, UserError
from gptfast.model.folder import read_precision
from gptfast.system.escape import escaped
from gptfast.tokenizer import load_tokenizer
from gptfast.train.record import read_record
from gptfast.train.resume import flat

Fields = Mapping[tuple[type, ...], tuple[str, ...]]

_WHOLE, _NUMBER, _TEXT = (int,), (int, float), (str,)
# What readers of run.json rely on, by types.
_FIELDS: Fields = {
    _WHOLE: ("config.seed", "config.max_steps", "config.batch_size", "hardware.cpu_cores"),
    _NUMBER: ("config.learning_rate",),
    _TEXT: ("config.device", "config.dtype", "config.optimizer", "hardware.cpu", "written"),
    (dict,): ("versions",),
}
_OF_A_RESULT: Fields = {
    _WHOLE: ("steps", "best_step"),
    _NUMBER: ("val_loss", "seconds", "tokens_per_second"),
    (dict,): ("measured",),
}
_OF_PRETRAINING: Fields = {
    _WHOLE: tuple(f"config.model.{name}" for name in ("block_size", "n_layer", "n_head", "n_embd")),
    _NUMBER: ("config.val_fraction",),
    _TEXT: ("config.model.architecture",),
    (dict,): ("data",),
    (list,): ("further_data", "shares"),
}
_OF_A_CORPUS: Fields = {
    _WHOLE: (
        "train_bytes", "train_documents", "train_tokens",
        "val_bytes", "val_documents", "val_tokens",
    ),
    _NUMBER: ("overlap",),
    _TEXT: ("corpus", "corpus_sha256"),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a model folder says about its training."""

    folder: Path
    name: str
    record: dict[str, Any]
    """The content of run.json."""
    settings: dict[str, Any]
    """Its configuration, flat, with the precision of the weights and checksums of the texts."""
    tokenizer: str | None
    """The tokenizer's fingerprint; None before the run has written it."""
    result: dict[str, Any] | None
    """None until the run is finished."""
    evaluations: list[dict[str, Any]]
    """The lines of metrics.jsonl that have a val loss."""
    losses: list[dict[str, Any]]
    """The lines that have a training loss."""
    samples: list[dict[str, Any]]
    """The lines that have a sample."""

    @property
    def reads_images(self) -> bool:
        """Whether the run trains a vision transformer."""
        return "images" in self.record["config"]


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise UserError if some of the runs train on images, and others on text."""
    of_images, of_text = (
        [run.name for run in runs if run.reads_images == reads_images]
        for reads_images in (True, False)
    )
    if of_images and of_text:
        raise UserError(
            f"{of_images[0]} was trained on images, and {of_text[0]} on text: expected runs of one "
            f"kind, whose losses compare"
        )


def read_run(folder: Path) -> Run:
    """Read run.json and metrics.jsonl. Raises MissingFileError or UserError."""
    if not (folder / "run.json").is_file():
        raise MissingFileError(
            f"no run in {folder}: expected a folder that `gptfast train` made, with a run.json"
        )
    record = read_record(folder)
    try:
        _check_record(record)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{folder / 'run.json'} is damaged ({error}): train again with --overwrite"
        ) from error
    metrics = _read_metrics(folder / "metrics.jsonl")
    data = {}
    if "further_data" in record:  # a pre-training
        corpora = [record["data"], *record["further_data"]]
        data["corpus"] = corpora[0]["corpus"]
        data["texts (SHA-256)"] = " ".join(corpus["corpus_sha256"][:12] for corpus in corpora)
    return Run(
        folder,
        escaped(os.path.normpath(folder)),
        record,
        flat(record["config"]) | {"weights": _weights(folder / "config.json")} | data,
        load_tokenizer(folder).fingerprint if (folder / "tokenizer.json").is_file() else None,
        record["result"],
        [m for m in metrics if "val_loss" in m],
        [m for m in metrics if "loss" in m],
        [m for m in metrics if "sample" in m],
    )


def _check_record(record: dict[str, Any]) -> None:
    """Raise ValueError or TypeError if run.json lacks what readers rely on."""
    _check(record, _FIELDS)
    datetime.fromisoformat(record["written"])
    if record["result"] is not None:
        _check(record["result"], _OF_A_RESULT)
    if "further_data" in record:
        _check(record, _OF_PRETRAINING)
        corpora = [record["data"], *record["further_data"]]
        for corpus in corpora:
            _check(corpus, _OF_A_CORPUS)
        shares = record["shares"]
        if len(shares) != len(corpora) or not all(isinstance(s, _NUMBER) for s in shares):
            raise ValueError(f"shares is {shares!r}, for {len(corpora)} corpora")


def _check(content: Any, fields: Fields) -> None:
    """Raise ValueError for a field that is missing or of another type."""
    for types, names in fields.items():
        for name in names:
            value = content
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if not isinstance(value, types) or isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}")


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, but for a last one that is being written."""
    if not path.is_file():
        return []
    found = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            values = json.loads(line, parse_constant=_refuse)
            _check_metrics(values)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} is damaged in line {number} ({error}): remove that line"
            ) from error
        found.append(values)
    return found


def _check_metrics(values: Any) -> None:
    """Raise ValueError unless this is a line of metrics.jsonl."""
    _check(values, {_WHOLE: ("step",)})
    _check(values, {_TEXT: ("sample",)} if "sample" in values else {_NUMBER: ("seconds",)})
    for name, value in values.items():
        if name != "sample" and not isinstance(value, (int, float, list, type(None))):
            raise ValueError(f"{name} is {value!r}")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _weights(path: Path) -> str:
    """Return what a model was quantized to, if it was."""
    precision = read_precision(path) if path.is_file() else None
    return precision or "float32"
