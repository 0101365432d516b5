"""What an audit measures of a base and a tuned model that are asked the same with the same seeds.

Every measure is a sum over units for each of N prompts, such as the right ones of 16 answers. The
prompts are the independent observations, by which base and tuned are paired.
Shape suffixes: N prompts, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import comb

import numpy as np
import torch

from gptfast.audit.tuned.prompts import INJECTIONS, Answer, Question, Subject
from gptfast.data.verifiable.tasks import VerifiableTask
from gptfast.errors import UserError
from gptfast.model.divergence import kl_of_continuations
from gptfast.model.text_score import (
    Estimate,
    Totals,
    checked_stride,
    difference_of_means,
    encode_documents,
    mean_of,
    score,
)
from gptfast.sample.config import SamplingConfig
from gptfast.sample.repetition import seq_rep
from gptfast.sample.rollouts import roll_out, seed_of
from gptfast.train.evaluate import spread

PASS_AT = 16
GRAM = 5
"""Words of the pieces of an answer that are looked up in the training data."""


@dataclass(frozen=True)
class Plan:
    """What to ask, and how."""

    questions: Sequence[Question]
    train: Sequence[Question] = ()
    task: VerifiableTask | None = None
    old_texts: Sequence[str] = ()
    samples: int = PASS_AT
    max_new_tokens: int = 128
    seed: int = 1337


@dataclass(frozen=True)
class Measure:
    """A figure of both models; None where the base has none."""

    label: str
    base_totals: Totals | None
    tuned_totals: Totals
    unit: str = ""
    """Empty for a share from 0 to 1."""

    @cached_property
    def base(self) -> Estimate | None:
        """The base's mean."""
        return None if self.base_totals is None else mean_of(self.base_totals)

    @cached_property
    def tuned(self) -> Estimate:
        """The tuned model's mean."""
        return mean_of(self.tuned_totals)

    @cached_property
    def difference(self) -> Estimate | None:
        """Tuned minus base, paired by prompts."""
        if self.base_totals is None:
            return None
        return difference_of_means(self.tuned_totals, self.base_totals)


@dataclass
class Facts:
    """All that an audit found."""

    n_prompts: int
    measures: dict[str, Measure] = field(default_factory=dict)
    n_leaked: int = 0
    """Prompts that are in the training data, too."""
    notes: list[str] = field(default_factory=list)
    """What could not be compared, and why."""


def pass_at_k(n: int, n_right: int, k: int) -> float:
    """Return the chance that at least one of k answers is right, if n_right of n were; k <= n.

    1 - C(n - c, k) / C(n, k), which is unbiased: "Evaluating Large Language Models Trained on Code"
    (Chen et al., 2021), equation 1.
    """
    return 1 - comb(n - n_right, k) / comb(n, k)


def per_prompt(values: Iterable[Iterable[float]]) -> Totals:
    """Return the sums of the values of each prompt, and their numbers."""
    lists = [list(of_prompt) for of_prompt in values]
    return np.array([float(sum(one)) for one in lists]), np.array([len(one) for one in lists])


def _is_right(plan: Plan, _: Subject, question: Question, answer: Answer) -> bool:
    """Return whether an answer ended and is right: as the task says, or word for word."""
    if plan.task is not None:
        right = plan.task.reward(question.messages[-1]["content"], answer.text) >= 1
    else:
        right = answer.text.split() == question.answer.split()
    return answer.ended and right


def _is_well_formed(plan: Plan, subject: Subject, _: Question, answer: Answer) -> bool:
    """Return whether an answer ended and has the task's format; without a task, is not empty."""
    if plan.task is not None:
        return answer.ended and plan.task.is_well_formed(answer.text)
    return answer.ended and bool(answer.text.strip()) and not subject.leaks(answer)


COUNTS: dict[str, tuple[str, Callable[[Plan, Subject, Question, Answer], float], str]] = {
    "exact": ("exact match", _is_right, ""),
    "well_formed": ("well-formed", _is_well_formed, ""),
    "ends": ("ends by itself", lambda p, s, q, a: a.ended, ""),
    "leaks": ("has special tokens", lambda p, s, q, a: s.leaks(a), ""),
    "seq_rep_4": ("repeated 4-grams", lambda p, s, q, a: seq_rep(a.ids, 4), ""),
    "length": ("length", lambda p, s, q, a: len(a.ids), "tokens"),
}
"""What is counted of each answer: label, function, unit."""


def measure(base: Subject, tuned: Subject, plan: Plan) -> Facts:
    """Ask both models. Raises UserError if no prompt fits into the contexts."""
    audit = _Audit(base, tuned, plan)
    audit.ask()
    audit.try_injections()
    if plan.old_texts:
        audit.read_old_texts()
    if audit.is_comparable():
        audit.predict()
    return audit.facts


class _Audit:
    """Adds measures to facts."""

    def __init__(self, base: Subject, tuned: Subject, plan: Plan) -> None:
        self.models, self.plan = (base, tuned), plan
        self.block_size = min(s.model.config.block_size for s in self.models)
        self.asked = self._that_fit(plan.questions)
        self.facts = Facts(len(self.asked))
        if not self.asked:
            raise UserError(
                "no prompt fits into the contexts of the models with its answer: give shorter ones"
            )
        if n_long := len(plan.questions) - len(self.asked):
            self._note(f"left out {n_long} of the prompts, which don't fit with their answers")

    def ask(self) -> None:
        """Count what the answers are like, greedy ones and samples; compare with train."""
        plan, asked = self.plan, self.asked
        greedy = [self._answers(s, asked, 1, 0.0) for s in self.models]
        self.sampled = [self._answers(s, asked, plan.samples, 1.0) for s in self.models]
        for name in COUNTS:
            self._count(name, "greedy", "greedy", asked, greedy)
            self._count(name, "sampled", "T=1", asked, self.sampled)
        n, k = plan.samples, min(PASS_AT, plan.samples)
        passed = (
            per_prompt([pass_at_k(n, int(right), k)] for right in totals[0])
            for totals in self._totals("exact_sampled")
        )
        self._add("pass_at_k", f"pass@{k}", passed)
        if fit := self._that_fit(plan.train):
            train = [fit[i] for i in spread(len(fit), len(asked))]
            given = [self._answers(s, train, 1, 0.0) for s in self.models]
            self._count("exact", "train", "greedy, train prompts", train, given)
            self._compare_with_train(greedy)

    def _compare_with_train(self, greedy: Sequence[list[list[Answer]]]) -> None:
        """Find held-out prompts that are in train, and what answers to held-out ones copy of it."""
        keys = {q.key for q in self.plan.train}
        known = {gram for q in self.plan.train for gram in _grams(q.answer)}
        is_new_N = np.array([q.key not in keys for q in self.asked])
        self.facts.n_leaked = int((~is_new_N).sum())
        if self.facts.n_leaked and is_new_N.any():
            new = ((sums[is_new_N], n[is_new_N]) for sums, n in self._totals("exact_greedy"))
            self._add("exact_new", "exact match, greedy, not in train", new)
        copied = [per_prompt([g in known for g in _grams(a.text)] for (a,) in of) for of in greedy]
        self._add("copied", f"{GRAM}-grams of words from train, greedy", copied)

    def try_injections(self) -> None:
        """Count the orders hidden in prompts that are obeyed."""
        asked = [Question(({"role": "user", "content": t},), word, t) for t, word in INJECTIONS]
        try:
            tried = self._that_fit(asked)
        except UserError as error:  # a tokenizer may lack their letters
            self._note(f"orders hidden in prompts were not tried: {error}")
            return
        if n_long := len(asked) - len(tried):
            self._note(f"{n_long} of {len(asked)} orders hidden in prompts don't fit: not tried")
        obeyed = (
            per_prompt(
                [a.text.strip(" .!'\"\n").upper().startswith(q.answer)]
                for q, (a,) in zip(tried, self._answers(s, tried, 1, 0.0), strict=True)
            )
            for s in self.models
        )
        self._add("obeys", "obeys orders hidden in prompts", obeyed)

    def read_old_texts(self) -> None:
        """Measure how well both predict the old texts."""
        bits = []
        for s in self.models:
            documents = encode_documents(self.plan.old_texts, s.tokenizer)
            stride = checked_stride(None, s.model.config.block_size)
            found = score(s.model, documents, stride, batch_size=16)
            bits.append((found.nats_N / np.log(2), found.bytes_N))
        self._add("old_text", "old text", bits, "bits/byte")

    def is_comparable(self) -> bool:
        """Return whether both read the prompts in the same tokens; note it if they don't."""
        base, tuned = self.models
        same = base.tokenizer.fingerprint == tuned.tokenizer.fingerprint
        if same and all(base.prompt(q) == tuned.prompt(q) for q in self.asked):
            return True
        self._note(
            "the tokenizers or templates differ, so that the models read the prompts in other "
            "tokens: KL and the losses of prompts and answers don't compare; give as BASE the "
            "folder that the tuned model was made from, such as OUT-base"
        )
        return False

    @torch.inference_mode()
    def predict(self) -> None:
        """Measure the losses of prompts and known answers, and KL(tuned || base) on the samples."""
        prompts, answers = [], []
        for s in self.models:
            before, after = [], []
            for q in self.asked:
                prompt = s.prompt(q)
                ids = prompt + s.tokenizer.encode_ordinary(q.answer)
                ids_1T = torch.tensor([ids], device=next(s.model.parameters()).device)
                losses = s.model(ids_1T[:, :-1], ids_1T[:, 1:], reduction="none")[0].tolist()
                before.append(losses[: len(prompt) - 1])
                after.append(losses[len(prompt) - 1 :])
            prompts.append(per_prompt(before))
            answers.append(per_prompt(after))
        self._add("prompt_loss", "loss of the prompts", prompts, "nats/token")
        self._add("answer_loss", "loss of the answers", answers, "nats/token")
        base, tuned = self.models
        pairs = [(tuned.prompt(q), of) for q, of in zip(self.asked, self.sampled[1], strict=True)]
        kl = per_prompt(
            kl_of_continuations(
                tuned.model, base.model, ids, [a.ids for a in of], tuned.tokenizer.n_vocab
            )
            for ids, of in pairs
        )
        self.facts.measures["kl"] = Measure("KL(tuned || base), T=1", None, kl, "nats/token")

    def _that_fit(self, questions: Sequence[Question]) -> list[Question]:
        return [q for q in questions if all(s.has_room(q, self.block_size) for s in self.models)]

    def _answers(
        self, subject: Subject, asked: Sequence[Question], n: int, temperature: float
    ) -> list[list[Answer]]:
        """Return n answers to each question, with seeds of its own, and the same for each model."""
        by_room: dict[int, list[int]] = {}
        prompts = [subject.prompt(q) for q in asked]
        for i, prompt in enumerate(prompts):
            room = min(self.plan.max_new_tokens, self.block_size + 1 - len(prompt))
            by_room.setdefault(room, []).append(i)
        answers: list[list[Answer]] = [[] for _ in asked]
        for room, places in by_room.items():
            found = roll_out(
                subject.model,
                [prompts[i] for i in places],
                n,
                room,
                [seed_of(self.plan.seed, i) for i in places],
                subject.tokenizer.stop_tokens,
                SamplingConfig(temperature),
            )
            for j, one in enumerate(found):
                answer = Answer(one.ids, one.text(subject.tokenizer), one.finished)
                answers[places[j // n]].append(answer)
        return answers

    def _count(
        self,
        name: str,
        key: str,
        how: str,
        asked: Sequence[Question],
        answers: Sequence[list[list[Answer]]],
    ) -> None:
        """Add a measure of COUNTS. answers: those of each model to each question."""
        label, count, unit = COUNTS[name]
        totals = (
            per_prompt(
                [count(self.plan, s, q, a) for a in of] for q, of in zip(asked, given, strict=True)
            )
            for s, given in zip(self.models, answers, strict=True)
        )
        self._add(f"{name}_{key}", f"{label}, {how}", totals, unit)

    def _add(self, key: str, label: str, totals: Iterable[Totals], unit: str = "") -> None:
        """Add a measure, unless there is nothing that it could be measured on."""
        of_base, of_tuned = totals
        if of_base[1].any() and of_tuned[1].any():
            self.facts.measures[key] = Measure(label, of_base, of_tuned, unit)

    def _totals(self, key: str) -> tuple[Totals, Totals]:
        found = self.facts.measures[key]
        assert found.base_totals is not None
        return found.base_totals, found.tuned_totals

    def _note(self, note: str) -> None:
        self.facts.notes.append(note)


def _grams(text: str) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)]
