from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from allocations import largest_and_peak
from gptfast.errors import UserError
from gptfast.model import GPT, LanguageModel, ModelConfig, build_model
from gptfast.model.attention import SelfAttention
from gptfast.ops.attention import attention_reference

SHAPES = {
    "bigram": ModelConfig(65, "bigram", 16, 1, 1, 32),
    "average": ModelConfig(65, "average", 16, 1, 1, 32),
    "head": ModelConfig(65, "head", 16, 1, 1, 32),
    "multihead": ModelConfig(65, "multihead", 16, 1, 4, 32),
    "gpt": ModelConfig(65, "gpt", 16, 2, 4, 32, dropout=0.1),
}


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    return build_model(SHAPES[request.param]).eval()


def random_ids(model: LanguageModel, batch: int, time: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.config.vocab_size, (batch, time), generator=generator)


def test_logits_and_loss_have_their_shapes(model: LanguageModel) -> None:
    ids = random_ids(model, 3, 16)
    assert model(ids).shape == (3, 16, 65)
    assert model(ids[:, :5]).shape == (3, 5, 65)
    cache = model.new_cache(batch_size=3)
    assert model.prefill(ids[0, :5].tolist(), cache, 1).shape == (65,)
    assert model.prefill(ids[0, :5].tolist(), cache, 2, all_logits=True).shape == (5, 65)
    assert model.step([1, 2], cache, [1, 2]).shape == (2, 65)
    assert model(ids, ids).shape == ()


def test_each_tokens_loss_and_its_gradients_are_pytorchs(model: LanguageModel) -> None:
    with torch.no_grad():
        for parameter in model.parameters():  # the bigram's table starts as zeros
            parameter.add_(torch.randn_like(parameter))
    ids, targets = random_ids(model, 3, 16), random_ids(model, 3, 16).flip(0)
    targets[0, 2:5] = -100
    dlosses = torch.randn(3, 16, generator=torch.Generator().manual_seed(2))
    parameters = list(model.parameters())
    losses = model(ids, targets, reduction="none")
    logits = model(ids)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    assert losses.dtype == torch.float32
    assert losses[0, 2:5].tolist() == [0, 0, 0]
    torch.testing.assert_close(losses, expected.view(3, 16), atol=1e-4, rtol=1e-4)
    actual = torch.autograd.grad(losses, parameters, dlosses)
    wanted = torch.autograd.grad(expected, parameters, dlosses.flatten())
    torch.testing.assert_close(actual, wanted, atol=1e-4, rtol=1e-4)
    mean = model(ids, targets)
    torch.testing.assert_close(mean, losses.sum() / (targets != -100).sum())


# A remark of PyTorch 2.11.
@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_gpts_loss_never_holds_all_logits(reduction: str) -> None:
    model = GPT(ModelConfig(20_000, "gpt", 256, 1, 1, 16))
    ids = torch.randint(20_000, (8, 256))
    all_logits = ids.numel() * 20_000 * 4
    model(ids, ids, reduction=reduction).sum().backward()  # makes room for the gradients

    def train() -> None:
        model(ids, ids, reduction=reduction).sum().backward()

    assert largest_and_peak(train)[1] < all_logits
    with torch.no_grad():
        assert largest_and_peak(lambda: model(ids))[0] >= all_logits


def test_each_tokens_loss_compiles_without_a_graph_break() -> None:
    torch.manual_seed(0)
    model = GPT(replace(SHAPES["gpt"], dropout=0.0))
    ids = random_ids(model, 2, 16)
    expected = model(ids, ids, reduction="none")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids, ids, reduction="none"), expected)


def test_future_tokens_leave_earlier_logits_bitwise_unchanged(model: LanguageModel) -> None:
    with torch.no_grad():
        for parameter in model.parameters():  # the bigram's table starts as zeros
            parameter.add_(torch.randn_like(parameter))
    ids = random_ids(model, 2, 16)
    before = model(ids)
    for t in range(1, 16):
        changed = ids.clone()
        changed[:, t:] = (changed[:, t:] + 1 + torch.arange(16 - t)) % 65
        after = model(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])


def test_the_loss_at_initialisation_is_near_ln_vocab(model: LanguageModel) -> None:
    ids = random_ids(model, 8, 16)
    targets = random_ids(model, 8, 16).flip(0)
    # The averaging, head and multihead rungs end in PyTorch's default linear layer, whose logits
    # have a variance of up to 1/3 per unit of input: hence not exactly ln V.
    assert model(ids, targets).item() == pytest.approx(math.log(65), abs=0.25)


def test_the_gpts_initial_loss_is_ln_vocab_within_3_hundredths() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(1024, "gpt", 32, 4, 4, 64))
    ids = torch.randint(1024, (16, 33), generator=torch.Generator().manual_seed(2))
    assert model(ids[:, :-1], ids[:, 1:]).item() == pytest.approx(math.log(1024), abs=0.03)


def test_one_batch_can_be_overfitted() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(65, "gpt", 16, 2, 4, 64))
    ids = torch.randint(65, (4, 17), generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_a_bigrams_logits_are_rows_of_its_table() -> None:
    model = build_model(SHAPES["bigram"])
    torch.nn.init.normal_(model.table.weight)
    ids = torch.tensor([[3, 64, 0]])
    assert torch.equal(model(ids)[0], model.table.weight[[3, 64, 0]])


def test_the_averaging_window_is_a_running_mean() -> None:
    torch.manual_seed(0)
    model = build_model(SHAPES["average"])
    ids = random_ids(model, 2, 16)
    embedded = model.wte(ids)
    running_mean = embedded.cumsum(1) / torch.arange(1, 17)[:, None]
    torch.testing.assert_close(model(ids), model.lm_head(running_mean))


def test_attention_is_the_formula_on_its_own_projections() -> None:
    torch.manual_seed(0)
    config = SHAPES["gpt"]
    module = SelfAttention(config).eval()
    x = torch.randn(2, 7, 32)
    q, k, v = (t.view(2, 7, 4, 8).transpose(1, 2) for t in module.c_attn(x).split(32, dim=-1))
    mixed = attention_reference(q, k, v).transpose(1, 2).reshape(2, 7, 32)
    torch.testing.assert_close(module(x), module.c_proj(mixed))


def test_attention_rows_sum_to_1() -> None:
    torch.manual_seed(0)
    module = SelfAttention(SHAPES["gpt"]).eval()
    with torch.no_grad():
        # Values of all ones and an identity projection: each output is the sum of a row of weights.
        module.c_attn.weight[64:] = 0
        module.c_attn.bias[64:] = 1
        module.c_proj.weight.copy_(torch.eye(32))
        module.c_proj.bias.zero_()
    torch.testing.assert_close(module(torch.randn(2, 9, 32) * 5), torch.ones(2, 9, 32))


GOLDEN = {  # module: shape of its output for B=2, T=5, C=32, H=4, V=65
    "wte": (2, 5, 32),
    "wpe": (5, 32),
    "drop": (2, 5, 32),
    "h.0.ln_1": (2, 5, 32),
    "h.0.attn.c_attn": (2, 5, 96),
    "h.0.attn.c_proj": (2, 5, 32),
    "h.0.attn": (2, 5, 32),
    "h.0.ln_2": (2, 5, 32),
    "h.0.mlp.c_fc": (2, 5, 128),
    "h.0.mlp.c_proj": (2, 5, 32),
    "h.0.mlp": (2, 5, 32),
    "h.0": (2, 5, 32),
    "h.1": (2, 5, 32),
    "ln_f": (2, 5, 32),
}


def test_golden_table_of_forward_shapes() -> None:
    model = build_model(SHAPES["gpt"])
    seen: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if name in GOLDEN:
            module.register_forward_hook(
                lambda _m, _i, out, name=name: seen.update({name: tuple(out.shape)})
            )
    model(random_ids(model, 2, 5))
    assert seen == GOLDEN


def test_the_cache_gives_the_logits_of_the_whole_text() -> None:
    torch.manual_seed(0)
    model = GPT(SHAPES["gpt"]).eval()
    ids = random_ids(model, 3, 16)
    expected = model(ids)
    cache = model.new_cache(batch_size=3)
    for row, n in enumerate((4, 1, 7)):  # rows of unequal lengths
        logits = model.prefill(ids[row, :n].tolist(), cache, row)
        torch.testing.assert_close(logits, expected[row, n - 1])
    for rows in ([0, 1, 2], [0, 2], [1], [0, 1, 2], [1, 2], [0, 1]):
        new = [int(ids[row, cache.lengths[row]]) for row in rows]
        logits = model.step(new, cache, rows)
        for row, logits_V in zip(rows, logits, strict=True):
            torch.testing.assert_close(logits_V, expected[row, cache.lengths[row] - 1])
    rest = ids[2, cache.lengths[2] :].tolist()
    logits = model.prefill(rest, cache, 2, all_logits=True)
    torch.testing.assert_close(logits, expected[2, -len(rest) :])
    for call in (lambda: model.prefill([1], cache, 2), lambda: model.step([1], cache, [2])):
        with pytest.raises(UserError, match="17 tokens don't fit into the context of 16"):
            call()


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = build_model(SHAPES["gpt"])
    ids = random_ids(model, 2, 16)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_a_model_prints_as_a_line_with_its_settings_and_parameters() -> None:
    model = build_model(SHAPES["gpt"])
    n = sum(parameter.numel() for parameter in model.parameters())
    assert repr(model) == (
        f"GPT(vocab_size=65, block_size=16, n_layer=2, n_head=4, n_embd=32, dropout=0.1; "
        f"{n:,} parameters)"
    )
    assert repr(model.h[0]).startswith("Block(")
    assert "(attn): SelfAttention(" in torch.nn.Module.__repr__(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_embd": 30}, "n_embd 30 can't be divided into n_head 4 heads"),
        ({"n_layer": 0}, "n_layer is 0: expected at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"architecture": "lstm"}, "unknown architecture 'lstm': expected one of bigram"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, object], message: str) -> None:
    settings = {"n_head": 4, "n_embd": 32} | change
    with pytest.raises(UserError, match=message):
        ModelConfig(65, **settings)
