"""Jinja for chat templates: a sandbox with the functions and tags that `transformers` offers."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gptfast.errors import UserError

BEGIN, END = "\udffe", "\udfff"
"""Marks around what the assistant writes. They are lone surrogates, which no text has."""
_NOT_ASCII = re.compile("[^\x00-\x7f\ud800-\udfff]")


class Refusal(TemplateError):
    """A template has called `raise_exception`."""


class _Generation(Extension):
    """`{% generation %}` encloses what the assistant writes. It is output as it is."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)
    before, after = "", ""

    def parse(self, parser: Parser) -> nodes.Node:
        """Return what is between the tags, between the marks."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (
            nodes.Output([nodes.TemplateData(mark)], lineno=line)
            for mark in (self.before, self.after)
        )
        return nodes.Scope([begin, *body, end], lineno=line)


class _MarkedGeneration(_Generation):
    before, after = BEGIN, END


def compiled(source: str, *, marked: bool = False) -> Template:
    """Compile a template with the functions that `transformers` offers to one.

    marked: output BEGIN and END around what `{% generation %}` encloses. Raises UserError for a
    source that is not valid Jinja.
    """
    generation = _MarkedGeneration if marked else _Generation
    environment: Environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, generation]
    )
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.filters["tojson"] = _to_json
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise UserError(f"the chat template is not valid Jinja: {error}") from None


def _raise_exception(message: str) -> None:
    raise Refusal(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON. Jinja's own filter escapes HTML."""
    text = json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
    )
    # Surrogates stand for other characters here.
    return _NOT_ASCII.sub(lambda m: json.dumps(m[0])[1:-1], text) if ensure_ascii else text
