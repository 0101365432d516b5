"""GGUF files become model folders with the same weights, and hostile ones become one line."""

from __future__ import annotations

import random
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import small_models
from export.small_models import GPT2, LLAMA
from gptfast.cli import cli
from gptfast.convert.__main__ import main
from gptfast.convert.gguf import load_gguf
from gptfast.errors import MissingFileError, UserError
from gptfast.export.gguf import export_gguf
from gptfast.model import GPT, ModelConfig
from gptfast.model.folder import load_model
from gptfast.tokenizer import BPETokenizer, Roles, Tokenizer

gguf = pytest.importorskip("gguf")

BYTES = {bytes([byte]): byte for byte in range(256)}
END = BPETokenizer(BYTES, special_tokens={"<|endoftext|>": 256})
TINY = replace(GPT2, vocab_size=257, n_embd=32, n_layer=1, block_size=8)


def there_and_back(folder: Path, model: GPT, tokenizer: Tokenizer, kind: str = "f32") -> Path:
    """Export a model as m.gguf, and import it as back/m."""
    small_models.write_folder(folder / "m", model, tokenizer)
    export_gguf(folder / "m", folder / "m.gguf", kind)
    assert main(["gguf", str(folder / "m.gguf"), "--out", str(folder / "back" / "m")]) == 0
    return folder / "back" / "m"


@pytest.mark.parametrize("name", small_models.CONFIGS)
def test_a_round_trip_changes_nothing(tmp_path: Path, name: str, nursery_text: str) -> None:
    config = small_models.CONFIGS[name]
    tokenizer = small_models.bpe("llama3", nursery_text, 300)
    back = there_and_back(tmp_path, small_models.with_large_weights(config), tokenizer)
    (model, _), (model_back, tokenizer_back) = load_model(tmp_path / "m"), load_model(back)
    assert tokenizer_back == tokenizer
    assert tokenizer_back.roles == tokenizer.roles
    before, after = model.state_dict(), model_back.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():  # padding stays behind
        is_table = key in ("lm_head.weight", "wte.weight")
        assert torch.equal(after[key], value[: tokenizer.n_vocab] if is_table else value)
    same: dict[str, Any] = {"vocab_size": 300, "sliding_window": None}
    if config.rope_scaling == "ntk":  # which is nothing but a larger base
        theta = config.rope_theta * 4 ** (16 / 14)
        same |= {"rope_scaling": "none", "rope_factor": 1.0, "rope_theta": pytest.approx(theta)}
    assert vars(model_back.config) == vars(config) | same
    export_gguf(back, tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


def test_a_model_of_characters_comes_back_with_its_end_token(tmp_path: Path) -> None:
    chars = small_models.characters()
    model = small_models.with_large_weights(replace(TINY, vocab_size=chars.n_vocab))
    back, tokenizer = load_model(there_and_back(tmp_path, model, chars))
    text = small_models.CHARACTERS
    assert tokenizer.encode(text) == chars.encode(text)
    assert tokenizer.special_tokens == {"<|endoftext|>": chars.n_vocab}
    export_gguf(tmp_path / "back" / "m", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()
    ids = torch.tensor([chars.encode(text[:8])])
    torch.testing.assert_close(back(ids)[..., :-1], model(ids))


def test_roles_and_the_chat_template_come_back(tmp_path: Path) -> None:
    names = {"<s>": 256, "</s>": 257, "<pad>": 258, "<|im_end|>": 259}
    roles = Roles("<s>", "</s>", "<pad>", None, "<|im_end|>")
    tokenizer = BPETokenizer(BYTES, special_tokens=names, roles=roles)
    model = GPT(replace(TINY, vocab_size=260))
    small_models.write_folder(tmp_path / "m", model, tokenizer)
    (tmp_path / "m" / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    export_gguf(tmp_path / "m", tmp_path / "m.gguf")
    assert main(["gguf", str(tmp_path / "m.gguf"), "--out", str(tmp_path / "back")]) == 0
    assert load_model(tmp_path / "back")[1].roles == roles
    assert (tmp_path / "back" / "chat_template.jinja").read_text() == "{{ messages }}"


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0", "q5_1"])
def test_other_types_become_float32_and_say_so(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_models.with_large_weights(TINY)
    back, _ = load_model(there_and_back(tmp_path, model, END, kind))
    weight = model.h[0].mlp.c_fc.weight.detach().numpy()
    kept = gguf.GGMLQuantizationType[kind.upper()]
    expected = gguf.quants.dequantize(gguf.quants.quantize(weight, kept), kept)
    np.testing.assert_array_equal(back.state_dict()["h.0.mlp.c_fc.weight"].numpy(), expected)
    assert f"{kind.upper()} are float32 now" in capsys.readouterr().out.replace(", Q8_0", "")


def test_k_quants_are_read(tmp_path: Path) -> None:
    """The package can't write them, so the bytes are random, but for finite scales."""
    config = replace(TINY, n_embd=256, n_head=2)
    small_models.write_folder(tmp_path / "m", GPT(config), END)
    export_gguf(tmp_path / "m", tmp_path / "m.gguf")
    blocks = np.random.default_rng(0).integers(256, size=(256, 4 * 144), dtype=np.uint8)
    blocks.reshape(-1, 144)[:, 1:4:2] &= 0x3B
    kind = gguf.GGMLQuantizationType.Q4_K
    rewrite(tmp_path / "m.gguf", {"blk.0.ffn_down.weight": (blocks, kind)})
    loaded = load_gguf(tmp_path / "m.gguf")
    expected = gguf.quants.dequantize(blocks, kind)
    np.testing.assert_array_equal(loaded.state["h.0.mlp.c_proj.weight"].numpy(), expected)
    assert loaded.notes == ["weights of the type Q4_K are float32 now"]


def rewrite(file: Path, tensors: dict[str, Any], **keys: Any) -> None:
    """Write a file again by the package, with other tensors (array and type) and keys.

    A value of None removes it. Keys have __ for a dot.
    """
    reader = gguf.GGUFReader(file)
    metadata = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    metadata |= {key.replace("__", "."): value for key, value in keys.items()}
    stored = {t.name: (np.array(t.data), t.tensor_type) for t in reader.tensors} | tensors
    writer = gguf.GGUFWriter(None, metadata.pop("general.architecture"))
    for key, value in metadata.items():
        if value is not None:
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for name, tensor in stored.items():
        if tensor is not None:
            writer.add_tensor(name, tensor[0], raw_dtype=tensor[1])
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    small_models.write_folder(tmp_path / "m", GPT(TINY), END)
    export_gguf(tmp_path / "m", tmp_path / "m.gguf")
    return tmp_path / "m.gguf"


F32 = gguf.GGMLQuantizationType.F32


@pytest.mark.parametrize(
    ("keys", "tensors", "why"),
    [
        ({"general__architecture": "gemma2"}, {}, "general.architecture is 'gemma2'"),
        ({"gpt2__block_count": 2}, {}, "blk.1.*shape None"),
        ({"gpt2__block_count": 10**9}, {}, "block_count is 1000000000: it has fewer"),
        ({"gpt2__embedding_length": 64}, {}, "shape"),
        ({"gpt2__embedding_length": 2**31 - 128}, {}, "token_embd.weight has the shape"),
        ({"gpt2__context_length": 2**31 - 1}, {}, "position_embd.weight has the shape"),
        ({"gpt2__feed_forward_length": 2**31 - 1}, {}, "shape"),
        ({"gpt2__attention__head_count": 7}, {}, "n_embd 32"),
        ({"gpt2__attention__head_count": 0}, {}, "n_head is 0"),
        ({"gpt2__attention__head_count": None}, {}, "head_count is missing"),
        ({"gpt2__attention__head_count": "4"}, {}, "head_count is '4'"),
        ({"gpt2__attention__layer_norm_epsilon": float("nan")}, {}, "norm_eps is nan"),
        ({"gpt2__rope__freq_base": 1e6}, {}, "gptfast does not know this key"),
        ({"gptfast__bias": False}, {"blk.0.ffn_up.bias": (np.ones(128, "f4"), F32)}, "not zero"),
        ({"tokenizer__ggml__model": "llama"}, {}, "model is 'llama'"),
        ({"tokenizer__ggml__pre": "tekken"}, {}, "pre is 'tekken'"),
        ({"tokenizer__ggml__tokens": ["a"]}, {}, "token_type has 257 elements for 1"),
        ({"tokenizer__ggml__tokens": None}, {}, "tokens is missing"),
        ({"tokenizer__ggml__merges": ["a b"]}, {}, "a merge has the token"),
        ({"tokenizer__ggml__eos_token_id": 3}, {}, "eos_token_id is 3"),
        ({}, {"rope_freqs.weight": (np.ones(8, "f4"), F32)}, "rope_freqs.weight"),
        ({}, {"blk.0.ffn_up.bias": None}, "blk.0.ffn_up.bias has the shape None"),
        ({}, {"blk.0.ffn_up.bias": (np.ones(128, np.int32), None)}, "I32"),
    ],
)
def test_files_of_other_models_are_refused_in_one_line(
    tiny: Path, keys: dict[str, Any], tensors: dict[str, Any], why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rewrite(tiny, tensors, **keys)
    with pytest.raises(UserError, match=why):
        load_gguf(tiny)
    out = tiny.with_name("out")
    assert cli.run(main, ["gguf", str(tiny), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()


def test_a_scaling_that_gptfast_lacks_is_refused(tmp_path: Path) -> None:
    small_models.write_folder(tmp_path / "m", GPT(replace(LLAMA, vocab_size=257)), END)
    for key, value in (
        ("llama__rope__scaling__type", "linear"),
        ("llama__attention__sliding_window", 16),
        ("llama__attention__value_length", 99),
    ):
        file = tmp_path / f"{key}.gguf"
        export_gguf(tmp_path / "m", file)
        rewrite(file, {}, **{key: value})
        with pytest.raises(UserError, match=key.replace("__", r"\.")):
            load_gguf(file)


def test_the_factors_of_rotary_positions_are_llama_3s_or_refused(tmp_path: Path) -> None:
    config = replace(small_models.CONFIGS["llama-3.1"], vocab_size=257)
    small_models.write_folder(tmp_path / "m", GPT(config), END)
    file = tmp_path / "m.gguf"
    export_gguf(tmp_path / "m", file)
    factors_P = load_factors(file)
    # Turns within 24 tokens, by hand: pair p turns 24 / (2 pi 50^(p / 8)) times.
    turns_P = 24 / (2 * np.pi * 50 ** (np.arange(8) / 8))
    kept_P = np.clip((turns_P - 1) / 3, 0, 1)
    assert ((kept_P > 0) & (kept_P < 1)).any()
    np.testing.assert_allclose(factors_P, 1 / (kept_P + (1 - kept_P) / 8), rtol=1e-6)
    factors_P[2] *= 1.01
    rewrite(file, {"rope_freqs.weight": (factors_P, F32)})
    with pytest.raises(UserError, match=r"rope_freqs\.weight does not divide"):
        load_gguf(file)


def load_factors(file: Path) -> Any:
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}
    return np.array(tensors["rope_freqs.weight"])


def test_a_huge_context_takes_no_memory(tmp_path: Path) -> None:
    small_models.write_folder(tmp_path / "m", GPT(replace(LLAMA, vocab_size=257)), END)
    export_gguf(tmp_path / "m", tmp_path / "m.gguf")
    rewrite(tmp_path / "m.gguf", {}, llama__context_length=2**31 - 1)
    assert load_gguf(tmp_path / "m.gguf").model.config.block_size == 2**31 - 1


def header(*parts: int | bytes) -> bytes:
    """Magic, version 3, then numbers of 8 bytes and raw bytes."""
    data = [part if isinstance(part, bytes) else struct.pack("<Q", part) for part in parts]
    return b"GGUF" + struct.pack("<I", 3) + b"".join(data)


KEY = struct.pack("<Q", 1) + b"k"
LIST = KEY + struct.pack("<I", 9)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "only 0 bytes"),
        (b"GGUF", "only 4 bytes"),
        (b"PK\x03\x04" + bytes(40), "begins with"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), "version"),
        (header(2**63, 0), "ends at byte"),
        (header(0, 2**63), "ends at byte"),
        (header(0, 1, 2**63), "ends at byte"),
        (header(0, 1, 1, b"\xff"), "not UTF-8"),
        (header(0, 1, KEY, struct.pack("<I", 99)), "unknown type 99"),
        (header(0, 1, LIST, struct.pack("<IQ", 0, 2**62)), "ends at byte"),
        (header(0, 1, LIST, struct.pack("<IQ", 8, 2**62)), "ends at byte"),
        (header(0, 1, LIST, struct.pack("<IQ", 9, 1)) + LIST * 1000, "elements of the type 9"),
        (header(0, 2, KEY, b"\0\0\0\0a", KEY, b"\0\0\0\0a"), "twice"),
        (header(1, 0, KEY, struct.pack("<I", 2**31)), "axes"),
        (header(1, 0, KEY, struct.pack("<I4QIQ", 4, *[2**62] * 4, 0, 0)), "does not fit"),
        (header(1, 0, KEY, struct.pack("<I1QIQ", 1, 8, 0, 2**63)) + bytes(64), "does not fit"),
        (header(1, 0, KEY, struct.pack("<I1QIQ", 1, 0, 0, 0)) + bytes(64), "does not fit"),
        (header(1, 0, KEY, struct.pack("<I1QIQ", 1, 8, 999, 0)) + bytes(64), "unknown type 999"),
    ],
)
def test_headers_that_lie_are_one_line(tmp_path: Path, data: bytes, why: str) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(data)
    with pytest.raises(UserError, match=why):
        load_gguf(file)


def test_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no file"):
        load_gguf(tmp_path / "a.gguf")


def test_damaged_files_raise_nothing_but_user_errors_and_take_no_memory(tiny: Path) -> None:
    whole, rng = tiny.read_bytes(), random.Random(0)
    messages = []
    n_head = whole.index(b"blk.0.attn_norm.weight")
    load_gguf(tiny)  # what the first call imports takes memory, too
    tracemalloc.start()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(rng.choice((64, n_head, n_head + 1000)))
            damaged[at : at + rng.choice((1, 4, 8))] = rng.randbytes(rng.choice((1, 4, 8)))
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        tiny.write_bytes(damaged)
        try:
            load_gguf(tiny)
        except UserError as error:
            messages.append(str(error))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(messages) > 150
    assert not any("\n" in message for message in messages)
    assert most < 100 * len(whole)


def test_a_folder_that_holds_something_is_kept(tiny: Path) -> None:
    with pytest.raises(UserError, match="already holds something"):
        main(["gguf", str(tiny), "--out", str(tiny.with_name("m"))])


def test_the_configuration_of_a_file_is_the_shortest(tiny: Path) -> None:
    """1e-05 in float32 is 9.99...e-06 in float64."""
    assert load_gguf(tiny).model.config == ModelConfig(257, "gpt", 8, 1, 4, 32)
