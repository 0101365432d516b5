"""`gptfast sample --interactive`: type a text, and the model continues it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count

from gptfast.model import LanguageModel
from gptfast.sample.generate import stream
from gptfast.sample.request import Request
from gptfast.tokenizer import Tokenizer

HELP = """Type a text, and the model continues it. Enter alone: go on. Ctrl-C: stop the text.
Ctrl-D: leave."""


def converse(
    model: LanguageModel,
    tokenizer: Tokenizer,
    request: Request,
    encode: Callable[[str], list[int]],
) -> None:
    """Continue one text after another until standard input ends.

    request: how to continue them; text i, counted from 0, has the seed `request.seed + i`. encode:
    returns the ids of a text.
    """
    with suppress(ImportError):
        import readline  # noqa: F401 (from here on, input() edits lines and keeps a history)

    print(HELP)
    text = ""
    for i in count():
        try:
            text = input("> ") or text
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # forget the line
            print()
            continue
        asked = replace(request, prompt=encode(text), seed=request.seed + i)
        with suppress(KeyboardInterrupt):  # Ctrl-C ends the text, not the program
            for piece in stream(model, tokenizer, asked):
                text += piece
                print(piece, end="", flush=True)
        print()
