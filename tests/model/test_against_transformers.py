"""transformers' GPT-2, Llama, Mistral and Mixtral as oracles: shapes, logits, model folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gptfast.errors import MissingFileError, UserError
from gptfast.model import GPT, ModelConfig, build_model, formats
from gptfast.model.folder import load_model, save_description, save_weights
from gptfast.tokenizer import BPETokenizer, CharTokenizer
from gptfast.train.config import load_preset

transformers = pytest.importorskip("transformers")

TINY = ModelConfig(300, "gpt", 32, 3, 4, 48)


def their_model(config: ModelConfig) -> torch.nn.Module:
    theirs = transformers.GPT2Config(
        vocab_size=config.vocab_size, n_positions=config.block_size, n_embd=config.n_embd,
        n_layer=config.n_layer, n_head=config.n_head,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(theirs).eval()


@pytest.mark.parametrize(
    ("preset", "published"),
    [("gpt2-124m", 124_439_808), ("gpt2-350m", 354_823_168),
     ("gpt2-774m", 774_030_080), ("gpt2-1558m", 1_557_611_200)],
)  # fmt: skip
def test_gpt2_presets_have_gpt2s_tensors(preset: str, published: int) -> None:
    config = load_preset(preset)
    with torch.device("meta"):
        ours = build_model(config.model)
        theirs = their_model(config.model)
    assert ours.n_parameters() == published == sum(p.numel() for p in theirs.parameters())
    their_shapes = {n: t.shape for n, t in theirs.state_dict().items() if n != "lm_head.weight"}
    stored = formats.to_stored(ours.config, ours.state_dict())
    assert {n: t.shape for n, t in stored.items()} == their_shapes


LLAMA = ModelConfig(
    300, "gpt", 32, 3, 4, 48, n_kv_head=2, norm="rmsnorm", norm_eps=1e-6, bias=False,
    positions="rotary", rope_theta=500.0, activation="swiglu", n_hidden=80, tie_embeddings=False,
)  # fmt: skip
LLAMAS = {
    "llama": LLAMA,
    "biases": replace(LLAMA, bias=True, tie_embeddings=True),
    "yarn": replace(LLAMA, block_size=128, rope_scaling="yarn", rope_factor=4.0),
}
MISTRAL = replace(LLAMA, sliding_window=7)
MIXTRAL = replace(LLAMA, n_expert=4, n_expert_active=2, n_hidden=40)
MIXTRALS = {"mixtral": MIXTRAL, "window": replace(MIXTRAL, sliding_window=7, n_expert_active=3)}
MODELS = {
    "gpt2": TINY,
    "exact gelu": replace(TINY, activation="gelu_exact"),
    **LLAMAS,
    "mistral": MISTRAL,
    **MIXTRALS,
}


def shaken(theirs: torch.nn.Module) -> torch.nn.Module:
    """Biases are zero, gains one and matrices small at initialisation: nothing to tell apart."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return theirs.eval()


def their_twin(config: ModelConfig) -> torch.nn.Module:
    """transformers' model of a configuration, by its own reading of our config.json."""
    kind = transformers.AutoConfig.for_model(**formats.describe(config))
    return shaken(transformers.AutoModelForCausalLM.from_config(kind))


@pytest.mark.parametrize("name", MODELS)
def test_logits_agree_for_the_same_random_weights(name: str, tmp_path: Path) -> None:
    config = MODELS[name]
    theirs = their_twin(config)
    theirs.save_pretrained(tmp_path)
    BPETokenizer.train(["some text"], 300).save(tmp_path)
    ours, _ = load_model(tmp_path)
    assert ours.config == config
    ids = torch.randint(300, (2, config.block_size))
    with torch.no_grad():
        expected = theirs(ids).logits
        assert expected.std() > 0.3
        torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=0)
        loss = ours(ids[:, :-1], ids[:, 1:])
        torch.testing.assert_close(loss, theirs(ids, labels=ids).loss, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_each_is_stored_as_what_it_is(name: str) -> None:
    kind = {"exact gelu": "gpt2", "biases": "llama", "yarn": "llama", "window": "mixtral"}.get(
        name, name
    )
    assert formats.describe(MODELS[name])["model_type"] == kind


@pytest.mark.parametrize("name", MODELS)
def test_transformers_loads_what_we_save(name: str, tmp_path: Path) -> None:
    config = MODELS[name]
    tokenizer = BPETokenizer.train(["a rose is a rose is a rose. " * 30], 265)
    ours = shaken(GPT(config))
    save_description(tmp_path, config, tokenizer)
    save_weights(ours, tmp_path / "model.safetensors")
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert theirs.num_parameters() == ours.n_parameters()
    ids = torch.randint(300, (2, config.block_size))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    their_tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = "a rose is not a nose"
    assert their_tokenizer(text)["input_ids"] == tokenizer.encode_ordinary(text)
    again, _ = load_model(tmp_path)
    for parameter, loaded in zip(ours.parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter, loaded)


def test_the_balance_loss_of_one_layer_is_transformers_over_the_experts_of_a_token() -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    config = replace(MIXTRAL, expert_balance_rate=1.0, n_layer=1)
    model = shaken(GPT(config)).train()
    router_logits = []
    moe = model.experts()[0]
    moe.router.register_forward_hook(lambda _m, _i, out: router_logits.append(out))
    ids = torch.randint(300, (2, 32))
    with_balance = model(ids, ids)
    theirs = load_balancing_loss_func(tuple(router_logits), num_experts=4, top_k=2)
    torch.testing.assert_close(moe.balance_loss, theirs / 2)
    assert moe.balance_loss > 1.001  # else the choice would be even, and any formula would do
    torch.testing.assert_close(with_balance - model.eval()(ids, ids), theirs / 2)


def test_logits_agree_at_gpt2_124m_size() -> None:
    config = load_preset("gpt2-124m")
    config_124m = config.model
    torch.manual_seed(0)
    theirs = their_model(config_124m)
    ours = GPT(config_124m).eval()
    state = formats.from_stored(config_124m, ours.state_dict(), theirs.state_dict())
    ours.load_state_dict(state)
    ids = torch.randint(50257, (1, 24))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = BPETokenizer.train(["a rose is a rose is a rose. " * 30], 265)
    config = ModelConfig(tokenizer.n_vocab, "gpt", 32, 2, 2, 16)
    torch.manual_seed(0)
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_description(tmp_path / "model", config, tokenizer)
    save_weights(model, tmp_path / "model" / "model.safetensors")
    return tmp_path / "model"


@pytest.mark.parametrize("architecture", ["bigram", "average", "head", "multihead"])
def test_the_other_rungs_come_back_as_they_were(tmp_path: Path, architecture: str) -> None:
    tokenizer = CharTokenizer.train("abcdefgh\n")
    config = ModelConfig(tokenizer.n_vocab, architecture, 8, 1, 1, 16)
    model = build_model(config).eval()
    save_description(tmp_path, config, tokenizer)
    save_weights(model, tmp_path / "model.safetensors")
    again, _ = load_model(tmp_path)
    assert again.config == config
    ids = torch.randint(tokenizer.n_vocab, (2, 8))
    assert torch.equal(again(ids), model(ids))


OWN = {
    "rmsnorm alone": replace(TINY, norm="rmsnorm"),
    "qk_norm": replace(TINY, qk_norm=True),
    "qk_norm and biases": replace(LLAMA, qk_norm=True, qkv_bias=True),
    "wide heads": replace(TINY, head_dim=16),
    "window": replace(LLAMA, sliding_window=4, global_every=2),
    "ntk": replace(LLAMA, rope_scaling="ntk", rope_factor=2.0),
    "bias-balanced experts": replace(MIXTRAL, expert_balance="bias"),
    "softcap": replace(TINY, logit_softcap=15.0),
}


@pytest.mark.parametrize("name", OWN)
def test_what_no_format_of_theirs_expresses_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    config, tokenizer = OWN[name], BPETokenizer.train(["some text"], 258)
    model = shaken(GPT(config))
    for moe in model.experts():
        moe.bias_E.add_(torch.randn(4))
    save_description(tmp_path, config, tokenizer)
    save_weights(model, tmp_path / "model.safetensors")
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "gptfast"
    again, _ = load_model(tmp_path)
    assert again.config == config
    ids = torch.randint(300, (2, 32))
    assert torch.equal(again(ids), model(ids))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"mlp_bias": True}, "mlp_bias True"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1.0}}, "rope_type 'linear'"),
        (
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 9.0,
                    "factor": 8.0,
                    "low_freq_factor": 2.0,
                }
            },
            "low_freq_factor 2.0",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"num_key_value_heads": 3}, "can't share n_kv_head 3"),
    ],
)
def test_llamas_that_we_cant_compute_are_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    save_description(tmp_path, LLAMA, BPETokenizer.train(["some text"], 258))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


def test_gpt2s_context_is_under_the_name_that_llama_cpps_converter_reads() -> None:
    described = formats.describe(TINY)
    assert described["n_ctx"] == described["n_positions"] == TINY.block_size


def test_why_transformers_lacks_a_model_names_its_fields() -> None:
    for config in MODELS.values():
        assert formats.why_not_transformers(config) is None
    why = formats.why_not_transformers(replace(LLAMA, qk_norm=True, logit_softcap=15.0))
    assert why == "Qwen3ForCausalLM, the closest, lacks logit_softcap 15.0"
    why = formats.why_not_transformers(replace(MIXTRAL, expert_balance="bias"))
    assert why == "MixtralForCausalLM, the closest, lacks expert_balance 'bias'"
    for config in OWN.values():
        assert formats.why_not_transformers(config) is not None


def test_a_llama_described_by_an_older_transformers_is_read() -> None:
    described = formats.describe(LLAMAS["yarn"])
    del described["rope_parameters"]
    assert formats.parse(described) == LLAMAS["yarn"]


def test_an_older_transformers_finds_the_rotary_base_and_yarn_where_it_looks_for_them() -> None:
    """At the top. (All of MODELS were compared with 4.57.3 on 2026-11-26: within 3e-6.)"""
    described = formats.describe(LLAMAS["yarn"])
    assert described["rope_theta"] == 500.0
    assert described["rope_scaling"] == {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
    }  # fmt: skip
    assert described["head_dim"] == 12
    assert "rope_scaling" not in formats.describe(MIXTRAL)


def described_by_transformers(**settings: Any) -> dict[str, Any]:
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=64, **settings,
    )  # fmt: skip
    described: dict[str, Any] = config.to_dict()
    return described


def test_the_first_name_of_rope_type_is_known() -> None:
    old = described_by_transformers()
    del old["rope_parameters"]
    old["rope_theta"] = 10_000.0
    scaled = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    read = formats.parse(old | {"rope_scaling": scaled})
    assert (read.rope_scaling, read.rope_factor) == ("yarn", 4.0)
    for kind in ("linear", "dynamic"):
        with pytest.raises(UserError, match=f"has rope_type '{kind}'"):
            formats.parse(old | {"rope_scaling": {"type": kind, "factor": 4.0}})


def test_yarn_counts_turns_in_the_context_that_the_folder_names() -> None:
    """Without the key, YaRN's context of the training is all of the model's for transformers."""
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0}
    described = described_by_transformers(rope_parameters=dict(rope))
    assert described["rope_parameters"]["original_max_position_embeddings"] == 64
    for read in (described, described | {"rope_parameters": rope}):
        config = formats.parse(read)
        assert (config.block_size, config.rope_factor, config.original_context) == (64, 4.0, 64)
        assert formats.parse(formats.describe(config)) == config


def test_a_gpt2_without_its_head_has_no_prefix(tmp_path: Path) -> None:
    theirs = shaken(their_model(TINY))
    theirs.transformer.save_pretrained(tmp_path)
    BPETokenizer.train(["some text"], 300).save(tmp_path)
    ours, _ = load_model(tmp_path)
    ids = torch.randint(300, (2, 32))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)


def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    ours = shaken(GPT(LLAMAS["llama"]))
    save_description(tmp_path, ours.config, BPETokenizer.train(["few ids"], 257))
    save_weights(ours, tmp_path / "model.safetensors")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 1
    again, _ = load_model(tmp_path)
    for parameter, loaded in zip(ours.parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter, loaded)
    files[0].unlink()
    with pytest.raises(MissingFileError, match=f"no {files[0].name} in"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="is not an index of weights"):
        load_model(tmp_path)


def test_damaged_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no model in"):
        load_model(tmp_path / "nothing")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(UserError, match="not a complete safetensors file"):
        load_model(folder)
    # 2 blocks of 12 tensors, 2 embeddings, a norm's 2: all missing, and one too much.
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    expected = (
        r"does not fit its config\.json: wte\.weight is missing \(tensors that don't fit: 29\)"
    )
    with pytest.raises(UserError, match=expected) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    other = GPT(ModelConfig(264, "gpt", 16, 2, 2, 16))
    save_weights(other, folder / "model.safetensors")
    expected = (
        r"wpe\.weight has the shape \(16, 16\) instead of \(32, 16\) \(tensors that don't fit: 1\)"
    )
    with pytest.raises(UserError, match=expected):
        load_model(folder)
    BPETokenizer.train(["more and more ids are made of this"], 270).save(folder)
    with pytest.raises(UserError, match="they don't belong together"):
        load_model(folder)
    BPETokenizer.train(["too few"], 257).save(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match="no weights at"):
        load_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    with pytest.raises(UserError, match="describes a 'mamba' model"):
        load_model(folder)
    for key, value in [("activation_function", "relu"), ("scale_attn_weights", False)]:  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(UserError, match=f"has {key} .*: gptfast has only"):
            load_model(folder)
    (folder / "config.json").write_text(json.dumps(config | {"n_head": 0}))
    with pytest.raises(UserError, match="n_head is 0: expected at least 1"):
        load_model(folder)
    llama = formats.describe(LLAMA)
    (folder / "config.json").write_text(json.dumps(llama | {"num_attention_heads": 0}))
    with pytest.raises(UserError, match="num_attention_heads is 0: expected more than 0"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps(llama | {"rope_parameters": ["yarn"]}))
    with pytest.raises(UserError, match="is not a model's configuration"):
        load_model(folder)
    (folder / "config.json").write_bytes(b"\xff")
    with pytest.raises(UserError, match="is not a model's configuration"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not a model's configuration"):
        load_model(folder)
