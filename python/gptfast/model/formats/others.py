"""Well-known models that gptfast can't compute."""

from __future__ import annotations

PARTS = {
    "gemma": "norms that multiply by 1 + weight, and scaled embeddings",
    "gemma2": "capped attention scores (attn_logit_softcapping), and norms after attention and MLP",
    "gemma3": "images as input, and two bases of rotary positions",
    "gemma3_text": "norms after attention and MLP, and two bases of rotary positions",
    "llama4": "images as input, and attention in chunks",
    "llama4_text": "attention in chunks",
    "gpt_oss": "attention sinks",
    "phi": "attention and MLP side by side",
    "gpt_neox": "attention and MLP side by side",
    "falcon": "attention and MLP side by side",
    "bloom": "ALiBi positions",
    "olmo2": "norms after attention and MLP",
    "deepseek_v2": "latent attention",
    "deepseek_v3": "latent attention",
    "glm": "heads of which a part is rotated",
    "glm4": "heads of which a part is rotated, and norms after attention and MLP",
}
"""A part that gptfast lacks, keyed by the model_type in config.json."""
