"""Speculation changes the speed of a text and nothing else."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from gptfast import LLM
from gptfast.cli import cli
from gptfast.errors import UserError
from gptfast.model import GPT, LanguageModel, ModelConfig, build_model
from gptfast.model.folder import save_description, save_weights
from gptfast.model.quantized import quantize
from gptfast.ops import use_backend
from gptfast.sample.__main__ import main
from gptfast.sample.config import SamplingConfig
from gptfast.sample.engine import Engine
from gptfast.sample.grammar import Grammar
from gptfast.sample.request import Generation, Request
from gptfast.sample.speculate import DraftModel, PromptLookup, Speculation
from gptfast.tokenizer import CharTokenizer

V = 24


def small(seed: int, block_size: int = 24, width: int = 16, **options: Any) -> GPT:
    torch.manual_seed(seed)
    model = GPT(ModelConfig(V, "gpt", block_size, 1, 2, width, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def always(draft: DraftModel | PromptLookup, n_guesses: int = 4) -> Speculation:
    """Guesses whether they pay or not: no time passes."""
    return Speculation(draft, n_guesses, clock=lambda: 0.0)


def generated(
    model: LanguageModel, speculation: Speculation | None, prompt: Sequence[int], **options: Any
) -> Generation:
    engine = Engine(model, None, n_slots=1, speculation=speculation)
    (generation,) = engine.submit(Request(prompt, **options))
    while engine.has_work:
        engine.step()
    assert generation.error is None
    return generation


def write(*arguments: Any, **options: Any) -> list[int]:
    return generated(*arguments, **options).ids


def prompts(n: int) -> Iterator[list[int]]:
    rng = np.random.default_rng(0)
    for _ in range(n):
        yield rng.integers(0, V, rng.integers(1, 30)).tolist()


MODELS = {
    "GPT-2": {},
    "rotary, sliding window": {"positions": "rotary", "sliding_window": 5, "n_kv_head": 1},
    "n-grams": {"max_ngram": 3, "ngram_rows": 64},
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_greedy_text_is_the_same_with_any_draft(options: dict[str, Any]) -> None:
    model = small(0, **options)
    greedy = SamplingConfig(temperature=0)
    drafts = [DraftModel(small(0, **options)), DraftModel(small(1)), PromptLookup(2, 1)]
    speculations = [always(draft) for draft in drafts]
    for i, prompt in enumerate(prompts(67)):  # 201 in all
        wanted = {"max_new_tokens": 4 + i % 12, "sampling": greedy, "stop_tokens": (3,)}
        assert write(model, speculations[i % 3], prompt, **wanted) == write(
            model, None, prompt, **wanted
        )


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_drawn_text_is_the_same_with_any_draft(temperature: float) -> None:
    model = small(0)
    sampling = SamplingConfig(temperature, top_k=12, repetition_penalty=1.2)
    for seed, prompt in enumerate(prompts(5)):
        wanted = {"max_new_tokens": 40, "sampling": sampling, "seed": seed}
        alone = write(model, None, prompt, **wanted)
        for draft in (DraftModel(small(0)), DraftModel(small(1)), PromptLookup()):
            assert write(model, always(draft, 7), prompt, **wanted) == alone


def test_drawn_tokens_have_the_model_s_probabilities() -> None:
    torch.manual_seed(0)
    model, other = (build_model(ModelConfig(5, "bigram", 8)).eval() for _ in range(2))
    with torch.no_grad():
        for bigram in (model, other):
            next(bigram.parameters()).normal_()
    ids = write(
        model, always(DraftModel(other)), [0], max_new_tokens=2000,
        sampling=SamplingConfig(temperature=1.0),
    )  # fmt: skip
    pairs = Counter(pairwise([0, *ids]))
    for first in range(5):
        observed = np.array([pairs[first, second] for second in range(5)])
        expected = model(torch.tensor([[first]]))[0, -1].double().softmax(-1).detach().numpy()
        assert chisquare(observed, expected * observed.sum()).pvalue > 0.001


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rounded_models_write_the_same_text_with_any_draft(
    precision: str, temperature: float
) -> None:
    pytest.importorskip("gptfast._rust", reason="PyTorch rounds verified tokens differently")
    model, other = (small(seed, block_size=64, width=64) for seed in (0, 1))
    if precision == "bfloat16":
        model.bfloat16()
    else:
        quantize(model, "int8" if precision == "int8" else "int4")
    for seed, prompt in enumerate(prompts(3)):
        wanted = {"max_new_tokens": 80, "sampling": SamplingConfig(temperature), "seed": seed}
        wanted["top_logprobs"] = 0
        plain = generated(model, None, prompt, **wanted).logprobs
        assert len(plain) == 80
        for draft in (DraftModel(copy.deepcopy(model)), DraftModel(other), PromptLookup(2, 1)):
            assert generated(model, always(draft), prompt, **wanted).logprobs == plain


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guesses_beyond_the_vocabulary_are_wrong(temperature: float) -> None:
    torch.manual_seed(0)
    wider = GPT(ModelConfig(2 * V, "gpt", 24, 1, 2, 16)).eval()
    with torch.no_grad():
        wider.wte.weight[V:] *= 100  # nearly all guesses are ids that the model lacks
    wanted = {"max_new_tokens": 30, "sampling": SamplingConfig(temperature)}
    model = small(0)
    assert write(model, always(DraftModel(wider)), [1], **wanted) == write(
        model, None, [1], **wanted
    )


@pytest.mark.parametrize("n_new", [1, 5, 40])
def test_a_draft_that_was_interrupted_reads_its_text_again(
    n_new: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(0, block_size=96, sliding_window=4, positions="rotary")
    draft, greedy, generator = DraftModel(model), SamplingConfig(0), torch.Generator()
    text = [(5 * i) % V for i in range(20)]
    draft.guess(text, 3, greedy, generator)
    text += [(7 * i) % V for i in range(n_new)]

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, use_backend("reference"):
        patch.setattr(model.h[0].mlp, "forward", interrupt)  # some keys and values are stored
        with pytest.raises(KeyboardInterrupt):
            draft.guess(text, 3, greedy, generator)
    expected = DraftModel(model).guess(text, 3, greedy, generator)
    assert draft.guess(text, 3, greedy, generator) == expected


class Counting:
    """Counts the forward passes of a model."""

    def __init__(self, model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n = 0
        next_logits = model._next_logits

        def counted(*arguments: Any) -> Any:
            self.n += 1
            return next_logits(*arguments)

        monkeypatch.setattr(model, "_next_logits", counted)


def test_a_good_draft_saves_forward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(0, block_size=128)
    calls = Counting(model, monkeypatch)
    draft = DraftModel(small(0, block_size=128))
    with use_backend("reference"):
        write(
            model,
            always(draft),
            [1, 2],
            max_new_tokens=100,
            sampling=SamplingConfig(temperature=0),
        )
    # The first token by the prompt, 4 plain steps, 2, 3 and 5 tokens, then 5 in each pass.
    assert calls.n == 1 + 4 + 2 + 18


def test_prompt_lookup_copies_what_was_said_before() -> None:
    generator = torch.Generator()
    lookup = PromptLookup(longest=3, shortest=2)
    text = [1, 2, 3, 4, 5, 9, 2, 3]
    assert lookup.guess(text, 2, SamplingConfig(), generator) == [4, 5]
    assert lookup.guess(text, 9, SamplingConfig(), generator) == [4, 5, 9, 2, 3]
    assert lookup.guess([*text, 7], 2, SamplingConfig(), generator) == []
    # Of two places, the newer one; of two endings, the longer one.
    assert lookup.guess([2, 3, 4, 2, 3, 5, 2, 3], 1, SamplingConfig(), generator) == [5]
    assert lookup.guess([1, 2, 3, 4, 6, 2, 3, 5, 1, 2, 3], 1, SamplingConfig(), generator) == [4]
    # As the text grows, and after another text that is longer.
    grown = [1, 2, 3]
    for token, guesses in ((1, []), (2, [3, 1]), (3, [1, 2]), (9, []), (2, [])):
        grown.append(token)
        assert lookup.guess(grown, 2, SamplingConfig(), generator) == guesses
    assert lookup.guess([6, 7, 8, 6, 7], 1, SamplingConfig(), generator) == [8]


class Clock:
    """A clock that the cost of each forward pass moves on."""

    def __init__(self, model: GPT, per_guess: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.n_guessed = 0.0, 0
        self.per_guess = per_guess
        verify = model.verify

        def slow_verify(ids: Sequence[int], *arguments: Any) -> Any:
            self.now += 1 + self.per_guess * (len(ids) - 1)
            self.n_guessed += len(ids) - 1
            return verify(ids, *arguments)

        monkeypatch.setattr(model, "verify", slow_verify)

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("seed", "pays"), [(0, True), (1, False)])
def test_speculation_rests_where_it_does_not_pay(
    seed: int, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(0, block_size=600)
    clock = Clock(model, 0.5, monkeypatch)
    speculation = Speculation(DraftModel(small(seed, block_size=600)), 4, clock=clock)
    n_tokens = 500
    write(model, speculation, [1], max_new_tokens=n_tokens, sampling=SamplingConfig(1.0))
    if pays:  # 5 tokens at the cost of 3
        assert clock.now < 0.65 * n_tokens
    else:
        assert clock.now < 1.03 * n_tokens
        assert 0 < clock.n_guessed < 60


def test_a_trial_loses_the_time_of_one_guess_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(0, block_size=600)
    clock = Clock(model, 3.0, monkeypatch)  # even right guesses lose: 2 tokens at the cost of 4
    draft = DraftModel(small(0, block_size=600))
    speculation = Speculation(draft, clock=clock)
    wanted = {"max_new_tokens": 100, "sampling": SamplingConfig(1.0)}
    write(model, speculation, [1], **wanted)
    assert clock.n_guessed == 1
    # The first token comes from the prompt.
    assert clock.now == 4 + 4 + (99 - 4 - 2)
    # What it has learned stays: the next text begins within the rest of 2 / 2% - 2 tokens.
    write(model, speculation, [1], max_new_tokens=6, sampling=SamplingConfig(1.0))
    assert clock.n_guessed == 1
    write(model, speculation, [1], max_new_tokens=6, sampling=SamplingConfig(1.0))
    assert clock.n_guessed == 2


def test_reading_a_prompt_begins_no_rest() -> None:
    now = 0.0

    class Reader:
        """A draft that takes 30 seconds to read a text, and then none to guess."""

        n_read = 0

        def guess(self, ids: Sequence[int], n: int, *_: Any) -> list[int]:
            nonlocal now
            if not self.n_read:
                now += 30
            self.n_read = len(ids)
            return [1] * n

    speculation = Speculation(Reader(), clock=lambda: now)
    ids = [1] * 100
    for n_tokens in (1, 1, 1, 1, 2, 3):
        began = now
        guesses = speculation.guess(ids, 9, SamplingConfig(), torch.Generator())
        assert len(guesses) == n_tokens - 1
        now += 1
        speculation.record(now - began, n_tokens)
        ids += [1] * n_tokens
    # But it counts: when guesses fail, the rest makes up for the 30 seconds, too.
    n_plain = 0
    while n_plain == 0 or speculation.is_resting:
        began = now
        if speculation.guess(ids, 9, SamplingConfig(), torch.Generator()):
            now += 2
        else:
            now += 1
            n_plain += 1
        speculation.record(now - began, 1)
        ids.append(1)
    assert 30 / n_plain < Speculation.SHARE + 0.002


def test_plain_steps_are_measured_again_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(0, block_size=2000)
    clock = Clock(model, 0.1, monkeypatch)
    speculation = Speculation(DraftModel(small(0, block_size=2000)), 4, clock=clock)
    resting = []
    engine = Engine(model, None, n_slots=1, speculation=speculation)
    (generation,) = engine.submit(Request([1], 600, SamplingConfig(1.0)))
    while engine.has_work:
        resting.append((len(generation.ids), speculation.is_resting))
        engine.step()
    at = [n for n, is_resting in resting if is_resting]
    # 5 tokens per pass, after 256 of them 4 plain steps. The prompt gives the first token.
    assert at[:5] == [0, 1, 2, 3, 4]
    later = [n for n in at if n > 4]
    assert len(later) == 8
    assert later[3] - later[0] == 3
    assert 256 <= later[0] - 5 <= 260
    assert 256 <= later[4] - later[3] - 1 <= 260


def test_impossible_numbers_of_guesses_are_refused() -> None:
    for n in (0, 33):
        with pytest.raises(UserError, match=f"n_guesses is {n}"):
            Speculation(PromptLookup(), n)


def test_the_commands_and_llm_take_drafts_and_grammars(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = CharTokenizer.train("abcdefghijklmnopqrstuvw\n")
    assert tokenizer.n_vocab == V
    llm, smaller = LLM(small(0), tokenizer), small(1)
    plain = llm.generate("abc", max_new_tokens=30)
    for draft in (PromptLookup(), DraftModel(smaller)):
        assert llm.generate("abc", max_new_tokens=30, draft=draft) == plain
    vowels = Grammar(tokenizer, "[aeiou]{7}", "regex")
    (text,) = llm.generate_batch(["b"], processors=[vowels])
    assert re.fullmatch("[aeiou]{7}", text.text)
    for name, model in (("model", llm.model), ("small", smaller)):
        save_description(tmp_path / name, model.config, tokenizer)
        save_weights(model, tmp_path / name / "model.safetensors")
    command = ["--model", str(tmp_path / "model"), "--prompt", "abc", "--max-new-tokens", "30"]
    outputs = []
    for options in ([], ["--prompt-lookup"], ["--draft", str(tmp_path / "small")]):
        assert main([*command, *options]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs == [f"abc{plain}\n"] * 3
    assert main([*command, "--regex", "w{3}"]) == 0
    assert capsys.readouterr().out == "abcwww\n"
    other = CharTokenizer.train("other letters\n")
    save_description(tmp_path / "small", ModelConfig(V, "gpt", 24, 1, 2, 16), other)
    assert cli.run(main, [*command, "--draft", str(tmp_path / "small")]) == 2
    assert "has another tokenizer" in capsys.readouterr().err
