"""The sections of a report that compares several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gptfast.cli.units import duration
from gptfast.report import facts, markup
from gptfast.report.curves import Axes, Series, chart
from gptfast.report.markup import Section
from gptfast.report.sections import points, spread, stages
from gptfast.train.history import Run

COLOURS = 8
"""Number of curves with different colours."""
ROWS = 20
"""Evaluations of each run in the table; of more, some that are spread evenly."""
SPREAD = 4
"""If the longest run is so many times as long as the shortest, the axis is logarithmic."""


@dataclass(frozen=True)
class Entry:
    """A run among others."""

    name: str
    run: Run
    n_parameters: int | None
    idea: str = ""
    """What the run adds to the one before, for a rung of the ladder."""


def curves_section(entries: Sequence[Entry]) -> Section:
    """Return the val losses of all runs, over steps and over seconds."""
    in_bytes = needs_bytes([entry.run for entry in entries])
    key = "val_bits_per_byte" if in_bytes else "val_loss"
    unit = "bits per byte" if in_bytes else facts.loss_unit(entries[0].run)
    parts = []
    for title, x in (
        ("Val loss by steps", "step"),
        ("Val loss by seconds, evaluations included", "seconds"),
    ):
        ends = [max((line[x] for line in e.run.evaluations), default=0) for e in entries]
        is_log = max(ends) > SPREAD * max(1, min(ends))
        series = [
            Series(
                entry.name,
                points(entry.run.evaluations, key, x),
                f"run-{i % COLOURS}",
                has_dots=True,
            )
            for i, entry in enumerate(entries)
        ]
        parts.append(chart(title, Axes(x, unit, is_log), series))
    if not any(parts):
        return Section(
            "curves", "Val loss", markup.paragraph("None of the runs has an evaluation.")
        )
    rows = [
        (
            entry.name,
            f"{line['step']:,}",
            _form(line.get("val_loss"), ".4f"),
            _form(line.get("val_bits_per_byte"), ".3f"),
            duration(line["seconds"]),
        )
        for entry in entries
        for line in spread(entry.run.evaluations, ROWS)
    ]
    numbers = markup.table("Evaluations", ("run", "step", "val loss", "bits/byte", "time"), rows)
    return Section(
        "curves",
        "Val loss",
        f'<div class="stacked">{"".join(parts)}</div>'
        + markup.details("The evaluations, in numbers", numbers),
    )


def needs_bytes(runs: Sequence[Run]) -> bool:
    """Return whether the losses of runs compare per byte of text only: the tokenizers differ."""
    return len({run.tokenizer for run in runs} - {None}) > 1


def results_section(entries: Sequence[Entry]) -> Section:
    """Return what each run reached, and the settings in which they differ."""
    rows = [
        (
            entry.name,
            "-" if entry.n_parameters is None else f"{entry.n_parameters:,}",
            f"{facts.last_step(entry.run):,}",
            _form(facts.val_loss(entry.run), ".4f"),
            _form(facts.bits_per_byte(entry.run), ".3f"),
            _form((entry.run.result or {}).get("tokens_per_second"), ",.0f"),
            "-" if (wall := facts.seconds(entry.run)) is None else duration(wall),
        )
        for entry in entries
    ]
    columns = ("run", "parameters", "steps", "val loss", "bits/byte", "tokens/s", "wall time")
    ideas = {entry.name: entry.idea for entry in entries if entry.idea}
    return Section(
        "results",
        "Results",
        markup.table("What each run reached", columns, rows)
        + (markup.terms(ideas) if ideas else "")
        + markup.details(
            "Settings that differ",
            markup.table(
                "Settings that differ",
                ("setting", *(entry.name for entry in entries)),
                differences([entry.run for entry in entries]),
            ),
        ),
    )


def differences(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return a row for each setting that differs: its name, and its value in each run."""
    names = dict.fromkeys(name for run in runs for name in run.settings)  # in run.json's order
    rows = []
    for name in names:
        values = [run.settings.get(name, "-") for run in runs]
        if name not in ("out", "preset") and any(value != values[0] for value in values):
            rows.append((name, *map(shown, values)))
    return rows


def samples_section(entries: Sequence[Entry]) -> Section:
    """Return the last sample of each run."""
    cards = "".join(
        f'<figure class="card"><figcaption><b>{markup.text(entry.name)}</b> '
        f"<span>step {stages(entry.run)[-1][1]['step']:,}</span></figcaption>"
        f"{markup.written(stages(entry.run)[-1][1]['sample'].strip())}</figure>"
        for entry in entries
        if entry.run.samples and stages(entry.run)
    )
    content = f'<div class="cards">{cards}</div>' if cards else ""
    silent = [entry.name for entry in entries if not entry.run.samples]
    if silent:
        content += markup.paragraph(f"Without samples: {', '.join(silent)}.")
    return Section("samples", "What they wrote", content)


def packets_section(entries: Sequence[Entry]) -> Section:
    """Return how each run was made, and how to make it again."""
    content = "".join(
        markup.details(
            entry.name,
            markup.code(entry.run.record["command"])
            + markup.terms(facts.what_and_where(entry.run) | facts.packet(entry.run))
            + markup.table(
                "Checksums (SHA-256)",
                ("what", "checksum"),
                facts.checksums(entry.run).items(),
                words=True,
            ),
        )
        for entry in entries
    )
    return Section("packets", "Reproduce them", content)


def limits_section(entries: Sequence[Entry]) -> Section:
    """Return what the comparison does not say."""
    runs = [entry.run for entry in entries]
    found = []
    if len({run.settings.get("texts (SHA-256)") for run in runs}) > 1:
        found.append(
            "The runs were trained and evaluated on different texts, so their losses hardly "
            "compare."
        )
    if needs_bytes(runs):
        found.append(
            "The tokenizers differ. Losses per token do not compare, so the curves are in bits per "
            "byte."
        )
    unfinished = [entry.name for entry in entries if entry.run.result is None]
    if unfinished:
        found.append(
            f"Not finished: {', '.join(unfinished)}. Their figures are of their last step, on part "
            f"of the val text."
        )
    machines = {facts.machine(run) for run in runs}
    if len(machines) > 1:
        found.append("The runs used different hardware, so their seconds do not compare.")
    seeds = {run.record["config"]["seed"] for run in runs}
    found.append(
        "Each run has one seed"
        + (" (the same)" if len(seeds) == 1 else "")
        + ". Another seed gives another loss, so a small difference may be chance."
    )
    found.append(
        "Models of this size imitate the form of their text. They know no facts and cannot be "
        "relied on."
    )
    return Section("limits", "What this does not show", markup.listed(found))


def _form(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def shown(value: object) -> str:
    """Return a setting or a result as text, to five digits."""
    if isinstance(value, float):
        return f"{value:,.5g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
