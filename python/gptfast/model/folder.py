"""One folder = one model: what a Hugging Face user expects to find, written and read.

config.json, model.safetensors, tokenizer.json, generation_config.json. A GPT is stored in GPT-2's
own layout: `transformers` loads the folder, and GPT-2 folders load here. Nothing is pickled.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptfast.errors import MissingFileError, UserError
from gptfast.fsync import write_atomically, write_text_atomically
from gptfast.model import GPT, LanguageModel, ModelConfig, build_model
from gptfast.tokenizer import Tokenizer, load_tokenizer

# GPT-2 keeps these matrices as (in, out), the transpose of nn.Linear's.
_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


# GPT-2's variants that this GPT does not compute: what a config.json may say of them.
_FIXED: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


def save_weights(model: LanguageModel, path: Path) -> None:
    """Write model.safetensors at `path`, aside and then renamed."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in gptfast_to_stored(model).items()}
    write_atomically(path, lambda p: save_file(tensors, p, metadata={"format": "pt"}))


def save_description(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Write everything of a model folder but the weights. Creates the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    _write_json(folder / "config.json", _config_json(config, tokenizer.eot_token))
    generation = {"do_sample": True, "eos_token_id": tokenizer.eot_token}
    _write_json(folder / "generation_config.json", generation)


def load_model(folder: str | Path, kernels: str = "auto") -> tuple[LanguageModel, Tokenizer]:
    """Load a model folder: the model in evaluation mode on the CPU, and its tokenizer.

    Raises MissingFileError if a file is missing, UserError if one is damaged or doesn't fit.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise MissingFileError(
            f"no model in {folder}: expected a folder with config.json, model.safetensors and "
            f"tokenizer.json, such as `python -m gptfast.train --out {folder}` makes"
        )
    config = _read_config(folder / "config.json")
    tokenizer = load_tokenizer(folder)
    if tokenizer.n_vocab > config.vocab_size:
        raise UserError(
            f"the tokenizer in {folder} has {tokenizer.n_vocab} ids, but the model only "
            f"{config.vocab_size}: they don't belong together"
        )
    model = build_model(config, kernels)
    load_weights(model, folder / "model.safetensors")
    return model.eval(), tokenizer


def load_weights(model: LanguageModel, path: Path) -> None:
    """Fill `model` from a model.safetensors. Raises MissingFileError or UserError."""
    if not path.is_file():
        raise MissingFileError(f"no weights at {path}: the training run has not saved any yet")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): train again") from error
    try:
        model.load_state_dict(stored_to_gptfast(model, tensors))
    except RuntimeError as error:
        raise UserError(f"{path} does not fit its config.json: {error}") from error


def gptfast_to_stored(model: LanguageModel) -> dict[str, Tensor]:
    """The model's tensors under the names and in the shapes that model.safetensors has."""
    state = model.state_dict()
    if not isinstance(model, GPT):
        return state
    return {f"transformer.{n}": t.T if n.endswith(_TRANSPOSED) else t for n, t in state.items()}


def stored_to_gptfast(model: LanguageModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `gptfast_to_stored`; the prefix 'transformer.' may be missing."""
    if not isinstance(model, GPT):
        return tensors
    tensors = {name.removeprefix("transformer."): t for name, t in tensors.items()}
    return {
        name: t.T if name.endswith(_TRANSPOSED) else t
        for name, t in tensors.items()
        # Not parameters: the tied output matrix, and the causal masks of old GPT-2 files.
        if name != "lm_head.weight" and not name.endswith((".attn.bias", ".attn.masked_bias"))
    }


def _config_json(config: ModelConfig, eot_token: int | None) -> dict[str, Any]:
    """config.json: GPT-2's keys for a GPT; the other rungs are known to gptfast alone."""
    if config.architecture != "gpt":
        return {"model_type": "gptfast", "gptfast": asdict(config)}
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": True,
        "bos_token_id": eot_token,
        "eos_token_id": eot_token,
    }


def _read_config(path: Path) -> ModelConfig:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["model_type"] == "gptfast":
            return ModelConfig(**stored["gptfast"])
        if stored["model_type"] != "gpt2":
            raise UserError(
                f"{path} describes a {stored['model_type']!r} model: "
                f"gptfast reads 'gpt2' and its own"
            )
        for key, ours in _FIXED.items():
            if stored.get(key, ours[0]) not in ours:
                raise UserError(f"{path} has {key} {stored[key]!r}: gptfast has only {ours[0]!r}")
        if stored.get("n_inner") not in (None, 4 * stored["n_embd"]):
            raise UserError(f"{path} has n_inner {stored['n_inner']}: gptfast has only 4 n_embd")
        return ModelConfig(
            vocab_size=stored["vocab_size"],
            block_size=stored["n_positions"],
            n_layer=stored["n_layer"],
            n_head=stored["n_head"],
            n_embd=stored["n_embd"],
            dropout=stored.get("resid_pdrop", 0.1),
        )
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a model's configuration ({error!r})") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text_atomically(path, json.dumps(content, indent=2) + "\n")
