"""The honest part of a report: what its numbers do and do not say, made from the facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gptfast.cli.units import number
from gptfast.report.baselines import Baseline
from gptfast.report.facts import corpora, epochs, is_pretraining, last_step, tokens_seen, val_loss
from gptfast.train.history import Run

GPT2_SMALL = 124_439_808
OPTIMAL_TOKENS = 20
"""Tokens per parameter that "Training Compute-Optimal Large Language Models" (Hoffmann et al.,
2022) found best for a given amount of compute."""
SMALL = 10**9
"""Below this number of parameters, a model that saw little text knows next to nothing."""


def limits(run: Run, n_parameters: int | None, baselines: Sequence[Baseline]) -> list[str]:
    """Return what a reader must know to judge the run, in sentences."""
    return [
        *_of_progress(run),
        *_of_scale(run, n_parameters),
        *_of_the_gap(run),
        *_of_the_baseline(run, baselines),
        *_of_the_measurement(run),
    ]


def _of_progress(run: Run) -> Iterator[str]:
    if run.result is None:
        yield (
            f"The run is not finished: the figures are those of step {last_step(run):,} of "
            f"{run.record['config']['max_steps']:,}, on part of the val {_data(run)}."
        )
    weights = run.settings.get("weights", "float32")
    if weights != "float32":
        yield (
            f"The weights in this folder were rounded to {weights} after training. Losses and "
            f"curves are those of the run, before that; quantization.json says what rounding cost."
        )


def _of_scale(run: Run, n_parameters: int | None) -> Iterator[str]:
    tokens = tokens_seen(run)
    if tokens and n_parameters:
        per = tokens / n_parameters
        relation = "fewer" if per < OPTIMAL_TOKENS else "no fewer"
        yield (
            f"It was trained on {tokens:,} tokens, {number(per)} per parameter: {relation} than "
            f"the {OPTIMAL_TOKENS} that are best for a given amount of compute (Hoffmann et al., "
            f"2022)."
        )
        most = max(epochs(run))
        if most > 4:
            yield (
                f"It went through its text {number(most)} times. Beyond about four times, "
                f"repeated text teaches less and less (Muennighoff et al., 2023), and parts of it "
                f"are learned by heart."
            )
    if n_parameters and n_parameters < SMALL and not run.reads_images:
        ratio = n_parameters / GPT2_SMALL
        size = f"{ratio:.2g} times the size of" if ratio >= 1 else f"1/{1 / ratio:,.0f} of"
        yield (
            f"A model of {n_parameters:,} parameters ({size} the smallest GPT-2) imitates the form "
            f"of its text. It knows no facts, cannot reason or be relied on, and may write "
            f"nonsense, repeat its training text, or repeat what is offensive in it."
        )


def _of_the_gap(run: Run) -> Iterator[str]:
    loss = val_loss(run)
    if loss is None:
        yield (
            f"No val loss was measured, so nothing is known about {_data(run)} that it was not "
            f"trained on."
        )
        return
    if not run.losses or not is_pretraining(run):
        return
    last = [line["loss"] for line in run.losses[-5:] if line["loss"] is not None]
    if not last:
        return
    train = sum(last) / len(last)
    gap = loss - train
    meaning = (
        "the model has begun to learn its text by heart"
        if gap > 0.1 * train
        else "there is no sign that it learned its text by heart"
    )
    yield (
        f"The loss on held-out text is {loss:.3f}, that of the last training steps {train:.3f}: a "
        f"gap of {gap:+.3f} nats, so {meaning}. (Val text may also be harder or easier in itself.)"
    )


def _of_the_baseline(run: Run, baselines: Sequence[Baseline]) -> Iterator[str]:
    loss = val_loss(run)
    if loss is None or not baselines:
        return
    best = min(baselines, key=lambda baseline: baseline.loss)
    if loss < best.loss:
        yield (
            f"It is {best.loss - loss:.3f} nats per token ahead of the {best.name} model, which "
            f"knows {best.what}."
        )
    else:
        yield (
            f"It is no better than the {best.name} model, which knows {best.what}: "
            f"{loss:.3f} against {best.loss:.3f} nats per token."
        )


def _of_the_measurement(run: Run) -> Iterator[str]:
    if is_pretraining(run):
        for part in corpora(run):
            if part["overlap"] > 0.001:
                yield (
                    f"{part['overlap']:.1%} of the val text of {part['corpus']} also occurs in "
                    f"its train text, which makes the val loss look better than it is."
                )
        yield (
            "The val text is of the same corpus as the train text. The val loss says nothing about "
            "other kinds of text."
        )
    yield (
        f"The best weights were chosen by part of the val {_data(run)} that the final loss is "
        f"measured on, so that loss is slightly too good. It is of one run with one seed: another "
        f"seed gives another loss, and small differences between runs may be chance."
    )
    yield (
        "The same command, versions and machine give the same numbers; other hardware rounds "
        "differently."
    )


def _data(run: Run) -> str:
    return "images" if run.reads_images else "text"
