"""Low-rank adapters, against the dense matrices that they stand for, and their folders."""

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
    NOWHERE,
    TOKENIZER,
    new_model,
    save_adapter,
    save_base,
    with_pairs,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gptfast.errors import MissingFileError, UserError
from gptfast.model import GPT, ModelConfig, build_model, rust_step
from gptfast.model.adapter_folder import (
    PRECISIONS,
    Base,
    LoraSettings,
    find_base,
    weights_sha256,
)
from gptfast.model.config import Precision
from gptfast.model.folder import (
    FILES,
    describe_model,
    load_model,
    save_weights,
    with_adapter,
)
from gptfast.model.lora import Adapter, LoraLinear, add_lora
from gptfast.model.lora_merge import merge, merged_for_a_while
from gptfast.model.quantized import Blocks, QuantizedLinear, compute_exactly, quantize
from gptfast.train.init_from import stored_config
from gptfast.train.optim import Optimizer
from gptfast.train.step import autocast

RANK_4 = LoraSettings(4, 6.0)
EXPERTS = replace(LLAMA, n_expert=4, n_expert_active=2, expert_balance="bias")


def dense_of(model: GPT, config: ModelConfig) -> GPT:
    """A plain model with W + alpha / r B A written out, piece by piece."""
    plain = build_model(config).double().eval()
    assert isinstance(plain, GPT)
    state = {name.replace(".base.", "."): t for name, t in model.state_dict().items()}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLinear):
            first = 0
            weight = state[f"{name}.weight"].clone()
            for piece, n_rows in layer.rows.items():
                if piece in layer.pairs:
                    A, B = (state[f"{name}.pairs.{piece}.{matrix}"] for matrix in "AB")
                    weight[first : first + n_rows] += 6.0 / 4 * B @ A
                first += n_rows
            state[f"{name}.weight"] = weight
    plain.load_state_dict({name: t for name, t in state.items() if ".pairs." not in name})
    return plain


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_a_new_adapter_changes_nothing(config: ModelConfig) -> None:
    model = new_model(config)
    before = model(IDS)
    add_lora(model, RANK_4, NOWHERE)
    assert torch.equal(model(IDS), before)
    assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj", "down_proj"), ("h.1.mlp.c_fc",)])
def test_values_and_gradients_are_those_of_the_dense_matrices(targets: tuple[str, ...]) -> None:
    model = with_pairs(new_model(LLAMA), replace(RANK_4, targets=targets)).double()
    plain = dense_of(model, LLAMA)
    assert (model(IDS) - plain(IDS)).abs().max() < 1e-12
    for m in (model, plain):
        m(IDS, IDS.roll(1, 1)).backward()
    n_pairs = 0
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLinear):
            continue
        weight = plain.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        assert weight.grad is not None
        rows = dict(zip(layer.rows, weight.grad.split(list(layer.rows.values())), strict=True))
        for piece, pair in layer.pairs.items():
            A, B = pair.A, pair.B
            # W + s B A: dA = s B^T dW and dB = s dW A^T.
            assert torch.allclose(A.grad, 1.5 * B.T @ rows[piece], atol=1e-14)
            assert torch.allclose(B.grad, 1.5 * rows[piece] @ A.T, atol=1e-14)
            n_pairs += 1
    assert n_pairs == {0: 14, 3: 6, 1: 2}[len(targets)]


def test_only_the_adapter_is_trained_and_never_by_muon() -> None:
    model = new_model(GPT2).train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    add_lora(model, replace(RANK_4, dropout=0.1), NOWHERE)
    model.activation_checkpointing = True
    optimizer = Optimizer(model, 1e-2, 1e-2, 0.1)
    assert [type(part) for part, _ in optimizer.parts] == [torch.optim.AdamW]
    pairs = {name: p for name, p in model.named_parameters() if ".pairs." in name}
    in_adamw = [p for group in optimizer.parts[0][0].param_groups for p in group["params"]]
    assert {id(p) for p in in_adamw} == {id(p) for p in pairs.values()}
    old = {name: p.clone() for name, p in pairs.items()}
    for _ in range(3):
        with autocast("bfloat16", torch.device("cpu")):
            loss = model(IDS, IDS.roll(1, 1))
        loss.backward()
        optimizer.step(1.0)
    for name, p in model.named_parameters():
        if name in pairs:
            assert not torch.equal(p, old[name]), name
        else:
            assert torch.equal(p, before[name.replace(".base.", ".")]), name
            assert p.grad is None


def test_frozen_experts_keep_their_balance() -> None:
    model = new_model(EXPERTS).train()
    add_lora(model, RANK_4, NOWHERE)
    before = model.experts()[0].bias_E
    assert before is not None
    before = before.clone()
    model(IDS, IDS).backward()
    model.end_step(lambda x: x)
    assert torch.equal(before, model.experts()[0].bias_E)  # type: ignore[arg-type]
    assert {n.split(".")[2] for n in model.state_dict() if ".pairs." in n} == {"attn"}
    merge(model)
    model(IDS, IDS)
    model.end_step(lambda x: x)
    assert not torch.equal(before, model.experts()[0].bias_E)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "target", "message"),
    [
        (GPT2, "wte", "head and the token embedding are one matrix"),
        (GPT2, "lm_head", "head and the token embedding are one matrix"),
        (LLAMA, "lm_head", "the loss reads the head's matrix"),
        (EXPERTS, "mlp.c_fc", "experts and their router get no adapter"),
        (GPT2, "q_proj", "no layer's name ends so; expected some of c_attn, c_fc, c_proj"),
        (replace(GPT2, architecture="bigram"), "c_fc", "the model is a 'bigram'"),
    ],
)
def test_what_can_not_get_an_adapter_is_refused(
    config: ModelConfig, target: str, message: str
) -> None:
    model = build_model(config)
    with pytest.raises(UserError, match=message) as error:
        add_lora(model, replace(RANK_4, targets=(target,)), NOWHERE)
    assert "\n" not in str(error.value)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_second_adapter_is_refused() -> None:
    model = with_pairs(new_model(GPT2), RANK_4)
    with pytest.raises(UserError, match="an adapter already"):
        add_lora(model, RANK_4, NOWHERE)


@torch.no_grad()
def test_rust_leaves_steps_with_an_adapter_to_pytorch() -> None:
    model = new_model(GPT2)
    ids = [1, 2, 3]

    def stepped() -> Tensor:
        cache = model.new_cache(1)
        return torch.cat([model.step([i], cache, [0]) for i in ids])

    stepped()
    assert rust_step.why_not(model, model.new_cache(1)) is None
    with_pairs(model, RANK_4)
    reason = rust_step.why_not(model, model.new_cache(1))
    assert reason == "h.0.attn.c_attn is a LoraLinear, which Rust doesn't know"
    assert torch.allclose(stepped(), model(torch.tensor([ids]))[0], atol=1e-5)
    merge(model)
    assert rust_step.why_not(model, model.new_cache(1)) is None
    assert torch.allclose(stepped(), model(torch.tensor([ids]))[0], atol=1e-5)


@torch.no_grad()
def test_merged_for_a_while_is_unmerged_and_takes_steps_in_rust() -> None:
    model = with_pairs(new_model(LLAMA), RANK_4)
    unmerged, layers = model(IDS), dict(model.named_modules())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with merged_for_a_while(model):
        assert (model(IDS) - unmerged).abs().max() < 1e-6
        assert rust_step.why_not(model, model.new_cache(1)) is None
    assert dict(model.named_modules()) == layers
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
    model.get_submodule("h.0.attn.c_attn.pairs.q_proj").A.mul_(2)  # type: ignore[union-attr,operator]
    other = model(IDS)
    with merged_for_a_while(model):  # nothing is left of the older weights
        assert (model(IDS) - other).abs().max() < 1e-6
        steps = model.new_cache(1)
        stepped = torch.stack([model.step([int(i)], steps, [0])[0] for i in IDS[0]])
        assert (stepped - other[0]).abs().max() < 1e-5


@torch.no_grad()
def test_merged_is_unmerged_and_says_what_rounding_lost() -> None:
    model = with_pairs(new_model(LLAMA), RANK_4)
    unmerged = model(IDS)
    report = merge(model)
    assert (model(IDS) - unmerged).abs().max() < 1e-6
    assert report.n_matrices == 8
    assert 0 < report.lost < 1e-6
    assert not any(isinstance(m, LoraLinear) for m in model.modules())
    assert {name: t.shape for name, t in model.state_dict().items()} == {
        name: t.shape for name, t in build_model(LLAMA).state_dict().items()
    }
    with pytest.raises(UserError, match="no adapter"):
        merge(model)


@torch.no_grad()
def test_merging_into_bfloat16_loses_what_the_cast_loses() -> None:
    model = new_model(GPT2).bfloat16()
    before = model.h[0].attn.c_attn.weight.double()
    with_pairs(model, replace(RANK_4, targets=("h.0.attn.c_attn",)))
    pair = model.get_submodule("h.0.attn.c_attn.pairs.c_attn")
    assert isinstance(pair.A, Tensor)
    assert isinstance(pair.B, Tensor)
    assert pair.A.dtype == torch.float32
    delta = 1.5 * pair.B.double() @ pair.A.double()
    report = merge(model)
    expected = ((before + delta).float().bfloat16().double() - before - delta).norm()
    assert report.lost == pytest.approx(float(expected / delta.norm()), rel=1e-6)
    assert report.lost > 1e-4
    assert report.dtype == torch.bfloat16


@torch.no_grad()
def test_a_damaged_adapter_is_not_merged() -> None:
    model = with_pairs(new_model(GPT2), RANK_4)
    pair = model.get_submodule("h.1.mlp.c_fc.pairs.c_fc")
    assert isinstance(pair.B, Tensor)
    pair.B[0, 0] = torch.inf
    with pytest.raises(UserError, match=r"h\.1\.mlp\.c_fc are not finite"):
        merge(model)


@pytest.mark.parametrize(("precision", "kind"), [("int8", "q8_0"), ("int4", "q4_0")])
def test_beside_blocks_loss_and_gradients_are_those_of_what_the_blocks_stand_for(
    precision: Precision, kind: str
) -> None:
    blocks = quantize(new_model(LLAMA), precision).train()
    floats = new_model(LLAMA).train()
    for name, module in blocks.named_modules():
        if isinstance(module, Blocks):
            floats.get_submodule(name).weight.data.copy_(module.weight)  # type: ignore[union-attr]
    layer = blocks.get_submodule("h.0.mlp.c_fc")
    assert isinstance(layer, QuantizedLinear)
    assert layer.kind == kind
    losses = []
    for model in (blocks, floats):
        assert isinstance(model, GPT)
        torch.manual_seed(1)
        with_pairs(model, RANK_4)
        loss = model(IDS, IDS.roll(1, 1))
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    theirs = dict(floats.named_parameters())
    n_gradients = 0
    for name, parameter in blocks.named_parameters():
        if parameter.grad is not None:
            expected = theirs[name].grad
            assert expected is not None
            assert torch.allclose(parameter.grad, expected, atol=1e-5)
            n_gradients += 1
    assert n_gradients == 28
    with pytest.raises(UserError, match="merging needs float weights"):
        merge(blocks)


# ---- folders -------------------------------------------------------------------------------------


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
