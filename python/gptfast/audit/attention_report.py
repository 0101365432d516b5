"""Show what `gptfast audit attention` measured: on the terminal, and as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptfast.audit.attention import AttentionAudit
from gptfast.audit.heads import Head

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_LABEL = 12
_MOST_NUMBERS = 16
"""Most tokens for which numbers fit into the cells of a picture."""
HEADINGS = ("layer", "head", "entropy", "at most", "previous", "first", "induction")
_STYLES = ("", "color(16) on color(195)", "color(16) on color(152)", "color(15) on color(30)")


def print_audit(result: AttentionAudit, console: Console) -> None:
    """Print the mask, a matrix, the rules, the checks and the scores of the heads."""
    where = f"layer {result.layer}, head {result.head}"
    _print_grid(
        f"the mask of layer {result.layer}: 1 where the token of a row may see that of a column",
        result.tokens,
        [[str(seen) for seen in row] for row in result.mask],
        [[0.0] * len(row) for row in result.mask],
        console,
    )
    _print_grid(
        f"attention of {where}: how a token (row) shares its weight among tokens (columns)",
        result.tokens,
        [[_two_decimals(w) for w in row[: t + 1]] for t, row in enumerate(result.matrix)],
        result.matrix,
        console,
    )
    console.print("\nwho sees whom", style="bold")
    for line in (*result.rules, *result.sees):
        console.print(line)
    console.print("\nchecks", style="bold")
    for check in result.checks:
        mark = "ok   " if check.passed else "WRONG"
        console.print(f"{mark}  {check.name}: {check.found}", style="" if check.passed else "red")
    _print_heads(result, console)


def _two_decimals(weight: float) -> str:
    """Return a weight such as ".07" or "1.0"."""
    return f"{weight:.2f}"[1:] if weight < 0.995 else "1.0"


def _print_grid(
    title: str,
    tokens: list[str],
    cells: list[list[str]],
    weights: list[list[float]],
    console: Console,
) -> None:
    """Print a grid whose rows have the tokens as labels, and whose columns their numbers."""
    console.print(f"\n{title}", style="bold")
    width = max(len(cell) for row in cells for cell in row) + 1
    width = max(width, len(str(len(tokens))) + 1)
    label = min(_LABEL, max(map(cell_len, tokens)))
    if label + 4 + width * len(tokens) > console.width:
        console.print(
            f"{len(tokens)} tokens are too many for {console.width} columns: take a shorter text, "
            f"or look at the files of --out"
        )
        return
    numbers = "".join(f"{n:>{width}}" for n in range(1, len(tokens) + 1))
    console.print(" " * (label + 4) + numbers, style="dim")
    for t, (token, row, of_row) in enumerate(zip(tokens, cells, weights, strict=True)):
        line = Text(f"{t + 1:3} {set_cell_size(token, label)}")
        for cell, weight in zip(row, of_row, strict=False):
            line.append(f"{cell:>{width}}", _STYLES[min(3, int(4 * weight))])
        console.print(line)


def _print_heads(result: AttentionAudit, console: Console) -> None:
    table = Table(title="\nheads", title_justify="left", title_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for head in result.heads:
        table.add_row(*score_cells(head))
    console.print(table)
    console.print(
        "note: entropy in nats of how a token shares its weight, and if it shared it evenly; mean "
        "weight of the previous and of the first token"
    )
    console.print(f"note: {induction_sentence(result)}")


def score_cells(h: Head) -> list[str]:
    """Return the cells of a head in the table with HEADINGS."""
    scores = (h.entropy, h.most_entropy, h.previous_token, h.first_token, h.induction)
    shown = ("–" if score is None else f"{score:.3f}" for score in scores)
    return [str(h.layer), str(h.head), *shown]


def induction_sentence(result: AttentionAudit) -> str:
    """Return what the model does with random sequences that repeat."""
    found = result.induction
    if found is None:
        return "the context or the vocabulary is too small for an induction score"
    first, second = found.loss_of_first_copy, found.loss_of_second_copy
    return (
        f"induction: {found.sequences} sequences of {found.length} random tokens, each twice; mean "
        f"weight of the token that followed last time. The model predicts the second copy with "
        f"{second:.2f} nats/token, the first with {first:.2f}: a gain of {first - second:.2f}"
    )


def plot(result: AttentionAudit, path: Path) -> None:
    """Draw the mask, the chosen head and all heads as a PNG."""
    from matplotlib.figure import Figure  # takes half a second to import

    figure = Figure(figsize=(12, 6.7), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.35))[0]
    mask, chosen = left.subplots(2, 1, height_ratios=(1, 2.2))
    _draw(mask, [[float(seen) for seen in row] for row in result.mask], "Greys", 2)
    mask.set_title(f"The mask of layer {result.layer}: 1 = may see", fontsize=10)
    mask.set_xticks([])
    mask.set_yticks([])
    if len(result.tokens) <= 2 * _MOST_NUMBERS:
        _write(mask, [[str(seen) for seen in row] for row in result.mask])
    _draw(chosen, _blank_beyond(result, result.layer, result.head), "GnBu", 1)
    _label(chosen, result.tokens)
    chosen.set_title(f"Layer {result.layer}, head {result.head}", fontsize=10)
    if len(result.tokens) <= _MOST_NUMBERS:
        _write(chosen, [[_two_decimals(w) for w in row] for row in result.matrix])
    _draw_all(right, result)
    figure.savefig(path, format="png", dpi=100, pil_kwargs={"optimize": True})


def _blank_beyond(result: AttentionAudit, layer: int, head: int) -> list[list[float]]:
    """Return the weights of a head, (T, T), with NaN for the future, which is not drawn."""
    T = len(result.tokens)
    return [row + [math.nan] * (T - len(row)) for row in result.weights[layer - 1][head - 1]]


def _draw(axes: Axes, matrix: list[list[float]], colors: str, most: float) -> None:
    axes.imshow(matrix, cmap=colors, vmin=0, vmax=most, interpolation="nearest")


def _write(axes: Axes, cells: list[list[str]]) -> None:
    """Write into the cells of a matrix, but no weight that is 0 to two decimals."""
    for t, row in enumerate(cells):
        for s, cell in enumerate(row):
            if cell != ".00":
                color = "white" if cell > ".60" and "." in cell else "black"
                axes.text(s, t, cell, ha="center", va="center", fontsize=7, color=color)


def _label(axes: Axes, tokens: list[str]) -> None:
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))

    def drawn(char: str) -> str:
        if not font.get_char_index(ord(char)):
            return char.encode("unicode_escape").decode()
        return r"\$" if char == "$" else char  # a $ would begin mathematics

    names = ["".join(map(drawn, token)) for token in tokens]
    size = 8 if len(names) <= 32 else 4
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)


def _draw_all(figure: SubFigure, result: AttentionAudit) -> None:
    n_layer, n_head = result.heads[-1].layer, result.heads[-1].head
    grid = figure.subplots(n_layer, n_head, squeeze=False)
    for h in result.heads:
        axes = grid[h.layer - 1][h.head - 1]
        _draw(axes, _blank_beyond(result, h.layer, h.head), "GnBu", 1)
        axes.set_xticks([])
        axes.set_yticks([])
        if n_head <= 6:
            axes.set_title(_caption(h), fontsize=7)
    figure.suptitle("All heads, layers from top to bottom", fontsize=10)


def _caption(head: Head) -> str:
    """Return where a head looks most: the highest of its three scores."""
    scores = {
        "previous": head.previous_token or 0.0,
        "first": head.first_token or 0.0,
        "induction": head.induction or 0.0,
    }
    name = max(scores, key=lambda name: scores[name])
    return f"{head.layer}.{head.head}: {name} {scores[name]:.2f}"
