"""transformers' GPT-2 as the oracle: parameter counts, shapes, logits, and the model folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gptfast.errors import MissingFileError, UserError
from gptfast.model import GPT, ModelConfig, build_model
from gptfast.model.folder import (
    gptfast_to_stored,
    load_model,
    save_description,
    save_weights,
    stored_to_gptfast,
)
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
        ours = build_model(config.model_config(config.vocab_size))
        theirs = their_model(config.model_config(config.vocab_size))
    assert ours.n_parameters() == published == sum(p.numel() for p in theirs.parameters())
    their_shapes = {n: t.shape for n, t in theirs.state_dict().items() if n != "lm_head.weight"}
    assert {n: t.shape for n, t in gptfast_to_stored(ours).items()} == their_shapes


def test_logits_agree_for_the_same_random_weights() -> None:
    torch.manual_seed(0)
    theirs = their_model(TINY)
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases are zero and gains one at initialisation
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = GPT(TINY).eval()
    ours.load_state_dict(stored_to_gptfast(ours, theirs.state_dict()))
    ids = torch.randint(300, (2, 32))
    expected = theirs(ids).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(ours.logits(ids), expected, atol=1e-4, rtol=0)
    expected_loss = theirs(ids, labels=ids).loss
    torch.testing.assert_close(ours(ids[:, :-1], ids[:, 1:]), expected_loss, atol=1e-4, rtol=0)


def test_logits_agree_at_gpt2_124m_size() -> None:
    config = load_preset("gpt2-124m")
    config_124m = config.model_config(config.vocab_size)
    torch.manual_seed(0)
    theirs = their_model(config_124m)
    ours = GPT(config_124m).eval()
    ours.load_state_dict(stored_to_gptfast(ours, theirs.state_dict()))
    ids = torch.randint(50257, (1, 24))
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ids), theirs(ids).logits, atol=1e-4, rtol=0)


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


def test_transformers_loads_our_folder(folder: Path) -> None:
    ours, tokenizer = load_model(folder)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    their_tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    text = "a rose is not a nose"
    ids = tokenizer.encode_ordinary(text)
    assert their_tokenizer(text)["input_ids"] == ids
    logits = theirs.eval()(torch.tensor([ids])).logits
    torch.testing.assert_close(ours.logits(torch.tensor([ids])), logits, atol=1e-4, rtol=0)


def test_we_load_a_folder_that_transformers_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = their_model(TINY)
    theirs.save_pretrained(tmp_path)
    BPETokenizer.train(["some text"], 300).save(tmp_path)
    ours, _ = load_model(tmp_path)
    ids = torch.randint(300, (1, 20))
    torch.testing.assert_close(ours.logits(ids), theirs(ids).logits, atol=1e-4, rtol=0)


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
    assert torch.equal(again.logits(ids), model.logits(ids))


def test_damaged_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no model in"):
        load_model(tmp_path / "nothing")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_model(folder)
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"does not fit its config\.json"):
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
    for key, value in [("activation_function", "relu"), ("layer_norm_epsilon", 0.5),
                       ("n_inner", 7), ("tie_word_embeddings", False)]:  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(UserError, match=f"has {key} .*: gptfast has only"):
            load_model(folder)
    (folder / "config.json").write_bytes(b"\xff")
    with pytest.raises(UserError, match="is not a model's configuration"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not a model's configuration"):
        load_model(folder)
