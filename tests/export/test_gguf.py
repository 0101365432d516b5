"""What a GGUF file holds: types and bytes by the package's own reader, names, and refusals."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

from export import small_models
from export.small_models import GPT2, LLAMA
from gptfast.cli import cli
from gptfast.errors import UserError
from gptfast.export.__main__ import main
from gptfast.export.gguf import FILE_TYPES, export_gguf
from gptfast.model import GPT, ModelConfig, build_model
from gptfast.model.folder import save_description, save_weights
from gptfast.model.formats import gguf as layout
from gptfast.model.quantized import quantize
from gptfast.plan.__main__ import why_not_gguf
from gptfast.tokenizer import BPETokenizer, CharTokenizer, Roles
from gptfast.tokenizer import gguf as vocabulary
from gptfast.train.config import load_preset

gguf = pytest.importorskip("gguf")

BYTES = {bytes([byte]): byte for byte in range(256)}


def read(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys with their values, and tensors, as the package's own reader finds them."""
    reader = gguf.GGUFReader(file)
    return {k: f.contents() for k, f in reader.fields.items()}, {t.name: t for t in reader.tensors}


def plain_tokenizer(n_vocab: int = 300) -> BPETokenizer:
    """Without merges, so that there is nothing to train; most of its ids stand for nothing."""
    return BPETokenizer(BYTES, special_tokens={"<|endoftext|>": n_vocab - 1})


def export(folder: Path, model: GPT, kind: str = "f32", tokenizer: Any = None) -> Path:
    tokenizer = tokenizer or plain_tokenizer(model.config.vocab_size)
    small_models.write_folder(folder / "m", model, tokenizer)
    export_gguf(folder / "m", folder / f"{kind}.gguf", kind)
    return folder / f"{kind}.gguf"


@pytest.mark.parametrize("kind", FILE_TYPES)
@pytest.mark.parametrize("config", [GPT2, replace(GPT2, tie_embeddings=False)])
def test_matrices_are_the_bytes_of_the_reference(
    tmp_path: Path, kind: str, config: ModelConfig
) -> None:
    model = small_models.with_large_weights(config)
    keys, tensors = read(export(tmp_path, model, kind))
    assert keys["general.file_type"] == FILE_TYPES[kind]
    head = "token_embd.weight" if config.tie_embeddings else "output.weight"
    ours = {
        "token_embd.weight": model.wte.weight,
        "position_embd.weight": model.wpe.weight,
        "blk.1.attn_qkv.weight": model.h[1].attn.c_attn.weight,
        "blk.0.ffn_down.weight": model.h[0].mlp.c_proj.weight,
        "blk.0.ffn_down.bias": model.h[0].mlp.c_proj.bias,
        "output_norm.weight": model.ln_f.weight,
        head: model.head_VC,
    }
    for name, weight in ours.items():
        wanted = kind
        if name == "position_embd.weight" or weight.ndim == 1:
            wanted = "f32"
        elif name in ("token_embd.weight", head) and kind in ("q4_0", "q4_1", "q5_0", "q5_1"):
            wanted = "q8_0"
        stored = tensors[name]
        expected = gguf.GGMLQuantizationType[wanted.upper()]
        assert stored.tensor_type == expected
        assert tuple(stored.shape[::-1]) == weight.shape
        bytes_of = gguf.quants.quantize(weight.detach().numpy(), expected)
        assert stored.data.tobytes() == bytes_of.tobytes()


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("name", ["gpt2", "mixtral", "llama-biases"])
def test_a_quantized_folders_blocks_are_written_byte_for_byte(
    tmp_path: Path, precision: Any, name: str
) -> None:
    """Rounding is the reference's, so that exporting the floats gives the same file."""
    model = small_models.with_large_weights(small_models.CONFIGS[name])
    floats = export(tmp_path, model, {"int8": "q8_0", "int4": "q4_0"}[precision])
    quantized, folder = quantize(model, precision), tmp_path / "int" / "m"
    save_description(folder, model.config, plain_tokenizer(), precision)
    save_weights(quantized, folder / "model.safetensors")
    export_gguf(folder, tmp_path / "blocks.gguf")
    assert (tmp_path / "blocks.gguf").read_bytes() == floats.read_bytes()
    with pytest.raises(UserError, match=f"is in {precision}: leave out --type"):
        export_gguf(folder, tmp_path / "f32.gguf", "f32")


def test_a_bfloat16_folder_stays_bfloat16(tmp_path: Path) -> None:
    model = small_models.with_large_weights(GPT2)
    floats = export(tmp_path, model, "bf16")
    folder = tmp_path / "narrow" / "m"
    save_description(folder, GPT2, plain_tokenizer(), "bf16")
    save_weights(quantize(model, "bf16"), folder / "model.safetensors")
    export_gguf(folder, tmp_path / "narrow.gguf")
    _, before = read(floats)
    _, after = read(tmp_path / "narrow.gguf")
    for key, tensor in before.items():
        if tensor.tensor_type.name == "BF16":  # the others were rounded to bfloat16, too
            assert after[key].data.tobytes() == tensor.data.tobytes()
        assert after[key].tensor_type == tensor.tensor_type


def test_rows_that_are_no_multiple_of_a_block_stay_float16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_models.with_large_weights(ModelConfig(300, "gpt", 16, 1, 2, 40, n_hidden=96))
    _, tensors = read(export(tmp_path, model, "q8_0"))
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors.items()}
    assert kinds["blk.0.attn_qkv.weight"] == kinds["token_embd.weight"] == "F16"
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert "tensors that stay f16" in capsys.readouterr().out


def test_queries_and_keys_are_reordered_by_hand(tmp_path: Path) -> None:
    """llama.cpp's channels 2 p and 2 p + 1 are ours p and p + D / 2, for each head."""
    model = small_models.with_large_weights(replace(LLAMA, bias=True))
    _, tensors = read(export(tmp_path, model))
    rows = model.h[0].attn.c_attn.weight.detach().numpy()
    bias = model.h[0].attn.c_attn.bias.detach().numpy()
    D, H, G = LLAMA.head_width, LLAMA.n_head, LLAMA.key_value_heads
    for name, n_heads, start in (("attn_q", H, 0), ("attn_k", G, H * D)):
        order = [start + h * D + p + half * D // 2
                 for h in range(n_heads) for p in range(D // 2) for half in range(2)]  # fmt: skip
        np.testing.assert_array_equal(tensors[f"blk.0.{name}.weight"].data, rows[order])
        np.testing.assert_array_equal(tensors[f"blk.0.{name}.bias"].data, bias[order])
    np.testing.assert_array_equal(tensors["blk.0.attn_v.weight"].data, rows[(H + G) * D :])


def test_gguf_keys_of_a_mixture_of_experts(tmp_path: Path) -> None:
    model = small_models.with_large_weights(small_models.CONFIGS["mixtral"])
    keys, tensors = read(export(tmp_path, model, "q4_0"))
    assert {k: v for k, v in keys.items() if k.startswith(("llama.", "general."))} == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "m",
        "general.file_type": 2,
        "general.quantization_version": 2,
        "general.size_label": "4x101K",  # 63,808 shared and 36,864 of an expert
        "llama.context_length": 64,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "llama.vocab_size": 300,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10_000.0,
        "llama.expert_count": 4,
        "llama.expert_used_count": 2,
    }
    gates = model.h[1].mlp.c_fc[:, :96].detach().numpy()
    stored = tensors["blk.1.ffn_gate_exps.weight"]
    assert stored.data.tobytes() == gguf.quants.quantize(gates, stored.tensor_type).tobytes()
    assert tensors["blk.1.ffn_gate_inp.weight"].tensor_type.name == "F32"


def test_a_tokenizers_keys(tmp_path: Path, nursery_text: str) -> None:
    tokenizer = small_models.bpe("llama3", nursery_text)
    keys, _ = read(export(tmp_path, GPT(replace(GPT2, vocab_size=310)), "f32", tokenizer))
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    written = tokenizer.to_json()["model"]  # as Hugging Face spells it
    assert tokens == sorted(written["vocab"], key=written["vocab"].__getitem__)
    assert keys["tokenizer.ggml.merges"] == [" ".join(pair) for pair in written["merges"]]
    end, user, b = (tokenizer.token_to_id(t) for t in ("<|endoftext|>", "<|user|>", "<b> "))
    assert {i: kind for i, kind in enumerate(types) if kind != 1} == {end: 3, user: 3, b: 4}
    found = {k: v for k, v in keys.items() if k.endswith(("_token_id", "pre", "bos_token"))}
    assert found == {
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.bos_token_id": end,
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.padding_token_id": end,
        "tokenizer.ggml.eot_token_id": user,
        "tokenizer.ggml.add_bos_token": False,
    }


def test_ids_without_a_token_are_unused(tmp_path: Path) -> None:
    keys, _ = read(export(tmp_path, GPT(GPT2)))
    types = keys["tokenizer.ggml.token_type"]
    assert types == [1] * 256 + [5] * 43 + [3]
    assert len(set(keys["tokenizer.ggml.tokens"])) == 300


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ("{{ a }}", "{{ a }}"),
        ([{"name": "tools", "template": "b"}, {"name": "default", "template": "c"}], "c"),
        ([{"name": "tools", "template": "b"}, "d"], None),
        (None, None),
    ],
)
def test_a_folders_chat_template_is_in_the_file(tmp_path: Path, stored: Any, found: Any) -> None:
    folder = small_models.write_folder(tmp_path / "m", GPT(GPT2), plain_tokenizer())
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": stored}))
    export_gguf(folder, tmp_path / "a.gguf")
    assert read(tmp_path / "a.gguf")[0].get("tokenizer.chat_template") == found
    (folder / "chat_template.jinja").write_text("{{ é }}", encoding="utf-8")  # comes first
    export_gguf(folder, tmp_path / "b.gguf")
    assert read(tmp_path / "b.gguf")[0]["tokenizer.chat_template"] == "{{ é }}"


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (replace(GPT2, norm="rmsnorm"), ["norm 'rmsnorm'"]),
        (replace(GPT2, positions="rotary"), ["norm 'layernorm'", "activation 'gelu'"]),
        (replace(GPT2, activation="gelu_exact"), ["activation 'gelu_exact'"]),
        (replace(LLAMA, activation="relu2"), ["activation 'relu2'"]),
        (replace(GPT2, positions="none"), ["positions is 'none'"]),
        (replace(GPT2, qk_norm=True), ["qk_norm True"]),
        (replace(GPT2, head_dim=24), ["head_dim 24"]),
        (replace(LLAMA, qkv_bias=True, head_dim=24), ["head_dim 24", "Qwen 2"]),
        (replace(LLAMA, qk_norm=True, bias=True), ["bias True", "Qwen 3"]),
        (replace(LLAMA, nope_every=3), ["nope_every 3", "SmolLM 3"]),
        (
            replace(LLAMA, qk_norm=True, rope_scaling="llama3", rope_factor=2.0),
            ["rope_scaling is 'llama3'", "Qwen 3"],
        ),
        (replace(LLAMA, logit_softcap=15.0), ["logit_softcap 15.0"]),
        (replace(GPT2, max_ngram=2), ["max_ngram 2"]),
        (replace(GPT2, embedding_norm=True), ["embedding_norm True"]),
        (replace(GPT2, n_expert=4, bias=False), ["n_expert 4"]),
        (replace(LLAMA, n_expert=4, expert_balance="bias"), ["expert_balance is 'bias'"]),
        (replace(LLAMA, sliding_window=32), ["sliding_window is 32"]),
        (replace(LLAMA, sliding_window=32, global_every=2), ["sliding_window is 32"]),
        (ModelConfig(300, architecture="bigram"), ["architecture is 'bigram'"]),
    ],
)
def test_what_llama_cpp_cant_compute_is_refused_before_training_and_after(
    tmp_path: Path, config: ModelConfig, fields: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    small_models.write_folder(tmp_path / "m", build_model(config), plain_tokenizer())
    assert cli.run(main, ["gguf", str(tmp_path / "m"), "--out", str(tmp_path / "a.gguf")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(field in error for field in fields)
    assert not (tmp_path / "a.gguf").exists()
    why = why_not_gguf(replace(load_preset("shakespeare-cpu"), model=config))
    assert why is not None
    assert why in error


def test_the_plan_allows_what_can_be_exported(tmp_path: Path) -> None:
    preset = load_preset("shakespeare-cpu")
    for config in small_models.CONFIGS.values():
        assert why_not_gguf(replace(preset, model=config)) is None
    plain_tokenizer().save(tmp_path / "good")
    BPETokenizer(BYTES, "o200k").save(tmp_path / "other")
    assert why_not_gguf(replace(preset, tokenizer=str(tmp_path / "good"))) is None
    why = why_not_gguf(replace(preset, tokenizer=str(tmp_path / "other")))
    assert why is not None
    assert "pattern is 'o200k'" in why


@pytest.mark.parametrize(
    ("tokenizer", "why"),
    [
        (BPETokenizer(BYTES, "none"), "pattern is 'none'"),
        (BPETokenizer(BYTES, r"\w+|\W+"), "pattern is"),
        (CharTokenizer("ab", ["<unk>"], Roles(unk="<unk>")), "unk is '<unk>'"),
        (BPETokenizer(BYTES, special_tokens={"<ab": 256, "b>": 257}), "'<ab' and 'b>' overlap"),
        (BPETokenizer(BYTES, "llama3", {"end": 256}), "'end' is a whole pre-token"),
        (BPETokenizer(BYTES, "qwen2", normalizer={"type": "NFKC"}), "normalizer .*NFKC"),
        (BPETokenizer(BYTES, "qwen2", {"e\u0301": 256}, normalizer=vocabulary.NFC), "not in NFC"),
    ],
)
def test_tokenizers_that_llama_cpp_lacks_are_refused(
    tmp_path: Path, tokenizer: Any, why: str
) -> None:
    small_models.write_folder(tmp_path / "m", GPT(GPT2), tokenizer)
    with pytest.raises(UserError, match=why):
        export_gguf(tmp_path / "m", tmp_path / "a.gguf")


def test_nfc_is_left_out_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nursery_text: str
) -> None:
    plain = small_models.bpe("qwen2", nursery_text)
    ours = BPETokenizer(
        plain.mergeable_ranks, "qwen2", None, plain.added_tokens, normalizer=vocabulary.NFC
    )
    keys, _ = read(export(tmp_path, GPT(GPT2), "f32", ours))
    assert keys["tokenizer.ggml.pre"] == "qwen2"
    assert "note: llama.cpp normalizes no text: give it text in NFC" in capsys.readouterr().out
    again = vocabulary.from_metadata(keys)
    normalizer = tokenizers.normalizers.NFC()
    for text in small_models.hostile_texts(100):
        assert again.encode(normalizer.normalize_str(text)) == ours.encode(text)


def test_the_folder_is_made(tmp_path: Path) -> None:
    small_models.write_folder(tmp_path / "m", GPT(GPT2), plain_tokenizer())
    export_gguf(tmp_path / "m", tmp_path / "new" / "folder" / "a.gguf")
    assert (tmp_path / "new" / "folder" / "a.gguf").is_file()


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    file = export(tmp_path, GPT(GPT2))
    before = file.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        export_gguf(tmp_path / "m", file)
    assert file.read_bytes() == before


def test_a_folder_whose_name_is_not_utf8_gives_a_name_that_is(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        small_models.write_folder(folder, GPT(GPT2), plain_tokenizer())
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    export_gguf(folder, tmp_path / "a.gguf")
    assert read(tmp_path / "a.gguf")[0]["general.name"] == r"caf\udce9"


def test_a_weight_beyond_float16_is_refused(tmp_path: Path) -> None:
    model = GPT(GPT2)
    with torch.no_grad():
        model.h[0].mlp.c_fc.weight[3, 4] = 1e5
    with pytest.raises(UserError, match=r"blk\.0\.ffn_up\.weight holds 1e\+05, .* --type bf16"):
        export(tmp_path, model, "f16")
    assert not (tmp_path / "f16.gguf").exists()
    export(tmp_path, model, "bf16")


def test_characters_get_an_end_token_that_is_hardly_ever_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chars = small_models.characters()
    model = small_models.with_large_weights(replace(GPT2, vocab_size=chars.n_vocab))
    keys, tensors = read(export(tmp_path, model, "f32", chars))
    assert keys["tokenizer.ggml.tokens"][-1] == "<|endoftext|>"
    assert keys["tokenizer.ggml.eos_token_id"] == chars.n_vocab
    assert len(tensors["token_embd.weight"].data) == chars.n_vocab + 1
    out = capsys.readouterr().out
    assert "an end token was added" in out
    assert re.search(r"its probability was at most \S+ on [\d,]+ tokens of the model's own", out)
    assert f"not among the {chars.n_vocab} characters" in out


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=r'pip install "gptfast\[gguf\]"'):
        export_gguf(tmp_path, tmp_path / "a.gguf")


def test_metadata_is_plain_json(nursery_text: str) -> None:
    """Only values that a file can hold: no numpy numbers, no None."""
    tokenizer = small_models.bpe("gpt2", nursery_text)
    found = {**layout.to_metadata(LLAMA), **vocabulary.to_metadata(tokenizer)}
    assert None not in found.values()
    assert json.loads(json.dumps(found)) == found
