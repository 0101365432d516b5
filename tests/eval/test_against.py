"""Two models compared: KL divergence, agreement, differences and their standard errors."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from judged import TEXTS, save, shaken

from gptfast.cli import cli
from gptfast.eval.__main__ import main
from gptfast.eval.against import diverge
from gptfast.model import GPT, ModelConfig, build_model, divergence
from gptfast.model.divergence import kl_divergence
from gptfast.model.text_score import difference_of_means, encode_documents, spans
from gptfast.tokenizer import BPETokenizer, CharTokenizer


def test_kl_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    # Logits are log-probabilities up to a constant.
    assert float(kl_divergence(p + 3, q - 5)) == pytest.approx(expected)
    assert float(kl_divergence(q, p)) == pytest.approx(
        0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    )


def test_a_comparison_is_that_of_a_naive_loop_in_float64(
    model: GPT, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their vocabularies are padded differently, and the context is the smaller one."""
    monkeypatch.setattr(divergence, "ROWS_AT_A_TIME", 7)
    first = deepcopy(model).double()
    second = shaken(ModelConfig(288, "gpt", 12, 1, 2, 16), seed=1).double()
    with torch.no_grad():  # similar enough to agree now and then
        second.wte.weight[:280] = first.wte.weight
    documents = encode_documents(TEXTS, tokenizer)
    kl, agreed, n, losses = 0.0, 0, 0, np.zeros((2, len(documents)))
    for i, document in enumerate(documents):
        for begin, start, end in spans(len(document.ids), 12, 6):
            for target in range(start, end):
                ids = torch.tensor(document.ids[begin:target])[None]
                with torch.no_grad():
                    logits = [m(ids)[0, -1] for m in (first, second)]
                p, q = (x[: tokenizer.n_vocab].softmax(-1) for x in logits)
                kl += float((p * (p / q).log()).sum())
                agreed += int(p.argmax() == q.argmax())
                for of_model, x in zip(losses, logits, strict=True):
                    of_model[i] -= float(x.log_softmax(-1)[int(document.ids[target])])
                n += 1
    found = diverge(first, second, documents, 6, 4, tokenizer.n_vocab)
    assert found.kl == pytest.approx(kl / n, rel=1e-9)
    assert found.agreement == pytest.approx(agreed / n)
    assert 0 < agreed < n
    assert found.first.nats_N == pytest.approx(losses[0], rel=1e-6)
    assert found.second.nats_N == pytest.approx(losses[1], rel=1e-6)


def test_a_difference_by_hand() -> None:
    # 2 documents of 2 and 4 tokens, 3 and 9 nats against 2 and 7: means 12/6 and 9/6.
    units = np.array([2, 4])
    mean, error = difference_of_means((np.array([3.0, 9.0]), units), (np.array([2.0, 7.0]), units))
    assert mean == pytest.approx(0.5)
    # Differences 1 and 2 of expected 1 and 2: nothing is left to chance.
    assert error == pytest.approx(0, abs=1e-12)
    mean, error = difference_of_means((np.array([5.0, 9.0]), units), (np.array([2.0, 7.0]), units))
    # Differences 3 and 2, mean 5/6, residuals 3 - 10/6 and 2 - 20/6: 2 (2 (4/3)^2) / 36.
    assert mean == pytest.approx(5 / 6)
    assert error == pytest.approx(math.sqrt(2 / 1 * 2 * (4 / 3) ** 2) / 6)
    assert difference_of_means((np.ones(1), units[:1]), (np.ones(1), units[:1]))[1] is None


def test_the_standard_error_is_that_of_a_bootstrap_over_documents() -> None:
    rng = np.random.default_rng(0)
    units = rng.integers(5, 200, 300)
    other_units = units + rng.integers(0, 3, 300)  # another tokenizer's bytes
    difficulty = rng.normal(3, 0.5, 300)
    first = units * (difficulty + rng.normal(0, 0.1, 300))
    second = other_units * (difficulty + rng.normal(0.05, 0.1, 300))
    _, error = difference_of_means((first, units), (second, other_units))
    chosen = rng.integers(0, 300, (4000, 300))
    means = first[chosen].sum(1) / units[chosen].sum(1) - (
        second[chosen].sum(1) / other_units[chosen].sum(1)
    )
    assert error == pytest.approx(means.std(), rel=0.08)


@pytest.mark.parametrize("kind", ["same", "characters"])
def test_the_command(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "a.json"
    text.write_text("<|endoftext|>".join(TEXTS), encoding="utf-8")
    other = folder
    if kind == "characters":
        tokenizer = CharTokenizer.train("".join(TEXTS))
        config = ModelConfig(tokenizer.n_vocab, "bigram", 8, 1, 1, 4)
        other = save(tmp_path / "characters", build_model(config), tokenizer)
    given = [str(folder), "--text", str(text), "--against", str(other), "--out", str(out)]
    assert cli.run(main, given) == 0
    said = capsys.readouterr().out
    results = json.loads(out.read_text())
    found, text_beside = results["against"], results["text"]
    assert found["same_tokenizer"] == (kind == "same")
    assert ("kl_nats_per_token" in found) == (kind == "same")
    assert ("only bits/byte compare" in said) == (kind == "characters")
    bits = found["bits_per_byte"]
    assert found["bits_per_byte_difference"] == pytest.approx(bits[0] - bits[1])
    # The table of --text is the same as without --against.
    assert cli.run(main, [*given[:3], "--out", str(out)]) == 0
    alone = json.loads(out.read_text())["text"]
    assert alone.keys() - text_beside.keys() == {"tokens_per_second"}
    for key in ("bits_per_byte", "nats_per_token"):
        assert text_beside.pop(key) == pytest.approx(alone[key])
    assert all(alone[key] == value for key, value in text_beside.items())
    if kind == "same":
        assert found["kl_nats_per_token"] == 0
        assert found["top_1_agreement"] == 1
        assert found["nats_per_token_standard_error"] == 0
    assert found["bits_per_byte_standard_error"] >= 0


@pytest.mark.parametrize(("block_size", "passes"), [(16, 1), (24, 1), (12, 2)])
def test_each_model_reads_the_text_once(
    block_size: int,
    passes: int,
    folder: Path,
    tokenizer: BPETokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twice only if the first model's context, 16, is longer than what it is compared with."""
    other = shaken(ModelConfig(280, "gpt", block_size, 1, 2, 16), seed=1)
    save(tmp_path / "other", other, tokenizer)
    text = tmp_path / "a.txt"
    text.write_text(TEXTS[1], encoding="utf-8")  # fits into one window
    calls = []
    forward = GPT.forward

    def counted(self: GPT, *arguments: torch.Tensor, **options: str) -> torch.Tensor:
        calls.append(self.config.n_layer)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(GPT, "forward", counted)
    given = [str(folder), "--text", str(text), "--against", str(tmp_path / "other")]
    assert cli.run(main, [*given, "--batch-size", "64"]) == 0
    assert (calls.count(2), calls.count(1)) == (passes, 1)
