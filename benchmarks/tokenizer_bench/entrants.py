"""The libraries: how each is loaded, and its fastest published call for every task.

A method that a task is named after takes what was made ready before the clock starts and returns a
Call. A library takes part in the tasks that its class has a method for.
"""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer_bench.calls import Call, Ids, as_ids, joined_text, marked_ids, one_by_one
from tokenizer_bench.inputs import DOCUMENT_BYTES, Inputs, pieces
from tokenizer_bench.rivals import BpeOpenai, Splintr, Tokie, Wordchipper
from tokenizer_bench.vocabularies import END_OF_TEXT


class Gptfast:
    """This package. `encode` works on one thread."""

    def __init__(self, inputs: Inputs, threads: int) -> None:
        from gptfast.tokenizer import BPETokenizer

        self.inputs = inputs
        self.threads = threads
        pattern = "gpt2" if inputs.name == "gpt2" else inputs.vocabulary.pattern
        self.tokenizer = BPETokenizer(inputs.mergeable_ranks, pattern, inputs.special_tokens)

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

    def jsonl_to_shards(self) -> Call:
        from gptfast.data.documents import ReadOptions
        from gptfast.data.prepare_shards import prepare_files

        folders = (self.inputs.folder / f"prepared-{i}" for i in itertools.count())
        options = ReadOptions(n_threads=self.threads)
        dtype = np.uint16 if self.tokenizer.n_vocab <= 2**16 else np.uint32

        def run() -> Path:
            out = next(folders)
            prepare_files(self.tokenizer, self.inputs.jsonl, out, 0, options, progress=False)
            return out

        def result(out: Path) -> Ids:
            shards = sorted((out / "train").glob("*.bin"))
            ids = np.concatenate([np.fromfile(shard, dtype, offset=64) for shard in shards])
            shutil.rmtree(out)
            return as_ids(ids[ids != self.tokenizer.eot_token])

        return Call(run, result)

    def chat_lists(self) -> Call:
        messages, encode = self.inputs.messages, self.tokenizer.encode_batch
        return Call(lambda: encode(messages, self.threads), marked_ids)

    def chat_arrays(self) -> Call:
        messages, encode = self.inputs.messages, self.tokenizer.encode_batch_to_numpy
        return Call(lambda: encode(messages, self.threads), marked_ids)

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
        if (pattern := inputs.vocabulary.gigatoken) is None:
            self.tokenizer = gigatoken.Tokenizer(inputs.tokenizer_json)
        else:
            self.tokenizer = gigatoken.Tokenizer.from_tiktoken(
                inputs.ranks, pattern, inputs.special_tokens
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

    def jsonl_to_shards(self) -> Call:
        from gigatoken import JsonlFileSource

        source = JsonlFileSource([self.inputs.jsonl])
        return Call(lambda: self.tokenizer.encode_files(source), self.flatten)

    def chat_lists(self) -> Call:
        messages = self.inputs.messages
        return Call(lambda: self.tokenizer.encode_batch_list(messages), marked_ids)

    def chat_arrays(self) -> Call:
        messages = self.inputs.messages
        return Call(lambda: self.tokenizer.encode_batch(messages), marked_ids)

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
            pat_str=inputs.vocabulary.pattern,
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

    def jsonl_to_shards(self) -> Call:
        out, encode = self.inputs.folder / "tiktoken.bin", self.encoding.encode_ordinary_batch

        def run() -> None:
            with self.inputs.jsonl.open("rb") as lines, out.open("wb") as shard:
                while batch := list(itertools.islice(lines, 1000)):
                    texts = [json.loads(line)["text"] for line in batch]
                    for ids in encode(texts, num_threads=self.threads):
                        shard.write(as_ids(ids).tobytes())

        return Call(run, lambda _: np.fromfile(out, np.uint32))

    def chat_lists(self) -> Call:
        messages, encode = self.inputs.messages, self.encoding.encode_ordinary_batch
        return Call(lambda: encode(messages, num_threads=self.threads), marked_ids)

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

    def chat_lists(self) -> Call:
        messages, encode = self.inputs.messages, self.tokenizer.encode_batch_fast
        return Call(lambda: [encoding.ids for encoding in encode(messages)], marked_ids)

    def encode_short(self) -> Call:
        def encode(text: str) -> Any:
            return self.tokenizer.encode(text).ids

        return one_by_one(encode, self.inputs.short, marked_ids)

    def decode(self) -> Call:
        return one_by_one(self.tokenizer.decode, self.inputs.sequences, joined_text)

    def decode_batch(self) -> Call:
        sequences = self.inputs.sequences
        return Call(lambda: self.tokenizer.decode_batch(sequences), joined_text)


OURS = "gptfast"
ENTRANTS: dict[str, type[Any]] = {
    OURS: Gptfast,
    "gigatoken": Gigatoken,
    "tiktoken": Tiktoken,
    "tokenizers": Tokenizers,
    "splintr": Splintr,
    "tokie": Tokie,
    "bpe_openai": BpeOpenai,
    "wordchipper": Wordchipper,
}
