"""The page."""


def page() -> str:
    """Return it."""
    return "<!doctype html>"


PAGE_HEADERS: dict[str, str] = {}
