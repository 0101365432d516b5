"""A model folder says what it is: other programs that read it see our ids, roles and limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import as_transformers
import pytest
import tokenizers
import torch

from gptfast.errors import UserError
from gptfast.model import ModelConfig, build_model, formats
from gptfast.model.folder import load_model, save_description, save_weights
from gptfast.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, load_tokenizer
from gptfast.tokenizer.roles import Roles
from gptfast.train.init_from import stored_config

transformers = pytest.importorskip("transformers")

TEXT = (
    "The baker's 2023 loaves,  don't ... he said .\nWHAT?? naïve 日本語 🦀 1234567\n\n\tend  . ' s"
    "  n't <|endoftext|>The baker , \r\n x "
)
GPT2 = ModelConfig(400, "gpt", 32, 1, 2, 16)
LLAMA = replace(
    GPT2, norm="rmsnorm", norm_eps=1e-6, bias=False, positions="rotary", rope_theta=500.0,
    activation="swiglu", n_hidden=32, tie_embeddings=False,
)  # fmt: skip
LAYOUTS = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": replace(LLAMA, sliding_window=7),
    "mixtral": replace(LLAMA, n_expert=3, n_expert_active=2),
}
PATTERNS = {
    "gpt2": "gpt2", "cl100k": "cl100k", "o200k": "o200k", "none": "none",
    "regex": r"\p{L}+|\p{N}{1,3}|\s+|[^\s\p{L}\p{N}]+",
}  # fmt: skip
ROLES = Roles(bos="<s>", eos="</s>", pad="<pad>", end_of_turn="<turn>", stop=("<call>",))
TOKENIZERS: dict[str, Tokenizer] = {
    **{
        name: BPETokenizer.train([TEXT] * 3, 330, pattern, progress=False)
        for name, pattern in PATTERNS.items()
    },
    "roles": BPETokenizer.train(
        TEXT,
        300,
        "cl100k",
        ["<turn>", "<pad>", "<s>", "</s>", "<call>"],
        roles=ROLES,
        progress=False,
    ),
    "char": CharTokenizer.train(TEXT),
    "char with an end": CharTokenizer.train(TEXT, ["<|endoftext|>"]),
}
CASES = [
    *(("llama", name) for name in TOKENIZERS),
    *((layout, "cl100k") for layout in LAYOUTS if layout != "llama"),
    ("gpt2", "char"),
]


def make(folder: Path, layout: str, tokenizer: str) -> Path:
    config = replace(LAYOUTS[layout], vocab_size=TOKENIZERS[tokenizer].n_vocab)
    save_description(folder, config, TOKENIZERS[tokenizer])
    assert json.loads((folder / "config.json").read_text())["model_type"] == layout
    return folder


def check(found: dict[str, object], folder: Path, tokenizer: str) -> None:
    """Compare with `tokenizers`, which reads tokenizer.json alone."""
    alone = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = alone.encode(TEXT).ids
    assert found["ids"] == found["ids of a copy"] == ids
    assert found["text"] == TEXT
    assert found["length"] == found["rows"] == alone.get_vocab_size()
    assert found["longest"] == 32
    eos, others = "<|endoftext|>", ("<|endoftext|>", "<|endoftext|>")
    if tokenizer == "roles":
        eos, others = "</s>", ("<s>", "<pad>")
    if tokenizer == "char":  # it has no special token at all
        assert [found[role] for role in ("bos", "eos", "pad")] == [None] * 3
        assert found["eos id"] == [None, None]
        return
    assert (found["eos"], found["bos"], found["pad"]) == (eos, *others)
    stops = sorted(TOKENIZERS[tokenizer].stop_tokens)
    assert found["eos id"] == [alone.token_to_id(eos), stops if len(stops) > 1 else stops[0]]
    n = [len(alone.encode(text).ids) for text in ("a", TEXT[:20])]
    assert found["lengths"] == [n[1]] * 2
    assert found["masked"] == n[0]
    assert found["inputs"] == ["attention_mask", "input_ids"]  # what a model takes


# transformers#45920 #45812 #48219 #44463 #26500 #44254 #45488
@pytest.mark.parametrize(("layout", "tokenizer"), CASES)
def test_a_model_folder_is_the_same_tokenizer_in_transformers(
    tmp_path: Path, layout: str, tokenizer: str
) -> None:
    folder = make(tmp_path / "model", layout, tokenizer)
    check(as_transformers.read(folder, TEXT), folder, tokenizer)


OTHERS = [path for path in os.environ.get("GPTFAST_TRANSFORMERS", "").split(os.pathsep) if path]


@pytest.mark.skipif(
    not OTHERS,
    reason="GPTFAST_TRANSFORMERS names no folders with other versions of transformers, such as "
    "`pip install --target old transformers==4.57.6` makes",
)
@pytest.mark.parametrize("packages", OTHERS)
@pytest.mark.parametrize(("layout", "tokenizer"), CASES)
def test_a_model_folder_is_the_same_tokenizer_in_other_versions(
    tmp_path: Path, packages: str, layout: str, tokenizer: str
) -> None:
    folder = make(tmp_path / "model", layout, tokenizer)
    done = subprocess.run(
        [sys.executable, as_transformers.__file__, folder, TEXT],
        env=os.environ | {"PYTHONPATH": packages},
        capture_output=True,
        text=True,
        check=True,
    )
    check(json.loads(done.stdout), folder, tokenizer)


@pytest.mark.parametrize("tokenizer", ["roles", "char"])
def test_a_pipeline_writes_text(tmp_path: Path, tokenizer: str) -> None:
    folder = make(tmp_path, "llama", tokenizer)
    config = replace(LLAMA, vocab_size=TOKENIZERS[tokenizer].n_vocab)
    save_weights(build_model(config), folder / "model.safetensors")
    pipeline = transformers.pipeline("text-generation", model=str(folder))
    made = pipeline.model.generation_config
    bos, eos, pad, turn, call = (
        TOKENIZERS[tokenizer].special_tokens.get(name)
        for name in ("<s>", "</s>", "<pad>", "<turn>", "<call>")
    )
    assert (made.bos_token_id, made.pad_token_id) == (bos, pad)
    assert made.eos_token_id == (None if eos is None else sorted([eos, turn, call]))
    (written,) = pipeline("The baker", max_new_tokens=3, max_length=None)
    assert written["generated_text"].startswith("The baker")


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_what_transformers_saves_is_the_same_tokenizer_here(tmp_path: Path, tokenizer: str) -> None:
    ours = TOKENIZERS[tokenizer]
    theirs = transformers.AutoTokenizer.from_pretrained(make(tmp_path / "a", "llama", tokenizer))
    theirs.save_pretrained(tmp_path / "b")
    again = load_tokenizer(tmp_path / "b")
    assert again.encode(TEXT, "all") == theirs(TEXT)["input_ids"]
    assert (again.fingerprint, again.added_tokens) == (ours.fingerprint, ours.added_tokens)
    assert again.roles == ours.roles


def test_the_folder_of_a_tokenizer_alone_is_read_by_transformers(tmp_path: Path) -> None:
    TOKENIZERS["roles"].save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    alone = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs(TEXT)["input_ids"] == alone.encode(TEXT).ids
    assert (theirs.eos_token, theirs.pad_token) == ("</s>", "<pad>")
    assert theirs.model_max_length > 2**60  # no model, no limit


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_embedding_that_is_used_is_frozen_as_padding(tmp_path: Path, layout: str) -> None:
    # transformers' Llama passes pad_token_id to nn.Embedding as padding_idx.
    folder = make(tmp_path, layout, "cl100k")
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert model.get_input_embeddings().padding_idx is None


@pytest.mark.parametrize("missing", ["nothing", "config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("pytorch_model.bin", "save_pretrained"),
        ("pytorch_model-00001-of-00002.bin", "save_pretrained"),
        ("consolidated.00.pth", "transformers' format"),
        ("ckpt.pt", "gptfast import nanogpt"),
        ("model.pth", "transformers' format"),
        ("last.ckpt", "transformers' format"),
    ],
)
def test_pickled_weights_are_refused_with_the_way_to_convert_them(
    tmp_path: Path, name: str, advice: str, missing: str
) -> None:
    make(tmp_path, "llama", "cl100k")
    (tmp_path / missing).unlink(missing_ok=True)
    (tmp_path / name).write_bytes(b"")
    for load in (load_model, stored_config):
        with pytest.raises(UserError) as error:
            load(tmp_path)
        assert f"{name} is a pickle" in str(error.value)
        assert advice in str(error.value)
        assert "\n" not in str(error.value)
    if missing == "nothing":
        (tmp_path / "model.safetensors").touch()  # the other file doesn't matter
        with pytest.raises(UserError, match="not a complete safetensors file"):
            load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tf_model.h5", "is a model for TensorFlow: expected model.safetensors; take"),
        ("flax_model.msgpack", "is a model for Flax"),
        ("model.gguf", "is a model for llama.cpp"),
        ("tiny-Q4_K_M.gguf", "is a model for llama.cpp"),
        ("adapter_model.safetensors", "is an adapter without its adapter_config.json"),
        ("adapter_model.bin", "is a pickle, .* save it as safetensors with peft"),
        ("pytorch_model.bin.index.json", "is an index of pickles"),
        ("consolidated.safetensors", "is weights in Mistral's own format"),
        ("weights.safetensors", "no weights at .*: there is weights.safetensors; .* or rename it"),
        ("README.md", "no weights at .*: copy or fetch the file"),
        ("run.json", "no weights at .*: the training run has not saved any yet"),
    ],
)
def test_what_is_there_instead_of_weights_is_named(tmp_path: Path, name: str, message: str) -> None:
    make(tmp_path, "llama", "cl100k")
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=message) as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)


def test_a_link_or_folder_in_the_place_of_weights_is_named(tmp_path: Path) -> None:
    weights = make(tmp_path, "llama", "cl100k") / "model.safetensors"
    weights.symlink_to("../blobs/abc")
    with pytest.raises(UserError, match=r"it is a link to \.\./blobs/abc, which does not exist"):
        load_model(tmp_path)
    weights.unlink()
    weights.mkdir()
    with pytest.raises(UserError, match=r"it is a folder; expected a safetensors file"):
        load_model(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_of_a_model_instead_of_its_folder_is_named(tmp_path: Path, file: str) -> None:
    folder = make(tmp_path, "llama", "cl100k")
    (folder / "model.safetensors").touch()
    for load in (load_model, stored_config):
        with pytest.raises(UserError, match=f"{file} is a file: expected the folder of a model"):
            load(folder / file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "it is a web page"),
        (b"", "it is empty"),
        (b"PK\x03\x04\x00\x00\x08\x08\x00\x00", "it is a pickle of PyTorch"),
        (b"\x40\0\0\0\0\0\0\0{", "incomplete|too small|truncated|[Hh]eader"),
    ],
)
@pytest.mark.parametrize(
    "file", ["model.safetensors", "model.safetensors.index.json", "config.json"]
)
def test_another_content_of_a_file_is_named(
    tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    make(tmp_path, "llama", "cl100k")
    (tmp_path / file).write_bytes(content)
    if content.startswith(b"\x40") and file != "model.safetensors":
        message = "it is damaged JSON"
    with pytest.raises(UserError, match=f"{file} is not .*: .*({message})") as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)


OURS = replace(GPT2, positions="none")
GONE = object()


@pytest.mark.parametrize(
    ("layout", "name", "value", "message"),
    [
        ("gpt2", "vocab_size", GONE, "vocab_size is missing"),
        ("llama", "hidden_size", GONE, "hidden_size is missing"),
        ("llama", "model_type", GONE, "model_type is missing"),
        ("llama", "model_type", ["llama"], r"describes a \['llama'\] model"),
        ("llama", "num_attention_heads", 0, "num_attention_heads is 0: expected more than 0"),
        ("llama", "num_attention_heads", "2", "num_attention_heads is '2': expected a number"),
        ("llama", "max_position_embeddings", None, "max_position_embeddings is None: expected a n"),
        ("llama", "rope_parameters", {"rope_type": "yarn"}, "factor is missing"),
        ("llama", "rope_parameters", {"rope_type": "yarn", "factor": 0}, "factor is 0: expected"),
        ("llama", "rope_parameters", [1], "a value has another type"),
        ("mixtral", "num_experts_per_tok", [2], r"num_experts_per_tok is \[2\]: expected a number"),
        ("mixtral", "router_aux_loss_coef", "x", "router_aux_loss_coef is 'x': expected a number"),
        ("gptfast", "gptfast", GONE, "gptfast is missing"),
        ("gptfast", "gptfast", [1], "gptfast is a list: expected an object"),
        ("gptfast", "gptfast", {"n_layer": 2}, "vocab_size is missing"),
        ("gptfast", "gptfast", {"vocab_size": 9, "n_layers": 2}, "it has n_layers, which"),
    ],
)
def test_a_fault_in_config_json_is_named_by_its_key(
    tmp_path: Path, layout: str, name: str, value: object, message: str
) -> None:
    stored = formats.describe(LAYOUTS.get(layout, OURS)) | {name: value}
    assert stored["model_type"] == layout or name == "model_type"
    if value is GONE:
        del stored[name]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=message) as error:
        load_model(tmp_path)
    assert "Error" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[1]", "3", "null", '"llama"'])
def test_a_config_json_without_settings_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"it holds a .*: expected an object"):
        load_model(tmp_path)
