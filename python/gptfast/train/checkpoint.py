"""Checkpoints, from which a run resumes as if it had never stopped.

training/step-00000500/ holds the model's own weights (model.safetensors, or an adapter's file),
optimizer.pt (optimizer, loss scale, random generators), state.json (progress and source) and
checksums.json. A checkpoint is written under a temporary name and renamed; old checkpoints are
deleted afterwards. A checkpoint whose checksums don't match is skipped in favour of the previous
one. training/skipped.json lists batches that are not tried again. training/best.json records which
weights the folder's own weights file holds.
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
    FULL,
    add_folder,
    remove_leftovers,
    write_folder_atomically,
    write_text_atomically,
)
from gptfast.train.config import RunConfig
from gptfast.train.distributed import (
    World,
    full_optimizer_state,
    full_state,
    load_full_optimizer_state,
    load_full_state,
)
from gptfast.train.objective import Objective
from gptfast.train.optim import Optimizer

_SKIPPED = "skipped.json"
_BEST = "best.json"
_DELETED = ".training.deleted"
_NAME = re.compile(r"step-\d{8,}")


@dataclass
class Progress:
    """The progress of a run."""

    step: int = 0
    """Number of optimizer steps taken."""
    tokens: int = 0
    """Number of tokens trained on."""
    batches: int = 0
    """Number of batches drawn from the source. Skipped batches count, but take no step."""
    skipped: list[int] = field(default_factory=list)
    """Indices of the batches that were skipped because their step failed, counted from 0."""
    best_val_loss: float = float("inf")
    """Lowest val loss so far, in nats per token. The weights file holds its weights. After a
    resume, the value comes from `read_best`, not from the checkpoint."""
    best_step: int = 0
    seconds: float = 0.0
    """Wall time so far, including evaluations."""
    training_seconds: float = 0.0
    """Wall time spent on optimizer steps."""
    losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last line of metrics.jsonl."""
    recent: list[float] = field(default_factory=list)
    """Losses of the last steps, which the next loss is compared with."""


class Clock:
    """A stopwatch whose laps are contiguous, so that every second counts exactly once."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def lap(self) -> float:
        """Return the seconds since the last lap, or since the clock was created."""
        before, self.last = self.last, time.monotonic()
        return self.last - before


@dataclass
class State:
    """The parts of a run that change from step to step."""

    model: LanguageModel
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    source: Prefetcher
    objective: Objective
    world: World
    clock: Clock = field(default_factory=Clock)
    progress: Progress = field(default_factory=Progress)

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The parts of the optimizer."""
        return [part for part, _ in self.optimizer.parts]

    def lap(self) -> float:
        """Add the time since the last lap to the time of the run, and return it in seconds."""
        seconds = self.clock.lap()
        self.progress.seconds += seconds
        return seconds


def save_checkpoint(folder: Path, state: State, keep: int, log: Callable[[str], None]) -> None:
    """Write folder/training/step-N, and keep only the `keep` newest checkpoints.

    Every process must call this; rank 0 collects the state of all processes and writes it. On a
    full disk, only the newest checkpoint is kept, and `log` is called with a line for each of the
    others. Raises OSError if that doesn't help.
    """
    model_state = full_state(state.model)
    optimizer_state = full_optimizer_state(state.model, state.optimizers)
    random_states = state.world.gather(_random_state(state.world.device))
    objective_states = state.world.gather(state.objective.state_dict())
    if not state.world.is_main:
        return
    training = folder / "training"
    path = training / f"step-{state.progress.step:08d}"
    if path.exists():
        return

    def write(temporary: Path) -> None:
        weights_file = state.model.stored.weights_file
        save_weights(state.model, temporary / weights_file, model_state)
        rest = {
            "optimizer": optimizer_state,
            "scaler": state.scaler.state_dict(),
            "random": random_states,
            "objective": objective_states,
            "unstored": _unstored(state.model, model_state),
        }
        _save_torch(rest, temporary / "optimizer.pt")
        described = {"progress": asdict(state.progress), "source": state.source.state_dict()}
        write_text_atomically(temporary / "state.json", json.dumps(described, indent=2))
        names = (weights_file, "optimizer.pt", "state.json")
        checksums = {name: _sha256(temporary / name) for name in names}
        write_text_atomically(temporary / "checksums.json", json.dumps(checksums, indent=2))

    add_folder(training)
    _write_or_make_room(folder, lambda: write_folder_atomically(path, write), log)
    for old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


def _unstored(model: LanguageModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the trained tensors that a weights file lacks, such as the head of a critic."""
    stored = model.stored.own_state(state)
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {name: state[name] for name in trained if name not in stored}


def _save_torch(content: object, path: Path) -> None:
    """Write a file of PyTorch's. Raises OSError."""
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # raised after an OSError, which says more
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _write_or_make_room(
    folder: Path, write: Callable[[], None], log: Callable[[str], None]
) -> None:
    """Call `write`; if the disk is full, delete all checkpoints but the newest and call it again.

    The newest stays, and the others stay as well if it is damaged. Raises OSError.
    """
    try:
        write()
    except OSError as error:
        *older, newest = _checkpoints(folder) or [folder]
        if error.errno not in FULL or not older or _damage(newest) is not None:
            raise
        for path in older:
            log(f"the disk is full ({error}): the older checkpoint {path} is deleted")
            shutil.rmtree(path)
        write()


def load_checkpoint(folder: Path, state: State, log: Callable[[str], None]) -> bool:
    """Restore the newest undamaged checkpoint; return False if there are no checkpoints.

    Every process must call this; rank 0 chooses the checkpoint for all. `log` is called with a line
    for each damaged checkpoint. Raises UserError if all checkpoints are damaged, or if the chosen
    one can't be read or loaded: the cause may be the machine, so no older one replaces it.
    """
    training = folder / "training"
    checkpoints = _checkpoints(folder)[::-1]
    newest = _newest_whole(checkpoints, log) if state.world.is_main else None
    (path, *_) = state.world.gather(newest)
    if path is None:
        if checkpoints:
            raise UserError(
                f"all checkpoints in {training} are damaged: train again with --overwrite"
            )
        return False
    try:
        state.progress = _load(path, state)
    except (OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError,
            pickle.PickleError) as error:  # fmt: skip
        raise UserError(
            f"the checkpoint {path} is undamaged, but can't be loaded ({error}): try again, with "
            f"the version of gptfast in run.json, or train again with --overwrite"
        ) from error
    state.progress.skipped = sorted({*state.progress.skipped, *_skipped(training / _SKIPPED)})
    return True


def _skipped(path: Path) -> list[int]:
    try:
        found: list[int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        return [int(batch) for batch in found]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} can't be read ({error}): delete it to try all batches") from error


def has_started(config: RunConfig) -> bool:
    """Return whether the run resumes from a checkpoint in config.out, damaged or not.

    Such a run needs no other model folder or tokenizer.
    """
    return config.resume and not config.overwrite and bool(_checkpoints(config.out))


def newest_step(folder: Path) -> int | None:
    """Return the step of the newest checkpoint, damaged or not; None if there is none."""
    checkpoints = _checkpoints(folder)
    return _step(checkpoints[-1]) if checkpoints else None


def save_skipped(folder: Path, skipped: list[int]) -> None:
    """Record the skipped batches, for a run that resumes from a checkpoint before them.

    Raises OSError, for instance if the disk is full.
    """
    write_text_atomically(folder / "training" / _SKIPPED, json.dumps(skipped))


def save_best(
    folder: Path,
    model: LanguageModel,
    weights: dict[str, Tensor],
    val_loss: float,
    step: int,
    log: Callable[[str], None],
) -> None:
    """Write `weights`, the full state of the model, to the folder's weights file.

    Then write training/best.json with the val loss, the step and a checksum. On a full disk, make
    room as `save_checkpoint` does. Raises OSError if that doesn't help.
    """
    path = folder / model.stored.weights_file
    _write_or_make_room(folder, lambda: save_weights(model, path, weights), log)
    make_best_record(path, val_loss, step)


def make_best_record(weights: Path, val_loss: float, step: int) -> None:
    """Write training/best.json beside a weights file. Raises OSError, for instance for no space."""
    content = {"val_loss": val_loss, "step": step, "sha256": _sha256(weights)}
    training = weights.parent / "training"
    add_folder(training)
    write_text_atomically(training / _BEST, json.dumps(content))


def read_best(weights: Path) -> tuple[float, int] | None:
    """Return the val loss and the step of a weights file, or None if its checksum is wrong.

    Raises UserError if a file can't be read.
    """
    try:
        path = weights.parent / "training" / _BEST
        content = json.loads(path.read_text(encoding="utf-8"))
        is_whole = _sha256(weights) == content["sha256"]
        return (float(content["val_loss"]), int(content["step"])) if is_whole else None
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
    except OSError as error:  # a disk error, or missing permissions
        raise UserError(f"can't read the best weights {weights} ({error}): try again") from error


def delete_checkpoints_after(folder: Path, step: int) -> None:
    """Delete the checkpoints after `step`, which are damaged or will be written again."""
    for path in _checkpoints(folder):
        if _step(path) > step:
            shutil.rmtree(path)


def delete_checkpoints(folder: Path) -> None:
    """Delete training/. The model stays usable, but the run can no longer be resumed."""
    aside = folder / _DELETED  # a partly deleted checkpoint must not look complete
    if aside.exists():
        shutil.rmtree(aside)
    if (folder / "training").exists():
        (folder / "training").rename(aside)
        shutil.rmtree(aside)


def delete_half_written(folder: Path) -> None:
    """Delete the partial files that killed runs left in a model folder.

    No other process may be writing to the folder.
    """
    for path in (*(folder / "training").glob(".step-*"), *folder.glob(_DELETED)):
        shutil.rmtree(path)
    names = (*FILES, "run.json", f"training/{_SKIPPED}", f"training/{_BEST}")
    remove_leftovers((folder / name for name in names), sole_writer=True)


def _checkpoints(folder: Path) -> list[Path]:
    """Return the run's checkpoints, damaged or not, oldest first, without copies by the user."""
    found = (folder / "training").glob("step-*")
    return sorted((path for path in found if _NAME.fullmatch(path.name)), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _newest_whole(checkpoints: list[Path], log: Callable[[str], None]) -> Path | None:
    """Return the first undamaged checkpoint, or None."""
    for path in checkpoints:
        damage = _damage(path)
        if damage is None:
            return path
        log(f"the checkpoint {path} is damaged ({damage}): skipped")
    return None


def _damage(path: Path) -> str | None:
    """Return a description of a checkpoint's damage, or None if there is none.

    Raises UserError if a file can't be read.
    """
    try:
        checksums = json.loads((path / "checksums.json").read_text(encoding="utf-8"))
        changed = [name for name, written in checksums.items() if _sha256(path / name) != written]
    except (FileNotFoundError, ValueError, AttributeError) as error:
        return str(error)
    except OSError as error:  # a disk error, or missing permissions
        raise UserError(
            f"can't read the checkpoint {path} ({error}): try again, or delete it to resume from "
            f"the previous one"
        ) from error
    return f"{changed[0]} does not match its checksum" if changed else None


def _load(path: Path, state: State) -> Progress:
    load_weights(state.model, path / state.model.stored.weights_file, load_full_state)
    # weights_only, because a model folder may come from anyone and a pickle could run code.
    rest = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
    described = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if rest["unstored"]:
        load_full_state(state.model, rest["unstored"])
    load_full_optimizer_state(state.model, state.optimizers, rest["optimizer"])
    if rest["scaler"]:  # empty if the run was not in float16 until now
        state.scaler.load_state_dict(rest["scaler"])
    if state.world.rank < len(rest["random"]):  # the run may have more processes now
        _restore_random_state(state.world.device, rest["random"][state.world.rank])
    is_same_size = len(rest["objective"]) == state.world.size
    state.objective.load_state_dict(rest["objective"][state.world.rank] if is_same_size else None)
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
