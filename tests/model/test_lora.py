"""Low-rank adapters, against the dense matrices that they stand for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adapters import (
    GPT2,
    IDS,
    LLAMA,
    NOWHERE,
    new_model,
    with_pairs,
)
from torch import Tensor, nn

from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig, build_model, rust_step
from gptfast.model.adapter_folder import (
    LoraSettings,
)
from gptfast.model.config import Precision
from gptfast.model.lora import LoraLinear, add_lora
from gptfast.model.lora_merge import merge, merged_for_a_while
from gptfast.model.quantized import Blocks, QuantizedLinear, quantize
from gptfast.model.size import flops_per_token
from gptfast.train.optim import Optimizer
from gptfast.train.run import training_flops
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


def test_frozen_weights_cost_no_gradient() -> None:
    plain, adapted = new_model(GPT2), with_pairs(new_model(GPT2), RANK_4)
    assert training_flops(plain) == 3 * flops_per_token(GPT2)
    assert training_flops(adapted) == 2 * flops_per_token(GPT2)


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
