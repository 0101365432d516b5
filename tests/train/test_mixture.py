"""Training on several corpora, and on documents that don't see one another."""

from __future__ import annotations

import io
import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from gptfast.data.__main__ import main as prepare_data
from gptfast.data.batch import Batch
from gptfast.data.dataset import DataReport, Dataset, Mixture
from gptfast.data.leakage import from_the_others
from gptfast.data.loader import EvalWindows
from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig
from gptfast.tokenizer import BPETokenizer, CharTokenizer, Tokenizer
from gptfast.train import loop
from gptfast.train.config import TrainConfig
from gptfast.train.evaluate import evaluate
from gptfast.train.objective import NextToken
from gptfast.train.pretrain import pretrain
from gptfast.train.step import accumulate_gradients

MODEL = ModelConfig(300, block_size=16, n_layer=2, n_head=2, n_embd=16)


@pytest.fixture
def config(corpus_file: Path, tmp_path: Path) -> TrainConfig:
    other = tmp_path / "other.txt"
    other.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(300)))
    return TrainConfig(
        out=tmp_path / "run", corpus=str(corpus_file), mix_corpora=(str(other),),
        corpus_weights=(1, 3),
        model=MODEL, max_steps=12, batch_size=4, warmup_steps=2, eval_interval=4, eval_windows=4,
        dtype="float32",
    )  # fmt: skip


def train(config: TrainConfig) -> loop.Result:
    result = pretrain(config, "test", Console(quiet=True))
    assert result is not None
    return result


def evaluations(config: TrainConfig) -> list[dict[str, Any]]:
    lines = map(json.loads, (config.out / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "val_loss" in line]


def test_a_run_on_two_corpora_says_the_loss_of_each(config: TrainConfig) -> None:
    train(config)
    for evaluation in evaluations(config):
        first, second = evaluation["val_losses"]
        assert evaluation["val_loss"] == pytest.approx(0.25 * first + 0.75 * second)
        assert first != second
    record = json.loads((config.out / "run.json").read_text())
    corpora = [record["data"], *record["further_data"]]
    assert [part["corpus"] for part in corpora] == [config.corpus, *config.mix_corpora]
    assert record["shares"] == [0.25, 0.75]
    assert len(record["result"]["measured"]["val_losses"]) == 2
    state = json.loads((config.out / "training" / "step-00000012" / "state.json").read_text())
    assert [source["taken"] for source in state["source"]] == [12, 36]


def test_an_interrupted_run_on_two_corpora_goes_on_bitwise(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(replace(config, out=config.out.with_name("whole")))
    step = loop.Trainer.step

    def killed(trainer: loop.Trainer) -> None:
        if trainer.state.progress.step == 6:
            raise KeyboardInterrupt
        step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    resumed = train(replace(config, resume=True))
    assert resumed.best_step == whole.best_step == 12
    assert resumed.measured == whole.measured
    losses = [
        [{k: v for k, v in evaluation.items() if k != "seconds"} for evaluation in evaluations(run)]
        for run in (config, replace(config, out=config.out.with_name("whole")))
    ]
    assert losses[0] == losses[1]


def test_resume_refuses_another_second_corpus(config: TrainConfig) -> None:
    train(config)
    with Path(config.mix_corpora[0]).open("a") as file:
        file.write("One more line.\n")
    with pytest.raises(UserError, match="has changed since the run in"):
        train(replace(config, resume=True))


def dataset(name: str, tokenizer: Tokenizer, n_train: int) -> Dataset:
    report = DataReport(name, "", 1, n_train, n_train, 1, 30, 10, 0.0)
    ids = np.zeros(n_train, dtype=np.uint16)
    return Dataset(Path(name), tokenizer, ids, ids[:10], report)


def test_what_leaks_from_one_corpus_into_another() -> None:
    letters = np.random.default_rng(0)
    a_train, a_val, b_train, b_val = (
        "".join(letters.choice(list("abcdefgh"), size=n)) for n in (3000, 200, 3000, 200)
    )
    other = "a" if b_train[1200] != "a" else "b"  # where the piece of b ends
    a_val = b_train[1000:1200] + other + a_val[1:]
    tokenizer = CharTokenizer.train(a_train)
    parts = [
        replace(dataset(name, tokenizer, 0), **{
            side: tokenizer.encode_to_numpy(text)
            for side, text in (("train", train_text), ("val", val_text))
        })
        for name, train_text, val_text in (("a", a_train, a_val), ("b", b_train, b_val))
    ]  # fmt: skip
    # Of the 351 windows of 50 characters in a's val, the first 151 are b's.
    assert from_the_others(Mixture.of(parts)) == [151 / 351, 0.0]


def test_a_run_says_what_leaks(config: TrainConfig) -> None:
    other = Path(config.mix_corpora[0])
    other.write_text(Path(config.corpus).read_text() + other.read_text())
    out = io.StringIO()
    pretrain(replace(config, max_steps=1), "test", Console(file=out, width=500))
    assert f"100.00% of the val text of {config.corpus} occurs in the train" in out.getvalue()


def test_without_weights_sizes_decide() -> None:
    tokenizer = CharTokenizer.train("abc")
    parts = [dataset("a", tokenizer, 100), dataset("b", tokenizer, 300)]
    assert Mixture.of(parts).weights == (0.25, 0.75)
    assert Mixture.of(parts, (2, 2)).weights == (0.5, 0.5)
    assert Mixture.of(parts, (2, 2)).mean([1.0, 2.0]) == 1.5


def test_a_mixture_that_cannot_be_is_refused() -> None:
    parts = [dataset(name, CharTokenizer.train(name), 100) for name in ("ab", "cd")]
    with pytest.raises(UserError, match="cd was prepared with another tokenizer than ab"):
        Mixture.of(parts)
    for weights in [(1.0,), (1.0, 2.0, 3.0), (1.0, 0.0), (1.0, math.nan), (1.0, math.inf)]:
        with pytest.raises(UserError, match="above 0 for --corpus and each of --mix-corpora"):
            TrainConfig(mix_corpora=("b",), corpus_weights=weights)


@pytest.mark.parametrize("max_ngram", [1, 3])
def test_documents_that_are_masked_learn_as_if_they_were_alone(max_ngram: int) -> None:
    torch.manual_seed(0)
    model = GPT(replace(MODEL, vocab_size=11, block_size=8, positions="none", max_ngram=max_ngram))
    separator = 0
    ids = torch.tensor([[3, 4, 0, 5, 6, 7, 0, 1, 2], [0, 9, 8, 7, 6, 5, 0, 0, 4]])
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    alone = [(x[0, :2], y[0, :2]), (x[0, 2:6], y[0, 2:6]), (x[0, 6:], y[0, 6:]),
             (x[1, :6], y[1, :6]), (x[1, 6:7], y[1, 6:7]), (x[1, 7:], y[1, 7:])]  # fmt: skip
    expected = sum(model(a[None], b[None]) * len(a) for a, b in alone) / x.numel()
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    loss = accumulate_gradients(model, Batch(x, y, x == separator), NextToken(), scaler)
    torch.testing.assert_close(loss, expected.detach())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)
    # Val losses are measured in the same way.
    model.eval()
    assert evaluate(model, EvalWindows(ids[0].numpy(), 8, 2, separator=separator)) == pytest.approx(
        sum(model(a[None], b[None]).item() * len(a) for a, b in alone[:3]) / 8, rel=1e-5
    )


def test_a_run_masks_documents_if_asked_to(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    borders = []
    forward = GPT.forward

    def watched(model: GPT, x: Any, y: Any, cu_seqlens: torch.Tensor | None = None) -> Any:
        borders.append(cu_seqlens)
        return forward(model, x, y, cu_seqlens)

    monkeypatch.setattr(GPT, "forward", watched)
    train(replace(config, out=config.out.with_name("seen"), max_steps=1))
    assert all(given is None for given in borders)
    borders.clear()
    train(replace(config, mask_documents=True, max_steps=1))
    assert borders
    assert all(given is not None for given in borders)  # in training and in evaluations


@pytest.mark.slow
def test_compiled_with_masked_documents_and_ngrams_trains_to_the_same_loss(
    config: TrainConfig,
) -> None:
    """Steps have different numbers of documents, so that shapes differ from step to step."""
    model = replace(MODEL, max_ngram=3, n_layer=1)
    config = replace(config, mask_documents=True, model=model, max_steps=4)
    plain = train(replace(config, out=config.out.with_name("plain")))
    compiled = train(replace(config, compile=True))
    assert compiled.val_loss == pytest.approx(plain.val_loss, abs=1e-4)


def test_masking_needs_a_separator_and_a_transformer(config: TrainConfig) -> None:
    with pytest.raises(UserError, match="no end-of-text token"):
        train(
            replace(
                config, tokenizer="char", mix_corpora=(), corpus_weights=(), mask_documents=True
            )
        )
    CharTokenizer.train(Path(config.corpus).read_text()).save(config.out.with_name("characters"))
    characters = str(config.out.with_name("characters"))
    with pytest.raises(UserError, match="no end-of-text token"):
        train(
            replace(
                config, tokenizer=characters, mix_corpora=(), corpus_weights=(), mask_documents=True
            )
        )
    bigram = replace(config.model, architecture="bigram")
    with pytest.raises(UserError, match="parallel 'fsdp' needs architecture 'gpt'"):
        replace(config, model=bigram, parallel="fsdp")
    with pytest.raises(UserError, match="mask_documents needs architecture 'gpt'"):
        replace(config, model=replace(MODEL, architecture="bigram"), mask_documents=True)


def test_the_loaders_thread_ends_with_the_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def step(trainer: loop.Trainer) -> None:
        seen.extend(thread.name for thread in threading.enumerate())
        raise ZeroDivisionError

    monkeypatch.setattr(loop.Trainer, "step", step)
    with pytest.raises(ZeroDivisionError):
        train(config)
    assert any(name.startswith("loader") for name in seen)
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


def prepared(name: str, text: str, tmp_path: Path) -> Path:
    """A folder of shards and the tokenizer in it, both made of `text`."""
    texts = tmp_path / f"{name}-texts"
    texts.mkdir()
    for n in range(20):
        (texts / f"{n}.txt").write_text(f"{n}: {text * 50}")
    BPETokenizer.train(texts=[text * 50], vocab_size=260).save(tmp_path / f"{name}-tokenizer")
    arguments = ["prepare", str(texts), "--out", str(tmp_path / name), "--val-fraction", "0.3"]
    assert prepare_data([*arguments, "--tokenizer", str(tmp_path / f"{name}-tokenizer")]) == 0
    return tmp_path / name


def test_prepared_folders_and_texts_mix(config: TrainConfig, tmp_path: Path) -> None:
    one = prepared("one", "one two three ", tmp_path)
    text = config.corpus
    for n, (corpus, also) in enumerate([(str(one), text), (text, str(one)), (str(one), str(one))]):
        tokenizer = str(one) if corpus == text else "bpe"
        out = config.out.with_name(str(n))
        mixed = replace(config, corpus=corpus, mix_corpora=(also,), tokenizer=tokenizer, out=out)
        train(replace(mixed, max_steps=1))
        assert len(evaluations(mixed)[-1]["val_losses"]) == 2


def test_corpora_of_different_tokenizers_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    one = prepared("one", "one two three ", tmp_path)
    two = prepared("two", "un deux trois ", tmp_path)
    for corpus in (str(one), config.corpus):
        with pytest.raises(UserError, match=r"two was prepared with another tokenizer than"):
            train(replace(config, corpus=corpus, mix_corpora=(str(two),)))
