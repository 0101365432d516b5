"""Where gptfast keeps what it can make or fetch again: corpora, prepared data sets, rules."""

from __future__ import annotations

import os
from pathlib import Path


def cache_path() -> Path:
    """Return GPTFAST_CACHE if it is set, else the user's cache folder; it need not be there yet."""
    named = os.environ.get("GPTFAST_CACHE")
    if named:
        return Path(named)
    import platformdirs  # which a plain checkout may lack

    return Path(platformdirs.user_cache_dir("gptfast"))
