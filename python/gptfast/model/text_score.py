"""How well a model predicts documents: nats per token and bits per byte, with a stride.

Shape suffixes: B windows, T tokens, N documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptfast.errors import UserError
from gptfast.model.base import LanguageModel
from gptfast.tokenizer import Tokenizer

IGNORED = -100
"""A target that a LanguageModel does not count."""

Totals: TypeAlias = tuple[NDArray[np.float64], NDArray[np.int64]]
"""For each of N observations, such as documents, the sum over its units, and how many it has."""
Estimate: TypeAlias = tuple[float, float | None]
"""A mean and its standard error; None for a single observation."""


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
        raise UserError("the model's context is 1 token: expected at least 2 to measure a text")
    if stride is None:
        return block_size // 2
    if not 1 <= stride < block_size:
        raise UserError(
            f"stride is {stride}: expected at least 1 and less than the context of {block_size}"
        )
    return stride


def mean_of(sums: Totals) -> Estimate:
    """Return the mean of all units, and its standard error as `difference_of_means` has it."""
    return difference_of_means(sums, (np.zeros_like(sums[0]), sums[1]))


def difference_of_means(first: Totals, second: Totals) -> Estimate:
    """Return the difference of two means, and its standard error.

    first, second: of the same N observations, such as documents whose units are bytes. They are
    independent, and each is paired with itself. The standard error is that of a difference of ratio
    estimates (Cochran, "Sampling Techniques", 1977, section 6.3).
    """
    means, residuals_N = [], np.zeros(len(first[0]))
    for sums_N, units_N, sign in ((*first, 1), (*second, -1)):
        mean = float(sums_N.sum() / units_N.sum())
        residuals_N += sign * (sums_N - mean * units_N) / units_N.sum()
        means.append(mean)
    n = int(((first[1] > 0) & (second[1] > 0)).sum())
    error = math.sqrt(n / (n - 1) * float((residuals_N**2).sum())) if n > 1 else None
    return means[0] - means[1], error
