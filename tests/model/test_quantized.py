"""Quantized models against the float model whose weights went through the `gguf` package."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, quants
from safetensors.torch import load_file, save_file

from allocations import largest_and_peak
from gptfast import LLM
from gptfast.errors import UserError
from gptfast.model import LanguageModel, ModelConfig, build_model
from gptfast.model.finite import check_weights
from gptfast.model.folder import (
    load_float_model,
    load_model,
    save_description,
    save_weights,
)
from gptfast.model.quantized import Blocks, float_matrices, quantize
from gptfast.ops import use_backend
from gptfast.tokenizer import CharTokenizer
from gptfast.train.__main__ import parse_config
from gptfast.train.init_from import with_init

TYPES = {"q8_0": GGMLQuantizationType.Q8_0, "q4_0": GGMLQuantizationType.Q4_0}
GPT2 = ModelConfig(37, "gpt", 24, 2, 2, 64)
LLAMA = replace(
    GPT2, n_kv_head=1, norm="rmsnorm", bias=False, positions="rotary", activation="swiglu",
    n_hidden=96, tie_embeddings=False,
)  # fmt: skip
CONFIGS = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "mixtral": replace(LLAMA, n_expert=4),
    "speedrun": replace(GPT2, max_ngram=3, ngram_rows=50, logit_softcap=15.0, qk_norm=True),
    "untied": replace(GPT2, tie_embeddings=False, positions="none"),
}
EVERY = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
IN_BLOCKS = pytest.mark.parametrize("precision", ["int8", "int4"])
PRECISIONS = pytest.mark.parametrize("precision", ["int8", "int4", "bf16"])


def model_of(config: ModelConfig) -> LanguageModel:
    torch.manual_seed(0)
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def ids_of(config: ModelConfig) -> torch.Tensor:
    return torch.randint(config.vocab_size, (2, 20), generator=torch.Generator().manual_seed(1))


def save(folder: Path, model: LanguageModel, precision: str | None = None) -> Path:
    letters = "".join(chr(ord("A") + i) for i in range(model.config.vocab_size))
    save_description(folder, model.config, CharTokenizer.train(letters), precision)
    save_weights(model, folder / "model.safetensors")
    return folder


def through_gguf(model: LanguageModel, precision: str) -> LanguageModel:
    """A copy of the model whose matrices the `gguf` package quantized and dequantized."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if parameter.ndim < 2 or name == "wpe.weight" or "router" in name:
                continue
            is_table = name.split(".")[0] in ("wte", "wne", "lm_head")
            kind = TYPES["q8_0" if precision == "int8" or is_table else "q4_0"]
            blocks = quants.quantize(parameter.numpy(), kind)
            parameter.copy_(torch.tensor(quants.dequantize(blocks, kind)))
    return copied


@EVERY
@IN_BLOCKS
def test_a_quantized_model_computes_what_its_blocks_stand_for(
    config: ModelConfig, precision: str
) -> None:
    model, ids = model_of(config), ids_of(config)
    expected = through_gguf(model, precision)
    n = model.n_parameters()
    quantized = quantize(model, precision)
    assert quantized.n_parameters() == n
    assert float_matrices(quantized) == []
    with use_backend("torch"):  # the Rust kernels round activations, too
        torch.testing.assert_close(quantized(ids), expected(ids), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(quantized(ids, ids), expected(ids, ids), rtol=1e-5, atol=1e-5)
        cache = quantized.new_cache(1)
        quantized.prefill(ids[0, :12].tolist(), cache, 0)
        logits = [quantized.step([token], cache, [0])[0] for token in ids[0, 12:].tolist()]
    torch.testing.assert_close(torch.stack(logits), expected(ids)[0, 12:], rtol=1e-4, atol=1e-4)


@EVERY
@PRECISIONS
def test_a_reloaded_folder_gives_the_same_bits(
    config: ModelConfig, precision: str, tmp_path: Path
) -> None:
    model = quantize(model_of(config), precision)
    loaded, _ = load_model(save(tmp_path, model, precision))
    assert torch.equal(loaded(ids_of(config)), model(ids_of(config)))
    assert loaded.config == config
    assert (loaded.quantized or "bf16") == precision
    check_weights(loaded)
    assert all(t.is_contiguous() for t in loaded.state_dict().values())


@IN_BLOCKS
def test_rows_that_do_not_divide_into_blocks_stay_as_they_are(
    precision: str, tmp_path: Path
) -> None:
    config = replace(GPT2, n_embd=48, n_hidden=64)
    model = quantize(model_of(config), precision)
    assert [n for n in float_matrices(model) if not n.startswith("h.1.")] == [
        "wte.weight", "h.0.attn.c_attn.weight", "h.0.attn.c_proj.weight", "h.0.mlp.c_fc.weight",
    ]  # fmt: skip
    assert [n for n, m in model.named_modules() if isinstance(m, Blocks)] == [
        "h.0.mlp.c_proj", "h.1.mlp.c_proj",
    ]  # fmt: skip
    loaded, _ = load_model(save(tmp_path, model, precision))
    assert torch.equal(loaded(ids_of(config)), model(ids_of(config)))


def test_memory_is_that_of_the_blocks_alone(tmp_path: Path) -> None:
    """The float32 weights never exist, neither whole nor of one matrix."""
    config = ModelConfig(4096, "gpt", 64, 3, 4, 256)
    model = build_model(config)
    n_float = sum(p.nbytes for p in model.parameters())
    folder = save(tmp_path, quantize(model, "int8"), "int8")
    loaded: list[LanguageModel] = []
    _, peak = largest_and_peak(lambda: loaded.append(load_model(folder)[0]))
    n_bytes = sum(t.nbytes for t in loaded[0].state_dict().values())
    assert n_bytes < 0.3 * n_float
    assert n_bytes == sum(t.nbytes for t in load_file(folder / "model.safetensors").values())
    assert peak < 1.1 * n_bytes


def test_loading_imports_no_compiler(tmp_path: Path) -> None:
    """The meta device would import 900 modules in 1.4 s to draw weights."""
    folder = save(tmp_path, quantize(model_of(GPT2), "int8"), "int8")
    code = (
        f"import sys; from gptfast.model.folder import load_model; load_model({str(folder)!r}); "
        f"print([name for name in ('sympy', 'torch._dynamo', 'triton') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_transformers_refuses_int8_and_loads_bf16(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = model_of(GPT2)
    save(tmp_path / "bf16", quantize(copy.deepcopy(model), "bf16"), "bf16")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "bf16")
    assert theirs.dtype == torch.bfloat16
    ours, _ = load_float_model(tmp_path / "bf16", "this")
    ids = ids_of(GPT2)
    torch.testing.assert_close(theirs.float()(ids).logits, ours(ids), rtol=1e-4, atol=1e-4)
    save(tmp_path / "int8", quantize(model, "int8"), "int8")
    with pytest.raises(ValueError, match="model type `gptfast` but Transformers does not recog"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "int8")


def test_a_quantized_folder_is_a_folder(tmp_path: Path) -> None:
    llm = LLM.load(save(tmp_path, quantize(model_of(GPT2), "int8"), "int8"), device="cpu")
    assert repr(llm.model).endswith("n_embd=64; int8; 104,000 parameters)")
    assert len(llm.generate("ABC", max_new_tokens=40)) == 40  # beyond the context of 24
    assert llm.loss("ABCABC").nats_per_token > 0


def test_what_needs_float_weights_refuses_blocks(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", quantize(model_of(GPT2), "int8"), "int8")
    message = r"m is in int8: training needs float weights; give the folder that it was made from"
    with pytest.raises(UserError, match=message):
        with_init(parse_config(["--init-from", str(folder), "--out", str(tmp_path / "new")]))
    with pytest.raises(UserError, match="is in int8: an export needs float weights"):
        load_float_model(folder, "an export")


def test_onnx_is_written_of_float_weights_only(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from gptfast.export.onnx import export_onnx

    folder = save(tmp_path / "m", quantize(model_of(GPT2), "int8"), "int8")
    with pytest.raises(UserError, match="is in int8: an ONNX file needs float weights"):
        export_onnx(folder, tmp_path / "m.onnx")


def test_what_can_not_be_quantized_is_refused() -> None:
    with pytest.raises(UserError, match="the model is in int8 already"):
        quantize(quantize(model_of(GPT2), "int8"), "int4")
    with pytest.raises(UserError, match="the model is a 'bigram': only a GPT is quantized"):
        quantize(build_model(replace(GPT2, architecture="bigram")), "int8")
    with pytest.raises(UserError, match="precision is 'int3': expected 'int8', 'int4' or 'bf16'"):
        quantize(model_of(GPT2), "int3")


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_another_quantization_is_refused(tmp_path: Path) -> None:
    save(tmp_path, model_of(GPT2))
    edit(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UserError, match="its weights are quantized by 'gptq': gptfast reads float"):
        load_model(tmp_path)
    edit(tmp_path, quantization_config={"quant_method": "gptfast", "precision": "int2"})
    with pytest.raises(UserError, match="its precision is 'int2': expected 'int8' or 'int4'"):
        load_model(tmp_path)
    edit(tmp_path, quantization_config={"quant_method": "gptfast"})
    with pytest.raises(UserError, match="not a model's configuration: precision is missing"):
        load_model(tmp_path)


def test_damaged_blocks_are_refused(tmp_path: Path) -> None:
    save(tmp_path, quantize(model_of(GPT2), "int8"), "int8")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"wte.blocks": tensors["wte.blocks"].float()}, path)
    with pytest.raises(UserError, match=r"wte.blocks is torch.float32 instead of torch.uint8"):
        load_model(tmp_path)
    save_file(tensors | {"wte.blocks": tensors["wte.blocks"][:, :-34].contiguous()}, path)
    with pytest.raises(UserError, match=r"wte.blocks has the shape \(37, 34\) instead of \(37, 68"):
        load_model(tmp_path)
    tensors["wte.blocks"][3, 34:36] = 255  # a scale of NaN
    save_file(tensors, path)
    with pytest.raises(UserError, match="weights are damaged: wte holds NaN or infinity"):
        check_weights(load_model(tmp_path)[0])
