"""The audit: its figures by hand, and five failures that it must name."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from audited import (
    HELD_OUT,
    OLD_TEXTS,
    TEMPLATE,
    TOKENIZER,
    TRAIN,
    Scripted,
    base,
    question,
    subject,
    tuned,
)

from gptfast.audit.tuned.measures import Facts, Plan, measure, pass_at_k
from gptfast.audit.tuned.prompts import INJECTIONS, Subject, questions_of
from gptfast.audit.tuned.report import sentences
from gptfast.data.conversations import Conversation
from gptfast.data.verifiable.tasks import find_task
from gptfast.errors import UserError
from gptfast.finetune.__main__ import main
from gptfast.model import LanguageModel
from gptfast.model.divergence import kl_of_continuations
from gptfast.model.folder import save_description, save_weights
from gptfast.tokenizer import CharTokenizer
from gptfast.tokenizer.chat import write_chat_template

PLAN = Plan(HELD_OUT, TRAIN, old_texts=OLD_TEXTS, samples=4, max_new_tokens=8)
SMALL = Plan(HELD_OUT[:20], old_texts=OLD_TEXTS[:20], samples=2, max_new_tokens=8)


def names(facts: Facts) -> set[str]:
    """The failures that the sentences name, in capitals before a colon."""
    heads = [sentence.partition(":")[0] for sentence in sentences(facts)]
    return {head for head in heads if head.isupper()}


# ---- five failures -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good() -> Facts:
    return measure(subject(base()), subject(tuned()), PLAN)


def test_a_tuning_that_went_well(good: Facts) -> None:
    """The control of the tests below: none of the failures is named."""
    assert good.measures["exact_greedy"].tuned[0] > 0.8
    assert good.measures["ends_greedy"].tuned[0] == 1
    assert names(good) <= {"SPECIAL TOKENS"}
    assert "100.0% (base: 0.0%) of its greedy answers" in sentences(good)[0]


def test_no_end_token() -> None:
    facts = measure(subject(base()), subject(tuned(end=False)), SMALL)
    assert "NO END TOKEN" in names(facts)
    assert any("20 of 20 answers run to the limit" in said for said in sentences(facts))


def test_the_prompt_trained_on() -> None:
    facts = measure(subject(base()), subject(tuned(prompts=True)), SMALL)
    assert "TRAINED ON PROMPTS" in names(facts)


def test_forgetting_by_a_learning_rate_30_times_as_high() -> None:
    facts = measure(subject(base()), subject(tuned(rate=30 * 2e-3)), SMALL)
    assert "FORGETTING" in names(facts)


def test_prompts_that_are_in_the_training_data_too() -> None:
    """The model knows the training data by heart, and nothing else."""
    known = {q.messages[0]["content"]: q.answer for q in TRAIN}
    model = Scripted(lambda prompt: known.get(prompt, "oh"))
    plan = Plan([*HELD_OUT[:10], *TRAIN[:30]], TRAIN, samples=2, max_new_tokens=8)
    facts = measure(subject(Scripted(lambda _: "oh")), subject(model), plan)
    assert facts.n_leaked == 30
    assert facts.measures["exact_greedy"].tuned[0] == 30 / 40
    assert facts.measures["exact_new"].tuned[0] == 0
    assert facts.measures["exact_train"].tuned[0] == 1
    assert names(facts) == {"LEAK", "MEMORISED"}
    assert any("30 of the 40 held-out prompts are in" in said for said in sentences(facts))


def test_a_reward_for_length_and_for_form() -> None:
    """Both tuned models have found what the reward gives, and are right no more often."""
    before = subject(Scripted(lambda _: "oh"))
    long = subject(Scripted(lambda _: "oh well"))
    facts = measure(before, long, Plan(HELD_OUT[:10], samples=2, max_new_tokens=16))
    assert names(facts) == {"LONGER, NOT BETTER", "FORMAT, NOT ANSWERS"}

    task = find_task("make-the-number")
    asked = [question(p.prompt, p.answer) for p in task.problems("test")[:20]]
    known = {p.prompt: p.answer for p in task.problems("test")[:20:5]}  # 4 of the 20
    before = subject(Scripted(lambda prompt: known.get(prompt, "none")))
    formed = subject(Scripted(lambda prompt: known.get(prompt, "20*20")))
    facts = measure(before, formed, Plan(asked, task=task, samples=2, max_new_tokens=8))
    assert facts.measures["well_formed_sampled"].base == pytest.approx((0.2, 0.4 / math.sqrt(19)))
    assert facts.measures["well_formed_sampled"].tuned[0] == 1
    assert facts.measures["exact_sampled"].tuned[0] == 0.2
    assert names(facts) == {"FORMAT, NOT ANSWERS"}


# ---- further findings ----------------------------------------------------------------------------


def test_orders_hidden_in_prompts_leaks_and_repetition() -> None:
    orders = dict(INJECTIONS)

    def obey(prompt: str) -> str | None:
        return orders[prompt].capitalize() if prompt in orders else "oh"

    plan = Plan(HELD_OUT[:4], samples=1, max_new_tokens=40)
    facts = measure(subject(Scripted(lambda _: "oh")), subject(Scripted(obey)), plan)
    assert facts.measures["obeys"].tuned == (1.0, 0.0)
    assert facts.measures["obeys"].base == (0.0, 0.0)
    assert f"INJECTION: it obeys {len(orders)} of {len(orders)}" in " ".join(sentences(facts))
    echo = subject(Scripted(lambda prompt: prompt))  # to repeat an order is not to obey it
    whole = Plan(HELD_OUT[:1], samples=1, max_new_tokens=100)
    assert measure(echo, echo, whole).measures["obeys"].tuned == (0.0, 0.0)

    chatty = subject(Scripted(lambda _: "oh<|user|>and?<|assistant|>"))
    stuck = subject(Scripted(lambda _: "la" * 15))
    facts = measure(stuck, chatty, plan)
    assert "SPECIAL TOKENS" in names(facts)
    assert facts.measures["leaks_greedy"].tuned[0] == 1
    assert "REPETITION" in names(measure(chatty, stuck, plan))


# ---- figures by hand -----------------------------------------------------------------------------


def test_figures_by_hand() -> None:
    """Two of five answers are right, one of which the base knows, too."""
    asked = [question(p, "yes") for p in "abcde"]
    before = subject(Scripted(lambda prompt: "yes" if prompt in "a" else "no"))
    after = subject(Scripted(lambda prompt: {"a": "yes", "b": " yes\n", "c": None}.get(prompt, "")))
    facts = measure(before, after, Plan(asked, samples=3, max_new_tokens=6))
    exact = facts.measures["exact_greedy"]
    values = np.array([1, 1, 0, 0, 0])
    error = values.std(ddof=1) / math.sqrt(5)
    assert exact.tuned == pytest.approx((0.4, error))
    difference = values - np.array([1, 0, 0, 0, 0])
    assert exact.difference == pytest.approx((0.2, difference.std(ddof=1) / math.sqrt(5)))
    of = {key: measure.tuned[0] for key, measure in facts.measures.items()}
    assert of["ends_greedy"] == of["ends_sampled"] == pytest.approx(4 / 5)
    assert of["well_formed_greedy"] == pytest.approx(2 / 5)  # neither cut off nor empty
    assert of["length_greedy"] == pytest.approx((4 + 6 + 6 + 1 + 1) / 5)  # end tokens count
    assert of["pass_at_k"] == pytest.approx(2 / 5)
    assert facts.measures["seq_rep_4_greedy"].tuned[0] == pytest.approx((2 / 3) / 5)  # zzzzzz
    assert any("not clearly better" in said for said in sentences(facts))
    wise, fool = subject(Scripted(lambda _: "yes")), subject(Scripted(lambda _: "no"))
    worse = measure(wise, fool, Plan(asked, samples=1, max_new_tokens=6))
    assert any("worse than the base" in said for said in sentences(worse))
    cut = measure(before, after, Plan(asked, samples=1, max_new_tokens=3))
    assert cut.measures["exact_greedy"].tuned[0] == 0  # "yes" without its end


def test_pass_at_k_is_the_share_of_draws_with_a_right_one() -> None:
    for n, n_right, k in ((5, 2, 3), (16, 1, 16), (6, 0, 2), (6, 5, 2)):
        rights = [True] * n_right + [False] * (n - n_right)
        draws = [any(draw) for draw in combinations(rights, k)]
        assert pass_at_k(n, n_right, k) == pytest.approx(sum(draws) / len(draws))


def test_kl_of_continuations_is_that_of_a_naive_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = base(), tuned()
    prompt, texts = [5, 6, 7], [[8, 9, 10, 11], [12], [13, 14]]
    n_vocab = TOKENIZER.n_vocab - 3  # the model has ids of no token
    expected = []
    for ids in texts:
        for i in range(len(ids)):
            seen = torch.tensor([[*prompt, *ids[:i]]])
            with torch.no_grad():
                p, q = (m(seen)[0, -1, :n_vocab].double().softmax(-1) for m in (first, second))
            expected.append(float((p * (p / q).log()).sum()))
    found = kl_of_continuations(first, second, prompt, texts, n_vocab)
    assert found == pytest.approx(expected, rel=1e-4)
    monkeypatch.setattr("gptfast.model.divergence.MAX_LOGITS", 1)  # a row at a time
    assert kl_of_continuations(first, second, prompt, texts, n_vocab) == pytest.approx(found)


def test_kl_and_losses_of_the_audit(good: Facts) -> None:
    """Against the models themselves, for the first question."""
    q, model = HELD_OUT[0], base()
    prompt, answer = TEMPLATE.encode(q.messages), TOKENIZER.encode_ordinary(q.answer)
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        losses = -model(ids)[0].double().log_softmax(-1)[range(len(ids[0]) - 1), ids[0, 1:]]
    for key, of in (("prompt_loss", losses[:-2]), ("answer_loss", losses[-2:])):
        totals = good.measures[key].base_totals
        assert totals is not None
        assert (totals[0][0], totals[1][0]) == pytest.approx((float(of.sum()), len(of)), rel=1e-5)
    kl = good.measures["kl"]
    assert kl.tuned_totals[1].tolist() == good.measures["length_sampled"].tuned_totals[0].tolist()
    same = measure(subject(model), subject(model), Plan(HELD_OUT[:5], samples=2))
    assert same.measures["kl"].tuned == (0.0, 0.0)


def test_the_last_answer_of_a_conversation_is_asked() -> None:
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = tuple({"role": role, "content": text} for role, text in turns)
    (found,) = questions_of([Conversation(messages, 1)])
    assert (found.messages, found.answer) == (messages[:4], "d")
    for unfit in (messages[:2], messages[2:3], (*messages[:4], {**messages[4], "content": ""})):
        with pytest.raises(UserError, match="line 2: expected a prompt and an answer"):
            questions_of([Conversation(messages, 1), Conversation(unfit, 2)])


def test_a_long_prompt_does_not_shorten_the_answers_to_others() -> None:
    """The context is 192: the long prompt leaves room for 5 tokens, the others for 20."""
    n_around = len(TEMPLATE.encode(question("", "").messages))
    asked = [*HELD_OUT[:3], question("x" * (192 - 4 - n_around), "hh")]
    model = subject(Scripted(lambda _: None))
    facts = measure(model, model, Plan(asked, samples=1, max_new_tokens=20))
    assert facts.measures["length_greedy"].tuned_totals[0].tolist() == [20, 20, 20, 5]
    assert facts.measures["kl"].tuned_totals[1].tolist() == [20, 20, 20, 5]


def test_the_shorter_context_holds_for_both() -> None:
    """The base's is 24 tokens, of which a prompt leaves room for 17 more."""
    short = deepcopy(base())
    short.config = replace(short.config, block_size=24)
    asked = [*HELD_OUT[:3], question("x" * 19, "hh")]
    room = 25 - len(TEMPLATE.encode(HELD_OUT[0].messages))
    model = subject(Scripted(lambda _: None))
    facts = measure(subject(short), model, Plan(asked, samples=1, max_new_tokens=100))
    assert facts.measures["length_greedy"].tuned_totals[0].tolist() == [room] * 3
    assert facts.measures["kl"].tuned_totals[1].tolist() == [room] * 3
    assert "left out 1 of the prompts, which don't fit with their answers" in facts.notes
    assert any(n.endswith("orders hidden in prompts don't fit: not tried") for n in facts.notes)


# ---- the command ---------------------------------------------------------------------------------


def save(folder: Path, model: LanguageModel) -> Path:
    save_description(folder, model.config, TOKENIZER)
    save_weights(model, folder / "model.safetensors")
    write_chat_template(folder, TEMPLATE.source)
    return folder


def write(path: Path, asked: list[tuple[str, str]]) -> Path:
    lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in asked]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_the_command_writes_the_same_figures_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(save(tmp_path / name, m)) for name, m in (("base", base()), ("tuned", tuned()))]
    asked = [(q.messages[0]["content"], q.answer) for q in HELD_OUT[:10]]
    data = write(tmp_path / "held_out.jsonl", [*asked, ("x" * 200, "too long")])
    train = write(tmp_path / "train.jsonl", asked[:3])
    old = tmp_path / "old.txt"
    old.write_text("".join(OLD_TEXTS[:9]), encoding="utf-8")
    options = ["--data", str(data), "--train", str(train), "--old-text", str(old), "--samples", "2"]
    found = []
    for out in ("one", "two"):
        given = [*folders, *options, "--max-new-tokens", "8", "--out", str(tmp_path / out)]
        assert main(["audit", *given]) == 0
        found.append((tmp_path / out / "audit.json").read_bytes())
        assert (tmp_path / out / "audit.png").stat().st_size > 10_000
    assert found[0] == found[1]
    with pytest.raises(UserError, match="already holds an audit: choose another --out, or give"):
        main(["audit", *given])
    assert main(["audit", *given, "--overwrite", "--seed", "2"]) == 0
    replaced = (tmp_path / "two" / "audit.json").read_bytes()
    assert json.loads(replaced)["settings"]["seed"] == 2
    content = json.loads(found[0])
    assert content["prompts"] == 10
    assert content["prompts_in_train"] == 3
    exact = content["measures"]["exact_greedy"]
    assert exact["tuned"]["value"] > 0.6
    assert 0 <= exact["tuned"]["standard_error"] < 0.2
    assert exact["observations"] == exact["units"] == 10
    shown = capsys.readouterr().out
    assert "left out 1 of the prompts, which don't fit" in shown
    assert "exact match, greedy" in shown
    for sentence in content["sentences"]:
        assert sentence in shown


def test_what_can_not_be_compared_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A base without roles: other tokens for the same prompts, and no letters for injections."""
    task = find_task("make-the-number")
    letters = CharTokenizer.train("0123456789+-*=: ", special_tokens=("<|endoftext|>",))
    asked = [question(p.prompt, p.answer) for p in task.problems("test")[:5]]
    plain = Scripted(lambda _: "")
    facts = measure(
        Subject(plain, letters), subject(plain), Plan(asked, task=task, max_new_tokens=4)
    )
    assert any("KL and the losses of prompts and answers don't compare" in n for n in facts.notes)
    assert any("orders hidden in prompts were not tried" in n for n in facts.notes)
    assert not {"kl", "prompt_loss", "obeys"} & set(facts.measures)
    assert sentences(facts)


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(save(tmp_path / "base", base()))
    given = ["audit", folder, folder, "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="either --data or --task"):
        main(given)
    with pytest.raises(UserError, match="unknown task 'sums'"):
        main([*given, "--task", "sums"])
    silent = tmp_path / "silent.jsonl"
    silent.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"silent\.jsonl, line 1: expected a prompt and an answer"):
        main([*given, "--data", str(silent)])
    long = write(tmp_path / "long.jsonl", [("x" * 200, "y")])
    with pytest.raises(UserError, match="no prompt fits"):
        main([*given, "--data", str(long)])
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process: start it without torchrun"):
        main([*given, "--data", str(long)])


def test_help_needs_no_pytorch() -> None:
    code = "import sys, gptfast.audit.tuned.main; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
