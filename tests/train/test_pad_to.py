"""`gptfast train --pad-to`: a model with more rows than the tokenizer has ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

import gptfast
from gptfast.errors import UserError
from gptfast.model import ModelConfig
from gptfast.model.resize import add_tokens
from gptfast.train.config import TrainConfig
from gptfast.train.plan import with_vocabulary
from gptfast.train.pretrain import pretrain


@pytest.fixture
def config(corpus_file: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        out=tmp_path / "run", corpus=str(corpus_file), tokenizer="char", pad_to=64,
        model=ModelConfig(1024, block_size=16, n_layer=1, n_head=2, n_embd=16),
        max_steps=2, batch_size=2, warmup_steps=1, eval_interval=2, eval_windows=2,
        dtype="float32",
    )  # fmt: skip


def test_the_rows_that_are_no_tokens_are_never_sampled(config: TrainConfig) -> None:
    assert pretrain(config, "test", Console(quiet=True)) is not None
    model, tokenizer = gptfast.load(config.out)
    assert model.config.vocab_size == 64
    assert tokenizer.n_vocab < 64
    # Any logit of a token is now below that of some padding.
    with torch.no_grad():
        model.get_parameter("wte.weight")[tokenizer.n_vocab :: 2] = 1e3
        model.get_parameter("wte.weight")[tokenizer.n_vocab + 1 :: 2] = -1e3
        model.get_parameter("ln_f.weight").fill_(1.0)
        model.get_parameter("ln_f.bias").fill_(0.5)
    llm = gptfast.LLM(model, tokenizer)
    text = llm.generate("a", max_new_tokens=30, temperature=1.0)
    assert len(text) > 0  # no id stood for nothing

    # New tokens take the rows before the model grows.
    grown, larger = add_tokens(model, tokenizer, ["<a>", "<b>"])
    assert grown.config.vocab_size == 64
    assert larger.n_vocab == tokenizer.n_vocab + 2
    with pytest.raises(UserError, match=r"pad_to is 64, but the model in .* keeps its rows"):
        replace(config, init_from=config.out)


@pytest.mark.parametrize(
    ("n_vocab", "pad_to", "rows"), [(50257, 64, 50304), (128, 64, 128), (5, 1, 5)]
)
def test_rows_are_a_multiple(config: TrainConfig, n_vocab: int, pad_to: int, rows: int) -> None:
    padded = replace(config, pad_to=pad_to)
    assert padded.model_config(n_vocab).vocab_size == rows
    assert with_vocabulary(padded, n_vocab).model.vocab_size == rows


def test_a_multiple_is_at_least_one(config: TrainConfig) -> None:
    with pytest.raises(UserError, match="pad_to is 0: expected at least 1"):
        replace(config, pad_to=0)
