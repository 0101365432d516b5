"""The sections of a report about one run, from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from gptfast.cli.units import duration
from gptfast.report import facts, markup
from gptfast.report.baselines import Baseline
from gptfast.report.curves import Axes, Series, chart
from gptfast.report.limits import limits
from gptfast.report.markup import Section
from gptfast.train.history import Run
from gptfast.web import page

T = TypeVar("T")

STAGES = ((0.0, "Before training"), (0.1, "After 10%"), (0.5, "Half way"), (1.0, "At the end"))
MOST = 100
"""Samples, and rows of evaluations, that a report has; of more, some that are spread evenly."""
NEAR = 0.08
"""Furthest that a sample may be from a stage, as a share of the steps."""


def loss_section(run: Run, baselines: Sequence[Baseline]) -> Section:
    """Return the curves: losses with baselines, and how the steps went."""
    unit = facts.loss_unit(run)
    series = [
        Series("train", points(run.losses, "loss"), "train"),
        Series("val", points(run.evaluations, "val_loss"), "val", has_dots=True),
        *(Series(f"{b.name} ({b.loss:.3f})", [], "level", level=b.loss) for b in baselines),
    ]
    parts = [chart("Train and val loss", Axes("step", unit), series)]
    if not parts[0]:
        parts = [
            markup.paragraph(
                "There are no losses: the folder has no metrics.jsonl, or an empty one."
            )
        ]
    elif not run.evaluations:
        parts.append(markup.paragraph("No evaluation yet, so there is no val curve."))
    if baselines:
        known = "; ".join(f"{b.name}: {b.what}" for b in baselines)
        parts.append(
            markup.paragraph(
                f"The dashed lines are models that only count. What each knows: {known}.",
                "note",
            )
        )
    small = [
        *(_small(_heading(key), run.evaluations, key, 4) for key in _measured(run)),
        _small("Learning rate", run.losses, "learning_rate", 6),
        _small("Gradient norm", run.losses, "grad_norm", 3),
        _small("Tokens per second", run.losses, "tokens_per_second", 0),
    ]
    if any(small):
        parts.append(f'<div class="charts">{"".join(small)}</div>')
    if run.evaluations:
        parts.append(markup.details("Every evaluation, in numbers", _evaluations(run)))
    return Section("loss", "Loss", "".join(parts))


def _small(title: str, lines: Sequence[dict[str, Any]], key: str, digits: int) -> str:
    """Return a small chart of one measurement; "" for fewer than two points."""
    curve = points(lines, key)
    series = [Series(title.lower(), curve, "train strong")]
    axes = Axes("step", "", digits=digits)
    return chart(title, axes, series, small=True) if len(curve) > 1 else ""


def _measured(run: Run) -> list[str]:
    """Return what evaluations measured besides the loss, such as a reward or an accuracy."""
    known = ("step", "seconds", "val_loss", "val_bits_per_byte")
    names = (
        name
        for line in run.evaluations
        for name, value in line.items()
        if not (name in known or name.endswith("_stderr") or isinstance(value, list))
    )
    return list(dict.fromkeys(names))


def _heading(key: str) -> str:
    return key.replace("_", " ").capitalize()


def transcript_section(run: Run) -> Section:
    """Return what the model wrote before, during and after training."""
    if not run.samples:
        return Section(
            "samples",
            "What it wrote",
            markup.paragraph(
                "There are no samples: the run was told not to write any, or its model writes no "
                "text."
            ),
        )
    cards = "".join(
        f'<figure class="card"><figcaption><b>{markup.text(name)}</b> '
        f"<span>{markup.text(_caption(run, sample))}</span></figcaption>"
        f"{markup.written(_shortened(sample['sample']))}</figure>"
        for name, sample in stages(run)
    )
    shown = spread(run.samples, MOST)
    every = "".join(
        f'<li><p class="when">{markup.text(_caption(run, sample))}</p>'
        f"{markup.written(sample['sample'])}</li>"
        for sample in shown
    )
    last = len(shown) - 1
    count = "All" if len(shown) == len(run.samples) else f"{len(shown)} of"
    scrubber = (
        f'<div class="scrubber" hidden><label for="moment">{count} {len(run.samples)} samples, '
        f"from the first to the last</label>"
        f'<input id="moment" type="range" min="0" max="{last}" value="{last}" step="1">'
        f'<p class="when" id="moment-about" role="status"></p>'
        f'<pre class="written" id="moment-text" tabindex="0"></pre></div>'
    )
    return Section(
        "samples",
        "What it wrote",
        markup.paragraph(
            "The same random numbers each time: what differs is what the model has learned.", "note"
        )
        + f'<div class="cards">{cards}</div>{scrubber}'
        + markup.details("Every sample as text", f'<ol class="every">{every}</ol>', prints=False),
    )


def stages(run: Run) -> list[tuple[str, dict[str, Any]]]:
    """Return the names of the stages with the samples that are nearest to them."""
    n_steps = run.record["config"]["max_steps"]
    found: list[tuple[str, dict[str, Any]]] = []
    for share, name in STAGES:
        nearest = min(run.samples, key=lambda sample: abs(sample["step"] - share * n_steps))
        is_near = abs(nearest["step"] - share * n_steps) <= NEAR * n_steps
        if is_near and nearest not in [sample for _, sample in found]:
            found.append((name, nearest))
    return found


def run_section(run: Run) -> Section:
    """Return the command, and what was trained on what, where and for how long."""
    commands = [run.record["command"], *run.record["resumed_by"]]
    parts = [markup.code(commands[0])]
    if len(commands) > 1:
        parts.append(markup.paragraph("It was stopped, and resumed by:"))
        parts += map(markup.code, commands[1:])
    return Section("run", "The run", "".join(parts) + markup.terms(facts.what_and_where(run)))


def packet_section(run: Run) -> Section:
    """Return what it takes to reproduce the run."""
    expected = ["metrics.jsonl", *([] if run.reads_images else ["tokenizer.json"])]
    missing = [name for name in expected if not (run.folder / name).is_file()]
    if not any(run.folder.glob("*model*.safetensors")):
        missing.append("the weights")
    note = markup.paragraph(f"Missing in the folder: {', '.join(missing)}.") if missing else ""
    sums = facts.checksums(run).items()
    settings = json.dumps(run.record["config"], indent=2, ensure_ascii=False)
    return Section(
        "packet",
        "Reproduce it",
        note
        + markup.terms(facts.packet(run))
        + markup.table("Checksums (SHA-256)", ("what", "checksum"), sums, words=True)
        + markup.details("Every setting, as in run.json", markup.code(settings), prints=False),
    )


def limits_section(
    run: Run, n_parameters: int | None, baselines: Sequence[Baseline], notes: Sequence[str]
) -> Section:
    """Return what the numbers do not say. notes: what the report itself lacks."""
    lacks = [f"This report lacks something: {note}." for note in notes]
    return Section(
        "limits",
        "What this does not show",
        markup.listed([*limits(run, n_parameters, baselines), *lacks]),
    )


def playground_section(playground: str) -> Section:
    """Return the model itself. playground: a page that runs it."""
    content = page.json_for_html(json.dumps(playground))
    return Section(
        "playground",
        "Try it",
        '<p class="note">The model is in this file. It runs on your device, and nothing is sent '
        "anywhere.</p>"
        '<p class="actions"><button id="start" class="primary" type="button">Run the model '
        "here</button></p>"
        '<iframe id="frame" title="The model, in this page" hidden></iframe>'
        f'<script type="application/json" id="playground-page">{content}</script>',
    )


def points(lines: Sequence[dict[str, Any]], key: str, x: str = "step") -> list[tuple[float, float]]:
    """Return the points of a curve; values that were not measured or not finite are left out."""
    return [(line[x], line[key]) for line in lines if line.get(key) is not None]


def _evaluations(run: Run) -> str:
    train = {line["step"]: line["loss"] for line in run.losses}
    measured = _measured(run)
    rows = [
        (
            f"{line['step']:,}",
            _or_dash(line["val_loss"], ".4f"),
            _or_dash(line.get("val_bits_per_byte"), ".3f"),
            _or_dash(train.get(line["step"]), ".4f"),
            *(_or_dash(line.get(key), ".4f") for key in measured),
            duration(line["seconds"]),
        )
        for line in spread(run.evaluations, MOST)
    ]
    names = (key.replace("_", " ") for key in measured)
    columns = ("step", "val loss", "bits/byte", "train loss", *names, "time")
    return markup.table("Evaluations", columns, rows)


def spread(items: Sequence[T], n: int) -> list[T]:
    """Return at most n of the items, spread evenly, the first and the last among them."""
    if len(items) <= n:
        return list(items)
    return [items[round(i * (len(items) - 1) / (n - 1))] for i in range(n)]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _caption(run: Run, sample: dict[str, Any]) -> str:
    step = sample["step"]
    for name, key, lines in (("val", "val_loss", run.evaluations), ("train", "loss", run.losses)):
        for line in lines:
            if line["step"] == step and line[key] is not None:
                return f"step {step:,}, {name} loss {line[key]:.3f}"
    return f"step {step:,}"


def _shortened(value: str, lines: int = 9, characters: int = 320) -> str:
    """Return the beginning of a sample, for a card."""
    value = value.strip("\n")
    kept = "\n".join(value.split("\n")[:lines])[:characters]
    return kept if kept == value else kept.rstrip() + " …"
