"""Show the token boundaries of a text on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from gptfast.tokenizer.base import Tokenizer

# Neighbors also differ in lightness, for readers who cannot distinguish the hues.
_STYLES = (
    "color(16) on color(153)",
    "color(16) on color(222)",
    "color(16) on color(114)",
    "color(16) on color(218)",
)
_STYLE_OF_IDS = "dim"


def visible(token: bytes) -> str:
    r"""Return a token in printable characters.

    A space becomes `·` and a newline `⏎`. Any other unprintable character, including escape
    sequences, becomes its Python escape, such as `\t`; so do bytes that are only part of a
    character, such as `\xe2`.
    """
    return "".join(map(_visible_char, token.decode("utf-8", errors="backslashreplace")))


def _visible_char(char: str) -> str:
    if char == " ":
        return "·"
    if char == "\n":
        return "⏎"
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def show(ids: Sequence[int], tokenizer: Tokenizer, console: Console, with_ids: bool) -> None:
    """Print the tokens, each in another color than its neighbors, and their ids if `with_ids`.

    Without color (NO_COLOR, a file, a pipe), a `|` separates the tokens.
    """
    tokens = [visible(tokenizer.token_bytes(i)).replace("⏎", "⏎\n") for i in ids]
    labels = [str(token_id) if with_ids else "" for token_id in ids]
    if console.color_system is None or console.no_color:
        console.print(_with_bars(tokens, labels))
    else:
        console.print(_colored(tokens, labels))


def _with_bars(tokens: Sequence[str], labels: Sequence[str]) -> Text:
    marked = []
    for token, label in zip(tokens, labels, strict=True):
        text, line_end = _split_line_end(token)
        marked.append(text + (f" {label}" if label else "") + "|" + line_end)
    return Text("".join(marked).rstrip("\n").removesuffix("|"))


def _colored(tokens: Sequence[str], labels: Sequence[str]) -> Text:
    shown = Text()
    for i, (token, label) in enumerate(zip(tokens, labels, strict=True)):
        text, line_end = _split_line_end(token)
        shown.append(text, _STYLES[i % len(_STYLES)])
        shown.append(label, _STYLE_OF_IDS)
        shown.append(line_end)
    shown.rstrip()
    return shown


def _split_line_end(token: str) -> tuple[str, str]:
    """Return a token without the line break at its end, and the line break."""
    return (token[:-1], "\n") if token.endswith("\n") else (token, "")
