"""Read what a run has left in its folder: settings, losses and samples, finished or not."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptfast.errors import MissingFileError, UserError
from gptfast.model.folder import read_precision
from gptfast.system.escape import escaped
from gptfast.tokenizer import load_tokenizer
from gptfast.train.record import read_record
from gptfast.train.resume import flat


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


def read_run(folder: Path) -> Run:
    """Read run.json and metrics.jsonl. Raises MissingFileError or UserError."""
    if not (folder / "run.json").is_file():
        raise MissingFileError(
            f"no run in {folder}: expected a folder that `gptfast train` made, with a run.json"
        )
    record = read_record(folder)
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
            values = json.loads(line)
            values["step"]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path} is damaged in line {number} ({error!r}): remove that line"
            ) from error
        found.append(values)
    return found


def _weights(path: Path) -> str:
    """Return what a model was quantized to, if it was."""
    precision = read_precision(path) if path.is_file() else None
    return precision or "float32"
