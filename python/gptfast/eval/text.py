"""How well a model predicts documents: the table of bits per byte."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from gptfast.eval.report import Section
from gptfast.model import LanguageModel
from gptfast.model.text_score import Score, checked_stride, encode_documents, score
from gptfast.tokenizer import Tokenizer


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
