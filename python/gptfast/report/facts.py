"""What is known of a run: terms and values, taken from its folder."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

from gptfast.cli.units import count, duration, gib, number
from gptfast.train.history import Run

CHECKED = (
    "model.safetensors",
    "adapter_model.safetensors",
    "tokenizer.json",
    "config.json",
    "adapter_config.json",
    "metrics.jsonl",
)
"""The files whose checksums a report has."""


def is_pretraining(run: Run) -> bool:
    """Return whether a run predicted the next token of corpora, and was no fine-tuning."""
    return "further_data" in run.record


def tuned_from(run: Run) -> str | None:
    """Return the model folder that a fine-tuning began with; None for other runs."""
    model = run.record["config"].get("model")
    return model if isinstance(model, str) else None


def corpora(run: Run) -> list[dict[str, Any]]:
    """Return the descriptions of the corpora of a pre-training."""
    return [run.record["data"], *run.record["further_data"]]


def corpus_names(run: Run) -> str:
    """Return the names of the corpora, without the folders that they are in."""
    return " and ".join(Path(part["corpus"]).name for part in corpora(run))


def last_step(run: Run) -> int:
    """Return the number of steps taken as far as the folder tells."""
    if run.result:
        return int(run.result["steps"])
    return max((int(line["step"]) for line in [*run.losses, *run.evaluations]), default=0)


def tokens_seen(run: Run) -> int | None:
    """Return the number of tokens trained on; None for a fine-tuning, whose batches differ."""
    if not is_pretraining(run):
        return None
    config = run.record["config"]
    return int(last_step(run) * config["batch_size"] * config["model"]["block_size"])


def epochs(run: Run) -> list[float]:
    """Return how often each corpus was gone through."""
    tokens = tokens_seen(run) or 0
    shares = run.record["shares"]
    parts = zip(shares, corpora(run), strict=True)
    return [tokens * share / part["train_tokens"] for share, part in parts]


def val_loss(run: Run) -> float | None:
    """Return the final val loss, or the lowest so far; None before the first evaluation."""
    if run.result:
        return float(run.result["val_loss"])
    losses = (line["val_loss"] for line in run.evaluations)  # None where one was not finite
    return min((float(loss) for loss in losses if loss is not None), default=None)


def bits_per_byte(run: Run) -> float | None:
    """Return the bits per byte that belong to `val_loss`, where they were measured."""
    if run.result:
        measured: float | None = run.result["measured"].get("val_bits_per_byte")
        return measured
    found = (line.get("val_bits_per_byte") for line in run.evaluations)
    return min((bits for bits in found if bits is not None), default=None)


def seconds(run: Run) -> float | None:
    """Return the wall time of the run, in seconds."""
    if run.result:
        return float(run.result["seconds"])
    lines = [*run.losses, *run.evaluations]
    return max((float(line["seconds"]) for line in lines), default=None)


def machine(run: Run) -> str:
    """Return the hardware in words."""
    found = run.record["hardware"]
    if "gpu" in found and run.record["config"]["device"] != "cpu":
        return str(found["gpu"])
    return f"{count(found['cpu_cores'], 'core')} of {found['cpu']}"


def loss_unit(run: Run) -> str:
    """Return the unit of a run's losses; "loss" for an objective without one."""
    if run.reads_images:
        return "nats per image"
    return "nats per token" if is_pretraining(run) else "loss"


def headline(run: Run, n_parameters: int | None) -> dict[str, str]:
    """Return the few numbers that a reader looks for first."""
    rows = {}
    if n_parameters is not None:
        rows["Parameters"] = f"{n_parameters:,}"
    if (loss := val_loss(run)) is not None:
        rows["Val loss"] = f"{loss:.4f}" + (
            "" if (unit := loss_unit(run)) == "loss" else f" {unit}"
        )
    if run.reads_images and run.result:
        rows["Test images right"] = f"{run.result['measured']['test_accuracy']:.1%}"
    if (bits := bits_per_byte(run)) is not None:
        rows["Bits per byte"] = f"{bits:.3f}"
    if (tokens := tokens_seen(run)) is not None:
        rows["Tokens seen"] = f"{tokens:,}"
    if (wall := seconds(run)) is not None:
        rows["Wall time"] = duration(wall)
    return rows | {"Hardware": machine(run)}


def what_and_where(run: Run) -> dict[str, str]:
    """Return what was trained on what, where and for how long."""
    config, rows = run.record["config"], {}
    if is_pretraining(run):
        for part, n in zip(corpora(run), epochs(run), strict=True):
            rows[f"Corpus {Path(part['corpus']).name}"] = (
                f"{part['train_bytes']:,} bytes in {count(part['train_documents'], 'document')} "
                f"to train on: {part['train_tokens']:,} tokens, {number(n)} epochs"
            )
            rows[f"Held out of {Path(part['corpus']).name}"] = (
                f"{part['val_bytes']:,} bytes in {count(part['val_documents'], 'document')}: "
                f"{part['val_tokens']:,} tokens"
            )
        if config.get("init_from"):
            rows["Started from"] = str(config["init_from"])
    else:
        if (start := tuned_from(run)) is not None:
            rows["Started from"] = start
        if run.reads_images:
            rows["Images"] = str(config["images"])
        if config.get("data"):
            rows["Data"] = str(config["data"])
    shape = config.get("model")
    if is_pretraining(run) and shape:
        rows["Model"] = (
            f"{shape['architecture']}, {count(shape['n_layer'], 'layer')} of "
            f"{count(shape['n_head'], 'head')}, {shape['n_embd']:,} channels, context of "
            f"{shape['block_size']:,} tokens"
        )
    if run.reads_images and shape:
        size = f"{shape['patch_size']} x {shape['patch_size']}"
        rows["Model"] = (
            f"vision transformer, {count(shape['n_layer'], 'layer')} of "
            f"{count(shape['n_head'], 'head')}, {shape['n_embd']:,} channels, patches of {size} "
            f"pixels"
        )
    rows["Steps"] = f"{last_step(run):,} of {config['max_steps']:,}"
    if (wall := seconds(run)) is not None:
        rows["Wall time"] = f"{duration(wall)}, evaluations and samples included"
    if run.result:
        rows["Speed"] = f"{run.result['tokens_per_second']:,.0f} tokens/s in training"
        rows["Best weights"] = f"those of step {run.result['best_step']:,}"
    if peak := max((line.get("peak_memory") or 0 for line in run.losses), default=0):
        rows["Peak memory"] = gib(peak)
    rows["Written"] = f"{datetime.fromisoformat(run.record['written']):%d %B %Y, %H:%M} UTC"
    return rows


def packet(run: Run) -> dict[str, str]:
    """Return what it takes to train the model again, and to know that it is the same."""
    config = run.record["config"]
    rows = {
        "Seed": str(config["seed"]),
        "Device": str(config["device"]),
        "Data type": str(config["dtype"]),
        "Batch": f"{config['batch_size']:,}",
    }
    if is_pretraining(run):
        rows["Batch"] += " windows"
        rows["Context"] = f"{config['model']['block_size']:,} tokens"
    if run.reads_images:
        rows["Batch"] += " images"
    rows["Optimizer"] = f"{config['optimizer']}, peak learning rate {config['learning_rate']:g}"
    if run.result:
        for name, value in {"val_loss": run.result["val_loss"], **run.result["measured"]}.items():
            rows[name.replace("_", " ")] = repr(value)
    machine_and_versions = run.record["hardware"] | run.record["versions"]
    return rows | {
        name.replace("_", " "): str(value) for name, value in machine_and_versions.items()
    }


def checksums(run: Run) -> dict[str, str]:
    """Return the SHA-256 of the texts, and of those files in the folder that are CHECKED."""
    rows = {}
    if is_pretraining(run):
        for part in corpora(run):
            rows[f"text {Path(part['corpus']).name}"] = part["corpus_sha256"]
    rows["images" if run.reads_images else "data and tokenizer"] = run.record["fingerprint"]
    for name in ("start_sha256", "teacher_sha256", "reward_model_sha256"):
        if name in run.record:
            rows[name.removesuffix("_sha256").replace("_", " ")] = run.record[name]
    for name in CHECKED:
        path = run.folder / name
        if path.is_file():
            rows[name] = file_sha256(path)
    return rows


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
