"""The libraries: how each is loaded, and its fastest published call for every task.

A method that a task is named after takes what was made ready before the clock starts and returns a
Call. A library takes part in the tasks that its class has a method for.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer_bench.inputs import (
    DOCUMENT_BYTES,
    END_OF_TEXT,
    GPT2_PATTERN,
    Ids,
    Inputs,
    marked_ids,
    pieces,
)


@dataclass(frozen=True)
class Call:
    """What is timed, and how to get from its output what is compared."""

    run: Callable[[], Any]
    result: Callable[[Any], Any]


def as_ids(output: Any) -> Ids:
    return np.asarray(output, dtype=np.uint32)


def joined_text(texts: Iterable[str | bytes]) -> bytes:
    """The texts in UTF-8, each followed by a byte that UTF-8 never has."""
    return b"".join((t.encode() if isinstance(t, str) else t) + b"\xff" for t in texts)


def one_by_one(function: Callable[[Any], Any], given: Sequence[Any], join: Any) -> Call:
    """A call for each input. The timed loop keeps no output: the comparison calls once more."""
    return Call(
        run=lambda: deque(map(function, given), maxlen=0),
        result=lambda _: join(map(function, given)),
    )


class Gptfast:
    """This package. `encode` works on one thread."""

    def __init__(self, inputs: Inputs, threads: int) -> None:
        from gptfast.tokenizer import BPETokenizer

        self.inputs = inputs
        self.threads = threads
        self.tokenizer = BPETokenizer.from_tiktoken(inputs.ranks, "gpt2", inputs.special_tokens)

    def encode(self) -> Call:
        text = self.inputs.text
        return Call(lambda: self.tokenizer.encode_to_numpy(text), as_ids)

    def encode_blocks(self) -> Call:
        blocks, encode = self.inputs.blocks, self.tokenizer.encode_batch_to_numpy
        return Call(lambda: encode(blocks, self.threads), np.concatenate)

    def encode_batch(self) -> Call:
        documents = self.inputs.documents
        return Call(lambda: self.tokenizer.encode_batch(documents, self.threads), marked_ids)

    def encode_files(self) -> Call:
        from gptfast.data.documents import ReadOptions
        from gptfast.data.encode import encode_files

        names = (self.inputs.folder / f"gptfast-{i}.shard" for i in itertools.count())
        options = ReadOptions(n_threads=self.threads)
        dtype = np.uint16 if self.tokenizer.n_vocab <= 2**16 else np.uint32

        def run() -> Path:
            out = next(names)
            encode_files(self.tokenizer, [self.inputs.corpus], out, options)
            return out

        def result(out: Path) -> Ids:
            ids = np.fromfile(out, dtype, offset=64)  # the size of a shard's header
            out.unlink()
            # Each document is followed by the end-of-text token, which is no text.
            return as_ids(ids[ids != self.tokenizer.eot_token])

        return Call(run, result)

    def encode_short(self) -> Call:
        return one_by_one(self.tokenizer.encode_ordinary, self.inputs.short, marked_ids)

    def decode(self) -> Call:
        return one_by_one(self.tokenizer.decode, self.inputs.sequences, joined_text)

    def decode_bytes(self) -> Call:
        return one_by_one(self.tokenizer.decode_bytes, self.inputs.sequences, joined_text)

    def decode_batch(self) -> Call:
        sequences = self.inputs.sequences
        return Call(lambda: self.tokenizer.decode_batch(sequences), joined_text)


class Gigatoken:
    """Threads are bound by RAYON_NUM_THREADS. `encode` works on one thread."""

    def __init__(self, inputs: Inputs, threads: int) -> None:
        import awkward  # gigatoken would load it in its first call
        import gigatoken

        self.flatten = lambda arrays: as_ids(awkward.to_numpy(awkward.flatten(arrays)))
        self.inputs = inputs
        self.tokenizer = gigatoken.Tokenizer.from_tiktoken(
            inputs.ranks, "gpt2", inputs.special_tokens
        )

    def encode(self) -> Call:
        text = self.inputs.text
        return Call(lambda: self.tokenizer.encode(text), as_ids)

    def encode_blocks(self) -> Call:
        from gigatoken import BytesSource

        source = BytesSource(self.inputs.blocks)
        return Call(lambda: self.tokenizer.encode_batch(source), self.flatten)

    def encode_batch(self) -> Call:
        documents = self.inputs.documents
        return Call(lambda: self.tokenizer.encode_batch_list(documents), marked_ids)

    def encode_files(self) -> Call:
        from gigatoken import TextFileSource

        source = TextFileSource([self.inputs.corpus], separator=END_OF_TEXT)
        return Call(lambda: self.tokenizer.encode_files(source), self.flatten)

    def encode_short(self) -> Call:
        return one_by_one(self.tokenizer.encode, self.inputs.short, marked_ids)

    def decode_bytes(self) -> Call:
        return one_by_one(self.tokenizer.decode, self.inputs.sequences, joined_text)


class Tiktoken:
    """A single text is always encoded and decoded by one thread."""

    def __init__(self, inputs: Inputs, threads: int) -> None:
        import tiktoken

        self.inputs = inputs
        self.threads = threads
        self.encoding = tiktoken.Encoding(
            "benchmark",
            pat_str=GPT2_PATTERN,
            mergeable_ranks=inputs.mergeable_ranks,
            special_tokens=inputs.special_tokens,
        )

    def encode(self) -> Call:
        text = self.inputs.text.decode()
        return Call(lambda: self.encoding.encode_to_numpy(text, disallowed_special=()), as_ids)

    def encode_batch(self) -> Call:
        documents = self.inputs.documents
        encode = self.encoding.encode_ordinary_batch
        return Call(lambda: encode(documents, num_threads=self.threads), marked_ids)

    def encode_short(self) -> Call:
        return one_by_one(self.encoding.encode_ordinary, self.inputs.short, marked_ids)

    def decode(self) -> Call:
        return one_by_one(self.encoding.decode, self.inputs.sequences, joined_text)

    def decode_bytes(self) -> Call:
        return one_by_one(self.encoding.decode_bytes, self.inputs.sequences, joined_text)

    def decode_batch(self) -> Call:
        sequences = self.inputs.sequences
        decode = self.encoding.decode_batch
        return Call(lambda: decode(sequences, num_threads=self.threads), joined_text)


class Tokenizers:
    """Threads are bound by RAYON_NUM_THREADS. Texts go in as documents, its fastest way."""

    def __init__(self, inputs: Inputs, threads: int) -> None:
        from tokenizers import Tokenizer

        self.inputs = inputs
        self.tokenizer = Tokenizer.from_file(str(inputs.tokenizer_json))

    def encode(self) -> Call:
        documents = [piece.decode() for piece in pieces(self.inputs.text, DOCUMENT_BYTES)]

        def run() -> list[list[int]]:
            # A few at a time: all of its Encodings together are over a hundred times the text.
            groups = (documents[i : i + 64] for i in range(0, len(documents), 64))
            return [
                encoding.ids for g in groups for encoding in self.tokenizer.encode_batch_fast(g)
            ]

        return Call(run, lambda ids: as_ids(np.concatenate(ids)))

    def encode_batch(self) -> Call:
        documents = self.inputs.documents
        encode = self.tokenizer.encode_batch_fast
        return Call(lambda: [encoding.ids for encoding in encode(documents)], marked_ids)

    def encode_short(self) -> Call:
        def encode(text: str) -> Any:
            return self.tokenizer.encode(text).ids

        return one_by_one(encode, self.inputs.short, marked_ids)

    def decode(self) -> Call:
        return one_by_one(self.tokenizer.decode, self.inputs.sequences, joined_text)

    def decode_batch(self) -> Call:
        sequences = self.inputs.sequences
        return Call(lambda: self.tokenizer.decode_batch(sequences), joined_text)


class Tokie:
    """Encoding only."""

    def __init__(self, inputs: Inputs, threads: int) -> None:
        import tokie

        self.inputs = inputs
        self.tokenizer = tokie.Tokenizer.from_json(str(inputs.tokenizer_json))

    def encode(self) -> Call:
        text = self.inputs.text.decode()
        encode = self.tokenizer.encode
        return Call(
            lambda: encode(text, add_special_tokens=False), lambda encoding: as_ids(encoding.ids)
        )


OURS = "gptfast"
ENTRANTS: dict[str, type[Any]] = {
    OURS: Gptfast,
    "gigatoken": Gigatoken,
    "tiktoken": Tiktoken,
    "tokenizers": Tokenizers,
    "tokie": Tokie,
}
