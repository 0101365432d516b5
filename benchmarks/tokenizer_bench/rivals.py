"""Further libraries, each where it can be exact. `entrants.py` says how these classes are made."""

from __future__ import annotations

import os
import shutil
from typing import Any

import numpy as np

from tokenizer_bench.calls import Call, Unsupported, as_ids, marked_ids, one_by_one
from tokenizer_bench.inputs import Inputs
from tokenizer_bench.vocabularies import VOCABULARIES


class Tokie:
    """Encoding only. Its ids are not GPT-2's on all texts: there the comparison refuses it."""

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

    def chat_lists(self) -> Call:
        messages, encode = self.inputs.messages, self.tokenizer.encode_batch
        return Call(
            lambda: [encoding.ids for encoding in encode(messages, add_special_tokens=False)],
            marked_ids,
        )


class Splintr:
    """Threads are bound by RAYON_NUM_THREADS. Its engine has no possessive quantifiers."""

    def __init__(self, inputs: Inputs, threads: int) -> None:
        import splintr

        self.inputs = inputs
        self.tokenizer = splintr.Tokenizer(
            str(inputs.ranks), inputs.vocabulary.plain, inputs.special_tokens
        )

    def encode(self) -> Call:
        text = self.inputs.text.decode()
        return Call(lambda: self.tokenizer.encode_flat(text), _from_bytes)

    def encode_batch(self) -> Call:
        documents = self.inputs.documents
        return Call(lambda: self.tokenizer.encode_batch(documents), marked_ids)

    def encode_short(self) -> Call:
        return one_by_one(self.tokenizer.encode_ordinary, self.inputs.short, marked_ids)

    def chat_lists(self) -> Call:
        messages = self.inputs.messages
        return Call(lambda: self.tokenizer.encode_batch(messages), marked_ids)

    def chat_arrays(self) -> Call:
        def result(output: tuple[bytes, bytes]) -> Any:
            ids, offsets = _from_bytes(output[0]), np.frombuffer(output[1], np.uint64)
            bounds = offsets if len(offsets) == len(messages) + 1 else np.append(0, offsets)
            return marked_ids(np.split(ids, bounds[1:-1].astype(np.int64)))

        messages = self.inputs.messages
        return Call(lambda: self.tokenizer.encode_batch_flat(messages), result)


class BpeOpenai:
    """cl100k and o200k alone; one thread a text."""

    def __init__(self, inputs: Inputs, threads: int) -> None:
        from bpe_openai import _bindings

        name = VOCABULARIES[inputs.name].tiktoken
        if name not in _bindings.supported_encodings():
            raise Unsupported(f"it has no {inputs.name}")
        self.inputs = inputs
        self.encode_text = _bindings.tokenizer_for_encoding(name).encode

    def encode(self) -> Call:
        text = self.inputs.text.decode()
        return Call(lambda: self.encode_text(text), as_ids)


class Wordchipper:
    """The encodings of tiktoken, whose rank files it takes from its cache folder."""

    def __init__(self, inputs: Inputs, threads: int) -> None:
        name = VOCABULARIES[inputs.name].tiktoken
        if name is None or not inputs.is_published:
            raise Unsupported(f"it has no {inputs.name} but the published one")
        cache = inputs.folder / "wordchipper"
        ranks = cache / "io.crates.wordchipper" / "openai" / name / f"{name}.tiktoken"
        ranks.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(inputs.ranks, ranks)
        os.environ["XDG_CACHE_HOME"] = str(cache)
        import wordchipper

        options = wordchipper.TokenizerOptions.default()
        options.set_parallel(threads > 1)
        self.inputs = inputs
        self.tokenizer = wordchipper.Tokenizer.from_pretrained(f"openai:{name}", options)

    def encode(self) -> Call:
        text = self.inputs.text.decode()
        return Call(lambda: self.tokenizer.encode(text), as_ids)

    def encode_batch(self) -> Call:
        documents = self.inputs.documents
        return Call(lambda: self.tokenizer.encode_batch(documents), marked_ids)

    def chat_lists(self) -> Call:
        messages = self.inputs.messages
        return Call(lambda: self.tokenizer.encode_batch(messages), marked_ids)


def _from_bytes(ids: bytes) -> Any:
    return np.frombuffer(ids, np.uint32)
