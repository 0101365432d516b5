"""The table of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from gptfast.rag.evaluate import Interval, Result


def table(results: Sequence[Result]) -> Table:
    """Return a table with a row for each retriever: means, and their intervals below."""
    shown = Table()
    shown.add_column("retriever")
    for name in ("hit@1", "hit@5", "recall@10", "MRR", "nDCG@10", "answered", "foreign answered"):
        shown.add_column(name, justify="right")
    for result in results:
        values = (
            result.hit_at_1,
            result.hit_at_5,
            result.recall_at_10,
            result.mrr,
            result.ndcg_at_10,
            result.answered,
            result.foreign_answered,
        )
        shown.add_row(result.retriever, *map(_cell, values))
    return shown


def _cell(value: Interval | None) -> str:
    return "" if value is None else f"{value.mean:.3f}\n{value.low:.3f}-{value.high:.3f}"
