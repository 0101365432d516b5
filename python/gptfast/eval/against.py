"""How a model differs from another: KL divergence, agreement, and the difference of their losses.

Shape suffixes: B windows, T tokens, M predicted tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gptfast.data.batch import IGNORED
from gptfast.eval.report import Section
from gptfast.eval.text import (
    Document,
    Score,
    Sums,
    about_unknown,
    checked_stride,
    encode_documents,
    how_begun,
    score,
    windows,
)
from gptfast.model import LanguageModel
from gptfast.model.divergence import MAX_LOGITS, compare_logits
from gptfast.tokenizer import Tokenizer


@dataclass(frozen=True)
class Compared:
    """What `--against` finds."""

    section: Section
    own: Score | None
    """The first model's score, as `score` finds it; None if it had the smaller context of the
    second model."""


@dataclass(frozen=True)
class Divergence:
    """How the predictions of two models with the same tokenizer differ, token by token."""

    first: Score
    second: Score
    kl: float
    """Mean of KL(first || second) in nats per token: what it costs to take the second for the
    first."""
    agreement: float
    """Share of the tokens for which both find the same token the likeliest."""


@torch.inference_mode()
def diverge(
    first: LanguageModel,
    second: LanguageModel,
    documents: Sequence[Document],
    stride: int,
    batch_size: int,
    n_vocab: int,
) -> Divergence:
    """Compare the predictions of two models for every token, given the same context.

    n_vocab: number of ids of the tokenizer; logits of further ids are padding, which KL and
    agreement leave out. The context is the smaller one of both. Raises UserError for a loss that
    is not finite.
    """
    device = next(first.parameters()).device
    block_size = min(first.config.block_size, second.config.block_size)
    widest = max(first.config.vocab_size, second.config.vocab_size)
    batch_size = max(1, min(batch_size, MAX_LOGITS // (block_size * widest)))
    sums, kl, agreed, n = (Sums(documents), Sums(documents)), 0.0, 0, 0
    for batch in windows(documents, block_size, stride, batch_size):
        ids_BT, targets_BT = batch.ids_BT.to(device), batch.targets_BT.to(device)
        is_target_BT = targets_BT != IGNORED
        first_MV, second_MV = (model(ids_BT)[is_target_BT] for model in (first, second))
        found = compare_logits(first_MV, second_MV, targets_BT[is_target_BT], n_vocab)
        kl += float(found.kl_M.sum())
        agreed += int(found.agrees_M.sum())
        for losses_M, total in zip(found.losses, sums, strict=True):
            losses_BT = torch.zeros(targets_BT.shape, dtype=torch.float64, device=device)
            losses_BT[is_target_BT] = losses_M
            total.add(batch, losses_BT)
        n += len(found.kl_M)
    return Divergence(sums[0].score(), sums[1].score(), kl / n, agreed / n)


def difference_of_means(
    first: tuple[NDArray[np.float64], NDArray[np.int64]],
    second: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> tuple[float, float | None]:
    """Return the difference of two means, and its standard error; None for a single document.

    first, second: for each of N documents, the sum over its units and the number of them, such as
    tokens or bytes. The documents are the independent observations, and each is paired with itself.
    The standard error is that of a difference of ratio estimates (Cochran, "Sampling Techniques",
    1977, section 6.3).
    """
    means, residuals_N = [], np.zeros(len(first[0]))
    for sums_N, units_N, sign in ((*first, 1), (*second, -1)):
        mean = float(sums_N.sum() / units_N.sum())
        residuals_N += sign * (sums_N - mean * units_N) / units_N.sum()
        means.append(mean)
    n = int(((first[1] > 0) & (second[1] > 0)).sum())
    error = math.sqrt(n / (n - 1) * float((residuals_N**2).sum())) if n > 1 else None
    return means[0] - means[1], error


def compare(
    first: tuple[LanguageModel, Tokenizer],
    second: tuple[LanguageModel, Tokenizer],
    texts: Sequence[str],
    title: str,
    stride: int | None,
    batch_size: int,
) -> Compared:
    """Return the table of `--against`, and the score of the first model."""
    (model, tokenizer), (other, other_tokenizer) = first, second
    is_same = tokenizer.fingerprint == other_tokenizer.fingerprint
    documents = encode_documents(texts, tokenizer)
    result: dict[str, object] = {"same_tokenizer": is_same, "documents": len(texts)}
    rows: list[tuple[str, ...]] = []
    notes = [how_begun(tokenizer)]
    if is_same:
        stride = checked_stride(stride, min(model.config.block_size, other.config.block_size))
        found = diverge(model, other, documents, stride, batch_size, tokenizer.n_vocab)
        scores = (found.first, found.second)
        result |= {"kl_nats_per_token": found.kl, "top_1_agreement": found.agreement}
        rows += [
            ("KL(this || other), nats/token", "", "", f"{found.kl:.6f}"),
            ("same likeliest token", "", "", f"{found.agreement:.2%}"),
        ]
        if model.config.block_size != other.config.block_size:
            notes.append("the contexts differ: both models get the smaller one")
    else:
        other_documents = encode_documents(texts, other_tokenizer)
        strides = [checked_stride(stride, m.config.block_size) for m in (model, other)]
        scores = (
            score(model, documents, strides[0], batch_size),
            score(other, other_documents, strides[1], batch_size),
        )
        notes.append("the tokenizers differ: only bits/byte compare")
        notes += about_unknown([document.ids for document in other_documents], other_tokenizer)
    ours, theirs = scores
    columns = ("measure", "this", "other", "this - other")
    if is_same:
        paired = difference_of_means((ours.nats_N, ours.tokens_N), (theirs.nats_N, theirs.tokens_N))
        rows.insert(0, _row("nats/token", ours.nats_per_token, theirs.nats_per_token, paired))
        result |= {
            "nats_per_token": [ours.nats_per_token, theirs.nats_per_token],
            "nats_per_token_difference": paired[0],
            "nats_per_token_standard_error": paired[1],
        }
    bits = difference_of_means(
        (ours.nats_N / math.log(2), ours.bytes_N), (theirs.nats_N / math.log(2), theirs.bytes_N)
    )
    rows.insert(0, _row("bits/byte", ours.bits_per_byte, theirs.bits_per_byte, bits))
    result |= {
        "bits_per_byte": [ours.bits_per_byte, theirs.bits_per_byte],
        "bits_per_byte_difference": bits[0],
        "bits_per_byte_standard_error": bits[1],
    }
    notes.append(
        "one document gives no standard error: give more, or separate them"
        if bits[1] is None
        else f"± is the standard error over {len(texts):,} documents, paired"
    )
    section = Section("against", title, columns, tuple(rows), result, tuple(notes))
    has_own_context = not is_same or model.config.block_size <= other.config.block_size
    return Compared(section, ours if has_own_context else None)


def _row(
    name: str, ours: float, theirs: float, difference: tuple[float, float | None]
) -> tuple[str, ...]:
    mean, error = difference
    spread = "" if error is None else f" ± {error:.4f}"
    return name, f"{ours:.4f}", f"{theirs:.4f}", f"{mean:+.4f}{spread}"
