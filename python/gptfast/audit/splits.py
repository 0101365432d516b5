"""How a tokenizer splits examples of numbers, indentation and rare words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from gptfast.audit.probes import INDENTATIONS, NUMBERS, RARE_WORDS
from gptfast.tokenizer.base import Tokenizer
from gptfast.tokenizer.show import visible

# By example, then by tokenizer: the tokens as `visible` shows them.
Splits: TypeAlias = dict[str, dict[str, list[str]]]

_RANGES = ((0, 9), (10, 99), (100, 999), (1000, 9999))


def splits(tokenizers: Mapping[str, Tokenizer]) -> dict[str, Splits]:
    """Return each tokenizer's tokens of the examples: numbers, indentation and rare words."""
    # A number or word follows a space, as it usually does in text.
    examples = {
        "numbers": {number: f" {number}" for number in NUMBERS},
        "indentation": {name: f":\n{indent}return" for name, indent in INDENTATIONS.items()},
        "rare words": {word: f" {word}" for word in RARE_WORDS},
    }
    return {
        group: {
            name: {t: _tokens(tokenizer, text) for t, tokenizer in tokenizers.items()}
            for name, text in texts.items()
        }
        for group, texts in examples.items()
    }


def _tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    ids = tokenizer.encode_ordinary(text)
    return [visible(tokenizer.token_bytes(token_id)) for token_id in ids]


def whole_numbers(tokenizers: Mapping[str, Tokenizer]) -> dict[str, dict[str, float]]:
    """Return, by range such as '100-999', the share of integers whose digits are one token.

    The space before the number may be a separate token or part of it.
    """
    return {
        f"{low}-{high}": {
            name: sum(_is_whole(tokenizer, n) for n in range(low, high + 1)) / (high - low + 1)
            for name, tokenizer in tokenizers.items()
        }
        for low, high in _RANGES
    }


def _is_whole(tokenizer: Tokenizer, number: int) -> bool:
    last = tokenizer.encode_ordinary(f" {number}")[-1]
    return tokenizer.token_bytes(last).strip() == str(number).encode()
