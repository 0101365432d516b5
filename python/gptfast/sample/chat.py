"""`gptfast sample --chat`: a dialogue with a model that has a chat template."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

from gptfast.errors import UserError
from gptfast.model import LanguageModel
from gptfast.sample.generate import stream
from gptfast.sample.request import Request
from gptfast.sample.speculate import Draft
from gptfast.tokenizer import Tokenizer
from gptfast.tokenizer.chat import ChatTemplate

HELP = """Type a message, and the model answers. Ctrl-C: stop the answer. Ctrl-D: leave."""


def template_for(source: str | None, tokenizer: Tokenizer) -> ChatTemplate:
    """Return a model's chat template. Raise UserError if it has none, or one that fails."""
    if source is None:
        raise UserError(
            "the model has no chat template: it continues text, and was not trained on dialogues; "
            "expected a folder with chat_template.jinja"
        )
    return ChatTemplate(source, tokenizer)


def chat(
    model: LanguageModel,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    request: Request,
    draft: Draft | None,
) -> None:
    """Answer one message after another until standard input ends.

    The model sees the whole dialogue. When its context has no room, the oldest turns are forgotten.
    A message that can't be answered is an error on standard error, and is not part of the dialogue.

    request: how to answer; answer i, counted from 0, has the seed `request.seed + i`.
    """
    with suppress(ImportError):
        import readline  # noqa: F401 (from here on, input() edits lines and keeps a history)

    print(HELP)
    turns: list[dict[str, str]] = []
    for i in count():
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # forget the line
            print()
            continue
        if not line.strip():
            continue
        asked = [*turns, {"role": "user", "content": line}]
        answer = ""
        try:
            prompt, n_forgotten = fit(template, asked, model.config.block_size)
            if n_forgotten:
                print("note: the context is full: the oldest turns are forgotten", file=sys.stderr)
            with suppress(KeyboardInterrupt):  # Ctrl-C ends the answer, not the program
                for piece in stream(
                    model, tokenizer, replace(request, prompt=prompt, seed=request.seed + i), draft
                ):
                    answer += piece
                    print(piece, end="", flush=True)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        print()
        turns = [*asked[n_forgotten:], {"role": "assistant", "content": answer}]


def fit(
    template: ChatTemplate, messages: Sequence[dict[str, Any]], block_size: int
) -> tuple[list[int], int]:
    """Return the ids of the messages that the context has room for, and how many are left out.

    messages: of the user and the assistant in turn. The oldest are left out, two at a time. Raises
    UserError if the last message alone has no room.
    """
    for n_forgotten in range(0, len(messages), 2):
        ids = template.encode(messages[n_forgotten:])
        if len(ids) <= block_size:
            return ids, n_forgotten
    raise UserError(
        f"the message has {len(ids)} tokens: expected at most {block_size}, the model's context"
    )
