"""The scores of heads by hand, and that a broken mask is noticed."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from typing import Any

import pytest
import torch
from look_models import induction_model, random_model, tokenizer

from gptfast import ops
from gptfast.audit.attention import AttentionAudit, measure
from gptfast.audit.heads import scores
from gptfast.audit.mask import check_weights
from gptfast.errors import UserError
from gptfast.model import ModelConfig, build_model
from gptfast.tokenizer import CharTokenizer

TEXT = "abcabdabca"


def failed(audit: AttentionAudit) -> dict[str, str]:
    return {check.name: check.found for check in audit.checks if not check.passed}


def test_scores_by_hand() -> None:
    weights = torch.tensor([[1.0, 0, 0], [0.25, 0.75, 0], [0.5, 0.25, 0.25]])
    found = scores(weights, torch.ones(3, 3).tril().bool(), torch.zeros(3, dtype=torch.long))
    in_row_1 = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    in_row_2 = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert found == {
        "entropy": pytest.approx((in_row_1 + in_row_2) / 2),
        "most_entropy": pytest.approx((math.log(2) + math.log(3)) / 2),
        "previous_token": pytest.approx((0.25 + 0.25) / 2),
        "first_token": pytest.approx((0.25 + 0.5) / 2),
    }
    # A window of two tokens: token 2 doesn't see token 0.
    sees = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1]]).bool()
    weights = torch.tensor([[1.0, 0, 0], [0.25, 0.75, 0], [0, 0.5, 0.5]])
    found = scores(weights, sees, torch.zeros(3, dtype=torch.long))
    assert found["first_token"] == pytest.approx(0.25)
    assert found["previous_token"] == pytest.approx((0.25 + 0.5) / 2)
    # Each token a document: none has a choice.
    found = scores(torch.eye(3), torch.eye(3).bool(), torch.arange(3))
    assert set(found.values()) == {None}


def test_the_hand_set_model_has_an_induction_head_and_a_random_one_has_none() -> None:
    audit = measure(induction_model(), tokenizer(), TEXT)
    assert failed(audit) == {}
    first, second = audit.heads
    assert first.previous_token == pytest.approx(1)
    assert first.induction == pytest.approx(0, abs=1e-6)
    # Token 0 has none before it, and counts as its own: of 16 tokens, the first finds two places.
    assert second.induction == pytest.approx((15 + 1 / 2) / 16)
    assert audit.induction is not None
    # It can't foresee random tokens, at least log(16) nats on average, and copies them.
    assert audit.induction.loss_of_first_copy > math.log(16)
    assert audit.induction.loss_of_second_copy < 0.2
    audit = measure(random_model(), tokenizer(), TEXT)
    assert failed(audit) == {}
    assert all(head.induction is not None and head.induction < 0.1 for head in audit.heads)
    assert audit.induction is not None
    gain = audit.induction.loss_of_first_copy - audit.induction.loss_of_second_copy
    assert abs(gain) < 0.5


def test_the_matrix_is_that_of_the_model() -> None:
    model = random_model()
    audit = measure(model, tokenizer(), TEXT, layer=2, head=1)
    with torch.no_grad(), ops.return_weights() as weights:
        model(torch.tensor([audit.ids]))
    expected = weights[1][0, 0]
    torch.testing.assert_close(torch.tensor(audit.matrix), expected, atol=5e-5, rtol=0)
    assert audit.mask == torch.ones(10, 10, dtype=torch.long).tril().tolist()
    assert audit.sees[0] == "token 1 “a” sees itself"
    assert audit.sees[2] == "token 3 “c” sees tokens 1 to 3, “a” to “c”"
    assert json.loads(json.dumps(asdict(audit)))["tokens"] == list(TEXT)


VARIANTS: list[dict[str, Any]] = [
    {"n_kv_head": 1, "positions": "rotary", "norm": "rmsnorm", "bias": False, "qk_norm": True},
    {"sliding_window": 3, "n_layer": 3, "global_every": 2},
    {"sliding_window": 1},
    {"logit_softcap": 5.0, "max_ngram": 3, "ngram_rows": 64},
    {"n_expert": 4, "bias": False},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=lambda settings: next(iter(settings)))
def test_other_transformers_keep_their_masks(settings: dict[str, Any]) -> None:
    audit = measure(random_model(**settings), tokenizer(), TEXT, layer=1)
    assert failed(audit) == {}
    window = settings.get("sliding_window", 10)
    assert [sum(row) for row in audit.mask] == [min(t + 1, window) for t in range(10)]
    if settings.get("n_layer") == 3:
        assert "In layers 1, 3, it sees only the 3 newest" in audit.rules[1]
    if "n_kv_head" in settings:
        assert "Each 2 heads in a row share keys and values" in audit.rules[1]


@pytest.mark.parametrize("architecture", ["head", "multihead"])
def test_the_rungs_below_the_gpt_that_have_heads(architecture: Any) -> None:
    model = build_model(ModelConfig(16, architecture, 16, 1, 1, 8)).eval()
    assert failed(measure(model, tokenizer(), TEXT)) == {}


def test_documents_do_not_see_each_other() -> None:
    marked = CharTokenizer.train("abcd", special_tokens=("<|endoftext|>",))
    text = "abc<|endoftext|>abd"
    audit = measure(random_model(), marked, text, mask_documents=True)
    assert failed(audit) == {}
    assert [sum(row) for row in audit.mask] == [1, 2, 3, 1, 2, 3, 4]
    assert audit.sees[3] == "token 4 “<|endoftext|>” sees itself"
    assert "It sees only tokens of its own document." in audit.rules
    with pytest.raises(UserError, match="no end-of-text token"):
        measure(random_model(), tokenizer(), TEXT, mask_documents=True)


def test_a_mask_that_shows_the_future_is_noticed_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["gptfast.ops.attention"]  # its function has the same name
    mask = module._mask

    def leaky(*arguments: Any) -> torch.Tensor:
        hidden = mask(*arguments).clone()
        hidden[4, 5] = False
        return hidden

    monkeypatch.setattr(module, "_mask", leaky)
    audit = measure(random_model(), tokenizer(), TEXT)
    found = failed(audit)
    assert not audit.is_sound
    assert "layer 1, head 1, token 5 gives" in found["no weight beyond the mask: exactly 0"]
    assert "to token 6, which comes later" in found["no weight beyond the mask: exactly 0"]
    name = "changing a token leaves all logits before it, by the definition"
    assert "changing token 6 changes the logits of token 5 by" in found[name]
    # PyTorch's op has a mask of its own, which is right; the two no longer agree.
    assert "what this machine computes agrees with the definition" in found
    assert len(found) == 3


def test_a_fast_path_that_shows_the_future_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.functional.scaled_dot_product_attention

    def leaky(*arguments: Any, **options: Any) -> torch.Tensor:
        return real(*arguments, **options | {"is_causal": False})

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", leaky)
    found = failed(measure(random_model(), tokenizer(), TEXT))
    name = "changing a token leaves all logits before it, as this machine computes it"
    assert "changing token 2 changes the logits of token 1 by" in found[name]
    assert "what this machine computes agrees with the definition" in found
    assert len(found) == 2


def test_weights_that_are_no_weights_are_noticed() -> None:
    sees = torch.ones(3, 3).tril().bool()[None]
    good = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]])
    assert all(check.passed for check in check_weights(good[None, None], sees))
    for t, s, value in ((1, 0, 0.500002), (1, 2, 1e-30), (0, 0, 0.9999999), (2, 2, math.nan)):
        wrong = good.clone()
        wrong[t, s] = value
        assert not all(check.passed for check in check_weights(wrong[None, None], sees))


def test_mistakes_of_the_user() -> None:
    model = random_model()
    for text in ("", "a", "a" * 33):
        with pytest.raises(UserError, match="expected 2 to 32"):
            measure(model, tokenizer(), text)
    with pytest.raises(UserError, match="--layer is 3: expected 1 to 2"):
        measure(model, tokenizer(), TEXT, layer=3)
    with pytest.raises(UserError, match="has no attention"):
        measure(build_model(ModelConfig(16, "bigram", 16)), tokenizer(), TEXT)


def test_dropout_is_off_and_training_goes_on() -> None:
    model = random_model(dropout=0.5).train()
    assert failed(measure(model, tokenizer(), TEXT)) == {}
    assert model.training
