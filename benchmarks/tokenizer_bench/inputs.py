"""What every library is given: the same text, vocabulary, documents and ids."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.ranks import read_tiktoken
from tokenizer_bench.calls import Ids, marked_ids
from tokenizer_bench.vocabularies import END_OF_TEXT, VOCABULARIES, Vocabulary, tokenizer_json

BLOCK_BYTES = 1_000_000
DOCUMENT_BYTES = 16_000
BATCH_BYTES = 10_000_000
SHORT_BYTES = 30
N_SHORT = 1000
N_SEQUENCES, SEQUENCE_LENGTH = 1000, 1000
MESSAGE_BYTES, N_MESSAGES = 200, 10_000
JSONL_DOCUMENT_BYTES, JSONL_BYTES = 4_000, 40_000_000

# Between a letter and a space before a letter GPT-2's pattern always cuts, whatever stands around.
SAFE_CUT = re.compile(rb"[A-Za-z](?= [A-Za-z])")
_CHUNK = 1 << 20


def copy_text(source: Path, target: Path, max_bytes: int | None = None) -> None:
    """Copy a text, unpacked if it ends in .xz; of a longer one whole lines of `max_bytes` bytes."""
    opened: Any = lzma.open if source.suffix == ".xz" else open
    left = max_bytes if max_bytes is not None else 1 << 62
    with opened(source, "rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(min(_CHUNK, left)):
            left -= len(chunk)
            if left == 0:
                chunk = chunk[: chunk.rfind(b"\n") + 1] or chunk
            writer.write(chunk)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def pieces(text: bytes, size: int) -> Iterator[bytes]:
    """Cut a text every `size` bytes or a little later, only where GPT-2's pattern cuts as well.

    So the pieces' pre-tokens are the text's, and their ids, end to end, the text's ids.
    """
    start = 0
    while start < len(text):
        cut = SAFE_CUT.search(text, start + size)
        end = cut.end() if cut else len(text)
        yield text[start:end]
        start = end


def short_strings(text: str) -> list[str]:
    """N_SHORT strings of SHORT_BYTES bytes of UTF-8, spread evenly over the text."""
    found = []
    for start in range(0, len(text) - SHORT_BYTES, max(1, len(text) // N_SHORT)):
        string = text[start : start + SHORT_BYTES]
        while len(string.encode()) > SHORT_BYTES:
            string = string[:-1]
        if len(string.encode()) == SHORT_BYTES:
            found.append(string)
    return found


@dataclass(frozen=True)
class Inputs:
    """The files in the benchmark's temporary folder that the timed processes read.

    A subfolder is a separate case, with another text or another vocabulary.
    """

    folder: Path

    @cached_property
    def name(self) -> str:
        """The vocabulary's, in VOCABULARIES; "gpt2" also for one that was learned."""
        path = self.folder / "vocabulary.txt"
        return path.read_text() if path.exists() else "gpt2"

    @property
    def vocabulary(self) -> Vocabulary:
        return VOCABULARIES[self.name]

    @property
    def is_published(self) -> bool:
        return hashlib.sha256(self.ranks.read_bytes()).hexdigest() == self.vocabulary.sha256

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus.txt"

    @property
    def ranks(self) -> Path:
        """The vocabulary as a tiktoken rank file."""
        return self.folder / "ranks.tiktoken"

    @property
    def tokenizer_json(self) -> Path:
        """The same vocabulary for `tokenizers`."""
        return self.folder / "tokenizer" / "tokenizer.json"

    @cached_property
    def text(self) -> bytes:
        return self.corpus.read_bytes()

    @cached_property
    def documents(self) -> list[str]:
        """The first BATCH_BYTES of the text in documents of about DOCUMENT_BYTES."""
        start = next(pieces(self.text, min(BATCH_BYTES, len(self.text))))
        return [piece.decode() for piece in pieces(start, DOCUMENT_BYTES)]

    @property
    def messages(self) -> list[str]:
        """N_MESSAGES texts of about MESSAGE_BYTES, spread evenly over the text."""
        text, step = self.text, max(MESSAGE_BYTES, len(self.text) // N_MESSAGES)
        starts = range(0, len(text) - MESSAGE_BYTES, step)
        return [text[i : i + MESSAGE_BYTES].decode(errors="ignore") for i in starts][:N_MESSAGES]

    @property
    def jsonl(self) -> Path:
        """The first JSONL_BYTES of the text in documents, one in a line, with other fields."""
        return self.folder / "documents.jsonl"

    @cached_property
    def blocks(self) -> list[bytes]:
        return list(pieces(self.text, BLOCK_BYTES))

    @cached_property
    def short(self) -> list[str]:
        return short_strings(self.text.decode())

    @cached_property
    def mergeable_ranks(self) -> dict[bytes, int]:
        return read_tiktoken(self.ranks)

    @property
    def special_tokens(self) -> dict[str, int]:
        return {END_OF_TEXT: max(self.mergeable_ranks.values()) + 1}

    def expected_ids(self, kind: str) -> Ids:
        """tiktoken's ids of the "text", "documents", "short" strings, "messages" or "jsonl"."""
        ids: Ids = np.load(self.folder / f"{kind}.npy", mmap_mode="r")
        return ids

    @cached_property
    def sequences(self) -> list[list[int]]:
        """Up to N_SEQUENCES lists of SEQUENCE_LENGTH ids, each of which is valid UTF-8."""
        ids = self.expected_ids("text")
        starts = np.linspace(0, max(0, len(ids) - SEQUENCE_LENGTH), N_SEQUENCES, dtype=np.int64)
        candidates = [ids[i : i + SEQUENCE_LENGTH].tolist() for i in np.unique(starts)]
        return [sequence for sequence in candidates if _is_utf8(self.bytes_of(sequence))]

    def bytes_of(self, ids: list[int]) -> bytes:
        """What the ids stand for, by the rank file alone."""
        return b"".join(map(self._tokens.__getitem__, ids))

    @cached_property
    def _tokens(self) -> dict[int, bytes]:
        return {rank: token for token, rank in self.mergeable_ranks.items()}

    def prefix(self, fraction: float) -> Path:
        """A file with that part of the text."""
        if fraction == 1:
            return self.corpus
        path = self.folder / f"prefix-{fraction}.txt"
        if not path.exists():
            copy_text(self.corpus, path, int(self.corpus.stat().st_size * fraction))
        return path


def prepare(inputs: Inputs, vocabulary: Path | None, vocab_size: int) -> dict[str, Any]:
    """Write the vocabulary for every library (None: learn one first), and tiktoken's ids.

    Raises UserError if the corpus or the vocabulary can't be used.
    """
    try:
        text = inputs.text.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"the corpus is not UTF-8: {error}") from None
    if END_OF_TEXT in text:
        raise UserError(f"the corpus has {END_OF_TEXT}, on which the libraries disagree by design")
    if vocabulary is None:
        BPETokenizer.train([text], vocab_size).to_tiktoken(inputs.ranks)
    else:
        shutil.copyfile(vocabulary, inputs.ranks)
    reply = write_vocabulary_and_ids(inputs)
    encode = reference(inputs).encode_ordinary
    documents = list(pieces(inputs.text[:JSONL_BYTES], JSONL_DOCUMENT_BYTES))
    with inputs.jsonl.open("w") as file:
        for i, document in enumerate(documents):
            fields = {"id": f"doc-{i}", "text": document.decode(), "score": i / 7, "lang": "en"}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    np.save(inputs.folder / "jsonl.npy", np.concatenate([encode(d.decode()) for d in documents]))
    for kind in ("documents", "short", "messages"):
        np.save(inputs.folder / f"{kind}.npy", marked_ids(map(encode, getattr(inputs, kind))))
    return reply


def write_vocabulary_and_ids(inputs: Inputs) -> dict[str, Any]:
    """Write the vocabulary as a `tokenizer.json`, and tiktoken's ids of the text."""
    inputs.tokenizer_json.parent.mkdir()
    if inputs.name == "gpt2":
        BPETokenizer(inputs.mergeable_ranks, "gpt2", inputs.special_tokens).save(
            inputs.tokenizer_json.parent
        )
    else:
        inputs.tokenizer_json.write_text(
            tokenizer_json(inputs.mergeable_ranks, inputs.vocabulary.plain, inputs.special_tokens)
        )
    ids = reference(inputs).encode_to_numpy(inputs.text.decode(), disallowed_special=())
    parts = np.array_split(ids, len(ids) // 1_000_000 + 1)
    if b"".join(inputs.bytes_of(part.tolist()) for part in parts) != inputs.text:
        raise UserError("tiktoken's ids do not give the corpus back: nothing to compare with")
    np.save(inputs.folder / "text.npy", ids)
    return {
        "n_vocab": inputs.special_tokens[END_OF_TEXT] + 1,
        "ids_of_the_corpus": len(ids),
        "ids_sha256": hashlib.sha256(ids.tobytes()).hexdigest(),
    }


def reference(inputs: Inputs) -> Any:
    """Return tiktoken's encoding of this vocabulary."""
    import tiktoken

    return tiktoken.Encoding(
        "reference",
        pat_str=inputs.vocabulary.pattern,
        mergeable_ranks=inputs.mergeable_ranks,
        special_tokens=inputs.special_tokens,
    )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
