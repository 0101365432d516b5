"""What a run needs to resume as if it had never stopped.

training/step-00000500/ holds model.safetensors, optimizer.pt (optimizer, loss scale and random
generators), state.json (progress and source) and checksums.json. A checkpoint is written aside and
renamed; only then are the oldest deleted. One whose files are not what was written is passed over
for the one before. training/skipped.json has the batches not to be tried again, training/best.json
says whose weights are in the folder's own model.safetensors.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptfast.data.loader import Prefetcher
from gptfast.errors import UserError
from gptfast.model import LanguageModel
from gptfast.model.folder import FILES, load_weights, save_weights
from gptfast.system.files import (
    add_folder,
    remove_leftovers,
    write_folder_atomically,
    write_text_atomically,
)
from gptfast.train.distributed import (
    World,
    full_optimizer_state,
    full_state,
    load_full_optimizer_state,
    load_full_state,
)
from gptfast.train.optim import Optimizer

_CHECKSUMMED = ("model.safetensors", "optimizer.pt", "state.json")
_SKIPPED = "skipped.json"
_BEST = "best.json"
_DELETED = ".training.deleted"
_NAME = re.compile(r"step-\d{8,}")


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimizer steps taken."""
    tokens: int = 0
    """Tokens trained on."""
    batches: int = 0
    """Batches drawn from the source: more than steps where some were skipped."""
    skipped: list[int] = field(default_factory=list)
    """Which of these batches were skipped because their step went wrong; 0 is the first."""
    best_val_loss: float = float("inf")
    """Lowest val loss seen, in nats per token; model.safetensors holds its weights. Not as the
    checkpoint says, but as `read_best` does."""
    best_step: int = 0
    seconds: float = 0.0
    """Wall time so far, evaluations included."""
    training_seconds: float = 0.0
    """The part of it spent on optimizer steps."""
    losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last line of metrics.jsonl."""
    recent: list[float] = field(default_factory=list)
    """Losses of the last steps, with which the next is compared."""


class Clock:
    """Counts every second once: each lap begins where the one before ended."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def lap(self) -> float:
        """Return the seconds since the clock was made or last read."""
        before, self.last = self.last, time.monotonic()
        return self.last - before


@dataclass
class State:
    """The parts of a run that change from step to step."""

    model: LanguageModel
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    source: Prefetcher
    world: World
    clock: Clock = field(default_factory=Clock)
    progress: Progress = field(default_factory=Progress)

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimizer's parts."""
        return [part for part, _ in self.optimizer.parts]

    def lap(self) -> float:
        """Count the time since the last lap as spent on this run, and return it in seconds."""
        seconds = self.clock.lap()
        self.progress.seconds += seconds
        return seconds


def save_checkpoint(folder: Path, state: State, keep: int) -> None:
    """Write folder/training/step-N; keep the `keep` newest. Raises OSError, as for a full disk.

    Every process must call it; rank 0 collects what the others hold, and writes.
    """
    model_state = full_state(state.model)
    optimizer_state = full_optimizer_state(state.model, state.optimizers)
    random_states = state.world.gather(_random_state(state.world.device))
    if not state.world.is_main:
        return
    training = folder / "training"
    path = training / f"step-{state.progress.step:08d}"
    if path.exists():
        return

    def write(temporary: Path) -> None:
        save_weights(state.model, temporary / "model.safetensors", model_state)
        rest = {
            "optimizer": optimizer_state,
            "scaler": state.scaler.state_dict(),
            "random": random_states,
        }
        try:
            torch.save(rest, temporary / "optimizer.pt")
        except RuntimeError as error:  # PyTorch's word for a full disk
            raise OSError(str(error).split("\n")[0]) from error
        described = {"progress": asdict(state.progress), "source": state.source.state_dict()}
        write_text_atomically(temporary / "state.json", json.dumps(described, indent=2))
        checksums = {name: _sha256(temporary / name) for name in _CHECKSUMMED}
        write_text_atomically(temporary / "checksums.json", json.dumps(checksums, indent=2))

    add_folder(training)
    write_folder_atomically(path, write)
    for old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, state: State, log: Callable[[str], None]) -> bool:
    """Restore the newest checkpoint that is whole; return False if there is none.

    Every process must call it; rank 0 decides for all which one it is, and `log` gets a line for
    each damaged one. Raises UserError if all are damaged, or if the one that is whole can't be read
    or loaded: that may be the machine's fault, so no older one is taken in its place.
    """
    training = folder / "training"
    checkpoints = _checkpoints(folder)[::-1]
    newest = _newest_whole(checkpoints, log) if state.world.is_main else None
    (path, *_) = state.world.gather(newest)
    if path is None:
        if checkpoints:
            raise UserError(f"no checkpoint in {training} is whole: train again with --overwrite")
        return False
    try:
        state.progress = _load(path, state)
    except (OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError,
            pickle.PickleError) as error:  # fmt: skip
        raise UserError(
            f"the checkpoint {path} is whole, but can't be loaded ({error}): try again, with the "
            f"version of gptfast that run.json names, or train again with --overwrite"
        ) from error
    state.progress.skipped = sorted({*state.progress.skipped, *_skipped(training / _SKIPPED)})
    return True


def _skipped(path: Path) -> list[int]:
    try:
        found: list[int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        return [int(batch) for batch in found]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} can't be read ({error}): delete it to try all batches") from error


def save_skipped(folder: Path, skipped: list[int]) -> None:
    """Record batches that went wrong after the newest checkpoint, for a run that resumes there.

    Raises OSError, as for a full disk.
    """
    write_text_atomically(folder / "training" / _SKIPPED, json.dumps(skipped))


def save_best(
    folder: Path, model: LanguageModel, weights: dict[str, Tensor], val_loss: float, step: int
) -> None:
    """Write the model's whole state as model.safetensors. Raises OSError, as for a full disk.

    Then write training/best.json, which says whose weights they are and how to see damage.
    """
    save_weights(model, folder / "model.safetensors", weights)
    make_best_record(folder, val_loss, step)


def make_best_record(folder: Path, val_loss: float, step: int) -> None:
    """Write training/best.json. Raises OSError, as for a full disk."""
    path = folder / "model.safetensors"
    content = {"val_loss": val_loss, "step": step, "sha256": _sha256(path)}
    add_folder(folder / "training")
    write_text_atomically(folder / "training" / _BEST, json.dumps(content))


def read_best(folder: Path) -> tuple[float, int] | None:
    """The val loss and the step of model.safetensors; None if it isn't what `save_best` wrote.

    Raises UserError if that can't be read.
    """
    try:
        content = json.loads((folder / "training" / _BEST).read_text(encoding="utf-8"))
        is_whole = _sha256(folder / "model.safetensors") == content["sha256"]
        return (float(content["val_loss"]), int(content["step"])) if is_whole else None
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
    except OSError as error:  # of the disk, or of the rights to it
        raise UserError(f"can't read the best weights in {folder} ({error}): try again") from error


def delete_checkpoints_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of steps after `step`, which are damaged or will be made again."""
    for path in _checkpoints(folder):
        if _step(path) > step:
            shutil.rmtree(path)


def delete_checkpoints(folder: Path) -> None:
    """Delete training/: the model stays usable, but the run can no longer be resumed."""
    aside = folder / _DELETED  # half a checkpoint must not look like a whole one
    if aside.exists():
        shutil.rmtree(aside)
    if (folder / "training").exists():
        (folder / "training").rename(aside)
        shutil.rmtree(aside)


def delete_half_written(folder: Path) -> None:
    """Delete what runs that were killed while they wrote or deleted left in a model folder.

    No other process may be writing there.
    """
    for path in (*(folder / "training").glob(".step-*"), *folder.glob(_DELETED)):
        shutil.rmtree(path)
    names = (*FILES, "run.json", f"training/{_SKIPPED}", f"training/{_BEST}")
    remove_leftovers((folder / name for name in names), sole_writer=True)


def _checkpoints(folder: Path) -> list[Path]:
    """The run's own ones, whole or not, oldest first; not what someone copied beside them."""
    found = (folder / "training").glob("step-*")
    return sorted((path for path in found if _NAME.fullmatch(path.name)), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _newest_whole(checkpoints: list[Path], log: Callable[[str], None]) -> Path | None:
    """The first of the checkpoints that is not damaged."""
    for path in checkpoints:
        damage = _damage(path)
        if damage is None:
            return path
        log(f"the checkpoint {path} is damaged ({damage}): passed over")
    return None


def _damage(path: Path) -> str | None:
    """What of a checkpoint is not what was written; None if it is whole.

    Raises UserError if that can't be read.
    """
    try:
        checksums = json.loads((path / "checksums.json").read_text(encoding="utf-8"))
        changed = [name for name, written in checksums.items() if _sha256(path / name) != written]
    except (FileNotFoundError, ValueError, AttributeError) as error:
        return str(error)
    except OSError as error:  # of the disk, or of the rights to it
        raise UserError(
            f"can't read the checkpoint {path} ({error}): try again, or delete it to resume from "
            f"the one before"
        ) from error
    return f"{changed[0]} is not what was written" if changed else None


def _load(path: Path, state: State) -> Progress:
    load_weights(state.model, path / "model.safetensors", load_full_state)
    # weights_only: a model folder may come from anyone, and a pickle could run code.
    rest = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
    described = json.loads((path / "state.json").read_text(encoding="utf-8"))
    load_full_optimizer_state(state.model, state.optimizers, rest["optimizer"])
    state.scaler.load_state_dict(rest["scaler"])
    if state.world.rank < len(rest["random"]):  # there may be more processes than there were
        _restore_random_state(state.world.device, rest["random"][state.world.rank])
    state.source.load_state_dict(described["source"])
    return Progress(**described["progress"])


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _random_state(device: torch.device) -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _restore_random_state(device: torch.device, state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
