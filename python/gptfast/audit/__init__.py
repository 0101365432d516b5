"""`gptfast audit tokenizer`: what a tokenizer does to prose, code, numbers and rare words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gptfast.audit import compression
from gptfast.audit.compression import Compression, bytes_per_token
from gptfast.audit.fertility import Fertility, count_words, measure_fertility
from gptfast.audit.probes import KINDS, PROSE, probe
from gptfast.audit.splits import Splits, splits, whole_numbers
from gptfast.audit.vocabulary import Vocabulary, measure_vocabulary
from gptfast.errors import UserError
from gptfast.tokenizer.base import Tokenizer
from gptfast.tokenizer.bpe import BPETokenizer
from gptfast.tokenizer.char import CharTokenizer

__all__ = ["CHARACTERS", "WORDS", "Audit", "audit"]

CHARACTERS = "characters"
WORDS = "words"
# A script with fewer words is a quotation in the text.
_MIN_WORDS = 100


@dataclass(frozen=True)
class Audit:
    """The measurements. In each mapping by tokenizer, the audited one comes first."""

    n_bytes: int
    """Size of the text in UTF-8."""
    compression: list[Compression]
    bytes_per_token: dict[str, dict[str, float]]
    """By kind of built-in text, then by tokenizer."""
    fertility: dict[str, dict[str, Fertility]]
    """By script: of the built-in prose, and of the text with the prefix 'text: '; by tokenizer."""
    whole_numbers: dict[str, dict[str, float]]
    splits: dict[str, Splits]
    vocabulary: Vocabulary
    """Of the audited tokenizer."""


def audit(
    tokenizers: Mapping[str, BPETokenizer],
    texts: Sequence[str],
    learned_from: Sequence[str] | None = None,
) -> Audit:
    """Audit the first of `tokenizers`, which are given by name, and compare it with the others.

    Two naive tokenizers are measured too, with one token per character and one per word. Their
    vocabularies are those of `learned_from`, by default of `texts`.

    Raises UserError if the texts are empty.
    """
    n_bytes = sum(len(text.encode()) for text in texts)
    if n_bytes == 0:
        raise UserError("there is nothing to audit: expected text with at least one character")
    learned_from = texts if learned_from is None else learned_from
    counts = {name: compression.count_tokens(t, texts) for name, t in tokenizers.items()}
    audited = next(iter(tokenizers))
    probes = {kind: [probe(kind)] for kind in KINDS}
    # For the built-in texts, the character tokenizer knows all their characters.
    characters = CharTokenizer.train("".join(text for [text] in probes.values()))
    subjects: dict[str, Tokenizer] = {**tokenizers, CHARACTERS: characters}
    return Audit(
        n_bytes=n_bytes,
        compression=[
            *(compression.of_tokenizer(n, t, counts[n]) for n, t in tokenizers.items()),
            compression.of_naive(
                CHARACTERS,
                compression.count_characters(texts),
                compression.count_characters(learned_from),
            ),
            compression.of_naive(
                WORDS, compression.count_words(texts), compression.count_words(learned_from)
            ),
        ],
        bytes_per_token={
            kind: {name: bytes_per_token(t, text) for name, t in subjects.items()}
            for kind, text in probes.items()
        },
        fertility=_fertility(tokenizers, texts),
        whole_numbers=whole_numbers(tokenizers),
        splits=splits(tokenizers),
        vocabulary=measure_vocabulary(tokenizers[audited], counts[audited]),
    )


def _fertility(
    tokenizers: Mapping[str, Tokenizer], texts: Sequence[str]
) -> dict[str, dict[str, Fertility]]:
    counts = {script: count_words([probe(script)])[script] for script in PROSE}
    for script, words in count_words(texts).items():
        if words.total() >= _MIN_WORDS:
            counts[f"text: {script}"] = words
    return {
        row: {
            name: measure_fertility(t, row.removeprefix("text: "), words)
            for name, t in tokenizers.items()
        }
        for row, words in counts.items()
    }
