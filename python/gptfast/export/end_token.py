"""The row of an output matrix for a token that the model never saw, and should not write.

Legend: N positions, C channels, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptfast.model import GPT

_TEXTS, _TOKENS, _ROUNDS = 16, 128, 3
_SCALES = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)


@torch.no_grad()
def quiet_row(model: GPT) -> tuple[Tensor, float, int]:
    """Return a row (C,) of the output matrix whose token is hardly ever drawn.

    Also return the token's highest probability on samples of the model, and the number of their
    tokens. That is a measurement, not a bound: other texts may give it more.

    The token's logit is the product of the row and the hidden state. No row makes that low for
    every state, but the states of a trained model share a direction. Least squares finds the row
    whose products with the states of the samples are nearest to 1; the result is its negative,
    scaled so that the highest probability is the lowest.
    """
    V, T = model.config.vocab_size, min(_TOKENS, model.config.block_size)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(V, (_TEXTS, T), generator=generator)
    for _ in range(_ROUNDS if T > 1 else 0):  # random ids become more and more like text
        p = model(ids[:, :-1]).float().softmax(-1).flatten(0, 1)
        ids[:, 1:] = torch.multinomial(p, 1, generator=generator).view(_TEXTS, T - 1)
    hidden_NC = model.hidden(ids).flatten(0, 1).double()
    products_CC = hidden_NC.T @ hidden_NC
    ridge = 1e-4 * products_CC.diagonal().mean() * torch.eye(len(products_CC))
    one_C = torch.linalg.solve(products_CC + ridge, hidden_NC.sum(0))
    others_N = (hidden_NC @ model.head_VC.double().T).logsumexp(-1)
    logits_N = hidden_NC @ one_C

    def highest(scale: float) -> float:
        log_p_N = -torch.logaddexp(others_N + scale * logits_N, torch.zeros(()))
        return float(log_p_N.exp().max())

    scale = min(_SCALES, key=highest)
    return (-scale * one_C).float(), highest(scale), ids.numel()
