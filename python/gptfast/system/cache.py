"""The cache folder, for what can be made or fetched again: corpora, data sets, rules."""

from __future__ import annotations

import os
from pathlib import Path


def cache_path() -> Path:
    """Return GPTFAST_CACHE if it is set, else the user's cache folder. It may not exist yet."""
    named = os.environ.get("GPTFAST_CACHE")
    if named:
        return Path(named)
    import platformdirs  # imported late: a plain checkout may lack it

    return Path(platformdirs.user_cache_dir("gptfast"))
