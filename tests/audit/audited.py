"""Tiny models to audit: trained for a second, rightly or not, and scripted ones.

The base has read an old text of words. Tuning teaches it to answer four letters with their first,
twice: "hbdc" with "hh". Half of its batches are old text.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.audit.tuned.prompts import Question, Subject
from gptfast.data.batch import IGNORED
from gptfast.model import LanguageModel, ModelConfig, build_model
from gptfast.model.kv_cache import NewTokens
from gptfast.tokenizer import CharTokenizer
from gptfast.tokenizer.chat import ChatTemplate
from gptfast.tokenizer.chat_template import ROLE_TOKENS, standard_template
from gptfast.tokenizer.roles import Roles

TOKENIZER = CharTokenizer.train(
    string.printable,
    special_tokens=("<|endoftext|>", *ROLE_TOKENS),
    roles=Roles(eos="<|endoftext|>", end_of_turn="<|end|>"),
)
TEMPLATE = ChatTemplate(standard_template(TOKENIZER), TOKENIZER)
CONFIG = ModelConfig(TOKENIZER.n_vocab, block_size=192, n_layer=1, n_head=2, n_embd=32)
WORDS = ["river", "moon", "crow", "sword", "door", "queen", "fool", "light"]
_RNG = random.Random(0)
OLD_TEXTS = [" ".join(_RNG.choices(WORDS, k=12)) + ".\n" for _ in range(60)]


def question(prompt: str, answer: str) -> Question:
    return Question(({"role": "user", "content": prompt},), answer, prompt)


def _questions(n: int) -> list[Question]:
    prompts = {"".join(_RNG.choices("abcdefgh", k=4)): None for _ in range(2 * n)}
    return [question(prompt, prompt[0] * 2) for prompt in [*prompts][:n]]


QUESTIONS = _questions(440)
HELD_OUT, TRAIN = QUESTIONS[:40], QUESTIONS[40:]


def subject(model: LanguageModel) -> Subject:
    return Subject(model, TOKENIZER, TEMPLATE)


# ---- trained -------------------------------------------------------------------------------------

Pair = tuple[Tensor, Tensor]  # ids and targets, (B, T) each


@cache
def base() -> LanguageModel:
    torch.manual_seed(0)
    model = build_model(CONFIG)
    rng = random.Random(1)
    return _train(model, 1e-2, 150, [_old(rng) for _ in range(30)])


@cache
def tuned(rate: float = 2e-3, *, end: bool = True, prompts: bool = False) -> LanguageModel:
    """The base after tuning. end: train the end token; prompts: train the prompts, too."""
    rng = random.Random(2)
    batches = [_chats(rng, end, prompts) if i % 2 else _old(rng) for i in range(60)]
    return _train(deepcopy(base()), rate, 180, batches)


def _old(rng: random.Random) -> Pair:
    assert TOKENIZER.eot_token is not None
    texts = ["".join(rng.choices(OLD_TEXTS, k=2)) for _ in range(16)]
    rows = [[TOKENIZER.eot_token, *TOKENIZER.encode_ordinary(text)[:60]] for text in texts]
    ids_BT = torch.tensor(rows)
    return ids_BT[:, :-1], ids_BT[:, 1:]


def _chats(rng: random.Random, end: bool, prompts: bool) -> Pair:
    rows, targets = [], []
    for q in rng.sample(TRAIN, 32):
        answered = [*q.messages, {"role": "assistant", "content": q.answer}]
        ids, mask = TEMPLATE.encode_with_mask(answered)
        mask[-1] = end
        rows.append(ids)
        targets.append([i if m or prompts else IGNORED for i, m in zip(ids, mask, strict=True)])
    return torch.tensor(rows)[:, :-1], torch.tensor(targets)[:, 1:]


def _train(model: LanguageModel, rate: float, steps: int, batches: Sequence[Pair]) -> LanguageModel:
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=rate)
    for step in range(steps):
        optimizer.zero_grad()
        model(*batches[step % len(batches)]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


# ---- scripted ------------------------------------------------------------------------------------


class Scripted(LanguageModel):
    """Writes what a function says after a prompt, then ends; without an answer it writes on.

    Every next token is nearly certain.
    """

    def __init__(self, answer: Callable[[str], str | None]) -> None:
        super().__init__(CONFIG)
        self.answer = answer
        self.nothing = nn.Parameter(torch.zeros(()))

    def _logits(self, idx_BT: Tensor) -> Tensor:
        rows = idx_BT.tolist()
        return self._surely([[self._next(row[: t + 1]) for t in range(len(row))] for row in rows])

    def _next_logits(self, ids_BT: Tensor, new: NewTokens, all_logits: bool) -> Tensor:
        """After the last tokens alone, as the base class computes all of them."""
        assert not all_logits
        logits_B1V = self._surely([[self._next(text[0].tolist())] for text in new.texts()])
        new.finish()
        return logits_B1V

    def _surely(self, next_BT: list[list[int]]) -> Tensor:
        return 20 * F.one_hot(torch.tensor(next_BT), CONFIG.vocab_size).float() + self.nothing

    def _next(self, ids: list[int]) -> int:
        special = TOKENIZER.special_tokens
        begun = special["<|assistant|>"]
        if begun not in ids:
            return ids[-1]
        place = len(ids) - 1 - ids[::-1].index(begun)
        answer = self.answer(TOKENIZER.decode(ids[:place], skip_special_tokens=True))
        if answer is None:
            return TOKENIZER.encode_ordinary("z")[0]
        planned = [*TOKENIZER.encode(answer, "all"), special["<|end|>"]]
        written = len(ids) - 1 - place
        return planned[min(written, len(planned) - 1)]
