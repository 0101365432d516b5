"""The engine: what a request gets does not depend on its neighbours, and no slot is lost."""

from __future__ import annotations

import gc
import math
import random
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from naive import choices

from gptfast.errors import UserError
from gptfast.model import LanguageModel, ModelConfig, build_model, kv_cache
from gptfast.sample.config import SamplingConfig
from gptfast.sample.engine import Engine, QueueFullError
from gptfast.sample.request import Generation, Request
from gptfast.sample.speculate import PromptLookup, Speculation
from gptfast.tokenizer import CharTokenizer

LETTERS = CharTokenizer.train("abcdefghijklmnopqrst")
GPT2 = ModelConfig(24, "gpt", 16, 2, 2, 8)  # 4 rows more than there are letters
LLAMA = replace(
    GPT2, n_layer=1, norm="rmsnorm", bias=False, positions="rotary", activation="swiglu",
    n_kv_head=1, tie_embeddings=False,
)  # fmt: skip
MODELS = {
    "GPT-2": GPT2,
    "rotary, shared heads": LLAMA,
    "window": replace(LLAMA, n_layer=2, sliding_window=3, global_every=2, block_size=24),
    "n-grams": replace(GPT2, n_layer=1, max_ngram=3, ngram_rows=40),
    "experts": replace(LLAMA, n_expert=4, n_expert_active=2),
    "no cache": replace(GPT2, architecture="multihead", n_layer=1),
}
GREEDY = SamplingConfig(temperature=0)


def shaken(config: ModelConfig) -> LanguageModel:
    torch.manual_seed(0)
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # logits that depend on the context
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return shaken(GPT2)


def run(engine: Engine, *generations: Generation) -> None:
    while any(generation.finish_reason is None for generation in generations):
        engine.step()


def check(model: LanguageModel, generation: Generation, seed: int) -> None:
    """Compare a text with what the naive twin gives it alone."""
    request, ids = generation.request, generation.ids
    said = choices(model, request, seed, ids, n_vocab=20)
    for token, choice, known in zip(ids, said, generation.logprobs, strict=False):
        assert token in choice.allowed
        assert known.token == token
        assert known.logprob == pytest.approx(choice.logprobs[token], abs=1e-5)
        order = choice.logprobs.argsort()[::-1][: request.top_logprobs]
        assert [value for _, value in known.top] == pytest.approx(choice.logprobs[order], abs=1e-5)
    assert len(generation.logprobs) == len(ids)
    text = LETTERS.decode(ids)
    match generation.finish_reason:
        case "stop" if isinstance(generation.stopped_by, int):
            assert generation.stopped_by in request.stop_tokens
            assert generation.stopped_by in said[len(ids)].allowed
            end = generation.stop_logprob
            assert end is not None
            assert end.token == generation.stopped_by
            assert end.logprob == pytest.approx(said[len(ids)].logprobs[end.token], abs=1e-5)
        case "stop":
            assert isinstance(generation.stopped_by, str)
            assert text.endswith(generation.stopped_by)
            text = text.removesuffix(generation.stopped_by)
        case "length":
            assert len(ids) == request.max_new_tokens
        case reason:
            assert reason == "cancelled"
    assert generation.text == text
    assert not any(stop in text for stop in request.stop)
    assert not set(request.stop_tokens) & set(ids)


def no_double(ids: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
    """Forbid the newest token. In place, against the rule: log-probabilities must not see it."""
    logits_V[ids[-1]] = -math.inf
    return logits_V


def random_request(chance: random.Random) -> Request:
    sampling = chance.choice(
        [
            GREEDY,
            SamplingConfig(1.0),
            SamplingConfig(0.7, top_k=5),
            SamplingConfig(1.5, min_p=0.1),
            SamplingConfig(1.2, top_k=9, top_p=0.8),
            SamplingConfig(0, repetition_penalty=1.3, frequency_penalty=0.4),
            SamplingConfig(1.0, presence_penalty=-0.5, logit_bias=((3, 1.5), (4, -100.0))),
        ]
    )
    return Request(
        prompt=chance.choices(range(20), k=chance.choice([1, 2, 5, 16, 30])),
        max_new_tokens=chance.choice([1, 2, 4, 8, 12]),
        sampling=sampling,
        seed=chance.randrange(2**40),
        stop_tokens=chance.choice([(), (), {19}]),
        stop=chance.choice([(), (), ("ab", "c"), ("k",)]),
        processors=chance.choice([(), (), (no_double,)]),
        top_logprobs=chance.choice([0, 3]),
    )


@pytest.mark.parametrize("name", MODELS)
def test_any_schedule_gives_each_request_what_it_gets_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_cache, "SLACK", 2)  # a ring shorter than the texts
    model = shaken(MODELS[name])
    for seed in range(84):
        chance = random.Random(f"{name} {seed}")
        engine = Engine(model, LETTERS, n_slots=chance.randint(1, 4))
        to_come = [
            (random_request(chance), chance.choice([1, 1, 2])) for _ in range(chance.randint(2, 4))
        ]
        given: list[tuple[Generation, int]] = []
        while to_come or engine.has_work:
            while to_come and chance.random() < 0.4:
                request, n = to_come.pop()
                new = engine.submit(request, n)
                given += [(one, request.seed + i) for i, one in enumerate(new)]
            if given and chance.random() < 0.03:
                engine.cancel(chance.choice(given)[0])
            engine.step()
        for generation, own_seed in given:
            check(model, generation, own_seed)


# ---- slots and the queue -------------------------------------------------------------------------


def test_a_cancelled_text_leaves_its_slot_before_the_next_step(model: LanguageModel) -> None:
    engine = Engine(model, LETTERS, n_slots=1, max_waiting=1)
    first, second = (engine.submit(Request([1], 9, GREEDY))[0] for _ in range(2))
    engine.step()
    assert (engine.n_running, engine.n_waiting) == (1, 1)
    with pytest.raises(QueueFullError, match="1 texts are written and 1 wait"):
        engine.submit(Request([1], 9, GREEDY))
    engine.cancel(first)
    assert (first.finish_reason, len(first.ids), engine.n_running) == ("cancelled", 1, 0)
    third = engine.submit(Request([2], 9, GREEDY))[0]
    assert engine.step() == [second]
    engine.cancel(third)  # while it waits
    engine.cancel(first)  # twice
    run(engine, second)
    assert (third.finish_reason, third.ids, len(second.ids)) == ("cancelled", [], 9)
    assert not engine.has_work


def test_texts_are_admitted_in_order_and_a_step_returns_what_changed(model: LanguageModel) -> None:
    engine = Engine(model, LETTERS, n_slots=2)
    texts = [engine.submit(Request([i + 1], n, GREEDY))[0] for i, n in enumerate((3, 1, 2, 2))]
    assert set(engine.step()) == {texts[0], texts[1]}
    assert texts[1].finish_reason == "length"
    assert set(engine.step()) == {texts[0], texts[2]}
    assert set(engine.step()) == {texts[0], texts[2]}
    assert engine.step() == [texts[3]]
    assert [len(text.ids) for text in texts] == [3, 1, 2, 1]


def test_more_than_an_engine_has_room_for_is_refused(model: LanguageModel) -> None:
    engine = Engine(model, LETTERS, n_slots=1, max_waiting=2)
    with pytest.raises(UserError, match="n is 4: expected at most 3"):
        engine.submit(Request([1], 1, GREEDY), 4)
    engine.submit(Request([1], 1, GREEDY), 3)
    with pytest.raises(QueueFullError):
        engine.submit(Request([1], 1, GREEDY))


def test_ten_thousand_requests_leave_nothing_behind() -> None:
    bigram = shaken(replace(GPT2, architecture="bigram"))
    engine = Engine(bigram, LETTERS, n_slots=4, max_waiting=16)
    texts = weakref.WeakSet[Generation]()
    n_objects = []
    for i in range(500):
        request = Request([i % 20], 2, SamplingConfig(1.0), i, stop=("ab",), top_logprobs=1)
        for n in (1, 4, 1, 4, 10):
            texts.update(engine.submit(replace(request, seed=10 * i + n), n))
        engine.step()
        for text in list(texts)[::3]:
            engine.cancel(text)
        while engine.has_work:
            engine.step()
        assert {text.finish_reason for text in texts} <= {"length", "stop", "cancelled"}
        del text
        if i in (50, 499):
            gc.collect()
            assert len(texts) == 0
            n_objects.append(len(gc.get_objects()))
    assert engine.n_running == engine.n_waiting == 0
    assert n_objects[1] - n_objects[0] < 100


# ---- shared prefixes -----------------------------------------------------------------------------


def test_a_shared_prompt_is_computed_once(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[list[int]] = []
    prefill = model.prefill

    def counted(ids: list[int], *args: Any, **options: Any) -> torch.Tensor:
        prompts.append(ids)
        return prefill(ids, *args, **options)

    monkeypatch.setattr(model, "prefill", counted)
    engine = Engine(model, LETTERS, n_slots=2)  # fewer than continuations
    request = Request([1, 2, 3], 4, SamplingConfig(1.0), seed=5, top_logprobs=0)
    texts = engine.submit(request, 5)
    run(engine, *texts)
    assert prompts == [[1, 2, 3]]
    for i, text in enumerate(texts):
        check(model, text, 5 + i)
    assert len({tuple(text.ids) for text in texts}) > 1
    (alone,) = engine.submit(replace(request, seed=7))
    run(engine, alone)
    assert alone.ids == texts[2].ids
    assert len(prompts) == 2


def test_continuations_share_what_is_known_of_the_prompt(model: LanguageModel) -> None:
    engine = Engine(model, LETTERS, n_slots=1)
    request = Request([1, 2, 3], 1, GREEDY, top_logprobs=2, prompt_logprobs=True)
    first, second = engine.submit(request, 2)
    run(engine, first, second)
    assert first.prompt_logprobs == second.prompt_logprobs
    assert first.prompt_logprobs is not None
    assert len(first.prompt_logprobs) == 3


# ---- log-probabilities ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_prompt", [1, 2, 16, 20])
def test_log_probabilities_of_a_prompt(model: LanguageModel, n_prompt: int) -> None:
    prompt = random.Random(0).choices(range(20), k=n_prompt)
    engine = Engine(model, LETTERS)
    hot = SamplingConfig(2.0, top_k=2, repetition_penalty=3.0)  # the raw distribution all the same
    (text,) = engine.submit(Request(prompt, 0, hot, top_logprobs=3, prompt_logprobs=True))
    assert engine.step() == [text]
    assert (text.finish_reason, text.ids, engine.n_running) == ("length", [], 0)
    assert text.prompt_logprobs is not None
    seen = prompt[-16:]
    logprobs = model(torch.tensor([seen]))[0, :, :20].log_softmax(-1)
    assert text.prompt_logprobs[: n_prompt - len(seen) + 1] == [None] * (n_prompt - len(seen) + 1)
    known = text.prompt_logprobs[n_prompt - len(seen) + 1 :]
    for t, one in enumerate(known):
        assert one is not None
        assert one.token == seen[t + 1]
        assert one.logprob == pytest.approx(logprobs[t, seen[t + 1]].item(), abs=1e-5)
        assert [token for token, _ in one.top] == logprobs[t].topk(3).indices.tolist()
    assert len(known) == len(seen) - 1


def test_no_log_probabilities_unless_they_are_asked_for(model: LanguageModel) -> None:
    engine = Engine(model, LETTERS)
    plain, some = (engine.submit(Request([1], 3, GREEDY, top_logprobs=n))[0] for n in (None, 99))
    run(engine, plain, some)
    assert plain.logprobs == []
    assert plain.prompt_logprobs is None
    assert [len(one.top) for one in some.logprobs] == [20] * 3  # all that there are


def test_the_probability_of_the_end_counts_in_the_mean(model: LanguageModel) -> None:
    (first,) = Engine(model, LETTERS).submit(Request([1, 2], 1, GREEDY, top_logprobs=0))
    assert first.mean_logprob == -math.inf  # of no token
    engine = Engine(model, LETTERS)
    logprobs = model(torch.tensor([[1, 2]]))[0, -1, :20].log_softmax(-1)
    likeliest = int(logprobs.argmax())
    wanted = Request([1, 2], 3, GREEDY, top_logprobs=0)
    (at_once,) = engine.submit(replace(wanted, stop_tokens=(likeliest,)))
    (text,) = engine.submit(wanted)
    (silent,) = engine.submit(replace(wanted, top_logprobs=None, stop_tokens=(likeliest,)))
    run(engine, at_once, text, silent)
    assert (at_once.ids, at_once.logprobs) == ([], [])
    assert at_once.mean_logprob == pytest.approx(logprobs[likeliest].item(), abs=1e-5)
    by_hand = sum(token.logprob for token in text.logprobs) / 3
    assert text.mean_logprob == pytest.approx(by_hand)
    assert text.stop_logprob is silent.stop_logprob is None
    with pytest.raises(UserError, match="ask for them with top_logprobs=0"):
        _ = silent.mean_logprob


# ---- errors --------------------------------------------------------------------------------------


class Faulty:
    """Calls functions, and fails at one of the calls: before it, or after it."""

    def __init__(self, fails_at: int, is_before: bool) -> None:
        self.n_calls, self.fails_at, self._is_before = 0, fails_at, is_before

    def __call__(self, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.n_calls += 1
            fails = self.n_calls == self.fails_at
            if fails and self._is_before:
                raise KeyboardInterrupt
            result = function(*arguments, **options)
            if fails:
                raise KeyboardInterrupt
            return result

        return call


@pytest.mark.parametrize("speculation", [False, True])
@pytest.mark.parametrize("is_before", [False, True])
def test_an_exception_loses_no_token_and_repeats_none(
    is_before: bool, speculation: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each prompt, each full context, each step and each processor of a schedule."""
    model = shaken(replace(GPT2, block_size=6))
    guesses = Speculation(PromptLookup(2, 1), clock=lambda: 0.0) if speculation else None
    fails_at, has_failed = 0, True
    while has_failed:
        fails_at += 1
        faulty = Faulty(fails_at, is_before)
        same = faulty(lambda _, logits_V: logits_V)
        requests = [
            Request([1, 2, 3], 4, GREEDY, top_logprobs=0),
            Request([4], 5, GREEDY, top_logprobs=0, processors=(same,)),
            Request([2, 3, 2, 3, 2], 9, GREEDY, top_logprobs=0),
        ]
        engine = Engine(model, LETTERS, n_slots=2, speculation=guesses)
        texts = [engine.submit(request)[0] for request in requests]
        with monkeypatch.context() as patch:
            patch.setattr(model, "prefill", faulty(model.prefill))
            patch.setattr(model, "step", faulty(model.step))
            patch.setattr(model, "verify", faulty(model.verify))
            while engine.has_work:
                with suppress(KeyboardInterrupt):
                    engine.step()
        has_failed, faulty.fails_at = faulty.n_calls >= fails_at, 0
        for text in texts:
            check(model, text, 1337)
    assert fails_at > 15


def test_logits_that_are_no_numbers_end_one_text_and_harm_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = shaken(GPT2)
    engine = Engine(model, LETTERS, n_slots=2)
    step = model.step

    def broken(ids: list[int], cache: kv_cache.KVCache, rows: list[int]) -> torch.Tensor:
        logits = step(ids, cache, rows)
        cache.k[0][0] = cache.v[0][0] = torch.nan  # as from an overflow in the first row
        logits[0] = torch.nan
        return logits

    bad, good = (
        engine.submit(Request([2], 8, GREEDY, seed=3, top_logprobs=0))[0] for _ in range(2)
    )
    engine.step()
    monkeypatch.setattr(model, "step", broken)
    engine.step()
    monkeypatch.undo()
    assert bad.finish_reason == "error"
    assert "its logits are NaN or infinite" in str(bad.error)
    assert "\n" not in str(bad.error)
    (late,) = engine.submit(Request([3], 3, GREEDY, seed=3, top_logprobs=0))  # in the same row
    run(engine, good, late)
    check(model, good, 3)
    check(model, late, 3)


def test_a_prompt_for_which_memory_was_full_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shaken(GPT2)
    engine = Engine(model, LETTERS, n_slots=2)
    texts = engine.submit(Request([1, 2], 3, GREEDY, top_logprobs=0), 2)

    def full(*_: object, **__: object) -> torch.Tensor:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(model, "prefill", full)
        with pytest.raises(MemoryError):
            engine.step()
    assert (engine.n_waiting, engine.n_running) == (2, 0)
    run(engine, *texts)
    for text in texts:
        check(model, text, 1337)


def test_a_processor_that_fails_ends_its_text_alone(model: LanguageModel) -> None:
    def nothing(_: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        return logits - math.inf

    def failing(ids: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        if len(ids) == 3:
            raise KeyError("no such state")
        return logits

    engine = Engine(model, LETTERS)
    request = Request([1], 4, GREEDY)
    good, none, wrong, short = (
        engine.submit(replace(request, processors=processors))[0]
        for processors in ((), (nothing,), (failing,), (lambda _, logits: logits[1:],))
    )
    run(engine, good, none, wrong, short)
    assert good.finish_reason == "length"
    assert str(none.error) == "the logits processors allow no token"
    assert str(wrong.error) == "the logits processor failing failed: 'no such state'"
    assert str(short.error) == "the logits processor <lambda> failed: its logits are (19,)"
    assert len(wrong.ids) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [20]}, "a token id is 20; expected 0 to 19"),
        ({"prompt": ["a"]}, "the prompt is a list"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"top_logprobs": -1}, "top_logprobs is -1"),
        ({"stop": ("a", "")}, "a stop string is empty"),
        ({"stop": "the"}, "stop is 'the': expected several texts, such as"),
        ({"stop": None}, "stop is None: expected several texts"),
        ({"stop": (5,)}, r"stop is \(5,\): expected several texts"),
        ({"stop_tokens": 5}, "stop_tokens is 5: expected token ids"),
        ({"stop_tokens": "a"}, "stop_tokens is 'a': expected token ids"),
        ({"processors": no_double}, "processors is .*: expected several functions"),
        ({"sampling": {"top_k": 3}}, "sampling is a dict: expected a SamplingConfig"),
        ({"sampling": SamplingConfig(logit_bias=((20, 1.0),))}, "a token id is 20"),
    ],
)
def test_an_impossible_request_is_refused_in_one_line(
    model: LanguageModel, options: dict[str, Any], message: str
) -> None:
    engine = Engine(model, LETTERS)
    with pytest.raises(UserError, match=message) as raised:
        engine.submit(Request(**{"prompt": [1], "max_new_tokens": 3, **options}))
    assert "\n" not in str(raised.value)
    assert not engine.has_work
    with pytest.raises(UserError, match="stop strings need a tokenizer"):
        Engine(model, None).submit(Request([1], 1, stop=("a",)))


# ---- processors ----------------------------------------------------------------------------------


class Counted:
    """A processor with state: it forbids what it has seen, and counts its own calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __copy__(self) -> Counted:
        return Counted()

    def __call__(self, ids: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        assert len(ids) == self.calls + 1
        changed = logits_V.clone()
        changed[list(ids)] = -math.inf
        return changed


def test_each_continuation_has_its_own_processor(model: LanguageModel) -> None:
    given = Counted()
    engine = Engine(model, LETTERS, n_slots=2)
    request = Request([1, 2], 9, SamplingConfig(1.0), processors=(given,), top_logprobs=0)
    texts = engine.submit(request, 3)
    run(engine, *texts)
    for text in texts:
        assert len({*text.ids, 1, 2}) == 11
        assert min(one.logprob for one in text.logprobs) > -math.inf  # before the processor
    assert given.calls == 0
