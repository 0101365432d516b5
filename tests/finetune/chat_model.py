"""A small model with roles and a chat template."""

from __future__ import annotations

from pathlib import Path

import torch

from gptfast.model import ModelConfig, build_model
from gptfast.model.folder import save_description, save_weights
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.chat import write_chat_template
from gptfast.tokenizer.roles import Roles

SPECIAL = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "<|endoftext|>{% for m in messages %}"
    "{% if m.role == 'assistant' %}<|assistant|>"
    "{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A document border, then a role token, the content and <|end|> of each message."""
CHAT_MODEL = ModelConfig(320, block_size=64, n_layer=2, n_head=4, n_embd=48)


def new_chat_base(folder: Path, config: ModelConfig = CHAT_MODEL) -> Path:
    """Write a model folder with random weights, the role tokens and a template; return it."""
    text = "What is the sum of three and four? The answer is seven.\nHello, how are you today?\n"
    roles = Roles(eos="<|endoftext|>", end_of_turn="<|end|>")
    tokenizer = BPETokenizer.train(
        text, config.vocab_size, special_tokens=SPECIAL, roles=roles, progress=False
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = build_model(config)
    save_description(folder, config, tokenizer)
    save_weights(model, folder / "model.safetensors")
    write_chat_template(folder, TEMPLATE)
    return folder
