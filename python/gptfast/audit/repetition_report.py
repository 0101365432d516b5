"""Print what `gptfast audit repetition` measured."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from gptfast.audit.repetition import MEASURES, RepetitionAudit, Row

# Measures in characters, of which a decimal place is enough.
_LENGTHS = ("longest_repeat", "longest_copy")


def print_audit(result: RepetitionAudit, console: Console) -> None:
    """Print the tables, what they say, and the first sample of each setting."""
    table = Table(title="repetition", title_justify="left", title_style="bold")
    table.add_column("measure")
    for row in result.rows:
        table.add_column(row.name, justify="right")
    for key, name in MEASURES.items():
        table.add_row(name, *(_cell(row, key) for row in result.rows))
    console.print(table)
    for note in (
        f"{result.samples} samples of {result.sample_tokens} tokens, each after "
        f"{result.prompt_tokens} tokens of the val text",
        f"± is the standard deviation between {result.sets} such sets, with seeds from "
        f"{result.seed} on",
        "longest repeat, and longest copy from train, in characters; bits/byte of xz when it has "
        "read the end of train; known words: share of the words that are in train",
        "less repetition than the val text has is no success: look at the known words, too",
    ):
        console.print(f"note: {note}")
    for sentence in sentences(result):
        console.print(sentence)
    places = Table(title="the likeliest next token", title_justify="left", title_style="bold")
    places.add_column("is among the last l tokens, l =")
    for span in result.next_token:
        places.add_column(str(span.span), justify="right")
    places.add_row("val text's own token", *(f"{n.text:.3f}" for n in result.next_token))
    places.add_row("rep/l: the model's", *(f"{n.rep:.3f}" for n in result.next_token))
    places.add_row("wrep/l: and it is wrong", *(f"{n.wrep:.3f}" for n in result.next_token))
    console.print()
    console.print(places)
    console.print(f"note: {result.n_places:,} places in the val text")
    for row in result.rows:
        console.print(f"\n{row.name}, the first text", style="bold")
        console.print(row.example[:200].strip())


def sentences(result: RepetitionAudit) -> list[str]:
    """Return how often each setting repeats itself beside the val text."""
    text, *others = result.rows
    usual = text.measures["seq_rep_4"]
    if usual == 0:
        return ["the val text repeats no 4-gram"]
    return [
        f"{row.name}: {row.measures['seq_rep_4'] / usual:.2g} times the val text's seq-rep-4"
        for row in others
    ]


def _cell(row: Row, key: str) -> str:
    places = 1 if key in _LENGTHS else 3
    value = f"{row.measures[key]:.{places}f}"
    return value if row.spread is None else f"{value}±{row.spread[key]:.{places}f}"
