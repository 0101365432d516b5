"""`gptfast audit repetition`: how much samples repeat themselves, and the text they learned from.

Stretches of the val text are prompts. The model continues them, and so did the text: the same
measures of both, over as many tokens, compare ("Neural Text Generation with Unlikelihood Training",
Welleck et al., 2019, section 6.1). Legend: B windows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
import torch

from gptfast.audit.config import SETTINGS, RepetitionPlan
from gptfast.audit.likeness import (
    GivenTrain,
    compression_ratio,
    known_words,
    longest_copies,
    words_of,
)
from gptfast.errors import UserError
from gptfast.model import LanguageModel
from gptfast.sample.config import SamplingConfig
from gptfast.sample.generate import generate_batch
from gptfast.sample.repetition import distinct, longest_repeat, self_bleu, seq_rep
from gptfast.sample.request import Request
from gptfast.tokenizer import Tokenizer

SPANS = (16, 32, 128, 512)
"""How many tokens back `NextToken` looks, as far as the context reaches."""
WINDOWS = 16

Ids = Sequence[int]


@dataclass(frozen=True)
class Row:
    """The measures of the val text's own continuations, or of the samples of one setting."""

    name: str
    measures: dict[str, float]
    """Of all sets their mean. MEASURES says what each is."""
    spread: dict[str, float] | None
    """The standard deviation between the sets; None for a single one."""
    example: str
    """The first text."""


@dataclass(frozen=True)
class NextToken:
    """How often the likeliest next token is one that was there just before (Welleck, section 6.1).

    Measured on the val text itself, whose tokens come before each prediction.
    """

    span: int
    """l, the number of tokens before, within the window."""
    text: float
    """Share of places where the text's next token is among the last l."""
    rep: float
    """rep/l: share of places where the model's likeliest token is."""
    wrep: float
    """wrep/l: share of places where it is, and is not the text's next token."""


@dataclass(frozen=True)
class RepetitionAudit:
    """What was measured. `json.dumps(asdict(...))` takes it."""

    samples: int
    """Samples in each set."""
    sets: int
    prompt_tokens: int
    sample_tokens: int
    seed: int
    rows: list[Row]
    """The val text first, then the settings."""
    next_token: list[NextToken]
    n_places: int
    """Predictions that `next_token` counts."""


MEASURES = {
    "seq_rep_4": "seq-rep-4",
    "seq_rep_1": "seq-rep-1",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "distinct_3": "distinct-3",
    "self_bleu": "self-BLEU",
    "longest_repeat": "longest repeat",
    "longest_copy": "longest copy",
    "compression_ratio": "compression ratio",
    "bits_per_byte_given_train": "bits/byte | train",
    "known_words": "known words",
}
"""The measures and their names in tables. seq-rep and the longest repeat, and the longest copy from
train, both in characters, are means over samples; so are the words that are in train. The others
are of a whole set."""


def measure(
    model: LanguageModel,
    tokenizer: Tokenizer,
    val: Sequence[Ids],
    train: str,
    plan: RepetitionPlan,
    settings: Mapping[str, SamplingConfig] = SETTINGS,
) -> RepetitionAudit:
    """Audit the repetition of a model.

    Args:
        model: any.
        tokenizer: the model's.
        val: the ids of the documents that the model did not learn from.
        train: the text that it learned from, or a part of it.
        plan: how much to sample.
        settings: how to sample, by names.

    A sample goes on after an end-of-text token, because the measures depend on its length. Raises
    UserError if the documents are too short.
    """
    n_prompt, length = plan.prompt_tokens, plan.sample_tokens
    found = stretches(val, n_prompt + length, plan.samples)
    if len(found) < 2:
        raise UserError(
            f"the val text has room for one sample of {n_prompt} and {length} tokens: expected a "
            f"longer text, or a smaller --prompt-tokens or --sample-tokens"
        )
    sets: list[tuple[str, list[list[int]]]] = [("val text", [s[n_prompt:] for s in found])]
    for name, sampling in settings.items():
        n_sets = 1 if sampling.temperature == 0 else plan.sets
        requests = [
            Request(found[i % len(found)][:n_prompt], length, sampling, plan.seed + i)
            for i in range(n_sets * len(found))
        ]
        written = [g.ids for (g,) in generate_batch(model, tokenizer, requests)]
        starts = range(0, len(written), len(found))
        sets += [(name, written[start : start + len(found)]) for start in starts]
    by_row: dict[str, list[tuple[dict[str, float], str]]] = {}
    texts = [[tokenizer.decode(ids) for ids in samples] for _, samples in sets]
    copies = iter(longest_copies([text for of_set in texts for text in of_set], train))
    given, words = GivenTrain(train), set(words_of(train))
    for (name, ids), of_set in zip(sets, texts, strict=True):
        measures = {
            **of_ids(ids),
            **_of_texts(of_set, given, words),
            "longest_copy": mean(next(copies) for _ in of_set),
        }
        by_row.setdefault(name, []).append((measures, of_set[0]))
    next_token, n_places = measure_next_token(model, val)
    return RepetitionAudit(
        samples=len(found),
        sets=plan.sets,
        prompt_tokens=n_prompt,
        sample_tokens=length,
        seed=plan.seed,
        rows=[_row(name, measured) for name, measured in by_row.items()],
        next_token=next_token,
        n_places=n_places,
    )


def _row(name: str, measured: Sequence[tuple[dict[str, float], str]]) -> Row:
    values = {key: [measures[key] for measures, _ in measured] for key in MEASURES}
    return Row(
        name=name,
        measures={key: mean(of_sets) for key, of_sets in values.items()},
        spread={key: stdev(v) for key, v in values.items()} if len(measured) > 1 else None,
        example=measured[0][1],
    )


def of_ids(samples: Sequence[Ids]) -> dict[str, float]:
    """Return the measures of a set that count tokens."""
    return {
        "seq_rep_4": mean(seq_rep(ids, 4) for ids in samples),
        "seq_rep_1": mean(seq_rep(ids, 1) for ids in samples),
        **{f"distinct_{n}": distinct(samples, n) for n in (1, 2, 3)},
        "self_bleu": self_bleu(samples),
    }


def _of_texts(texts: Sequence[str], given: GivenTrain, words: set[str]) -> dict[str, float]:
    together = "\n".join(texts)
    return {
        "longest_repeat": mean(longest_repeat([ord(c) for c in text]) for text in texts),
        "compression_ratio": compression_ratio(together),
        "bits_per_byte_given_train": given.bits_per_byte(together),
        "known_words": mean(known_words(text, words) for text in texts),
    }


def stretches(documents: Sequence[Ids], length: int, count: int) -> list[list[int]]:
    """Return up to `count` stretches of `length` tokens, spread evenly over the documents.

    They do not overlap. Raises UserError if no document is as long.
    """
    places = [
        (i, start)
        for i, document in enumerate(documents)
        for start in range(0, len(document) - length + 1, length)
    ]
    if not places:
        longest = max(map(len, documents), default=0)
        raise UserError(
            f"no document of the val text has {length} tokens, the longest has {longest}: expected "
            f"a longer text, or a smaller --prompt-tokens or --sample-tokens"
        )
    chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    return [list(documents[i][start : start + length]) for i, start in (places[k] for k in chosen)]


@torch.no_grad()
def measure_next_token(
    model: LanguageModel, documents: Sequence[Ids]
) -> tuple[list[NextToken], int]:
    """Return rep/l and wrep/l on windows of the documents, and of how many places.

    A window has as many tokens as the context, or as the longest document, at least 2.
    """
    T = min(model.config.block_size, max(map(len, documents)) - 1)
    windows = torch.tensor(stretches(documents, T + 1, WINDOWS))
    device = next(model.parameters()).device
    ids_BT, targets_BT = windows[:, :-1], windows[:, 1:]
    likeliest_BT = torch.stack([model(ids[None].to(device))[0].argmax(-1).cpu() for ids in ids_BT])
    spans = [span for span in SPANS if span <= T] or [T]
    return [_next_token(ids_BT, targets_BT, likeliest_BT, span) for span in spans], ids_BT.numel()


def _next_token(
    ids_BT: torch.Tensor, targets_BT: torch.Tensor, likeliest_BT: torch.Tensor, span: int
) -> NextToken:
    T = ids_BT.size(1)
    ago_TT = torch.arange(T)[:, None] - torch.arange(T)
    is_seen_TT = (ago_TT >= 0) & (ago_TT < span)

    def repeats(next_BT: torch.Tensor) -> torch.Tensor:
        return ((next_BT[:, :, None] == ids_BT[:, None]) & is_seen_TT).any(-1)

    repeats_BT = repeats(likeliest_BT)
    return NextToken(
        span=span,
        text=float(repeats(targets_BT).double().mean()),
        rep=float(repeats_BT.double().mean()),
        wrep=float((repeats_BT & (likeliest_BT != targets_BT)).double().mean()),
    )
