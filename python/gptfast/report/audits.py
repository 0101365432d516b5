"""The sections that show measurements of the tokenizer and of the model.

Each takes the measurement as a dictionary: the audits are separate applications, and a door
(report/__main__.py) joins them with reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gptfast.report import markup
from gptfast.report.markup import Section, text

CELL = 24
"""Side of a matrix's cell, in units of the picture."""
SHOWN_TOKENS = 160


def tokenizer_section(
    name: str, audit: Mapping[str, Any], pieces: Sequence[str], about: str
) -> Section:
    """Return a section of `asdict(audit(...))`.

    pieces: tokens of a piece of text, as `visible` shows them. about: what text was measured.
    """
    own, *naive = audit["compression"]
    rows = [
        (c["name"], f"{c['n_vocab']:,}", f"{c['n_tokens']:,}", f"{c['bytes_per_token']:.2f}",
         f"{c['unknown']:.2%}")
        for c in (own, *naive)
    ]  # fmt: skip
    kinds = [
        (kind, *(f"{value:.2f}" for value in by.values()))
        for kind, by in audit["bytes_per_token"].items()
    ]
    columns = ("text", *next(iter(audit["bytes_per_token"].values())))
    vocabulary = audit["vocabulary"]
    never = vocabulary["n_never_used"] / vocabulary["n_tokens"]
    longest = ", ".join(token["shown"] for token in vocabulary["longest"][:8])
    whole = ", ".join(
        f"{share:.0%} of {numbers}"
        for numbers, by in audit["whole_numbers"].items()
        for tokenizer, share in by.items()
        if tokenizer == name
    )
    return Section(
        "tokenizer",
        "Tokenizer",
        markup.paragraph(f"A token holds {own['bytes_per_token']:.2f} bytes of {about}.")
        + _tinted(pieces)
        + markup.table(
            f"{about}, {audit['n_bytes']:,} bytes",
            ("tokenizer", "vocabulary", "tokens", "bytes/token", "unknown"),
            rows,
        )
        + markup.details(
            "Bytes per token of other kinds of text",
            markup.table("Built-in texts, bytes per token", columns, kinds),
        )
        + markup.listed(
            [
                f"The text never uses {vocabulary['n_never_used']:,} of the "
                f"{vocabulary['n_tokens']:,} tokens ({never:.1%}).",
                f"Its longest tokens are {longest}.",
                f"Numbers that are one token: {whole}.",
            ]
        ),
    )


def characters_section(n_vocab: int, pieces: Sequence[str]) -> Section:
    """Return the section of a tokenizer of characters, which leaves nothing to audit."""
    return Section(
        "tokenizer",
        "Tokenizer",
        markup.paragraph(
            f"Each character is a token: the vocabulary has the {n_vocab:,} characters of the "
            f"text. A context therefore holds little text, but no word is ever unknown."
        )
        + _tinted(pieces),
    )


def _tinted(pieces: Sequence[str]) -> str:
    shown = "".join(
        f'<span class="token colour-{i % 5}">{text(piece)}</span>'
        + ("<br>" if piece.endswith("⏎") else "<wbr>")
        for i, piece in enumerate(pieces[:SHOWN_TOKENS])
    )
    return f'<p class="tokens">{shown}</p>' if shown else ""


def attention_section(audit: Mapping[str, Any], about: str) -> Section:
    """Return a section of `asdict(AttentionAudit)`. about: where its text is from."""
    layer, head = audit["layer"], audit["head"]
    weights = audit["weights"][layer - 1][head - 1]
    checks = "".join(
        f'<li class="{"passed" if check["passed"] else "failed"}">'
        f"<b>{'Passed' if check['passed'] else 'Failed'}</b>: {text(check['name'])} "
        f"<span>({text(check['found'])})</span></li>"
        for check in audit["checks"]
    )
    rows = [
        (
            f"layer {h['layer']}, head {h['head']}",
            *(_score(h[key]) for key in ("entropy", "previous_token", "first_token", "induction")),
        )
        for h in audit["heads"]
    ]
    induction = audit["induction"]
    copies = (
        ""
        if induction is None
        else markup.paragraph(
            f"Random sequences of {induction['length']} tokens that repeat: the loss is "
            f"{induction['loss_of_first_copy']:.3f} nats per token on the first copy and "
            f"{induction['loss_of_second_copy']:.3f} on the second. A model that can copy from its "
            f"context has a much lower second one."
        )
    )
    return Section(
        "attention",
        "Attention",
        markup.paragraph(
            f"Where layer {layer}, head {head} looks, the head with the least even weights, on "
            f"{about}. Each row is a token that looks, each column a token that is seen."
        )
        + f'<figure class="matrix">{matrix(audit["tokens"], weights)}</figure>'
        + markup.listed(audit["rules"])
        + f'<ul class="checks">{checks}</ul>'
        + copies
        + markup.details(
            "Every head, in numbers",
            markup.table(
                "Scores of the heads",
                ("head", "entropy (nats)", "previous token", "first token", "induction"),
                rows,
            ),
        ),
    )


def repetition_section(
    audit: Mapping[str, Any], measures: Mapping[str, str], sentences: Sequence[str]
) -> Section:
    """Return a section of `asdict(RepetitionAudit)`.

    measures: the names of its measures. sentences: what they say.
    """
    rows = [
        (name, *(_score(row["measures"][key], 3) for row in audit["rows"]))
        for key, name in measures.items()
    ]
    places = [
        (
            f"last {place['span']} tokens",
            f"{place['text']:.3f}",
            f"{place['rep']:.3f}",
            f"{place['wrep']:.3f}",
        )
        for place in audit["next_token"]
    ]
    return Section(
        "repetition",
        "Repetition",
        markup.paragraph(
            f"Samples of {audit['sample_tokens']} tokens that continue the val text, beside the "
            f"text's own continuations: {audit['sets']} sets of {audit['samples']}, one of greedy "
            f"samples. Less repetition than the val text has is no success, so the share of known "
            f"words matters, too."
        )
        + markup.listed(sentences)
        + markup.table(
            "How much the samples repeat, and how like the text they are",
            ("measure", *(row["name"] for row in audit["rows"])),
            rows,
        )
        + markup.details(
            "The likeliest next token",
            markup.table(
                "Share of places in the val text where a token is among the last ones",
                ("among the", "the text's", "the model's likeliest", "and it is wrong"),
                places,
            ),
        ),
    )


def matrix(tokens: Sequence[str], weights: Sequence[Sequence[float]]) -> str:
    """Return a picture of attention weights; row t has those of the tokens up to t."""
    longest = max(map(len, tokens))
    room = 9 * min(longest, 12) + 14
    size = room + CELL * len(tokens)
    cells = "".join(
        f'<rect x="{room + CELL * s}" y="{room + CELL * t}" width="{CELL}" height="{CELL}" '
        f'fill-opacity="{weight:.3f}"><title>{text(tokens[t])} looks at {text(tokens[s])}: '
        f"{weight:.2f}</title></rect>"
        for t, row in enumerate(weights)
        for s, weight in enumerate(row)
    )
    places = [f"{room + CELL * (i + 0.68):.1f}" for i in range(len(tokens))]
    labels = "".join(
        f'<text x="{room - 8}" y="{place}" class="looks">{_short(token)}</text>'
        f'<text transform="translate({place} {room - 8}) rotate(-90)">{_short(token)}</text>'
        for place, token in zip(places, tokens, strict=True)
    )
    return (
        f'<svg viewBox="0 0 {size} {size}" role="img" aria-label="Attention weights of '
        f'{len(tokens)} tokens">{labels}<g class="cells">{cells}</g>'
        f'<path class="frame" d="M{room} {room}h{size - room}v{size - room}h{room - size}z"/></svg>'
    )


def _short(token: str) -> str:
    return text(token if len(token) <= 12 else f"{token[:11]}…")


def _score(value: float | None, digits: int = 2) -> str:
    """Return a number with so many decimal places, or one from 10 on."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if value < 10 else f"{value:.1f}"
