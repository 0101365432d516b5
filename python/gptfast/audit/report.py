"""Report an audit as tables on the terminal, as JSON and as a plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from rich.console import Console
from rich.table import Table

from gptfast.audit import CHARACTERS, WORDS, Audit
from gptfast.audit.fertility import Fertility
from gptfast.audit.vocabulary import Token, Vocabulary
from gptfast.system.files import write_atomically, write_text_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

T = TypeVar("T")

# Okabe and Ito's palette, whose colors also differ in lightness. Naive tokenizers are gray.
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
_GRAYS = {CHARACTERS: "#666666", WORDS: "#aaaaaa"}


def print_audit(result: Audit, console: Console) -> None:
    """Print all tables, starting with those of the text."""
    _print_compression(result, console)
    by_kind = _cells(result.bytes_per_token, "{:.2f}".format)
    _print(console, "bytes per token of the built-in texts", "kind", by_kind)
    fertility = _cells(_with_unit(result.fertility), lambda f: f"{f.n_tokens_per:.2f}")
    _print(console, "fertility: tokens per word or per character", "script", fertility)
    whole = _cells(result.whole_numbers, "{:.0%}".format)
    _print(console, "integers whose digits are one token", "range", whole)
    for group, examples in result.splits.items():
        cut = _cells(examples, lambda tokens: f"{'|'.join(tokens)} ({len(tokens)})")
        _print(console, f"how {group} split", "text", cut, justify="left")
    _print_vocabulary(result.vocabulary, result.compression[0].name, console)


def _with_unit(fertility: Mapping[str, dict[str, Fertility]]) -> dict[str, dict[str, Fertility]]:
    """Add to the name of each row the unit that tokens are counted per."""
    return {f"{row}, per {next(iter(by.values())).per}": by for row, by in fertility.items()}


def _cells(
    rows: Mapping[str, Mapping[str, T]], show: Callable[[T], str]
) -> dict[str, dict[str, str]]:
    return {name: {t: show(value) for t, value in row.items()} for name, row in rows.items()}


def _print_compression(result: Audit, console: Console) -> None:
    table = Table()
    for i, heading in enumerate(
        (
            "tokenizer",
            "vocabulary",
            "tokens",
            "bytes/token",
            "unknown",
            "longest token used",
            "bytes",
        )
    ):
        table.add_column(heading, justify="left" if i in (0, 5) else "right")
    for c in result.compression:
        table.add_row(
            c.name, f"{c.n_vocab:,}", f"{c.n_tokens:,}", f"{c.bytes_per_token:.2f}",
            f"{c.unknown:.2%}", _shorten(c.longest), str(c.longest_bytes),
        )  # fmt: skip
    console.print(f"the text: {result.n_bytes:,} bytes", style="bold")
    console.print(table, soft_wrap=False)


def _print(
    console: Console,
    title: str,
    heading: str,
    rows: Mapping[str, Mapping[str, str]],
    justify: Literal["left", "right"] = "right",
) -> None:
    """Print a table with one column per tokenizer."""
    table = Table()
    table.add_column(heading, no_wrap=True)
    for tokenizer in next(iter(rows.values())):
        table.add_column(tokenizer, justify=justify, overflow="fold")
    for name, row in rows.items():
        table.add_row(name, *row.values())
    console.print(f"\n{title}", style="bold")
    console.print(table, soft_wrap=False)


def _print_vocabulary(vocabulary: Vocabulary, name: str, console: Console) -> None:
    table = Table()
    for heading in ("id", "bytes", "uses", "token"):
        table.add_column(heading, justify="left" if heading == "token" else "right")
    for token in vocabulary.longest:
        table.add_row(str(token.id), str(token.n_bytes), f"{token.n_uses:,}", _shorten(token.shown))
    console.print(f"\nlongest tokens of {name}", style="bold")
    console.print(table, soft_wrap=False)
    share = vocabulary.n_never_used / vocabulary.n_tokens
    console.print(
        f"\nthe text never uses {vocabulary.n_never_used:,} of {name}'s {vocabulary.n_tokens:,} "
        f"tokens ({share:.1%}), among them {vocabulary.n_bytes_never_used} of the 256 single bytes"
    )
    if vocabulary.never_used:
        console.print(f"the first longer ones: {_listed(vocabulary.never_used)}")


def _listed(tokens: Iterable[Token]) -> str:
    return "  ".join(f"{_shorten(t.shown)} ({t.id})" for t in tokens)


def _shorten(shown: str) -> str:
    return shown if len(shown) <= 40 else f"{shown[:39]}…"


def save(result: Audit, folder: Path) -> None:
    """Write audit.json and audit.png into `folder`; make it if it doesn't exist."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(asdict(result), indent=2, ensure_ascii=False)
    write_text_atomically(folder / "audit.json", content + "\n")
    write_atomically(folder / "audit.png", lambda path: _plot(result, path))


def _plot(result: Audit, path: Path) -> None:
    from matplotlib.figure import Figure  # takes half a second to import

    figure = Figure(figsize=(13, 10), layout="constrained")
    ((text, kinds), (fertility, vocabulary)) = figure.subplots(2, 2)
    names = [c.name for c in result.compression]
    colors = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(names)} | _GRAYS
    lengths = [c.bytes_per_token for c in result.compression]
    bars = text.barh(names, lengths, color=[colors[name] for name in names])
    text.bar_label(bars, [_bar_label(c.bytes_per_token, c.unknown) for c in result.compression])
    text.invert_yaxis()
    text.margins(x=0.5)
    text.set_xlabel("bytes per token (longer is better)")
    text.set_title(f"The text, {result.n_bytes:,} bytes")
    _grouped(kinds, result.bytes_per_token, colors)
    kinds.set_xlabel("bytes per token (longer is better)")
    kinds.set_title("Built-in texts")
    rows = _with_unit(result.fertility).items()
    per_unit = {row: {name: f.n_tokens_per for name, f in by.items()} for row, by in rows}
    _grouped(fertility, per_unit, colors)
    fertility.set_xlabel("tokens per word or character (shorter is better)")
    fertility.set_title("Fertility by script")
    _plot_lengths(vocabulary, result.vocabulary)
    vocabulary.set_title(f"The vocabulary of {names[0]}")
    figure.legend(*kinds.get_legend_handles_labels(), loc="outside upper center", ncols=7)
    figure.savefig(path, format="png", dpi=120)


def _bar_label(bytes_per_token: float, unknown: float) -> str:
    return f" {bytes_per_token:.2f}" + (f", {unknown:.1%} unknown" if unknown else "")


def _grouped(
    axes: Axes, rows: Mapping[str, Mapping[str, float]], colors: Mapping[str, str]
) -> None:
    """Draw a group of horizontal bars per row, with one bar per tokenizer."""
    tokenizers = list(next(iter(rows.values())))
    height = 0.8 / len(tokenizers)
    for i, tokenizer in enumerate(tokenizers):
        places = [row + (i - (len(tokenizers) - 1) / 2) * height for row in range(len(rows))]
        lengths = [row[tokenizer] for row in rows.values()]
        axes.barh(places, lengths, height, color=colors[tokenizer], label=tokenizer)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _plot_lengths(axes: Axes, vocabulary: Vocabulary) -> None:
    """Draw a histogram of token lengths in bytes, stacked by whether the text uses the token."""
    longest = max(*vocabulary.used_by_length, *vocabulary.never_used_by_length)
    lengths = range(1, min(longest, 20) + 1)

    def heights(by_length: Mapping[int, int]) -> list[int]:
        *exact, last = lengths
        rest = sum(n for length, n in by_length.items() if length >= last)
        return [*(by_length.get(length, 0) for length in exact), rest]

    used, unused = heights(vocabulary.used_by_length), heights(vocabulary.never_used_by_length)
    axes.bar(lengths, used, color=_COLORS[0], label="used")
    axes.bar(lengths, unused, bottom=used, color="#cccccc", label="never used on the text")
    axes.set_xlabel("bytes in a token" + (" (20: 20 or more)" if longest > 20 else ""))
    axes.set_ylabel("tokens")
    axes.legend()
