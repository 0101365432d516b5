"""Files that hold no safetensors: what they are, and what to do."""

from __future__ import annotations

from pathlib import Path

from gptfast.errors import UserError

_BEGINNINGS = (
    (b"version https://git-lfs", "it is a Git LFS pointer; run `git lfs pull` in its folder"),
    (b"PK\x03\x04", "it is a pickle of PyTorch, which may run code; fetch safetensors"),
    (b"GGUF", "it is a GGUF file; fetch safetensors"),
    (b"<", "it is a web page; download the file itself"),
)
"""How a file of another kind begins, what it is, and what to do."""


def what_it_is(file: Path) -> str | None:
    """Return what a file of another kind is, and what to do; None if its beginning doesn't tell."""
    with file.open("rb") as opened:
        head = opened.read(32)
    if not head:
        return "it is empty; fetch or write it again"
    return next((what for magic, what in _BEGINNINGS if head.startswith(magic)), None)


_CONVERT = (
    "transformers converts it: AutoModelForCausalLM.from_pretrained({folder!r})"
    ".save_pretrained('converted'); copy tokenizer.json as well"
)
_TAKE_OTHER = "take the folder of the same model in transformers' format, with safetensors"
_PICKLE = "a pickle, which may run code, so gptfast doesn't load it"
_OTHER_WEIGHTS = (
    ("pytorch_model*.bin", _PICKLE, _CONVERT),
    ("pytorch_model.bin.index.json", "an index of pickles, which may run code", _TAKE_OTHER),
    ("consolidated*.pth", _PICKLE, _TAKE_OTHER),
    ("consolidated*.safetensors", "weights in Mistral's own format", _TAKE_OTHER),
    ("*.pt", _PICKLE, "`gptfast import nanogpt {file} --out converted` converts nanoGPT's"),
    ("*.pth", _PICKLE, _TAKE_OTHER),
    ("*.ckpt", _PICKLE, _TAKE_OTHER),
    ("adapter_model.safetensors", "an adapter without its adapter_config.json", "fetch that, too"),
    ("adapter_model.bin", _PICKLE, "save it as safetensors with peft"),
    ("*.gguf", "a model for llama.cpp", _TAKE_OTHER),
    ("tf_model*.h5", "a model for TensorFlow", _TAKE_OTHER),
    ("flax_model*.msgpack", "a model for Flax", _TAKE_OTHER),
    ("*.onnx", "a model for ONNX", _TAKE_OTHER),
)  # fmt: skip
"""Weights in other files than safetensors: their names, what they are, and what to do."""
_ADAPTER = ("config.json", "model.safetensors")


def refuse_pickles(folder: Path) -> None:
    """Raise UserError if a folder has its weights in pickles or other foreign files alone.

    Raises it for a file instead of a folder, too.
    """
    if folder.is_file():
        raise UserError(
            f"{folder} is a file: expected the folder of a model, such as {folder.parent}"
        )
    is_adapter = all((folder / f"adapter_{name}").is_file() for name in _ADAPTER)
    if is_adapter or any(folder.glob("model*.safetensors*")):
        return
    for pattern, what, advice in _OTHER_WEIGHTS:
        for file in sorted(folder.glob(pattern)):
            raise UserError(
                f"{file} is {what}: expected model.safetensors; "
                f"{advice.format(folder=str(folder), file=file)}"
            )


def in_words(error: Exception) -> str:
    """Return what is wrong with a JSON file whose use raised `error`."""
    match error:
        case UnicodeError():
            return "it is not in UTF-8"
        case ValueError():
            return f"it is damaged JSON ({error})"
        case KeyError():
            return f"{error.args[0]} is missing"
        case _:
            return "a value has another type than expected"
