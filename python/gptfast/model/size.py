"""The size and cost of a model, computed from its configuration.

Only matrix products count, as is usual ("PaLM", Chowdhery et al., 2022, appendix B; nanoGPT). A
multiplication and an addition are two operations (FLOPs).
"""

from __future__ import annotations

from gptfast.model.config import ModelConfig
from gptfast.model.mlp import fan_out


def n_parameters(config: ModelConfig) -> int:
    """Return the number of trainable parameters of a GPT. Tied parameters count once."""
    C, V, H, D = config.n_embd, config.vocab_size, config.n_head, config.head_width
    qkv = (H + 2 * config.key_value_heads) * D
    norm = C * (2 if config.norm == "layernorm" and config.bias else 1)

    attention = C * qkv + H * D * C + 2 * D * config.qk_norm
    up = fan_out(config)
    if config.n_expert:
        mlp = config.n_expert * (C * up + config.hidden_width * C) + C * config.n_expert
    else:
        mlp = C * up + config.hidden_width * C
    biases = qkv * (config.bias or config.qkv_bias) + (C + up + C) * config.bias
    block = attention + mlp + biases + 2 * norm

    embeddings = V * C * (1 if config.tie_embeddings else 2)
    embeddings += (config.max_ngram - 1) * config.ngram_rows * C
    if config.positions == "learned":
        embeddings += config.block_size * C
    return embeddings + config.n_layer * block + norm * (2 if config.embedding_norm else 1)


def flops_per_token(config: ModelConfig, context: int | None = None) -> int:
    """Return the operations per token of a GPT's forward pass over windows of `context` tokens.

    context: None means block_size. Attention counts every pair of tokens within a layer's window,
    including the masked half. Training takes three times as many operations: the backward pass
    has two products for each product of the forward pass.
    """
    C, H, D = config.n_embd, config.n_head, config.head_width
    T = context or config.block_size
    qkv = (H + 2 * config.key_value_heads) * D
    experts = config.n_expert_active if config.n_expert else 1
    per_block = C * qkv + H * D * C + experts * (C * fan_out(config) + config.hidden_width * C)
    if config.n_expert:
        per_block += C * config.n_expert
    matrices = config.n_layer * per_block + C * config.vocab_size
    # q k^T and the weighted sum of v each take H D products per pair of tokens.
    seen = sum(min(T, config.layer_window(layer) or T) for layer in range(config.n_layer))
    return 2 * matrices + 2 * 2 * H * D * seen
