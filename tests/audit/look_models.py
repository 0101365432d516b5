"""Models for the tests of `gptfast audit attention` whose attention is known."""

from __future__ import annotations

import torch

from gptfast.model import GPT, ModelConfig
from gptfast.tokenizer import CharTokenizer

CHARACTERS = "abcdefghijklmnop"


def tokenizer() -> CharTokenizer:
    return CharTokenizer.train(CHARACTERS)


def induction_model() -> GPT:
    """Two layers with one head each, set by hand: together, they copy what followed last time.

    The residual stream has three parts: which token (V), which place (T), which token before (V).
    The head of layer 1 looks at the place before and writes its token into the third part. That of
    layer 2 looks where the token before is the present token, and predicts the token there.
    """
    V, T = len(CHARACTERS), 32
    C = V + T + V
    config = ModelConfig(V, "gpt", T, 2, 1, C, norm="rmsnorm", bias=False)
    model = GPT(config).eval()
    token, place, before = slice(0, V), slice(V, V + T), slice(V + T, C)
    q, k, v = (slice(i * C, (i + 1) * C) for i in range(3))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln" not in name:
                parameter.zero_()
        model.wte.weight[:, token] = torch.eye(V)
        model.wpe.weight[:, place] = torch.eye(T)
        first, second = (block.attn for block in model.h)
        sharp = 100.0
        first.c_attn.weight[q][place, place] = sharp * torch.eye(T).roll(-1, dims=0)
        first.c_attn.weight[k][place, place] = torch.eye(T)
        first.c_attn.weight[v][before, token] = torch.eye(V)
        first.c_proj.weight[before, before] = torch.eye(V)
        second.c_attn.weight[q][token, token] = sharp * torch.eye(V)
        second.c_attn.weight[k][token, before] = torch.eye(V)
        second.c_attn.weight[v][token, token] = torch.eye(V)
        second.c_proj.weight[token, token] = 8 * torch.eye(V)
    return model


def random_model(**settings: object) -> GPT:
    """Weights as at the start of training, but larger, so that heads differ."""
    usual: dict[str, object] = {"block_size": 32, "n_layer": 2, "n_head": 2, "n_embd": 32}
    torch.manual_seed(5)
    model = GPT(ModelConfig(len(CHARACTERS), **usual | settings)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model
