"""Write reports: of one run, and of several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gptfast.cli.units import duration
from gptfast.errors import MissingFileError, UserError
from gptfast.model.folder import folder_config
from gptfast.model.size import n_parameters
from gptfast.report import comparison, facts, page, sections
from gptfast.report.baselines import Baseline
from gptfast.report.comparison import Entry
from gptfast.report.markup import Section
from gptfast.system.escape import escaped
from gptfast.system.files import make_folder, write_text_atomically
from gptfast.train.history import Run, check_comparable, read_run


@dataclass
class Extras:
    """What a report of one run has besides the run's own files."""

    n_parameters: int | None = None
    baselines: list[Baseline] = field(default_factory=list)
    audits: list[Section] = field(default_factory=list)
    playground: str | None = None
    """A page that runs the model."""
    notes: list[str] = field(default_factory=list)
    """What is missing, and why: clauses."""


def check_out(out: Path, overwrite: bool) -> None:
    """Make the folder of a report. Raises UserError if a report can't be written there."""
    if out.is_dir():
        raise UserError(f"{out} is a folder: expected the name of a file, such as report.html")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists already: give --overwrite to replace it, or another --out")
    make_folder(out.parent, "choose another --out")


def write_report(run: Run, extras: Extras, out: Path) -> None:
    """Write the report of one run."""
    name = escaped(run.folder.resolve().name)
    parts = [
        sections.loss_section(run, extras.baselines),
        *([] if run.reads_images else [sections.transcript_section(run)]),
        *([sections.playground_section(extras.playground)] if extras.playground else []),
        sections.run_section(run),
        sections.packet_section(run),
        *extras.audits,
        sections.limits_section(run, extras.n_parameters, extras.baselines, extras.notes),
    ]
    headline = facts.headline(run, extras.n_parameters)
    content = page.build(name, _lead(run, extras), headline, parts, extras.playground)
    write_text_atomically(out, content)


def _lead(run: Run, extras: Extras) -> str:
    size = "" if extras.n_parameters is None else f" of {extras.n_parameters:,} parameters"
    if facts.is_pretraining(run):
        what = f"A language model{size}, trained on {facts.corpus_names(run)}"
    elif run.reads_images:
        what = f"A vision transformer{size}, trained on images ({run.record['config']['images']})"
    elif (start := facts.tuned_from(run)) is not None:
        what = f"A language model{size}, fine-tuned from {start}"
    else:
        what = f"A model{size}, trained"
    steps = f" for {facts.last_step(run):,} steps"
    wall = facts.seconds(run)
    where = f" on {facts.machine(run)}" if wall is None else (
        f" in {duration(wall)} on {facts.machine(run)}"
    )  # fmt: skip
    unfinished = "" if run.result else ". The run is not finished"
    return f"{what}{steps}{where}{unfinished}."


def write_comparison(title: str, entries: Sequence[Entry], out: Path) -> None:
    """Write a report that compares several runs.

    Raises UserError if some of them train on images, and others on text.
    """
    check_comparable([entry.run for entry in entries])
    best = min(
        (entry for entry in entries if facts.val_loss(entry.run) is not None),
        key=lambda entry: facts.val_loss(entry.run) or 0.0,
        default=None,
    )
    lead = f"{len(entries)} runs compared: {', '.join(entry.name for entry in entries)}."
    headline = {"Runs": f"{len(entries)}"}
    if best is not None and not comparison.needs_bytes([entry.run for entry in entries]):
        headline["Lowest val loss"] = f"{facts.val_loss(best.run):.4f} by {best.name}"
    seconds = [facts.seconds(entry.run) or 0.0 for entry in entries]
    headline["Wall time of all"] = duration(sum(seconds))
    headline["Hardware"] = " and ".join(
        dict.fromkeys(facts.machine(entry.run) for entry in entries)
    )
    parts = [
        comparison.curves_section(entries),
        comparison.results_section(entries),
        *([] if entries[0].run.reads_images else [comparison.samples_section(entries)]),
        comparison.packets_section(entries),
        comparison.limits_section(entries),
    ]
    write_text_atomically(out, page.build(title, lead, headline, parts))


def read_entries(folders: Sequence[Path]) -> list[Entry]:
    """Read the runs in the folders; a folder that the ladder made stands for its rungs.

    Raises MissingFileError or UserError.
    """
    entries: list[Entry] = []
    for folder in folders:
        if (folder / "ladder.json").is_file():
            entries += _read_rungs(folder)
        else:
            run = read_run(folder)
            entries.append(Entry(run.name, run, _n_parameters(folder)))
    return entries


def _read_rungs(folder: Path) -> list[Entry]:
    path = folder / "ladder.json"
    try:
        rungs = json.loads(path.read_text(encoding="utf-8"))
        named = [(str(rung["name"]), str(rung["idea"]), int(rung["parameters"])) for rung in rungs]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error!r}): run the ladder again") from error
    return [Entry(name, read_run(folder / name), n, idea) for name, idea, n in named]


def _n_parameters(folder: Path) -> int | None:
    """Return the number of parameters of a GPT's folder; None without a configuration."""
    try:
        config = folder_config(folder)
    except (MissingFileError, UserError):
        return None
    return n_parameters(config) if config.architecture == "gpt" else None
