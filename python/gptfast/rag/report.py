"""What an evaluation found, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from gptfast.rag.evaluate import Interval, Result


def table(results: Sequence[Result]) -> Table:
    """Return a table with a row for each retriever: means, and their intervals below."""
    shown = Table()
    shown.add_column("retriever")
    for name in ("hit@1", "hit@5", "recall@10", "MRR", "nDCG@10"):
        shown.add_column(name, justify="right")
    for result in results:
        values = (
            result.hit_at_1,
            result.hit_at_5,
            result.recall_at_10,
            result.mrr,
            result.ndcg_at_10,
        )
        shown.add_row(
            result.retriever,
            *(f"{value.mean:.3f}\n{value.low:.2f}-{value.high:.2f}" for value in values),
        )
    return shown


def refusals(results: Sequence[Result]) -> list[str]:
    """Return a line for each retriever: which share of the questions it does not refuse."""
    lines = []
    for result in results:
        line = f"{result.retriever} answers {_share(result.answered)} of the questions"
        if result.foreign_answered is not None:
            line += f" and {_share(result.foreign_answered)} of the foreign ones"
        lines.append(line)
    return lines


def _share(share: Interval) -> str:
    return f"{share.mean:.1%} ({share.low:.1%} to {share.high:.1%})"
