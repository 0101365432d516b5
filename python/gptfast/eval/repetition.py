"""How much samples repeat themselves, beside the text that a model should write like.

Stretches of a text are prompts. The model continues them, and so did the text: the same measures of
both, over as many tokens, compare ("Neural Text Generation with Unlikelihood Training", Welleck et
al., 2019, section 6.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np

from gptfast.errors import UserError
from gptfast.eval.config import RepetitionConfig
from gptfast.eval.report import Section
from gptfast.model import LanguageModel
from gptfast.sample.config import SamplingConfig
from gptfast.sample.generate import generate_batch
from gptfast.sample.repetition import distinct, longest_repeat, seq_rep
from gptfast.sample.request import Request
from gptfast.tokenizer import Tokenizer

MEASURES = {
    "distinct-1": "distinct_1",
    "distinct-2": "distinct_2",
    "distinct-3": "distinct_3",
    "seq-rep-4": "seq_rep_4",
    "longest repeated span (tokens)": "longest_repeat",
}
"""The measures as shown, and their keys in JSON."""


def measures(texts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return the measures of a set of texts; the last two are means over the texts."""
    return {
        **{f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)},
        "seq_rep_4": mean(seq_rep(text, 4) for text in texts),
        "longest_repeat": mean(longest_repeat(text) for text in texts),
    }


def stretches(documents: Sequence[Sequence[int]], length: int, count: int) -> list[list[int]]:
    """Return up to `count` stretches of `length` tokens, spread evenly over the documents.

    They do not overlap. Raises UserError if no document is as long.
    """
    places = [
        (i, start)
        for i, document in enumerate(documents)
        for start in range(0, len(document) - length + 1, length)
    ]
    if not places:
        longest = max(map(len, documents))
        raise UserError(
            f"no document has {length} tokens, the longest has {longest}: expected a longer text, "
            f"or a smaller --prompt-tokens or --sample-tokens"
        )
    chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    return [list(documents[i][start : start + length]) for i, start in (places[k] for k in chosen)]


def measure_repetition(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    options: RepetitionConfig,
    sampling: SamplingConfig,
) -> Section:
    """Return the table of `--repetition`.

    A sample goes on after an end-of-text token, because the measures depend on its length.
    """
    n_prompt, length = options.prompt_tokens, options.sample_tokens
    found = stretches(tokenizer.encode_batch(texts), n_prompt + length, options.samples)
    seeds = range(options.seed, options.seed + options.sets * len(found))
    requests = [
        Request(found[i % len(found)][:n_prompt], length, sampling, seed)
        for i, seed in enumerate(seeds)
    ]
    written = generate_batch(model, tokenizer, requests)
    samples = [generation.ids for (generation,) in written]
    sets = [
        measures(samples[start : start + len(found)])
        for start in range(0, len(samples), len(found))
    ]
    text = measures([stretch[n_prompt:] for stretch in found])
    result: dict[str, Any] = {
        "samples": len(found),
        "sets": options.sets,
        "prompt_tokens": n_prompt,
        "sample_tokens": length,
        "seed": options.seed,
        "temperature": sampling.temperature,
        "text": text,
        "model": {key: [one[key] for one in sets] for key in text},
    }
    rows = [_row(name, text[key], [one[key] for one in sets]) for name, key in MEASURES.items()]
    notes = [
        f"{options.sets} sets of {len(found)} samples of {length} tokens, temperature "
        f"{sampling.temperature}, seeds {seeds[0]} to {seeds[-1]}; the text's own continuations "
        f"of the same prompts",
        "a difference within the range of the sets is chance: a single seed proves nothing",
    ]
    if len(found) < options.samples:
        notes.append(f"the text has room for {len(found)} of the {options.samples} samples only")
    columns = ("measure", "text", "model", "spread", "range of the sets")
    return Section("repetition", "repetition", columns, tuple(rows), result, tuple(notes))


def _row(name: str, text: float, values: list[float]) -> tuple[str, ...]:
    places = 1 if name.startswith("longest") else 3
    shown = [f"{value:.{places}f}" for value in (text, mean(values), stdev(values))]
    return (
        name,
        *shown[:2],
        f"± {shown[2]}",
        f"{min(values):.{places}f} to {max(values):.{places}f}",
    )
