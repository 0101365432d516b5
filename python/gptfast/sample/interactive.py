"""`gptfast sample --interactive`: type a text, and the model continues it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count

from gptfast.errors import UserError
from gptfast.sample.engine import Engine
from gptfast.sample.generate import pieces
from gptfast.sample.request import Generation, Request

HELP = """Type a text, and the model continues it. Enter alone: go on. Ctrl-C: stop the text.
Ctrl-D: leave."""


def converse(
    engine: Engine,
    request: Request,
    encode: Callable[[str], list[int]],
    report: Callable[[Generation], None],
) -> None:
    """Continue one text after another until standard input ends.

    A line that can't be continued is an error on standard error, and the next line is asked for.

    request: how to continue them; text i, counted from 0, has the seed `request.seed + i`. encode:
    returns the ids of a text. report: is called with each text that has ended.
    """
    with suppress(ImportError):
        import readline  # noqa: F401 (from here on, input() edits lines and keeps a history)
    if isinstance(sys.stdin, io.TextIOWrapper):  # bytes that are no UTF-8 fail in `encode`
        sys.stdin.reconfigure(errors="surrogateescape")

    print(HELP)
    text = ""
    for i in count():
        generation = None
        try:
            line = input("> ") or text
            asked = replace(request, prompt=encode(line), seed=request.seed + i)
            (generation,) = engine.submit(asked)
            text = line
            for piece in pieces(engine, generation):
                print(piece, end="", flush=True)
            print()
            report(generation)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # ends the line or the text, not the program
            print()
        except UserError as error:
            if generation is not None:
                print()
            print(f"error: {error}", file=sys.stderr)
        if generation is not None:
            text += generation.text
            if isinstance(generation.stopped_by, str):  # else Enter would write it again
                text += generation.stopped_by
            engine.cancel(generation)
