"""Short built-in texts of many kinds, on which any tokenizers can be compared."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "texts"

# Prose is named for its script; Latin is mostly English.
PROSE = (
    "latin", "cyrillic", "greek", "arabic", "devanagari", "thai", "han", "kana", "hangul",
)  # fmt: skip
KINDS = (*PROSE, "code", "json", "numbers", "rare words", "emoji")

# Each is encoded separately.
NUMBERS = (
    "7", "42", "365", "1984", "2024", "12345", "1234567", "1,000,000", "3.14159", "-273.15",
    "2024-02-29", "23:59:59", "+1 555 0100", "0xdeadbeef", "1e-9",
)  # fmt: skip
INDENTATIONS = {
    "4 spaces": " " * 4,
    "8 spaces": " " * 8,
    "12 spaces": " " * 12,
    "16 spaces": " " * 16,
    "1 tab": "\t",
    "2 tabs": "\t\t",
}
RARE_WORDS = (
    "antidisestablishmentarianism", "petrichor", "borborygmus", "Ångström", "blorptangle",
    "definately", "CAPITALISATION", "snake_case_with_parts", "getElementBySessionId",
)  # fmt: skip


def probe(kind: str) -> str:
    """Return the built-in text of a kind in `KINDS`, about a dozen lines."""
    return (_FOLDER / f"{kind.replace(' ', '_')}.txt").read_text(encoding="utf-8")
