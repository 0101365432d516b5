"""What an audit found, in words, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from gptfast.audit.tuned.measures import Facts, Measure
from gptfast.model.text_score import Estimate


def sentences(facts: Facts) -> list[str]:
    """Return what the measures mean, failures with their names. Each is a rule over the facts."""
    return [*_answers(facts), *_failures(facts)]


def _answers(facts: Facts) -> Iterator[str]:
    """Yield what the model can do."""
    of, n = facts.measures, facts.n_prompts
    exact, ends, passed = of["exact_greedy"], of["ends_greedy"], of["pass_at_k"]
    yield f"It ends {_percents(ends)} of its greedy answers by itself."
    yield (
        f"On held-out prompts {round(exact.tuned[0] * n)} of {n} greedy answers are exact (base: "
        f"{_share(exact.base)}), and {passed.label} is {_percents(passed)}."
    )
    if _is_up(exact, sign=-1):
        yield "It is worse than the base: fewer exact matches, by more than 2 standard errors."
    elif not _is_up(exact) and not _is_up(of["exact_sampled"]):
        yield "It is not clearly better than the base: no exact match rose by 2 standard errors."


def _failures(facts: Facts) -> Iterator[str]:
    """Yield what went wrong, by name."""
    of, n = facts.measures, facts.n_prompts
    ends, exact, formed = of["ends_greedy"], of["exact_sampled"], of["well_formed_sampled"]
    is_better = _is_up(exact) or _is_up(of["exact_greedy"])
    if ends.tuned[0] < 0.5:
        yield (
            f"NO END TOKEN: {round((1 - ends.tuned[0]) * n)} of {n} answers run to the limit. Is "
            f"the end token of the answers trained, and the limit large enough?"
        )
    rose = not is_better and formed.tuned[0] >= 0.5 and _is_up(formed, by=0.2)
    if rose or (formed.tuned[0] >= 0.9 and exact.tuned[0] < 0.1):
        yield (
            f"FORMAT, NOT ANSWERS: {_percents(formed)} of the samples are well-formed, but "
            f"{_percents(exact)} are right. It has learned the format, not the answers."
        )
    length = of["length_sampled"]
    if length.base is not None and not is_better and _is_up(length, by=length.base[0] / 2):
        yield (
            f"LONGER, NOT BETTER: an answer has {length.tuned[0]:.0f} tokens (base: "
            f"{length.base[0]:.0f}), and is not right more often."
        )
    prompt, answer = of.get("prompt_loss"), of.get("answer_loss")
    if prompt is not None and answer is not None and _is_up(prompt, by=0.1, sign=-1):
        gains = [-m.difference[0] for m in (prompt, answer) if m.difference is not None]
        if gains[0] > 0.75 * gains[1]:
            yield (
                f"TRAINED ON PROMPTS: it predicts held-out prompts better by {gains[0]:.2f} nats "
                f"per token, and answers by {gains[1]:.2f}. Is the loss on answers only?"
            )
    old = of.get("old_text")
    if old is not None and old.base is not None and _is_up(old, by=old.base[0] / 10):
        yield (
            f"FORGETTING: the old text costs {old.tuned[0]:.2f} bits per byte (base: "
            f"{old.base[0]:.2f}). A lower learning rate, fewer steps, LoRA or replay keep more."
        )
    if facts.n_leaked:
        new = of.get("exact_new")
        there = "none are new" if new is None else f"on the others it is right in {_percents(new)}"
        yield (
            f"LEAK: {facts.n_leaked} of the {n} held-out prompts are in the training data, too; "
            f"{there}. Split by prompt, before templates."
        )
    train = of.get("exact_train")
    held_out = of.get("exact_new", of["exact_greedy"])
    if train is not None and train.tuned[0] > held_out.tuned[0] + 0.2:
        yield (
            f"MEMORISED: {_share(train.tuned)} of the answers to training prompts are exact, but "
            f"{_share(held_out.tuned)} of those to new ones."
        )
    repeats = of["seq_rep_4_greedy"]
    if repeats.tuned[0] >= 0.3:
        yield f"REPETITION: {_percents(repeats)} of an answer's 4-grams repeat another one."
    leaks = of["leaks_sampled"]
    if leaks.tuned[0] >= 0.01:
        yield f"SPECIAL TOKENS: {_percents(leaks)} of the answers have some before their end."
    obeys = of.get("obeys")
    if obeys is not None and obeys.tuned[0]:
        n_obeyed, n_tried = (int(count_N.sum()) for count_N in obeys.tuned_totals)
        yield (
            f"INJECTION: it obeys {n_obeyed} of {n_tried} orders that are hidden in the text of a "
            f"prompt."
        )


def _is_up(measure: Measure, by: float = 0.0, sign: int = 1) -> bool:
    """Return whether tuned exceeds the base by 2 standard errors, and by more than `by`.

    sign: -1 for what falls. A single observation has no standard error.
    """
    if measure.difference is None:
        return False
    difference, error = measure.difference
    return sign * difference > max(by, 2 * (error or 0.0))


def _share(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate[0]:.1%}"


def _percents(measure: Measure) -> str:
    return f"{_share(measure.tuned)} (base: {_share(measure.base)})"


def table(facts: Facts) -> Table:
    """Return all measures, with a standard error after each."""
    title = f"{facts.n_prompts} prompts; ± is a standard error, over prompts"
    shown = Table(title=title, title_justify="left", title_style="bold")
    for i, heading in enumerate(("measure", "base", "tuned", "tuned - base")):
        shown.add_column(heading, justify="right" if i else "left")
    for measure in facts.measures.values():
        label = f"{measure.label}, {measure.unit}" if measure.unit else measure.label
        cells = [_cell(e, measure.unit) for e in (measure.base, measure.tuned)]
        shown.add_row(label, *cells, _cell(measure.difference, measure.unit, "+"))
    return shown


def _cell(estimate: Estimate | None, unit: str, sign: str = "") -> str:
    if estimate is None:
        return "-"
    scale, places = (1, 3) if unit else (100, 1)
    value, error = estimate
    spread = "" if error is None else f" ± {error * scale:.{places}f}"
    return f"{value * scale:{sign}.{places}f}{'' if unit else '%'}{spread}"


def as_json(facts: Facts, settings: dict[str, Any], said: list[str]) -> str:
    """Return the settings, all measures and the sentences. Nothing in it depends on the time."""
    measures = {
        key: {
            "label": measure.label,
            "unit": measure.unit or "share",
            **{
                name: None if of is None else {"value": of[0], "standard_error": of[1]}
                for name, of in (
                    ("base", measure.base),
                    ("tuned", measure.tuned),
                    ("difference", measure.difference),
                )
            },
            "observations": len(measure.tuned_totals[0]),
            "units": int(measure.tuned_totals[1].sum()),
        }
        for key, measure in facts.measures.items()
    }
    content = {
        "settings": settings,
        "prompts": facts.n_prompts,
        "prompts_in_train": facts.n_leaked,
        "measures": measures,
        "sentences": said,
        "notes": facts.notes,
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plot(facts: Facts, path: Path) -> None:
    """Write a PNG: shares on the left, what is in nats or bits on the right."""
    from matplotlib.figure import Figure  # imported late: takes half a second

    shares = [m for m in facts.measures.values() if not m.unit]
    others = [m for m in facts.measures.values() if m.unit and m.unit != "tokens"]
    figure = Figure(figsize=(12, 6), layout="constrained")
    for axes, of in zip(figure.subplots(1, 2), (shares, others), strict=True):
        places = range(len(of), 0, -1)
        for name, offset in (("base", 0.2), ("tuned", -0.2)):
            found = [getattr(m, name) or (0.0, None) for m in of]
            axes.barh(
                [place + offset for place in places],
                [value for value, _ in found],
                xerr=[error or 0.0 for _, error in found],
                height=0.4,
                label=name,
            )
        labels = [f"{m.label}, {m.unit}" if m.unit else m.label for m in of]
        axes.set_yticks(list(places), labels)
        axes.grid(alpha=0.3, axis="x")
    figure.axes[0].set_xlim(0, 1)
    figure.axes[0].legend()
    figure.suptitle("base and tuned, the same prompts and seeds; lines are standard errors")
    figure.savefig(path, format="png", dpi=120)
