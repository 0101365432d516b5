"""Small models in all layouts that GGUF has, with weights that make every mistake visible."""

from __future__ import annotations

import random
import unicodedata
from dataclasses import replace
from pathlib import Path

import torch

from gptfast.model import GPT, LanguageModel, ModelConfig
from gptfast.model.folder import save_description, save_weights
from gptfast.tokenizer import AddedToken, BPETokenizer, CharTokenizer, Roles, Tokenizer
from tricky_text import ATOMS

GPT2 = ModelConfig(300, block_size=64, n_layer=2, n_head=4, n_embd=64)
LLAMA = replace(
    GPT2, n_kv_head=2, norm="rmsnorm", norm_eps=1e-6, bias=False, positions="rotary",
    activation="swiglu", n_hidden=96, tie_embeddings=False,
)  # fmt: skip
CONFIGS = {
    "gpt2": GPT2,
    "gpt2-untied": replace(GPT2, tie_embeddings=False, n_hidden=96, norm_eps=1e-3),
    "gpt2-no-bias": replace(GPT2, bias=False),
    "gpt2-grouped": replace(GPT2, n_kv_head=2),
    "gpt2-padded": replace(GPT2, vocab_size=320),
    "llama": LLAMA,
    "llama-biases": replace(LLAMA, bias=True, tie_embeddings=True, rope_theta=500_000.0),
    "llama-ntk": replace(LLAMA, n_kv_head=None, rope_scaling="ntk", rope_factor=4.0),
    "llama-yarn": replace(LLAMA, block_size=128, rope_scaling="yarn", rope_factor=4.0),
    "llama-wide-window": replace(LLAMA, sliding_window=64),
    "mixtral": replace(LLAMA, n_expert=4),
    "llama-3.1": replace(
        LLAMA, rope_scaling="llama3", rope_factor=8.0, rope_original_context=24, rope_theta=50.0
    ),
    "llama-wide-heads": replace(LLAMA, head_dim=24, bias=True),
    "qwen2": replace(LLAMA, qkv_bias=True, tie_embeddings=True),
    "qwen3": replace(LLAMA, qk_norm=True, head_dim=32),
    "smollm3": replace(LLAMA, n_layer=5, nope_every=4),
}
CHARACTERS = "\n abcdeEÉß字🦀é"
"""Of one byte to four, among them some that share their first bytes."""


def with_large_weights(config: ModelConfig) -> GPT:
    """Return a model whose logits differ by a few units, and whose biases and norms matter."""
    model = GPT(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(2 * noise / parameter.shape[-1] ** 0.5)
    return model


def bpe(pattern: str, text: str, n_vocab: int = 300) -> BPETokenizer:
    """A trained tokenizer with two special tokens, and one that any text may contain."""
    names = ("<|endoftext|>", "<|user|>")
    trained = BPETokenizer.train([text], n_vocab - 1, pattern, names, progress=False)
    special = trained.special_tokens
    n = trained.n_vocab
    return BPETokenizer(
        trained.mergeable_ranks, pattern, special, [AddedToken("<b> ", n, special=False)],
        Roles(eos="<|endoftext|>", end_of_turn="<|user|>"),
    )  # fmt: skip


def characters() -> CharTokenizer:
    return CharTokenizer(CHARACTERS)


def write_folder(folder: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    save_description(folder, model.config, tokenizer)
    save_weights(model, folder / "model.safetensors")
    return folder


def hostile_texts(n: int) -> list[str]:
    """Texts of the atoms of `tricky_text` and of any assigned characters, always the same ones."""
    rng = random.Random(0)

    def character() -> str:
        while True:
            char = chr(rng.randrange(rng.choice((0x100, 0x3000, 0x10000, 0x110000))))
            if unicodedata.category(char) not in ("Cs", "Cn"):
                return char

    def part() -> str:
        if rng.random() < 0.6:
            return rng.choice(ATOMS)
        return "".join(character() for _ in range(rng.randrange(8)))

    return ["".join(part() for _ in range(rng.randrange(1, 12))) for _ in range(n)]
