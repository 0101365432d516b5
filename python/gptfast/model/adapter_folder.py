"""The files that describe an adapter, as PEFT writes and reads them, and the search for its base.

An adapter folder has adapter_config.json and adapter_model.safetensors, so that `peft` and
`transformers` load it, and a tokenizer. adapter_base.json is ours: it names the base by the
checksum of its weights, and by a path from this folder, which stays right when both folders move
together.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gptfast.errors import MissingFileError, UserError, as_float, as_int64, check_at_least
from gptfast.model.config import Precision
from gptfast.system.files import is_file

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
BASE_FILE = "adapter_base.json"

Bits = Literal[8, 4]
PRECISIONS: dict[Bits, Precision] = {8: "int8", 4: "int4"}
"""What a base in so many bits is quantized to (model/quantized.py)."""

_NO_MATTER = {
    "alora_invocation_tokens", "auto_mapping", "base_model_name_or_path", "bias", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core", "modules_to_save",
    "peft_type", "peft_version", "qalora_group_size", "r", "revision", "target_modules",
    "task_type", "use_rslora",
}  # fmt: skip
"""Keys of adapter_config.json that are read here, or that don't change what is computed. Any other
must be empty."""


@dataclass(frozen=True)
class LoraSettings:
    """The shape of an adapter (model/lora.py)."""

    rank: int
    alpha: float
    dropout: float = 0.0
    """Dropout of the adapter's input."""
    targets: tuple[str, ...] = ()
    """Layers that get an adapter, by the ends of their names; all by default."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead of alpha / rank ("rsLoRA", Kalajdzievski, 2023)."""

    @property
    def scale(self) -> float:
        """The factor of an adapter's output."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True)
class Base:
    """The model folder that an adapter belongs to."""

    folder: Path
    sha256: str
    """Checksum of its weights."""
    bits: Bits | None = None
    """The adapter was trained beside weights in blocks of so many bits; None for float weights."""
    relative: str | None = None
    """The path from the adapter's folder."""


def is_adapter(folder: Path) -> bool:
    """Return whether a model folder holds an adapter, and not a whole model."""
    return is_file(folder / CONFIG_FILE)


def describe_adapter(
    settings: LoraSettings,
    base: Base,
    *,
    task: str,
    targets: list[str],
    heads: tuple[str, ...],
    labels: tuple[str, ...],
    is_conv1d: bool,
) -> dict[str, dict[str, Any]]:
    """Return the content of adapter_config.json and adapter_base.json.

    task: PEFT's name of the task. targets: PEFT's names of the layers with an adapter. heads:
    modules that are stored whole. labels: names of a classifier's outputs. is_conv1d: whether the
    base stores its matrices transposed.
    """
    alpha = settings.alpha
    peft = {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": str(base.folder.resolve()),
        "r": settings.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "target_modules": targets,
        "modules_to_save": list(heads) or None,
        "bias": "none",
        "fan_in_fan_out": is_conv1d,
        "inference_mode": True,
    }
    own = {**asdict(base), "folder": str(base.folder.resolve())}
    own |= {"labels": list(labels)} if labels else {}
    return {CONFIG_FILE: peft, BASE_FILE: own}


def read_settings(folder: Path) -> LoraSettings:
    """Read adapter_config.json. Raises UserError for an adapter that gptfast can't compute.

    `targets` are right for an adapter that gptfast wrote. In others, the names of the tensors tell
    which layers have an adapter.
    """
    path = folder / CONFIG_FILE
    stored = _read(path)
    known = {"peft_type": ("LORA",), "bias": ("none",),
             "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva")}  # fmt: skip
    unknown = {key: value for key, value in stored.items() if value and key not in _NO_MATTER}
    unknown |= {k: stored[k] for k, ours in known.items() if stored.get(k, ours[0]) not in ours}
    if unknown:
        key, value = next(iter(unknown.items()))
        raise UserError(
            f"{path} has {key} {value!r}: gptfast computes plain LoRA only; merge the adapter with "
            f"peft's merge_and_unload"
        )
    try:
        settings = LoraSettings(
            rank=as_int64("r", stored["r"]),
            alpha=as_float("lora_alpha", stored["lora_alpha"]),
            dropout=as_float("lora_dropout", stored.get("lora_dropout", 0.0)),
            targets=tuple(map(str, stored.get("target_modules") or ())),
            rslora=bool(stored.get("use_rslora", False)),
        )
        check_at_least("r", settings.rank, 1)
    except KeyError as error:
        raise UserError(f"{path} is not an adapter's configuration: no {error}") from error
    except UserError as error:
        raise UserError(f"{path} can't be used: {error}") from error
    if not math.isfinite(settings.alpha) or not 0 <= settings.dropout < 1:
        raise UserError(
            f"{path} has lora_alpha {settings.alpha:g} and lora_dropout {settings.dropout:g}: "
            f"expected a finite number, and one from 0 to below 1"
        )
    return settings


def read_adapter_labels(folder: Path) -> tuple[str, ...] | None:
    """Return the labels of a classifier's adapter, in order; None if it is no classifier's.

    Raises UserError for one without adapter_base.json, as PEFT writes it: PEFT stores no labels.
    """
    if _read(folder / CONFIG_FILE).get("task_type") != "SEQ_CLS":
        return None
    own = _read(folder / BASE_FILE) if is_file(folder / BASE_FILE) else {}
    if not isinstance(own.get("labels"), list):
        raise UserError(
            f"{folder} has the adapter of a classifier, but no {BASE_FILE} with its labels: merge "
            f"it with peft's merge_and_unload, and save the whole model"
        )
    return tuple(map(str, own["labels"]))


def find_base(folder: Path, *others: Path) -> Base:
    """Find the base of an adapter folder; look for it in other places, too.

    Raises MissingFileError if it is at none of its paths, UserError if it is another model than the
    one that the adapter was trained beside. An adapter without adapter_base.json, such as PEFT's,
    is believed.
    """
    named = _read(folder / CONFIG_FILE).get("base_model_name_or_path")
    own = _read(folder / BASE_FILE) if is_file(folder / BASE_FILE) else {}
    wanted, relative, bits = own.get("sha256"), own.get("relative"), own.get("bits")
    if own and not (
        isinstance(wanted, str) and isinstance(relative, str | None) and bits in (None, *PRECISIONS)
    ):
        raise UserError(
            f"{folder / BASE_FILE} is damaged: expected the texts sha256 and relative, and bits of "
            f"8, 4 or null"
        )
    paths = [(folder / relative).resolve()] if relative else []
    paths += [Path(named), folder / named] if isinstance(named, str) and named else []
    paths += others
    if not paths:
        raise UserError(
            f"{folder / CONFIG_FILE} names no base: expected base_model_name_or_path, the folder "
            f"of the model that the adapter belongs to"
        )
    found = [path for path in paths if (path / "config.json").is_file() and not is_adapter(path)]
    for path in found:
        sha256 = weights_sha256(path)
        if wanted is None or sha256 == wanted:
            return Base(path, sha256, bits, relative_path(path, folder))
    if found and wanted is not None:
        raise UserError(
            f"the weights in {found[0]} are not those that the adapter in {folder} was trained "
            f"beside (SHA-256 {wanted[:12]}...): put that model there"
        )
    raise MissingFileError(
        f"no base for the adapter in {folder}: expected a model folder at {paths[0]}; move it "
        f"there, or change base_model_name_or_path in {folder / CONFIG_FILE}"
    )


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 of the weights in a model folder, which may be in several files.

    That of an adapter covers the adapter only.
    """
    digest = hashlib.sha256()
    pattern = WEIGHTS_FILE if is_adapter(folder) else "model*.safetensors"
    for path in sorted(folder.glob(pattern)):
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def relative_path(base: Path, folder: Path) -> str | None:
    """Return the path from a folder to the base; None if there is none, as on another drive."""
    try:
        return Path(os.path.relpath(base.resolve(), folder.resolve())).as_posix()
    except ValueError:  # Windows
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}: expected an object")
    return content
