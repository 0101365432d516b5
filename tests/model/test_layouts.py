"""Folders of models of the field, both ways: transformers writes one, we read it and write it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig, formats, rust_step
from gptfast.model.folder import describe_model, load_model, save_weights
from gptfast.model.size import n_parameters
from gptfast.tokenizer import BPETokenizer

transformers = pytest.importorskip("transformers")

SHAPE = {
    "vocab_size": 300, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64
}  # fmt: skip
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen 2": ("Qwen2", {"tie_word_embeddings": False}),
    "Qwen 2.5, tied, YaRN": ("Qwen2", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "Qwen 3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "Qwen 3, untied, narrow heads": ("Qwen3", {"head_dim": 8, "tie_word_embeddings": False}),
    "Llama 3.1": ("Llama", {"rope_parameters": LLAMA3}),
    "Llama 3.2": (
        "Llama", {"rope_parameters": LLAMA3 | {"factor": 32.0}, "tie_word_embeddings": True}
    ),
    "SmolLM 2": ("Llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "SmolLM 3": ("SmolLM3", {}),
    "Mistral NeMo": ("Mistral", {"head_dim": 32, "sliding_window": None}),
}  # fmt: skip
DEFAULTS = {"model_type", "architectures", "transformers_version", "dtype", "_name_or_path"}


def their_model(kind: str, fields: dict[str, Any]) -> Any:
    """A model with small random weights, none of which is at its initial value."""
    theirs = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, f"{kind}Config")(**SHAPE | fields)
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return theirs.eval()


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_a_folder_of_transformers_is_read_computed_and_written(name: str, tmp_path: Path) -> None:
    theirs = their_model(*LAYOUTS[name])
    theirs.save_pretrained(tmp_path / "theirs")
    BPETokenizer.train(["a rose is a rose"], 260, special_tokens=["<|endoftext|>"]).save(
        tmp_path / "theirs"
    )
    ours, tokenizer = load_model(tmp_path / "theirs")
    assert isinstance(ours, GPT)
    ids = torch.randint(300, (2, 64))
    expected = theirs(ids).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(ours(ids), expected, atol=1e-5, rtol=0)
    assert ours.n_parameters() == theirs.num_parameters() == n_parameters(ours.config)
    # Greedy tokens, with a cache: the steps after the prompt are computed in Rust.
    prompt = ids[0, :24]
    settings = {"do_sample": False, "max_new_tokens": 30, "eos_token_id": None, "pad_token_id": 0}
    greedy = theirs.generate(prompt[None], **settings)[0, 24:].tolist()
    cache = ours.new_cache(1)
    token = int(ours.prefill(prompt.tolist(), cache, 0).argmax())
    assert rust_step.why_not(ours, cache) is None
    for expected_token in greedy:
        assert token == expected_token
        token = int(ours.step([token], cache, [0]).argmax())
    # And back: the same tensors and the same configuration, of which transformers makes the same.
    describe_model(tmp_path / "ours", ours, tokenizer)
    save_weights(ours, tmp_path / "ours" / "model.safetensors")
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(again(ids).logits, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(again(ids).logits, ours(ids), atol=1e-5, rtol=0)
    before, after = theirs.config.to_dict(), again.config.to_dict()
    same = [key for key in before if key not in DEFAULTS | {"bos_token_id", "eos_token_id"}]
    assert {key: after.get(key) for key in same} == {key: before[key] for key in same}
    assert again.generation_config.do_sample
    end = tokenizer.role_id("eos")
    assert again.generation_config.eos_token_id == again.config.eos_token_id == end


@torch.no_grad()
def test_tensors_of_older_files_and_of_tied_embeddings(tmp_path: Path) -> None:
    theirs = their_model("Llama", {"tie_word_embeddings": True})
    theirs.save_pretrained(tmp_path)
    BPETokenizer.train(["a rose is a rose"], 260).save(tmp_path)
    file, table = tmp_path / "model.safetensors", "model.embed_tokens.weight"
    saved = load_file(file)
    ids = torch.randint(300, (1, 16))
    expected = theirs(ids).logits
    frequencies = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(6) for i in (0, 3)}
    only_head = {name: tensor for name, tensor in saved.items() if name != table}
    only_head["lm_head.weight"] = saved[table]
    for tensors in (
        saved | frequencies, saved | {"lm_head.weight": saved[table].clone()}, only_head
    ):  # fmt: skip
        save_file(tensors, file, metadata={"format": "pt"})
        ours, _ = load_model(tmp_path)
        torch.testing.assert_close(ours(ids), expected, atol=1e-5, rtol=0)
    # transformers computes this one with its own head, and says so in a warning.
    save_file(saved | {"lm_head.weight": saved[table] * 2}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lm_head.weight differs from .* set it to false"):
        load_model(tmp_path)


LLAMA_31 = {
    "model_type": "llama", "vocab_size": 128_256, "max_position_embeddings": 131_072,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
    "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
    },
}  # fmt: skip
QWEN = {
    "vocab_size": 151_936, "max_position_embeddings": 32_768, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0, "use_sliding_window": False,
    "sliding_window": 32_768, "max_window_layers": 21, "tie_word_embeddings": True,
}  # fmt: skip


def shape(width: int, hidden: int, layers: int, heads: int, kv_heads: int) -> dict[str, int]:
    return {
        "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads,
    }  # fmt: skip


PUBLISHED = {
    "Llama 3.1 8B": (LLAMA_31 | shape(4096, 14_336, 32, 32, 8), 8_030_261_248),
    "Llama 3.2 1B": (
        LLAMA_31 | shape(2048, 8192, 16, 32, 8) | {"tie_word_embeddings": True, "head_dim": 64,
            "rope_scaling": {**LLAMA_31["rope_scaling"], "factor": 32.0}},
        1_235_814_400,
    ),
    "Qwen 2.5 0.5B": (
        QWEN | {"model_type": "qwen2"} | shape(896, 4864, 24, 14, 2), 494_032_768
    ),
    "Qwen 3 0.6B": (
        QWEN | {"model_type": "qwen3", "head_dim": 128, "attention_bias": False,
                "max_position_embeddings": 40_960, "sliding_window": None}
        | shape(1024, 3072, 28, 16, 8),
        596_049_920,
    ),
    "SmolLM 2 135M": (
        {"model_type": "llama", "vocab_size": 49_152, "max_position_embeddings": 8192,
         "rms_norm_eps": 1e-5, "rope_theta": 100_000, "rope_scaling": None,
         "tie_word_embeddings": True} | shape(576, 1536, 30, 9, 3),
        134_515_008,
    ),
    "SmolLM 3 3B": (
        {"model_type": "smollm3", "vocab_size": 128_256, "max_position_embeddings": 65_536,
         "rms_norm_eps": 1e-6, "rope_theta": 5_000_000.0, "rope_scaling": None,
         "no_rope_layers": [1, 1, 1, 0] * 9, "use_sliding_window": False, "sliding_window": None}
        | shape(2048, 11_008, 36, 16, 4),
        3_075_098_624,
    ),
}  # fmt: skip
"""Of published config.json files what matters, and the published numbers of parameters."""


@pytest.mark.parametrize("name", [*LAYOUTS, "Mixtral"])
def test_a_key_that_is_missing_means_what_transformers_takes(name: str) -> None:
    kind, changes = LAYOUTS.get(name, ("Mixtral", {}))
    # So many heads that every class's number of key and value heads divides it.
    config = getattr(transformers, f"{kind}Config")(
        **SHAPE | {"hidden_size": 64, "num_attention_heads": 32} | changes
    )
    described = json.loads(json.dumps(config.to_dict()))
    rope = described["rope_parameters"]
    older = {key: value for key, value in rope.items() if key != "rope_theta"}
    candidates = [
        *({k: v for k, v in described.items() if k != key} for key in described),
        described | {"rope_parameters": older},
        described | {"rope_parameters": older, "rope_theta": 77.0},
        described | {"rope_parameters": None, "rope_scaling": older, "rope_theta": 77.0},
    ]
    n_read = 0
    for candidate in candidates:
        try:
            ours = formats.parse(candidate)
        except KeyError:  # a key that has to be there
            continue
        n_read += 1
        theirs = type(config).from_dict(copy.deepcopy(candidate)).to_dict()
        assert ours == formats.parse(theirs)
    assert n_read > len(candidates) - 10


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_size(name: str) -> None:
    described, published = PUBLISHED[name]
    config = formats.parse(described)
    assert n_parameters(config) == published
    assert formats.format_of(config) == described["model_type"]


def test_layers_without_positions_are_every_fourth_in_the_published_model() -> None:
    config = formats.parse(PUBLISHED["SmolLM 3 3B"][0])
    without = [layer for layer in range(36) if not config.layer_rotates(layer)]
    assert without == [3, 7, 11, 15, 19, 23, 27, 31, 35]


REFUSED = {
    "gemma2": r"'gemma2' model, which has capped attention scores \(attn_logit_softcapping\)",
    "gemma3_text": "'gemma3_text' model, which has norms after",
    "qwen3_moe": "'qwen3_moe' model: gptfast reads 'gpt2', 'llama', 'mistral', 'mixtral', 'qwen2'",
    "phi": "'phi' model, which has attention and MLP side by side",
    "phi3": "'phi3' model: gptfast reads",
    "gpt_neox": "'gpt_neox' model, which has attention and MLP side by side",
    "starcoder2": "'starcoder2' model: gptfast reads",
    "falcon": "'falcon' model, which has attention and MLP side by side",
    "bloom": "'bloom' model, which has ALiBi",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_models_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(kind)
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=REFUSED[kind]) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Qwen 2.5 0.5B", {"use_sliding_window": True}, "a sliding window of 32768: gptfast reads"),
        ("Qwen 3 0.6B", {"attention_bias": True}, "attention_bias True"),
        ("SmolLM 3 3B", {"no_rope_layers": [1, 0, 0, 1] * 9}, "positions out of every n-th layer"),
        ("SmolLM 3 3B", {"layer_types": ["sliding_attention"] * 36}, "a sliding window of None"),
    ],
)
def test_parts_that_are_lacking_are_named(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name][0] | changes))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": 50}, "choose a multiple of n_head as n_embd, or give head_dim"),
        ({"head_dim": 7, "positions": "rotary"}, "a head has 7: choose an even head_dim"),
        ({"nope_every": 4}, "nope_every is 4, but positions is 'learned'"),
        ({"rope_original_context": 64}, "only 'yarn' and 'llama3' use it"),
    ],
)
def test_fields_that_dont_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(**{"vocab_size": 65, "n_head": 4, "n_embd": 48, **changes})
