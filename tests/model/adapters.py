"""Small models, and folders of models and adapters, for the tests of LoRA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from gptfast.model import GPT, ModelConfig
from gptfast.model.adapter_folder import Base, LoraSettings, relative_path, weights_sha256
from gptfast.model.folder import describe_model, save_description, save_weights
from gptfast.model.lora import add_lora
from gptfast.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer.train("abcdefghijklmnopqrstuvwxyz .")
GPT2 = ModelConfig(TOKENIZER.n_vocab, block_size=32, n_layer=2, n_head=2, n_embd=32)
LLAMA = replace(
    GPT2,
    n_head=4,
    n_kv_head=2,
    norm="rmsnorm",
    norm_eps=1e-6,
    bias=False,
    positions="rotary",
    activation="swiglu",
    n_hidden=96,
    tie_embeddings=False,
)
MISTRAL = replace(LLAMA, sliding_window=8)
IDS = torch.randint(GPT2.vocab_size, (2, 20), generator=torch.Generator().manual_seed(1))


NOWHERE = Base(Path("base"), "none")


def new_model(config: ModelConfig) -> GPT:
    """A model with weights large enough that every layer matters."""
    torch.manual_seed(0)
    model = GPT(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def with_pairs(model: GPT, settings: LoraSettings, base: Base = NOWHERE) -> GPT:
    """The model with an adapter whose B are random, too, so that it does something."""
    add_lora(model, settings, base)
    for name, parameter in model.named_parameters():
        if name.endswith(".B"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def save_base(folder: Path, config: ModelConfig) -> GPT:
    model = new_model(config)
    save_description(folder, config, TOKENIZER)
    save_weights(model, folder / "model.safetensors")
    return model


def save_adapter(folder: Path, base: Path, config: ModelConfig, settings: LoraSettings) -> GPT:
    """Write base and adapter; return the model with the adapter."""
    model = save_base(base, config)
    with_pairs(model, settings, Base(base, weights_sha256(base), None, relative_path(base, folder)))
    describe_model(folder, model, TOKENIZER)
    save_weights(model, folder / model.stored.weights_file)
    return model
