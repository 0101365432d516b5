"""Adapter folders: what they hold, how they find their base, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import pytest
import torch
from adapters import (
    GPT2,
    IDS,
    LLAMA,
    TOKENIZER,
    new_model,
    save_adapter,
    save_base,
    with_pairs,
)
from safetensors.torch import load_file, save_file

from gptfast.errors import MissingFileError, UserError
from gptfast.model import GPT, rust_step
from gptfast.model.adapter_folder import (
    PRECISIONS,
    Base,
    LoraSettings,
    find_base,
    weights_sha256,
)
from gptfast.model.folder import (
    FILES,
    describe_model,
    load_model,
    save_weights,
    with_adapter,
)
from gptfast.model.heads import SequenceClassifier, load_classifier
from gptfast.model.lora import Adapter, LoraLinear
from gptfast.model.merged_folder import merge_folder
from gptfast.model.quantized import compute_exactly, quantize
from gptfast.train.init_from import stored_config

RANK_4 = LoraSettings(4, 6.0)


def test_a_folder_holds_the_adapter_alone_and_loads_with_its_base(tmp_path: Path) -> None:
    settings = replace(RANK_4, targets=("attn.c_proj", "q_proj"), rslora=True)
    model = save_adapter(tmp_path / "a", tmp_path / "base", LLAMA, settings)
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items() if "layers.0" in name} == {
        f"base_model.model.model.layers.0.self_attn.{name}.weight": shape
        for name, shape in {
            "q_proj.lora_A": (4, 32), "q_proj.lora_B": (32, 4),
            "o_proj.lora_A": (4, 32), "o_proj.lora_B": (32, 4),
        }.items()
    }  # fmt: skip
    assert len(tensors) == 8
    base = find_base(tmp_path / "a")
    loaded, tokenizer = with_adapter(tmp_path / "a", *load_model(base.folder), base)
    assert torch.equal(loaded(IDS), model(IDS))
    assert tokenizer.fingerprint == TOKENIZER.fingerprint
    assert isinstance(loaded.stored, Adapter)
    assert loaded.stored.settings.rslora
    assert stored_config(tmp_path / "a") == LLAMA
    merged, _ = load_model(tmp_path / "a")
    assert merged.stored is merged
    assert (merged(IDS) - model(IDS)).abs().max() < 1e-6
    assert {path.name for path in (tmp_path / "a").iterdir()} < set(FILES)


@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 4])
def test_an_adapter_beside_blocks_loads_merged_as_it_was_trained(
    tmp_path: Path, bits: Literal[8, 4]
) -> None:
    float_model = save_base(tmp_path / "base", LLAMA)
    plain = float_model(IDS)
    model = quantize(float_model, PRECISIONS[bits])
    assert isinstance(model, GPT)
    compute_exactly(model)
    with_pairs(model, RANK_4, Base(tmp_path / "base", weights_sha256(tmp_path / "base"), bits))
    describe_model(tmp_path / "a", model, TOKENIZER)
    save_weights(model, tmp_path / "a" / "adapter_model.safetensors")
    merged, _ = load_model(tmp_path / "a")
    assert rust_step.why_not(cast(GPT, merged), merged.new_cache(1)) is None
    assert (merged(IDS) - model(IDS)).abs().max() < 1e-5
    assert torch.equal(model.train()(IDS), model.eval()(IDS))
    for layer in model.modules():
        if isinstance(layer, LoraLinear):
            layer.scale = 0.0
    assert (model(IDS) - plain).abs().max() > 1e-3  # the blocks do round


@torch.no_grad()
@pytest.mark.parametrize("bits", [None, 8])
def test_the_adapter_of_a_classifier_loads_merged_as_it_was_trained(
    tmp_path: Path, bits: Literal[8] | None
) -> None:
    body = save_base(tmp_path / "base", GPT2)
    model = SequenceClassifier(GPT2, ("good", "bad"))
    model.load_state_dict(body.state_dict(), strict=False)
    if bits is not None:
        quantize(model, PRECISIONS[bits])
        compute_exactly(model)
    with_pairs(model, RANK_4, Base(tmp_path / "base", weights_sha256(tmp_path / "base"), bits))
    describe_model(tmp_path / "a", model, TOKENIZER)
    save_weights(model, tmp_path / "a" / "adapter_model.safetensors")
    merged, _ = load_classifier(tmp_path / "a")
    assert merged.adapter is None
    lengths = torch.tensor([20, 7])
    assert (merged(IDS, lengths) - model.eval()(IDS, lengths)).abs().max() < 1e-5
    merge_folder(tmp_path / "a", tmp_path / "whole")
    whole, _ = load_classifier(tmp_path / "whole")
    assert whole.labels == ("good", "bad")
    assert torch.equal(whole(IDS, lengths), merged(IDS, lengths))


def test_targets_whose_ends_mean_more_are_named_in_full(tmp_path: Path) -> None:
    settings = replace(RANK_4, targets=("attn.c_proj",))
    save_adapter(tmp_path / "a", tmp_path / "base", GPT2, settings)
    described = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert described["target_modules"] == [f"transformer.h.{i}.attn.c_proj" for i in (0, 1)]


def test_the_base_is_found_after_both_folders_moved(tmp_path: Path) -> None:
    save_adapter(tmp_path / "x" / "a", tmp_path / "x" / "base", GPT2, RANK_4)
    (tmp_path / "x").rename(tmp_path / "y")
    assert find_base(tmp_path / "y" / "a").folder == tmp_path / "y" / "base"
    (tmp_path / "y" / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(MissingFileError, match=r"no base for the adapter in .*: expected a model"):
        load_model(tmp_path / "y" / "a")
    assert find_base(tmp_path / "y" / "a", tmp_path / "elsewhere").folder == tmp_path / "elsewhere"


def test_another_base_is_refused_but_for_a_foreign_adapter(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", tmp_path / "base", GPT2, RANK_4)
    other = new_model(GPT2)
    torch.nn.init.zeros_(other.ln_f.bias)
    save_weights(other, tmp_path / "base" / "model.safetensors")
    with pytest.raises(UserError, match=r"not those that the adapter in .* was trained beside"):
        load_model(tmp_path / "a")
    (tmp_path / "a" / "adapter_base.json").unlink()
    load_model(tmp_path / "a")


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", tmp_path / "base", GPT2, RANK_4)
    save_adapter(tmp_path / "b", tmp_path / "base", GPT2, RANK_4)
    (tmp_path / "b" / "adapter_base.json").unlink()
    path = tmp_path / "b" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"base_model_name_or_path": str(tmp_path / "a")}))
    with pytest.raises(MissingFileError, match="no base for the adapter"):
        load_model(tmp_path / "b")


@pytest.mark.parametrize(
    ("key", "value"),
    [("peft_type", "IA3"), ("use_dora", True), ("rank_pattern", {"c_fc": 2}), ("bias", "all"),
     ("init_lora_weights", "pissa"), ("target_parameters", ["experts"])],
)  # fmt: skip
def test_an_adapter_of_another_kind_is_refused(tmp_path: Path, key: str, value: object) -> None:
    save_adapter(tmp_path / "a", tmp_path / "base", GPT2, RANK_4)
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=f"has {key} .*: gptfast computes plain LoRA only"):
        load_model(tmp_path / "a")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("adapter_config.json", {"r": 0}, "can't be used: r is 0: expected at least 1"),
        ("adapter_config.json", {"r": "x"}, "can't be used: r is 'x': expected a whole number"),
        ("adapter_config.json", {"lora_alpha": None}, "lora_alpha is None: expected a number"),
        ("adapter_config.json", {"lora_alpha": float("nan")}, "has lora_alpha nan"),
        ("adapter_config.json", {"lora_dropout": 2}, "lora_dropout 2: expected a finite number"),
        ("adapter_base.json", {"bits": 3}, r"adapter_base\.json is damaged"),
        ("adapter_base.json", {"relative": 3}, r"adapter_base\.json is damaged"),
        ("adapter_base.json", {"sha256": None}, r"adapter_base\.json is damaged"),
    ],
)
def test_a_damaged_description_is_refused(
    tmp_path: Path, file: str, change: dict[str, object], message: str
) -> None:
    save_adapter(tmp_path / "a", tmp_path / "base", GPT2, RANK_4)
    path = tmp_path / "a" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "a")


def test_an_adapter_that_names_no_base_is_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", tmp_path / "base", GPT2, RANK_4)
    (tmp_path / "a" / "adapter_base.json").unlink()
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(UserError, match=r"adapter_config\.json names no base"):
        load_model(tmp_path / "a")


def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", tmp_path / "base", GPT2, RANK_4)
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"base_model.model.transformer.wte.weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"transformer\.wte\.weight is unexpected"):
        load_model(tmp_path / "a")
    path.unlink()
    with pytest.raises(MissingFileError, match="no weights at"):
        load_model(tmp_path / "a")


def test_an_adapter_of_a_stretched_context(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", tmp_path / "base", LLAMA, RANK_4)
    stretched, _ = load_model(tmp_path / "a", rope_scaling="ntk", rope_factor=2.0)
    plain, _ = load_model(tmp_path / "base", rope_scaling="ntk", rope_factor=2.0)
    assert stretched.config == plain.config
    ids = torch.randint(GPT2.vocab_size, (1, 60))
    assert stretched(ids).shape == plain(ids).shape


def test_weights_sha256_is_of_the_adapter(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", tmp_path / "base", GPT2, RANK_4)
    first = weights_sha256(tmp_path / "a")
    save_adapter(tmp_path / "b", tmp_path / "base", GPT2, replace(RANK_4, rank=3))
    assert len({first, weights_sha256(tmp_path / "b"), weights_sha256(tmp_path / "base")}) == 3
