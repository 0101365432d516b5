"""A model is an ordinary nn.Module: casts, the meta device, copies, and mistakes in arguments.

Each test's comment names the report, of another project, that it follows.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import (
    EVERY_MODEL,
    GPT2,
    LLAMA,
    MIXTRAL,
    MODELS,
    SPEEDRUN,
    C,
    T,
    V,
    shaken,
    some_ids,
)
from torch.nn import functional as F

from gptfast.errors import UserError
from gptfast.model import LanguageModel, ModelConfig, build_model, formats
from gptfast.model.folder import read_config

# ---- casts ---------------------------------------------------------------------------------------


CASTS: dict[str, Callable[[LanguageModel], Any]] = {
    ".to(bfloat16)": lambda model: model.to(torch.bfloat16),
    ".bfloat16()": lambda model: model.bfloat16(),
    ".half()": lambda model: model.half(),
    ".double()": lambda model: model.double(),
    ".to(device, dtype)": lambda model: model.to("cpu", torch.float16),
    ".type()": lambda model: model.type(torch.bfloat16),
    "each module": lambda model: model.apply(lambda module: module.to(torch.bfloat16)),
    "there and back": lambda model: model.half().bfloat16().float(),
}


# transformers#25681
@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
@pytest.mark.parametrize("kind", ["yarn", "gpt2"])
def test_a_rotary_model_can_be_cast_as_transformers_model_can(
    kind: str, cast: Callable[[LanguageModel], Any]
) -> None:
    """In a narrow dtype, the errors against float64 may not be larger than transformers'."""
    transformers = pytest.importorskip("transformers")
    ours = shaken(MODELS[kind])
    stored = transformers.AutoConfig.for_model(**formats.describe(ours.config))
    theirs = transformers.AutoModelForCausalLM.from_config(stored).eval()
    weights = formats.to_stored(ours.config, ours.state_dict())
    theirs.load_state_dict(weights, strict=False)  # GPT-2's tied head is not stored
    ids = some_ids(4)
    with torch.no_grad():
        exact = copy.deepcopy(theirs).double()(ids).logits
        cast(ours), cast(theirs)
        logits, their_logits = ours(ids), theirs(ids).logits
    assert logits.dtype == their_logits.dtype
    errors, their_errors = ((x.double() - exact).abs().mean() for x in (logits, their_logits))
    assert errors <= 1.25 * their_errors + 1e-6


@EVERY_MODEL
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_model_computes_and_learns_in_every_dtype(
    config: ModelConfig, dtype: torch.dtype
) -> None:
    model = shaken(config)
    ids = some_ids()
    expected = model(ids)
    model.to(dtype)
    # Rounding sends some tokens to other experts, so only most logits agree.
    is_close = (model(ids).float() - expected).abs() < (1e-5 if dtype == torch.float64 else 0.3)
    assert is_close.float().mean() > 0.85
    model.train()(ids, ids).backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.dtype == dtype
        for p in model.parameters()
    )


def by_hand(config: ModelConfig) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The cosines of the angles of plain rotary positions."""
    pairs = np.arange(config.head_width // 2)
    frequencies = config.rope_theta ** (-2 * pairs / config.head_width)
    return np.cos(np.arange(config.block_size)[:, None] * frequencies)


@pytest.mark.parametrize(
    "change",
    [*CASTS.values(), lambda model: model.to_empty(device="cpu"), lambda model: model.to("meta")],
    ids=[*CASTS, "to_empty", "meta"],
)
def test_rotary_tables_stay_float32_and_right(change: Callable[[LanguageModel], Any]) -> None:
    model = shaken(LLAMA)
    change(model)
    cos_TP, _ = model.rotation(torch.zeros(1, T, dtype=torch.long))
    assert cos_TP.dtype == torch.float32
    np.testing.assert_allclose(cos_TP.numpy(), by_hand(LLAMA), atol=1e-7)


def test_counts_of_experts_stay_exact_in_half_precision() -> None:
    model = build_model(replace(MIXTRAL, expert_balance="bias", expert_balance_rate=1e-3)).half()
    moe = model.train().experts()[0]
    with torch.no_grad():
        for _ in range(30):  # bfloat16 counts to 256, and float16 to 2,048
            moe(torch.randn(1, 100, C).half())
    assert moe.chosen_E.sum() == 30 * 100 * 2
    moe.end_step()
    assert moe.bias_E.abs().max().item() == pytest.approx(1e-3, rel=1e-6)


# ---- weights that come later ---------------------------------------------------------------------


@pytest.fixture
def empty_is_nan() -> Any:
    """Fill what torch.empty returns with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def on_meta(config: ModelConfig) -> LanguageModel:
    with torch.device("meta"):
        return build_model(config).eval()


def by_to_empty(model: LanguageModel) -> LanguageModel:
    later = on_meta(model.config).to_empty(device="cpu")
    assert str(later.load_state_dict(model.state_dict())) == "<All keys matched successfully>"
    return later


def by_assign(model: LanguageModel) -> LanguageModel:
    later = on_meta(model.config)
    later.load_state_dict(model.state_dict(), assign=True)
    return later


def by_emptying(model: LanguageModel) -> LanguageModel:
    later = copy.deepcopy(model).to_empty(device="cpu")
    later.load_state_dict(model.state_dict())
    return later


# transformers#34234
@EVERY_MODEL
@pytest.mark.parametrize(
    "way",
    [by_to_empty, by_assign, by_emptying, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
    ids=["to_empty", "assign", "emptied", "deepcopy", "pickle"],
)
@pytest.mark.usefixtures("empty_is_nan")
def test_no_uninitialised_buffer_is_left_after_loading(
    config: ModelConfig, way: Callable[[LanguageModel], LanguageModel]
) -> None:
    model, ids = shaken(config), some_ids()
    later = way(model)
    assert torch.equal(later(ids), model(ids))
    assert all(buffer.isfinite().all() for buffer in later.buffers())
    later.train()(ids, ids).backward()
    copy.deepcopy(later)  # a model that has trained can be copied, too


@EVERY_MODEL
def test_logits_depend_on_the_state_alone(config: ModelConfig) -> None:
    """Other loaders fill buffers outside of the state, such as counts, with anything."""
    model, ids = shaken(config), some_ids()
    later = copy.deepcopy(model).to_empty(device="cpu")
    for buffer in later.buffers():
        buffer.fill_(float("nan"))
    later.load_state_dict(model.state_dict())
    assert torch.equal(later(ids), model(ids))


@pytest.mark.parametrize("config", [GPT2, LLAMA, MIXTRAL, SPEEDRUN], ids=str)
@pytest.mark.usefixtures("empty_is_nan")
def test_init_weights_sets_every_weight(config: ModelConfig) -> None:
    model = on_meta(config).to_empty(device="cpu")
    model.init_weights()
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert model(some_ids(), some_ids()).isfinite()


@EVERY_MODEL
def test_a_state_has_parameters_only(config: ModelConfig) -> None:
    model = build_model(config)
    names = {name for name, _ in model.named_parameters()}
    biases = {name for name, _ in model.named_buffers() if name.endswith("bias_E")}
    assert set(model.state_dict()) == names | (biases if config.expert_balance == "bias" else set())


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["gpt", "bigram"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1, 2]],), "the ids are a list; expected a Tensor, int64"),
        ((some_ids().numpy(),), "the ids are a ndarray"),
        ((some_ids().float(),), "the ids are torch.float32"),
        ((some_ids() > 3,), "the ids are torch.bool"),
        ((some_ids()[0],), r"of shape \(12,\); expected .* \(batch, time\)"),
        ((some_ids()[None],), r"of shape \(1, 2, 12\)"),
        ((some_ids()[:0],), r"of shape \(0, 12\); expected .* not empty"),
        ((some_ids()[:, :0],), r"of shape \(2, 0\)"),
        ((some_ids(2, T + 1),), "13 tokens don't fit into the context of 12"),
        ((some_ids().fill_(V),), "a token id is 37; expected 0 to 36"),
        ((some_ids().fill_(-1),), "a token id is -1"),
        ((some_ids().to("meta"),), "the ids are on meta, the model is on cpu"),
        ((some_ids(), [1, 2]), "targets is a list"),
        ((some_ids(), some_ids().float()), "targets are torch.float32"),
        ((some_ids(), some_ids()[:1]), r"targets have shape \(1, 12\)"),
        ((some_ids(), some_ids() + V), "a target is .*; expected 0 to 36, or -100"),
        ((some_ids(), some_ids(), [0, 24]), "cu_seqlens is a list; expected a Tensor"),
        ((some_ids(), some_ids(), torch.tensor([0, 12])), "number of tokens, 24"),
        ((some_ids(), some_ids(), torch.tensor([0.0, 24.0])), "cu_seqlens is torch.float32"),
    ],
)
def test_wrong_arguments_of_a_model_are_named_in_one_line(
    architecture: Any, arguments: tuple[Any, ...], message: str
) -> None:
    model = build_model(replace(GPT2, architecture=architecture))
    with pytest.raises(UserError, match=message) as raised:
        model(*arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["n_layer", "n_positions", "n_head", "vocab_size"])
def test_a_whole_float_in_config_json_is_a_whole_number(name: str, tmp_path: Path) -> None:
    stored = formats.describe(GPT2)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(stored | {name: float(stored[name])}))
    assert read_config(path) == GPT2
    assert all(type(getattr(read_config(path), field)) is int for field in ("n_layer", "n_head"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_layer", 2.5), ("n_layer", "2"), ("n_layer", True), ("n_layer", None), ("n_layer", [2]),
     ("n_layer", 1e300), ("n_positions", float("nan")), ("n_inner", "64"),
     ("resid_pdrop", "0.1"), ("resid_pdrop", True), ("layer_norm_epsilon", None),
     ("tie_word_embeddings", "false"), ("tie_word_embeddings", 2)],
)  # fmt: skip
def test_another_type_in_config_json_is_named_in_one_line(
    name: str, value: Any, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(formats.describe(GPT2) | {name: value}))
    with pytest.raises(UserError, match=r"is .*: expected (a whole number|a number|true or false)"):
        read_config(path)


@pytest.mark.parametrize(
    "value",
    [10**400, pytest.param(-(10**5000), id="too many digits for repr"), "2.5", True, [10**5], None],
)
@pytest.mark.parametrize("field", ["n_layer", "norm_eps"])
def test_a_wrong_number_in_a_configuration_is_named_in_one_line(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{field} is .*: expected a") as raised:
        replace(GPT2, **{field: value})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [0, -1, 2.0, "2", True, None, 10**400, torch.tensor(2)])
def test_a_wrong_size_of_a_cache_is_named_in_one_line(size: Any) -> None:
    with pytest.raises(UserError, match=r"batch_size is .*: expected a") as raised:
        build_model(GPT2).new_cache(size)
    assert "\n" not in str(raised.value)


@EVERY_MODEL
def test_the_summed_loss_is_pytorchs(config: ModelConfig) -> None:
    model, ids = shaken(config), some_ids()
    targets = ids.flip(0)
    targets[0, 2:5] = -100
    expected = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(model(ids, targets, reduction="sum"), expected)
