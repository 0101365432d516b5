"""What a run needs to go on as if it had never stopped.

training/step-00000500/ holds model.safetensors, optimizer.pt (optimizer and random generators) and
state.json (step, loader, best val loss). A checkpoint is written aside and renamed; only then is
the one before deleted.
"""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from gptfast.data.loader import Loader, LoaderState
from gptfast.errors import UserError
from gptfast.fsync import write_folder_atomically, write_text_atomically
from gptfast.model import LanguageModel
from gptfast.model.folder import load_weights, save_weights
from gptfast.train.optim import Optimizer


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimizer steps taken."""
    best_val_loss: float = float("inf")
    """Lowest val loss seen, in nats per token; model.safetensors holds its weights."""
    best_step: int = 0
    seconds: float = 0.0
    """Wall time so far, evaluations included."""
    training_seconds: float = 0.0
    """The part of it spent on optimizer steps."""
    losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last line of metrics.jsonl."""


def save_checkpoint(
    folder: Path, model: LanguageModel, optimizer: Optimizer, loader: Loader, progress: Progress
) -> None:
    """Write folder/training/step-N and delete the older ones."""
    training = folder / "training"
    older = list(training.glob("step-*"))
    killed = list(training.glob(".step-*"))  # half-written ones, of runs that were killed
    path = training / f"step-{progress.step:08d}"
    if path in older:
        return

    def write(temporary: Path) -> None:
        save_weights(model, temporary / "model.safetensors")
        state = {"optimizer": optimizer.state_dict(), "random": _random_state(model)}
        torch.save(state, temporary / "optimizer.pt")
        state_json = {"progress": asdict(progress), "loader": loader.state_dict()}
        write_text_atomically(temporary / "state.json", json.dumps(state_json, indent=2))

    training.mkdir(parents=True, exist_ok=True)
    write_folder_atomically(path, write)
    for old in older + killed:
        shutil.rmtree(old)


def load_checkpoint(
    folder: Path, model: LanguageModel, optimizer: Optimizer, loader: Loader
) -> Progress:
    """Restore the newest checkpoint; the progress is that of a new run if there is none."""
    checkpoints = sorted((folder / "training").glob("step-*"))
    if not checkpoints:
        return Progress()
    newest = checkpoints[-1]
    try:
        load_weights(model, newest / "model.safetensors")
        # weights_only: a model folder may come from anyone, and a pickle could run code.
        state = torch.load(newest / "optimizer.pt", weights_only=True, map_location="cpu")
        described = json.loads((newest / "state.json").read_text(encoding="utf-8"))
        optimizer.load_state_dict(state["optimizer"])
        _restore_random_state(model, state["random"])
        saved_loader: LoaderState = described["loader"]
        loader.load_state_dict(saved_loader)
        return Progress(**described["progress"])
    except (OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError,
            pickle.PickleError) as error:  # fmt: skip
        raise UserError(
            f"the checkpoint {newest} is damaged ({error}): train again with --overwrite"
        ) from error


def _random_state(model: LanguageModel) -> dict[str, Any]:
    device = next(model.parameters()).device
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _restore_random_state(model: LanguageModel, state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    device = next(model.parameters()).device
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
