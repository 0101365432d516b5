"""How well a model predicts documents: bits per byte, with a stride.

Shape suffixes: B windows, T tokens, N documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptfast.data.batch import IGNORED
from gptfast.errors import UserError
from gptfast.eval.report import Section
from gptfast.model import LanguageModel
from gptfast.tokenizer import Tokenizer


@dataclass(frozen=True)
class Document:
    """The ids of a document, and the text that they predict."""

    ids: NDArray[np.int64]
    """The token that begins a text, if the tokenizer has one, and the document's tokens."""
    n_bytes: int
    """Bytes of UTF-8 of all tokens but the first of `ids`, which nothing predicts."""


@dataclass(frozen=True)
class Windows:
    """Some windows of documents, filled up to the same length."""

    ids_BT: Tensor
    targets_BT: Tensor
    """The next ids; IGNORED where an earlier window has predicted them, and in the filling."""
    documents_B: list[int]
    """The number of each window's document."""


@dataclass(frozen=True)
class Score:
    """What a model needs for each of N documents."""

    nats_N: NDArray[np.float64]
    tokens_N: NDArray[np.int64]
    """Predicted tokens."""
    bytes_N: NDArray[np.int64]

    @property
    def n_documents(self) -> int:
        """The number of documents of which a token was predicted."""
        return int((self.tokens_N > 0).sum())

    @property
    def nats_per_token(self) -> float:
        """The mean cross entropy of a token."""
        return float(self.nats_N.sum() / self.tokens_N.sum())

    @property
    def bits_per_byte(self) -> float:
        """The mean cross entropy of a byte of UTF-8, by which any two tokenizers compare."""
        return float(self.nats_N.sum() / math.log(2) / self.bytes_N.sum())


def encode_documents(texts: Sequence[str], tokenizer: Tokenizer) -> list[Document]:
    """Encode documents, each begun by the tokenizer's bos token if it has one.

    Raises UserError if no token of any can be predicted, or if the tokenizer lacks characters.
    """
    bos, unk = tokenizer.role_id("bos"), tokenizer.role_id("unk")
    documents = []
    for text, ids in zip(texts, tokenizer.encode_batch_to_numpy(texts), strict=True):
        n_bytes = len(text.encode())
        if bos is None and len(ids):
            # What unk stands for is one character; its own name may be longer than that.
            first = text[0].encode() if ids[0] == unk else tokenizer.decode_bytes(ids[:1])
            n_bytes -= len(first)
        begun = np.concatenate(([] if bos is None else [bos], ids)).astype(np.int64)
        documents.append(Document(begun, n_bytes))
    if all(len(document.ids) < 2 for document in documents):
        raise UserError("the text has no token to predict: expected a longer text")
    return documents


def spans(n_tokens: int, block_size: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, first, end) of windows: ids[begin:end] predict those from `first` on.

    A window has at most block_size tokens and begins `stride` after the one before. Each token but
    the first of a document is predicted once, with at least block_size - stride tokens before it,
    or all there are. These are the windows of the recipe for perplexity in transformers' manual.
    """
    begin, first = 0, 1
    while True:
        end = min(begin + block_size, n_tokens)
        yield begin, first, end
        if end == n_tokens:
            return
        begin, first = begin + stride, end


def windows(
    documents: Sequence[Document], block_size: int, stride: int, batch_size: int
) -> Iterator[Windows]:
    """Yield the windows of all documents, batch_size at a time, the longest first."""
    cut = [
        (document, begin, first, end)
        for document, it in enumerate(documents)
        for begin, first, end in spans(len(it.ids), block_size, stride)
        if first < end
    ]
    cut.sort(key=lambda window: window[1] - window[3])
    for start in range(0, len(cut), batch_size):
        batch = cut[start : start + batch_size]
        T = batch[0][3] - batch[0][1] - 1
        ids = np.zeros((len(batch), T), dtype=np.int64)
        targets = np.full((len(batch), T), IGNORED, dtype=np.int64)
        for row, (document, begin, first, end) in enumerate(batch):
            of_document = documents[document].ids
            ids[row, : end - begin - 1] = of_document[begin : end - 1]
            targets[row, first - begin - 1 : end - begin - 1] = of_document[first:end]
        yield Windows(torch.from_numpy(ids), torch.from_numpy(targets), [d for d, *_ in batch])


class Sums:
    """Sums the losses of windows by document."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = documents
        self._nats_N = np.zeros(len(documents))

    def add(self, batch: Windows, losses_BT: Tensor) -> None:
        """Add the loss of each token, in nats, 0 where it is ignored."""
        np.add.at(self._nats_N, batch.documents_B, losses_BT.double().sum(1).cpu().numpy())

    def score(self) -> Score:
        """Return the sums. Raises UserError if they are not finite."""
        if not np.isfinite(self._nats_N).all():
            raise UserError(
                "the loss is NaN or infinite, though the model's weights are finite: its logits "
                "overflow, so the weights are too large; take those of another step or run"
            )
        tokens = np.array([len(document.ids) - 1 for document in self._documents])
        n_bytes = np.array([document.n_bytes for document in self._documents])
        return Score(self._nats_N, tokens, n_bytes)


@torch.inference_mode()
def score(
    model: LanguageModel, documents: Sequence[Document], stride: int, batch_size: int
) -> Score:
    """Return how well a model predicts each document; see `spans` for the context of each token.

    Raises UserError if a loss is not finite.
    """
    device = next(model.parameters()).device
    sums = Sums(documents)
    for batch in windows(documents, model.config.block_size, stride, batch_size):
        ids_BT, targets_BT = batch.ids_BT.to(device), batch.targets_BT.to(device)
        sums.add(batch, model(ids_BT, targets_BT, reduction="none"))
    return sums.score()


def checked_stride(stride: int | None, block_size: int) -> int:
    """Return the stride, by default half of the context. Raises UserError for an impossible one."""
    if block_size < 2:
        raise UserError("the model's context is 1 token: expected at least 2 to use --text")
    if stride is None:
        return block_size // 2
    if not 1 <= stride < block_size:
        raise UserError(
            f"stride is {stride}: expected at least 1 and less than the context of {block_size}"
        )
    return stride


def how_begun(tokenizer: Tokenizer) -> str:
    """Return in a sentence how each document's first token is predicted."""
    name, bos = tokenizer.roles.bos, tokenizer.role_id("bos")
    if bos is None:
        return "the tokenizer has no token that begins a text, so no first token is predicted"
    return f"each document is begun by {name}, which predicts its first token"


def about_unknown(texts: Iterable[NDArray[Any]], tokenizer: Tokenizer) -> list[str]:
    """Return a note if ids of the texts stand for what the tokenizer lacks."""
    unk = tokenizer.role_id("unk")
    if unk is None:
        return []
    counts = [(int((ids == unk).sum()), len(ids)) for ids in texts]
    n_unknown, n_tokens = map(sum, zip(*counts, strict=True))
    if not n_unknown:
        return []
    share = n_unknown / n_tokens
    return [
        f"{share:.2%} of the tokens are {tokenizer.roles.unk}, which doesn't say what it stands "
        f"for: bits/byte compare only with models of the same vocabulary"
    ]


def measure(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    title: str,
    stride: int | None,
    batch_size: int,
    found: Score | None = None,
) -> Section:
    """Return the table of `--text`.

    found: the score, if it is known already; then there is no speed in the table.
    """
    block_size = model.config.block_size
    stride = checked_stride(stride, block_size)
    documents = encode_documents(texts, tokenizer)
    seconds = None
    if found is None:
        started = perf_counter()
        found = score(model, documents, stride, batch_size)
        seconds = perf_counter() - started
    n_tokens, n_bytes = int(found.tokens_N.sum()), int(found.bytes_N.sum())
    result: dict[str, object] = {
        "bits_per_byte": found.bits_per_byte,
        "nats_per_token": found.nats_per_token,
        "bytes_per_token": n_bytes / n_tokens,
        "documents": found.n_documents,
        "tokens": n_tokens,
        "bytes": n_bytes,
        "context": block_size,
        "stride": stride,
    }
    rows = [
        ("bits/byte", f"{found.bits_per_byte:.4f}"),
        ("nats/token", f"{found.nats_per_token:.4f}"),
        ("bytes/token", f"{n_bytes / n_tokens:.3f}"),
        ("documents", f"{found.n_documents:,}"),
        ("tokens predicted", f"{n_tokens:,}"),
    ]
    if seconds is not None:
        result["tokens_per_second"] = n_tokens / seconds
        rows.append(("tokens/s", f"{n_tokens / seconds:,.0f}"))
    at_least = block_size - stride
    notes = (
        f"each token sees at least {at_least:,} tokens before it, or all there are",
        how_begun(tokenizer),
        *about_unknown([document.ids for document in documents], tokenizer),
    )
    return Section("text", title, ("measure", "value"), tuple(rows), result, notes)
