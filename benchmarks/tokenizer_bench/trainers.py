"""Training a vocabulary: each library's fastest published call, from a file to the vocabulary.

All learn without special tokens: 256 bytes, then merges. Where a library has it, the rule for
equally frequent pairs is the one of `tokenizers`, so that merges can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptfast.tokenizer.ranks import write_tiktoken
from gptfast.tokenizer.spelling import byte_level_alphabet
from tokenizer_bench.calls import Call, Unsupported
from tokenizer_bench.entrants import OURS
from tokenizer_bench.inputs import BLOCK_BYTES, pieces
from tokenizer_bench.vocabularies import VOCABULARIES

Merges = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Trained:
    """A learned vocabulary, and how the library that learned it uses it. The result of a Call."""

    n_vocab: int
    """How many different tokens it has."""
    merges: Merges | None
    """First merge first; None if the library doesn't tell."""
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]


def train_gptfast(path: Path, vocab_size: int, threads: int, pattern: str) -> Call:
    from gptfast.data.documents import ReadOptions
    from gptfast.data.train_tokenizer import train_tokenizer
    from gptfast.tokenizer import BPETokenizer

    def run() -> BPETokenizer:
        return train_tokenizer(
            [path],
            vocab_size,
            pattern=pattern,
            special_tokens=(),
            tie="huggingface",
            options=ReadOptions(n_threads=threads),
            progress=False,
        )

    def result(tokenizer: BPETokenizer) -> Trained:
        tokens = {tokenizer.token_bytes(i) for i in range(tokenizer.n_vocab)}
        encode, decode = tokenizer.encode_ordinary, tokenizer.decode
        return Trained(len(tokens), tokenizer.merges, encode, decode)

    return Call(run, result)


def train_gigatoken(path: Path, vocab_size: int, threads: int, pattern: str) -> Call:
    import gigatoken

    if pattern != "gpt2":
        raise Unsupported(f"it does not train with {pattern}'s pattern")

    def result(output: tuple[dict[int, bytes], Merges]) -> Trained:
        vocabulary, merges = output
        ranks = path.with_name("gigatoken.tiktoken")
        write_tiktoken(ranks, {token: i for i, token in vocabulary.items()})
        tokenizer = gigatoken.Tokenizer.from_tiktoken(ranks, "gpt2")
        return Trained(
            len(set(vocabulary.values())),
            merges,
            tokenizer.encode,
            lambda ids: tokenizer.decode(ids).decode(),
        )

    return Call(lambda: gigatoken.train_bpe(path, vocab_size, special_tokens=[]), result)


def train_tokenizers(path: Path, vocab_size: int, threads: int, pattern: str) -> Call:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if pattern != "gpt2":
        raise Unsupported("it takes a minute: GPT-2's pattern alone")

    alphabet = byte_level_alphabet()
    to_byte = {char: byte for byte, char in alphabet.items()}

    def run() -> Any:
        tokenizer: Any = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[],
            initial_alphabet=list(alphabet.values()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_blocks(path), trainer)
        return tokenizer

    def token(characters: str) -> bytes:
        return bytes(map(to_byte.__getitem__, characters))

    def result(tokenizer: Any) -> Trained:
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        return Trained(
            tokenizer.get_vocab_size(),
            [(token(left), token(right)) for left, right in merges],
            lambda text: tokenizer.encode(text).ids,
            tokenizer.decode,
        )

    return Call(run, result)


def train_rustbpe(path: Path, vocab_size: int, threads: int, pattern: str) -> Call:
    import rustbpe

    published = VOCABULARIES[pattern].pattern

    def run() -> Any:
        tokenizer = rustbpe.Tokenizer()
        tokenizer.train_from_iterator(_blocks(path), vocab_size, pattern=published)
        return tokenizer

    def result(tokenizer: Any) -> Trained:
        tokens = {bytes(token) for token, _ in tokenizer.get_mergeable_ranks()}
        return Trained(len(tokens), None, tokenizer.encode, tokenizer.decode)

    return Call(run, result)


def _blocks(path: Path) -> Iterator[str]:
    """The text in blocks that these libraries can count on several threads."""
    return (piece.decode() for piece in pieces(path.read_bytes(), BLOCK_BYTES))


TRAINERS = {
    OURS: train_gptfast,
    "gigatoken": train_gigatoken,
    "tokenizers": train_tokenizers,
    "rustbpe": train_rustbpe,
}
