"""What must be known about a chat template before it is trained on, or strangers may use it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from gptfast.errors import UserError
from gptfast.tokenizer.base import Tokenizer
from gptfast.tokenizer.chat import NO_MASK, ChatTemplate

_ROLES = ("user", "assistant", "user")
_AROUND = (("", ""), (" ", ""), ("\n", ""), ("\n\n", ""), ("", " "), ("", "\n"), ("", "\n\n"))
"""First and last characters of a content that may change its ids, or those beside it."""


class _Place(NamedTuple):
    """Where the content of a message is."""

    role: str
    piece: int
    """Index of the text between two special tokens that has the content."""
    before: str
    content: str
    after: str


def remarks(template: ChatTemplate) -> list[str]:
    """Return what is weak about a template, a line each: none for gptfast's own.

    - The token that ends an answer isn't part of it.
    - Plain text touches a content, so that a token may be part of both, or its ids change.
    - No special token is between two contents, so that one may imitate the other's header.

    Raises UserError for a template that can't be trained on, because it marks no answer.
    """
    return [*_about_the_mask(template), *_about_borders(template)]


def _about_the_mask(template: ChatTemplate) -> Iterator[str]:
    if not template.has_mask:
        raise UserError(NO_MASK)
    try:
        ids, mask = template.encode_with_mask([{"role": r, "content": "a"} for r in _ROLES[:2]])
    except UserError as error:
        yield f"the chat template can't be tried with a short dialogue: {error}"
        return
    pairs = groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])
    answers = [[token_id for token_id, _ in group] for is_answer, group in pairs if is_answer]
    if not answers:
        raise UserError(
            "the chat template's {% generation %} tags enclose no answer, so none can be learned: "
            "put them around the content of the assistant's messages and the token that ends them"
        )
    if answers[-1][-1] not in template.tokenizer.stop_tokens:
        yield (
            "the chat template's {% generation %} tags don't enclose the token that ends an "
            "answer: training on it doesn't teach the model to stop"
        )


def _about_borders(template: ChatTemplate) -> Iterator[str]:
    roles: tuple[str, ...] = ("system", *_ROLES)
    try:
        places = _places(template, roles)
    except UserError:  # a template may refuse a system message
        roles = _ROLES
        places = _places(template, roles)
    merging = {}
    for around in _AROUND:
        for plain, place in zip(places, _places(template, roles, *around), strict=False):
            if place.role not in merging and _merges(template.tokenizer, plain, place):
                merging[place.role] = f"{around[0]}a{around[1]}"
    if merging:
        role, content = next(iter(merging.items()))
        yield (
            f"the chat template puts plain text beside what the {' and the '.join(merging)} may "
            f"write: the ids of one depend on the other, such as with {content!r} of the {role}"
        )
    if any(place.piece == following.piece for place, following in pairwise(places)):
        yield (
            "the chat template puts no special token between two messages: the text of one can "
            "imitate the header of the next"
        )


def _places(
    template: ChatTemplate, roles: Sequence[str], begin: str = "", end: str = ""
) -> list[_Place]:
    """Return where the contents of messages with these roles are. Raises UserError.

    begin, end: characters around each content.
    """
    messages = [{"role": r, "content": f"{begin}7{i}7{end}"} for i, r in enumerate(roles)]
    places: list[_Place] = []
    for i, piece in enumerate(template.pieces(messages)):
        parts = re.split(r"(7\d7)", piece)  # text, content, text, ...
        places += [
            _Place(roles[int(parts[k][1])], i, parts[k - 1], parts[k], parts[k + 1])
            for k in range(1, len(parts), 2)
        ]
    return places


def _merges(tokenizer: Tokenizer, plain: _Place, place: _Place) -> bool:
    """Return whether the ids of a content and of the text beside it depend on each other.

    plain: the place of a content that neither begins nor ends with spaces. The template may strip
    those of the other one.
    """
    text = place.before + place.content + place.after
    begin, end = len(plain.before), len(text) - len(plain.after)
    try:
        parts = [tokenizer.encode_ordinary(t) for t in (text[:begin], text[begin:end], text[end:])]
        return tokenizer.encode_ordinary(text) != [token_id for part in parts for token_id in part]
    except UserError:  # the vocabulary lacks a character
        return False
