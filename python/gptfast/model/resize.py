"""Give a trained model further tokens. Legend: V vocabulary, C channels (n_embd)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gptfast.errors import UserError
from gptfast.model.base import LanguageModel
from gptfast.model.build import build_model
from gptfast.tokenizer import Tokenizer

_TABLES = ("wte.weight", "lm_head.weight")
"""The parameters with a row per token, (V, C). A model with tied embeddings has only the first."""


def add_tokens(
    model: LanguageModel, tokenizer: Tokenizer, names: Sequence[str]
) -> tuple[LanguageModel, Tokenizer]:
    """Return a copy of a model, and its tokenizer, with further special tokens.

    Their ids follow those of the tokenizer. Their embeddings, and their rows of an untied head, are
    drawn from a normal distribution with the mean and the deviation of the older rows, per channel:
    always the same ones. Rows that all were the mean would be alike, and stay alike under an
    adapter, which trains no embedding: such a model can't tell who speaks, or end its turn.

    The logits of the older ids stay the same, bit by bit. (PyTorch's product of less than 4 tokens
    rounds the last V mod 4 rows by other kernels, so that these may differ by rounding there.) A
    vocabulary that is padded grows only when the padding is used up.

    Raises UserError for a name that the tokenizer has, for weights in blocks, for a model that is
    no GPT, and for one whose n-grams depend on the size of the vocabulary, unless that stays.
    """
    n_old, n_new = tokenizer.n_vocab, tokenizer.n_vocab + len(names)
    config = replace(model.config, vocab_size=max(model.config.vocab_size, n_new))
    if model.quantized or config.architecture != "gpt":
        kind = model.quantized or config.architecture
        raise UserError(f"the model is {kind!r}: only a GPT in floats can be given new tokens")
    if config.max_ngram > 1 and config.vocab_size != model.config.vocab_size:
        raise UserError(
            f"the model has n-grams, whose rows depend on the size of its vocabulary, "
            f"{model.config.vocab_size}: it can't be given {', '.join(names)}; train a base with "
            f"--max-ngram 1, or with a tokenizer that has these tokens from the start (`gptfast "
            f"tokenizer train --special-tokens`, then `gptfast train --tokenizer`)"
        )
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in _TABLES:
        if name in state:
            state[name] = _with_rows(state[name], n_old, n_new, config.vocab_size)
    with torch.device("meta"):
        grown = build_model(config)
    grown.load_state_dict(state, assign=True)
    return grown.train(model.training), tokenizer.with_added(names)


def _with_rows(table_VC: Tensor, n_old: int, n_new: int, n_rows: int) -> Tensor:
    """Return a table of n_rows rows, of which those from n_old to n_new resemble those before."""
    grown_VC = table_VC.new_zeros(n_rows, table_VC.size(1))
    grown_VC[: len(table_VC)] = table_VC
    old_VC = table_VC[:n_old].float()
    same_each_time = torch.Generator().manual_seed(0)
    noise_VC = torch.randn(n_new - n_old, table_VC.size(1), generator=same_each_time)
    grown_VC[n_old:n_new] = old_VC.mean(dim=0) + old_VC.std(dim=0) * noise_VC
    return grown_VC
