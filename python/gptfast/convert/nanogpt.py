"""nanoGPT's checkpoints (https://github.com/karpathy/nanoGPT), and its character vocabularies.

Both are pickles. They are read without running code from them: a checkpoint by PyTorch's
`weights_only=True`, a vocabulary by an unpickler that knows nothing but Python's own containers,
strings and numbers.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from gptfast.errors import MissingFileError, UserError
from gptfast.model import GPT, ModelConfig
from gptfast.tokenizer import CharTokenizer

COMPILED_PREFIX = "_orig_mod."
"""What torch.compile puts before the names of a module's tensors."""


def load_nanogpt(path: Path) -> GPT:
    """Load a checkpoint that nanoGPT's train.py wrote, in evaluation mode on the CPU.

    Raises MissingFileError if there is none, UserError if it isn't one.
    """
    checkpoint = _load(path)
    try:
        config = _config(checkpoint["model_args"])
        tensors = _tensors(checkpoint["model"])
    except UserError as error:
        raise UserError(f"{path} can't be used: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a checkpoint of nanoGPT ({error!r}): expected the ckpt.pt that its "
            f"train.py writes"
        ) from error
    head = tensors.get("lm_head.weight")
    is_tied = head is None or torch.equal(head, tensors.get("wte.weight", torch.empty(0)))
    if is_tied:
        tensors.pop("lm_head.weight", None)
    else:
        config = ModelConfig(**{**vars(config), "tie_embeddings": False})
    model = GPT(config)
    _check_fit(path, model.state_dict(), tensors)
    model.load_state_dict(tensors)
    return model.eval()


def load_characters(path: Path) -> CharTokenizer:
    """Load the meta.pkl that nanoGPT's prepare.py writes beside a text's characters.

    Raises MissingFileError if there is none, UserError if it isn't one or asks for code to be run.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no {path}: expected the meta.pkl of nanoGPT's data")
    try:
        with path.open("rb") as file:
            meta = _PlainUnpickler(file).load()
        characters = [meta["itos"][i] for i in range(len(meta["itos"]))]
        return CharTokenizer(characters)
    except Exception as error:  # a pickle's bytes can make its reader raise anything
        what = str(error).split("\n")[0] or type(error).__name__
        raise UserError(
            f"{path} can't be used ({what}): expected the meta.pkl of a character-level data set "
            f"of nanoGPT, with 'itos', a dict from ids to single characters"
        ) from error


class _PlainUnpickler(pickle.Unpickler):
    """Reads dicts, lists, strings and numbers, which need no class to be looked up."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse every class and function."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which may run code")


def _load(path: Path) -> Any:
    if not path.is_file():
        raise MissingFileError(f"there is no {path}: expected the ckpt.pt that nanoGPT writes")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        what = str(error).split("\n")[0] or type(error).__name__
        raise UserError(f"{path} can't be read as weights without code: {what}") from error


def _config(model_args: dict[str, Any]) -> ModelConfig:
    """Return our configuration for nanoGPT's. Its first versions had no bias to switch off.

    Raises UserError for arguments that nanoGPT doesn't have: they change what its weights mean.
    """
    names = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
    unknown = sorted(model_args.keys() - {*names, "dropout", "bias"})
    if unknown:
        raise UserError(
            f"its model_args have {unknown[0]} = {model_args[unknown[0]]!r}, which nanoGPT's model "
            f"doesn't know: only checkpoints of an unchanged nanoGPT can be imported"
        )
    return ModelConfig(
        **{name: model_args[name] for name in names},
        dropout=model_args.get("dropout", 0.0),
        bias=model_args.get("bias", True),
        activation="gelu_exact",
    )


def _tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return nanoGPT's tensors under our names, without the causal masks of its slow attention."""
    return {
        name.removeprefix(COMPILED_PREFIX).removeprefix("transformer."): tensor
        for name, tensor in state.items()
        if not name.endswith(".attn.bias")
    }


def _check_fit(path: Path, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Raise UserError where names or shapes differ."""
    for name in ours.keys() | theirs.keys():
        mine, given = ours.get(name), theirs.get(name)
        if mine is None or given is None or mine.shape != given.shape:
            shape = "missing" if given is None else f"of shape {tuple(given.shape)}"
            wanted = "no such tensor" if mine is None else str(tuple(mine.shape))
            raise UserError(
                f"{path} is not a checkpoint of nanoGPT, or its model was changed: {name} is "
                f"{shape}, expected {wanted} by its model_args"
            )
