"""Templates: the tokens that a `post_processor` adds around a text, if it is asked to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptfast.errors import UserError
from gptfast.tokenizer.checks import shorten

Around = tuple[list[int], list[int]]
"""The ids before a text and those after it."""


def around_text(post_processor: Mapping[str, Any] | None) -> Around:
    """Return the ids that the `post_processor` of a `tokenizer.json` adds before and after a text.

    Raises UserError for one that does something else.
    """
    match post_processor:
        case None | {"type": "ByteLevel"}:  # it only moves offsets
            return [], []
        case {"type": "Sequence", "processors": [*processors]}:
            adding = [around for around in map(around_text, processors) if any(around)]
            if len(adding) > 1:
                raise UserError(
                    f"post_processor has {len(adding)} parts that add tokens: expected at most one"
                )
            return adding[0] if adding else ([], [])
        case {"type": "TemplateProcessing", "single": [*pieces], "special_tokens": dict(tokens)}:
            return _of_template(pieces, tokens)
        case {
            "type": "RobertaProcessing" | "BertProcessing",
            "cls": [str(), int(first_id)],
            "sep": [str(), int(last_id)],
        }:
            return [first_id], [last_id]
        case _:
            raise UserError(
                f"post_processor is {shorten(post_processor)}: expected a TemplateProcessing, "
                f"RobertaProcessing, BertProcessing, ByteLevel or a Sequence of them"
            )


def _of_template(pieces: list[Any], tokens: dict[str, Any]) -> Around:
    before: list[int] = []
    after: list[int] = []
    has_text = False
    for piece in pieces:
        match piece:
            case {"Sequence": {"id": "A"}} if not has_text:
                has_text = True
            case {"SpecialToken": {"id": str(name)}} if isinstance(tokens.get(name), dict):
                ids = tokens[name].get("ids")
                if not (isinstance(ids, list) and all(isinstance(i, int) for i in ids)):
                    raise UserError(f"post_processor has {name!r} without ids: expected its ids")
                (after if has_text else before).extend(ids)
            case _:
                raise UserError(
                    f"post_processor has the piece {shorten(piece)}: expected the Sequence A once, "
                    f"and special tokens that are listed"
                )
    if not has_text:
        raise UserError("post_processor has a template without the Sequence A: expected it once")
    return before, after
