"""Every choice that a configuration offers: it learns, sees no future, and costs what we say."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from allocations import largest_and_peak
from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig, build_model
from gptfast.model.size import flops_per_token, n_parameters
from gptfast.ops import use_backend

GPT2 = ModelConfig(65, "gpt", 16, 2, 4, 64)
LLAMA = replace(
    GPT2, norm="rmsnorm", bias=False, positions="rotary", activation="swiglu", n_kv_head=2,
    tie_embeddings=False,
)  # fmt: skip
VARIANTS = {
    "gpt2": GPT2,
    "no bias": replace(GPT2, bias=False),
    "rmsnorm": replace(GPT2, norm="rmsnorm"),
    "rotary": replace(GPT2, positions="rotary"),
    "no positions": replace(GPT2, positions="none"),
    "ntk": replace(GPT2, positions="rotary", rope_scaling="ntk", rope_factor=2.0),
    "yarn": replace(GPT2, positions="rotary", rope_scaling="yarn", rope_factor=2.0),
    "swiglu": replace(GPT2, activation="swiglu"),
    "relu2": replace(GPT2, activation="relu2", n_hidden=96),
    "exact gelu": replace(GPT2, activation="gelu_exact"),
    "grouped heads": replace(GPT2, n_kv_head=2),
    "one key head": replace(GPT2, n_kv_head=1),
    "qk_norm": replace(GPT2, qk_norm=True),
    "softcap": replace(GPT2, logit_softcap=15.0),
    "window": replace(GPT2, sliding_window=5),
    "window, every second layer global": replace(GPT2, sliding_window=5, global_every=2),
    "untied": replace(GPT2, tie_embeddings=False),
    "embedding_norm": replace(GPT2, embedding_norm=True),
    "zero_init": replace(GPT2, zero_init=True),
    "n-grams": replace(GPT2, max_ngram=3, ngram_rows=500),
    "speed run": replace(
        GPT2,
        bias=False,
        norm="rmsnorm",
        positions="rotary",
        qk_norm=True,
        activation="relu2",
        zero_init=True,
        embedding_norm=True,
        logit_softcap=15.0,
        tie_embeddings=False,
        max_ngram=3,
        ngram_rows=500,
    ),
    "llama": LLAMA,
    "wide heads": replace(LLAMA, head_dim=24),
    "biases of q, k and v": replace(LLAMA, qkv_bias=True),
    "layers without positions": replace(
        LLAMA, nope_every=2, rope_scaling="llama3", rope_factor=4.0, qk_norm=True, head_dim=12
    ),
    "experts": replace(LLAMA, n_expert=4, n_hidden=64),
    "experts, bias-balanced": replace(
        LLAMA, n_expert=4, n_hidden=64, n_expert_active=3, expert_balance="bias"
    ),
}


@pytest.fixture(params=VARIANTS)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return VARIANTS[request.param]


def test_one_batch_can_be_overfitted(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = GPT(config)
    ids = torch.randint(65, (4, 17), generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    for _ in range(80):
        loss = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.eval()(ids[:, :-1], ids[:, 1:]).item() < 0.05


def shaken(config: ModelConfig) -> GPT:
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def test_future_tokens_leave_earlier_logits_bitwise_unchanged(config: ModelConfig) -> None:
    # With experts, a product's rows depend on what else goes to the expert in their last bits.
    exact = config.n_expert == 0
    model = shaken(config)
    ids = torch.randint(65, (2, 16), generator=torch.Generator().manual_seed(1))
    before = model(ids)
    for t in range(1, 16):
        changed = ids.clone()
        changed[:, t:] = (changed[:, t:] + 1 + torch.arange(16 - t)) % 65
        after = model(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], atol=0 if exact else 1e-5, rtol=0)
        assert not torch.equal(after[:, t], before[:, t])


def test_the_cache_gives_the_logits_of_the_whole_text(config: ModelConfig) -> None:
    model = shaken(config)
    ids = torch.randint(65, (3, 16), generator=torch.Generator().manual_seed(1))
    expected = model(ids)
    cache = model.new_cache(batch_size=3)
    for row, n in enumerate((4, 1, 9)):  # rows of unequal lengths
        logits = model.prefill(ids[row, :n].tolist(), cache, row)
        torch.testing.assert_close(logits, expected[row, n - 1], atol=1e-4, rtol=1e-4)
    for rows in [[0, 1, 2]] * 5 + [[0, 2], [0], [1]]:
        new = [int(ids[row, cache.lengths[row]]) for row in rows]
        logits = model.step(new, cache, rows)
        seen = torch.stack([expected[row, cache.lengths[row] - 1] for row in rows])
        torch.testing.assert_close(logits, seen, atol=1e-4, rtol=1e-4)
    logits = model.prefill(ids[0, 11:].tolist(), cache, 0, all_logits=True)
    torch.testing.assert_close(logits, expected[0, 11:], atol=1e-4, rtol=1e-4)


def test_parameters_and_flops_are_predicted_exactly(config: ModelConfig) -> None:
    model = build_model(config)
    assert model.n_parameters() == n_parameters(config)
    ids = torch.randint(65, (2, 16))
    with use_backend("reference"), FlopCounterMode(display=False) as counter:
        model(ids)
    # The definition of attention multiplies what lies outside of a window as well.
    whole = replace(config, sliding_window=None, global_every=None)
    uncounted = uncounted_flops(config, ids.numel())
    predicted = flops_per_token(whole) * ids.numel()
    assert counter.get_total_flops() + uncounted == predicted
    with use_backend("reference"), FlopCounterMode(display=False) as counter:
        model(ids).sum().backward()
    assert counter.get_total_flops() + 3 * uncounted == 3 * predicted  # a training step's


def uncounted_flops(config: ModelConfig, n_tokens: int) -> int:
    """PyTorch's counter doesn't know the grouped product: its three matrices, by hand."""
    if not config.n_expert:
        return 0
    rows = n_tokens * config.n_expert_active * config.n_layer
    return 2 * 3 * rows * config.n_embd * config.hidden_width


def test_a_window_costs_its_width_and_only_where_there_is_one() -> None:
    config = replace(GPT2, sliding_window=5, global_every=2)
    matrices = 2 * (12 * 64 * 64 + 12 * 64 * 64 + 64 * 65)
    assert flops_per_token(config) == matrices + 4 * 64 * (5 + 16)
    assert flops_per_token(config, context=4) == matrices + 4 * 64 * (4 + 4)


def test_a_window_hides_what_is_older() -> None:
    model = shaken(replace(GPT2, sliding_window=3, n_layer=1))
    ids = torch.randint(65, (1, 16), generator=torch.Generator().manual_seed(1))
    changed = ids.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 65
    same = (model(ids) == model(changed)).all(-1)[0]
    assert same.tolist() == [True] * 5 + [False] * 3 + [True] * 8


def test_which_layers_have_the_window() -> None:
    config = replace(GPT2, sliding_window=3, global_every=3, n_layer=7)
    windows = [config.layer_window(layer) for layer in range(7)]
    assert windows == [3, 3, None, 3, 3, None, 3]
    assert [block.attn.window for block in GPT(config).h] == windows


def test_the_softcap_bounds_the_logits_and_the_loss_is_of_the_capped_ones() -> None:
    model = shaken(replace(GPT2, logit_softcap=1.0))
    plain = GPT(GPT2).eval()
    plain.load_state_dict(model.state_dict())
    ids = torch.randint(65, (2, 16), generator=torch.Generator().manual_seed(1))
    logits, uncapped = model(ids), plain(ids)
    assert uncapped.abs().max() > 2 > 1 > logits.abs().max()
    torch.testing.assert_close(logits, torch.tanh(uncapped))
    torch.testing.assert_close(
        model(ids, ids), torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
    )


def test_zero_init_starts_as_the_embedding_alone() -> None:
    torch.manual_seed(0)
    model = GPT(replace(GPT2, zero_init=True, positions="none")).eval()
    ids = torch.randint(65, (2, 16))
    expected = model.ln_f(model.wte(ids)) @ model.wte.weight.T
    torch.testing.assert_close(model(ids), expected)


def test_qk_norm_makes_attention_blind_to_the_length_of_queries_and_keys() -> None:
    model = shaken(replace(GPT2, qk_norm=True, n_layer=1, bias=False, norm_eps=1e-12))
    ids = torch.randint(65, (2, 16))
    before = model(ids)
    with torch.no_grad():
        model.h[0].attn.c_attn.weight[:128] *= 7
    torch.testing.assert_close(model(ids), before)


def test_a_document_is_the_same_among_others_as_alone(config: ModelConfig) -> None:
    model = shaken(config)
    ids = torch.randint(65, (2, 16), generator=torch.Generator().manual_seed(1))
    borders = torch.tensor([0, 5, 16, 22, 32])
    packed = model.hidden(ids, cu_seqlens=borders).flatten(0, 1)
    alone = [model.hidden(ids.flatten()[start:end][None])[0] for start, end in pairwise(borders)]
    torch.testing.assert_close(packed, torch.cat(alone))


# A remark of PyTorch 2.11.
@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
def test_nothing_that_is_recomputed_outlives_its_block() -> None:
    """The balance loss, recomputed as well, kept alive what it came from: 2.6 times the memory."""
    ids = torch.randint(65, (8, 65))

    def peak(expert_balance: str) -> int:
        model = GPT(replace(VARIANTS["experts"], block_size=64, expert_balance=expert_balance))
        model.activation_checkpointing = True

        def train() -> None:
            model(ids[:, :-1], ids[:, 1:]).backward()

        train()  # makes room for the gradients
        return largest_and_peak(train)[1]

    assert peak("loss") < 1.1 * peak("bias")


@pytest.mark.parametrize("name", ["gpt2", "llama", "experts"])
def test_recomputing_blocks_changes_no_gradient(name: str) -> None:
    ids = torch.randint(65, (2, 17), generator=torch.Generator().manual_seed(1))
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = GPT(replace(VARIANTS[name], dropout=0.2))
        model.activation_checkpointing = recompute
        torch.manual_seed(1)
        model(ids[:, :-1], ids[:, 1:]).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "batchnorm"}, "unknown norm 'batchnorm': expected one of layernorm, rmsnorm"),
        ({"n_kv_head": 3}, "n_head 4 query heads can't share n_kv_head 3"),
        ({"n_hidden": 0}, "n_hidden is 0: expected at least 1"),
        ({"logit_softcap": 0.0}, "logit_softcap is 0.0: expected more than 0"),
        ({"global_every": 2}, "2 without a sliding window: give --sliding-window"),
        ({"positions": "rotary", "n_embd": 20}, "a head has 5: choose"),
        ({"rope_scaling": "yarn", "rope_factor": 2.0}, "only 'rotary' positions can be stretched"),
        ({"positions": "rotary", "rope_factor": 2.0}, "a factor above 1 with 'ntk', 'yarn' or"),
        ({"positions": "rotary", "rope_factor": 0.5}, "rope_factor is 0.5: expected at least 1"),
        ({"rope_theta": 1.0}, "rope_theta is 1.0: expected more than 1, and finite"),
        (
            {"positions": "rotary", "rope_scaling": "yarn", "rope_factor": math.inf},
            "rope_factor is inf: expected at least 1, and finite",
        ),
        (
            {"positions": "rotary", "rope_scaling": "yarn", "rope_factor": 1e4},
            "rope_factor is 10000.0 with block_size .* choose a smaller factor",
        ),
        ({"n_expert": 4}, "experts have no biases"),
        ({"n_expert": 1, "bias": False}, "n_expert_active is 2 of n_expert 1"),
        ({"n_expert": 4, "n_expert_active": 1, "bias": False}, "2 to n_expert, because the router"),
        ({"n_expert": 2, "bias": False, "n_embd": 36}, "multiples of 8"),
        (
            {"n_expert": 2, "bias": False, "expert_balance_rate": -1.0},
            "expert_balance_rate is -1.0",
        ),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(GPT2, **change)
