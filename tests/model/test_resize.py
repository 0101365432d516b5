"""New tokens in an old vocabulary: what the model knew stays, bit by bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gptfast.errors import UserError
from gptfast.model import ModelConfig, build_model, formats
from gptfast.model.quantized import quantize
from gptfast.model.resize import add_tokens
from gptfast.tokenizer import BPETokenizer, CharTokenizer

NAMES = ("<|user|>", "<|end|>", "<|c|>")
LAYOUTS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {
        "norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "bias": False,
        "tie_embeddings": False, "n_kv_head": 2,
    },
    "mistral": {
        "norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "bias": False,
        "tie_embeddings": False, "sliding_window": 4,
    },
    "mixtral": {
        "norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "bias": False,
        "tie_embeddings": False, "n_expert": 4,
    },
    "gptfast": {"activation": "relu2", "qk_norm": True, "logit_softcap": 15.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(["hello hello"], 259, progress=False)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("padding", [0, 2, 61])
def test_old_logits_stay_bitwise(tokenizer: BPETokenizer, layout: str, padding: int) -> None:
    n_old = tokenizer.n_vocab
    config = ModelConfig(
        n_old + padding, block_size=8, n_layer=2, n_head=4, n_embd=32, **LAYOUTS[layout]
    )
    assert formats.format_of(config) == layout
    model = build_model(config).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grown, more = add_tokens(model, tokenizer, NAMES)
    assert more.n_vocab == n_old + 3
    again, _ = add_tokens(model, tokenizer, NAMES)
    assert grown.config.vocab_size == max(n_old + padding, n_old + 3)
    assert not grown.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        new = grown.state_dict()[name]
        if name in ("wte.weight", "lm_head.weight"):
            assert torch.equal(new[:n_old], tensor[:n_old])
            added, old = new[n_old : n_old + 3].double(), tensor[:n_old].double()
            deviations = (added - old.mean(0)) / old.std(0)  # 3 rows of 32 draws from N(0, 1)
            assert abs(deviations.mean()) < 0.3
            assert 0.7 < deviations.std() < 1.3
            assert torch.equal(new, again.state_dict()[name])
            assert abs(torch.corrcoef(deviations).triu(1)).max() < 0.6  # told apart
        else:
            assert torch.equal(new, tensor)
    ids = torch.randint(n_old, (3, 8))
    assert torch.equal(grown(ids)[..., :n_old], model(ids)[..., :n_old])
    # A product of one token with a matrix may treat the rows beyond a multiple of 4 apart.
    n_whole = n_old - n_old % 4
    one, other = model.new_cache(1), grown.new_cache(1)
    for row, grown_row in (
        (model.prefill([3, 4], one, 0), grown.prefill([3, 4], other, 0)),
        (model.step([5], one, [0])[0], grown.step([5], other, [0])[0]),
    ):
        assert torch.equal(grown_row[:n_whole], row[:n_whole])
        torch.testing.assert_close(grown_row[:n_old], row[:n_old], rtol=0, atol=1e-6)


def test_what_can_not_grow_is_refused(tokenizer: BPETokenizer) -> None:
    shape: dict[str, Any] = {"block_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 32}
    chars = CharTokenizer("ab")
    grown, more = add_tokens(build_model(ModelConfig(2, **shape)), chars, NAMES)
    assert (grown.config.vocab_size, more.n_vocab) == (5, 5)
    with pytest.raises(UserError, match=r"has a token .* already"):
        add_tokens(grown, more, ["<|end|>"])
    with pytest.raises(UserError, match="'bigram': only a GPT in floats"):
        add_tokens(build_model(ModelConfig(2, architecture="bigram", **shape)), chars, NAMES)
    with pytest.raises(UserError, match=r"n-grams, .* train a base with --max-ngram 1, or with"):
        add_tokens(build_model(ModelConfig(2, max_ngram=2, **shape)), chars, NAMES)
    padded = build_model(ModelConfig(8, max_ngram=2, **shape)).eval()
    ids = torch.tensor([[0, 1, 1]])
    assert torch.equal(add_tokens(padded, chars, NAMES)[0](ids)[..., :2], padded(ids)[..., :2])
    quantize(padded, "int8")
    with pytest.raises(UserError, match="'int8': only a GPT in floats"):
        add_tokens(padded, chars, NAMES)
