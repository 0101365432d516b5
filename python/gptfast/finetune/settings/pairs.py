"""Settings of the methods that learn from pairs of answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gptfast.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """The pairs to learn from."""

    data: Path
    """JSON lines or a JSON list of objects with 'prompt' (a text or messages), 'chosen' and
    'rejected' (texts)."""
    val_data: Path | None = None
    """Pairs to evaluate on. By default, a share of `data` is held out, split by prompt."""
    val_fraction: float = 0.1
    """The share of the prompts of `data` to hold out, without `val_data`."""


def check_pair_options(options: PairOptions) -> None:
    """Raise UserError for impossible values."""
    if not 0 < options.val_fraction < 1:
        raise UserError(
            f"val_fraction is {options.val_fraction}: expected a number between 0 and 1"
        )
