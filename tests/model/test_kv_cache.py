"""The cache of keys and values: rows of unequal lengths, rings, copies and truncation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig, build_model
from gptfast.model.kv_cache import SLACK

LLAMA = ModelConfig(
    31, "gpt", 96, 2, 4, 16, norm="rmsnorm", bias=False, positions="rotary", activation="swiglu",
    n_kv_head=2, tie_embeddings=False,
)  # fmt: skip
WINDOW = replace(LLAMA, n_layer=3, sliding_window=7, global_every=3)
NGRAMS = replace(LLAMA, positions="learned", max_ngram=4, ngram_rows=50)
MODELS = {"rotary": LLAMA, "window": WINDOW, "n-grams": NGRAMS}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> GPT:
    torch.manual_seed(0)
    model = GPT(MODELS[request.param]).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # logits that depend on the context
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(31, (3, 96), generator=torch.Generator().manual_seed(1))


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_a_ring_is_a_little_longer_than_its_window() -> None:
    cache = GPT(WINDOW).new_cache(2)
    assert [k.shape for k in cache.k] == [(2, 2, 7 + SLACK, 4)] * 2 + [(2, 2, 96, 4)]
    assert [v.shape for v in cache.v] == [k.shape for k in cache.k]
    short = GPT(replace(WINDOW, sliding_window=90)).new_cache(2)
    assert {k.shape for k in short.k} == {(2, 2, 96, 4)}


def test_a_row_lies_where_its_positions_say(model: GPT, ids: torch.Tensor) -> None:
    """Position p of a row lies at index p % S: what the Rust step relies on."""
    whole = model.new_cache(1)
    model.prefill(ids[0, :60].tolist(), whole, 0)
    cache = model.new_cache(3)
    model.prefill(ids[0, :50].tolist(), cache, 2)
    for token in ids[0, 50:60].tolist():
        model.step([token], cache, [2])
    for k_BGSD, whole_BGSD in zip(cache.k, whole.k, strict=True):
        close(k_BGSD[2], whole_BGSD[0])
    assert cache.ids_BT[2, :60].tolist() == ids[0, :60].tolist()
    assert cache.lengths == [0, 0, 60]


def test_every_token_of_a_text_longer_than_a_ring(model: GPT, ids: torch.Tensor) -> None:
    expected = model(ids)
    cache = model.new_cache(3)
    for row, n in enumerate((1, 60, 20)):
        close(model.prefill(ids[row, :n].tolist(), cache, row), expected[row, n - 1])
    while min(cache.lengths) < 96:
        rows = [row for row, length in enumerate(cache.lengths) if length < 96]
        new = [int(ids[row, cache.lengths[row]]) for row in rows]
        logits_BV = model.step(new, cache, rows)
        close(logits_BV, torch.stack([expected[row, cache.lengths[row] - 1] for row in rows]))


def test_ids_come_in_pieces_of_any_length(model: GPT, ids: torch.Tensor) -> None:
    expected = model(ids)[0]
    cache = model.new_cache(2)
    end = 0
    for n in (3, 1, 50, 2, 1, 30, 9):
        logits = model.prefill(ids[0, end : end + n].tolist(), cache, 1, all_logits=True)
        close(logits, expected[end : end + n])
        end += n


def test_tokens_can_be_taken_back(model: GPT, ids: torch.Tensor) -> None:
    expected = model(ids)[0]
    cache = model.new_cache(2)
    model.prefill(ids[0, :60].tolist(), cache, 1)
    model.prefill([5] * SLACK, cache, 1)
    cache.truncate(1, 60)
    close(model.step([int(ids[0, 60])], cache, [1])[0], expected[60])
    model.prefill([5] * (SLACK - 1), cache, 1)
    cache.truncate(1, 61)
    logits = model.prefill(ids[0, 61:70].tolist(), cache, 1, all_logits=True)
    close(logits, expected[61:70])
    with pytest.raises(AssertionError):
        cache.truncate(1, 70 - SLACK - 1)


@pytest.mark.parametrize("n", [4, 60])
def test_a_saved_row_goes_on_in_another(model: GPT, ids: torch.Tensor, n: int) -> None:
    expected = model(ids)[0]
    cache = model.new_cache(3)
    model.prefill(ids[0, :n].tolist(), cache, 0)
    saved = cache.save(0)
    model.prefill(ids[1, :30].tolist(), cache, 0)  # the copy is independent
    model.prefill(ids[1, :90].tolist(), cache, 2)
    cache.load(2, saved)
    close(model.step([int(ids[0, n])], cache, [2])[0], expected[n])


def test_a_wiped_row_holds_no_nan(model: GPT, ids: torch.Tensor) -> None:
    expected = model(ids)[0]
    cache = model.new_cache(2)
    for cached in (*cache.k, *cache.v):
        cached[1] = torch.nan
    cache.wipe(1)
    model.prefill(ids[0, :2].tolist(), cache, 1)
    model.prefill(ids[1, :40].tolist(), cache, 0)
    close(model.step([1, int(ids[0, 2])], cache, [0, 1])[1], expected[2])


def test_wrong_ids_are_refused_and_change_no_row(model: GPT) -> None:
    cache = model.new_cache(2)
    model.prefill([1, 2], cache, 0)
    for wrong in ([31], [-1]):
        with pytest.raises(UserError, match=rf"a token id is {wrong[0]}; expected 0 to 30"):
            model.prefill(wrong, cache, 0)
        with pytest.raises(UserError, match=rf"a token id is {wrong[0]}; expected 0 to 30"):
            model.step(wrong, cache, [0])
    assert cache.lengths == [2, 0]


@pytest.mark.parametrize("architecture", ["bigram", "average", "head", "multihead"])
def test_models_without_keys_and_values_have_the_same_methods(architecture: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(31, architecture, 16, 1, 2, 16)).eval()  # type: ignore[arg-type]
    ids = torch.randint(31, (2, 16))
    expected = model(ids)
    cache = model.new_cache(2)
    close(model.prefill(ids[0, :5].tolist(), cache, 0), expected[0, 4])
    close(model.prefill(ids[1, :9].tolist(), cache, 1, all_logits=True), expected[1, :9])
    logits_BV = model.step([int(ids[0, 5]), int(ids[1, 9])], cache, [0, 1])
    close(logits_BV, torch.stack((expected[0, 5], expected[1, 9])))
