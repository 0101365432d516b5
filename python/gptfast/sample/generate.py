"""Generate text: feed the tokens so far, sample the next one, repeat."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import index

import torch
from torch import Tensor

from gptfast.errors import UserError
from gptfast.model import LanguageModel
from gptfast.model.finite import check_weights
from gptfast.sample.config import SamplingConfig, check_min_p, check_top_k, check_top_p
from gptfast.tokenizer import Tokenizer


def filter_logits(logits: Tensor, sampling: SamplingConfig) -> Tensor:
    """Apply the filters that `sampling` asks for to logits (..., V)."""
    if sampling.top_k is not None:
        logits = top_k_filter(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = top_p_filter(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = min_p_filter(logits, sampling.min_p)
    return logits


def sample_token(logits_BV: Tensor, sampling: SamplingConfig, generator: torch.Generator) -> Tensor:
    """Draw one id per row; return int64 (B, 1).

    A temperature that float32 rounds to 0 is 0: the likeliest id.
    """
    limits = torch.finfo(torch.float32)
    if sampling.temperature < limits.tiny:
        return logits_BV.argmax(dim=-1, keepdim=True)
    # Shift the largest logit to 0, so that dividing by a tiny temperature can't overflow.
    logits_BV = logits_BV.float() - logits_BV.float().amax(dim=-1, keepdim=True)
    filtered_BV = filter_logits(logits_BV / min(sampling.temperature, limits.max), sampling)
    return torch.multinomial(filtered_BV.softmax(dim=-1), num_samples=1, generator=generator)


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    sampling: SamplingConfig,
    seed: int,
    stop_tokens: Collection[int] = (),
    n_vocab: int | None = None,
) -> Iterator[int]:
    """Yield up to max_new_tokens ids that continue the prompt.

    stop_tokens: each ends the text and is not yielded. n_vocab: number of ids of the tokenizer,
    where the model has more as padding; None for all of the model's.

    The model sees the last block_size tokens. When the context of a GPT is full, it forgets the
    older half, which makes room in its cache; the other models forget one token at a time. Raises
    UserError for an empty prompt, for ids that the model lacks, and if weights or logits are not
    finite.
    """
    try:
        seen = [index(token) for token in prompt]
    except TypeError as error:
        raise UserError(
            f"the prompt is a {type(prompt).__name__} ({error}): expected token ids, for instance "
            f"from tokenizer.encode_ordinary(text)"
        ) from error
    if not seen:
        raise UserError("the prompt is empty: expected at least one token to continue")
    check_weights(model)
    block_size = model.config.block_size
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    seen = seen[-block_size:]
    cache = model.new_cache(batch_size=1)
    new = seen
    for _ in range(max_new_tokens):
        if cache is not None and cache.length + len(new) > block_size:
            seen = seen[-max(1, block_size // 2) :]
            cache, new = model.new_cache(batch_size=1), seen
        logits_BV = model.next_token_logits(torch.tensor([new], device=device), cache)
        logits_BV = logits_BV[:, :n_vocab]
        if not logits_BV.amax().isfinite():  # a NaN is the largest of all
            raise UserError(
                f"the model can't continue the text: its logits are NaN or infinite, though its "
                f"weights are finite; {logits_BV.dtype} may be too narrow, try model.float()"
            )
        token = int(sample_token(logits_BV, sampling, generator))
        if token in stop_tokens:
            return
        yield token
        seen = [*seen, token][-block_size:]
        new = seen if cache is None else [token]


def stream_text(ids: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Decode the ids as they arrive; yield text at character boundaries."""
    decoder = tokenizer.stream_decoder()
    for token in ids:
        if text := decoder.feed(token):
            yield text
    if text := decoder.finish():
        yield text


def default_prompt(tokenizer: Tokenizer) -> list[int]:
    """Return the ids that an empty prompt stands for: a newline, or id 0 if it can't be encoded."""
    try:
        return tokenizer.encode_ordinary("\n")
    except UserError:  # a character tokenizer trained on a single line
        return [0]


def write_sample(model: LanguageModel, tokenizer: Tokenizer, max_new_tokens: int, seed: int) -> str:
    """Return a sample without a prompt, drawn with the default SamplingConfig.

    If the model can't write, for instance because its weights are NaN, return the reason: a sample
    must not end a training run.
    """
    ids = generate(
        model,
        default_prompt(tokenizer),
        max_new_tokens,
        sampling=SamplingConfig(),
        seed=seed,
        stop_tokens=tokenizer.stop_tokens,
        n_vocab=tokenizer.n_vocab,
    )
    try:
        return "".join(stream_text(ids, tokenizer))
    except UserError as error:
        return f"(no sample: {error})"


# ---- filters -------------------------------------------------------------------------------------
# They decide which tokens may be sampled, by setting the other logits to -inf. Each takes and
# returns float logits (..., V). They apply after the division by the temperature.


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits ("Hierarchical Neural Story Generation", Fan et al., 2018).

    All tokens that tie with the k-th are kept. Raises UserError unless k >= 1.
    """
    check_top_k(k)
    kth = logits.topk(min(k, logits.size(-1)), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, -math.inf)


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most probable tokens whose probabilities sum to at least p.

    "The Curious Case of Neural Text Degeneration" (Holtzman et al., 2019), section 3.1.
    Raises UserError unless 0 < p <= 1.
    """
    check_top_p(p)
    p = max(p, torch.finfo(torch.float32).tiny)
    sorted_logits, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = sorted_logits.softmax(dim=-1)
    # A token is outside if the tokens before it already reach p. So the first is always inside.
    outside = probabilities.cumsum(dim=-1) - probabilities >= p
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -math.inf)


def min_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens at least p times as probable as the most probable one.

    "Turning Up the Heat: Min-p Sampling" (Nguyen et al., 2024). Raises UserError unless
    0 <= p <= 1.
    """
    check_min_p(p)
    probabilities = logits.softmax(dim=-1)
    threshold = p * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(probabilities < threshold, -math.inf)
