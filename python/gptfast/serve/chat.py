"""`/v1/chat/completions`: write the next message of a dialogue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gptfast.sample.grammar import Grammar
from gptfast.sample.processors import LogitsProcessor
from gptfast.sample.request import Generation, Request
from gptfast.serve.asked import MOST_LOGPROBS, Asked, read_asked
from gptfast.serve.errors import ApiError
from gptfast.serve.fields import Fields, is_text
from gptfast.serve.jobs import Update
from gptfast.serve.limits import Limits, check_length, check_logprobs, room_for
from gptfast.serve.logprobs import Placer, of_chat
from gptfast.tokenizer import Tokenizer
from gptfast.tokenizer.chat import ChatTemplate

ROLES = ("system", "developer", "user", "assistant")


class Chat:
    """What one request to `/v1/chat/completions` asks for, and how its answers are spelled."""

    whole_object, chunk_object = "chat.completion", "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def __init__(
        self, fields: Fields, tokenizer: Tokenizer, template: ChatTemplate | None, limits: Limits
    ) -> None:
        if template is None:
            message = (
                "this model has no chat template: it continues text, and was not trained on "
                "dialogues; use /v1/completions"
            )
            raise ApiError(400, message, code="no_chat_template")
        self._tokenizer = tokenizer
        self.asked: Asked = read_asked(fields, tokenizer.n_vocab)
        self.n_drawn = self.asked.n
        top = _top_logprobs(fields)
        self._has_logprobs = top is not None
        older = fields.integer("max_tokens", None, 1, limits.block_size)
        max_tokens = fields.integer("max_completion_tokens", older, 1, limits.block_size)
        _refuse_tools(fields)
        processors = _read_response_format(fields, tokenizer)
        messages = _messages(fields)
        fields.refuse_others()
        if self.n_drawn > limits.most_continuations:
            expected = f"{limits.most_continuations} or fewer"
            raise ApiError(400, f"n is {self.n_drawn}: expected {expected}", param="n")
        ids = template.encode(messages)
        room = max(room_for(len(ids), limits.block_size), 1)
        max_tokens = room if max_tokens is None else max_tokens
        check_length(len(ids), max_tokens, limits.block_size, "messages")
        if top is not None:
            check_logprobs(self.n_drawn * max_tokens, top)
        self.requests: Sequence[Request] = [
            Request(
                ids,
                max_tokens,
                self.asked.sampling,
                self.asked.seed,
                stop_tokens=tokenizer.stop_tokens,
                stop=self.asked.stop,
                processors=processors,
                top_logprobs=top,
            )
        ]
        self._placers = [Placer(tokenizer) for _ in range(self.n_drawn)]

    def choices(self, generations: Sequence[Generation]) -> list[dict[str, Any]]:
        """Return one choice for each continuation."""
        found: list[dict[str, Any]] = []
        for index, generation in enumerate(generations):
            placed = Placer(self._tokenizer).add(generation.logprobs, generation.text)
            message = {"role": "assistant", "content": generation.text, "refusal": None}
            found.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": of_chat(self._tokenizer, placed) if self._has_logprobs else None,
                    "finish_reason": generation.finish_reason,
                }
            )
        return found

    def first_chunks(self) -> Iterable[dict[str, Any]]:
        """Return a choice for each continuation, which says whose message it is."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        for index in range(self.n_drawn):
            yield {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunks(self, update: Update) -> Iterable[dict[str, Any]]:
        """Return a choice with new text, if there is any, and one that says how it ended."""
        placed = self._placers[update.index].add(update.logprobs, update.text)
        choice = {"index": update.index, "logprobs": None, "finish_reason": None}
        if update.text:
            logprobs = of_chat(self._tokenizer, placed) if self._has_logprobs else None
            yield choice | {"delta": {"content": update.text}, "logprobs": logprobs}
        if update.has_ended:
            yield choice | {"delta": {}, "finish_reason": update.generation.finish_reason}


def _top_logprobs(fields: Fields) -> int | None:
    wanted = fields.boolean("logprobs")
    top: int | None = fields.integer("top_logprobs", None, 0, MOST_LOGPROBS)
    if top is not None and not wanted:
        message = 'top_logprobs is given without logprobs: expected "logprobs": true beside it'
        raise ApiError(400, message, param="top_logprobs")
    return (top or 0) if wanted else None


def _refuse_tools(fields: Fields) -> None:
    """Refuse the fields of OpenAI that would change the answer, and that no model here can obey."""
    for name in ("tools", "functions"):
        fields.only(name, [], why="the model was not trained to call tools; leave it out")
    for name in ("tool_choice", "function_call"):
        fields.only(name, "none", "auto", why="there are no tools to choose from; leave it out")
    fields.only("modalities", ["text"], why='the model writes text: expected ["text"]')
    fields.only("store", False, why="nothing is stored: expected false")
    for name in ("audio", "prediction", "web_search_options", "reasoning_effort", "verbosity"):
        fields.only(name, why="the model has no such ability; leave it out")


def _read_response_format(fields: Fields, tokenizer: Tokenizer) -> tuple[LogitsProcessor, ...]:
    """Return what keeps the text to a format. Raises UserError for an unusable schema."""
    wanted = fields.object("response_format")
    kind = wanted.text("type") or "text"
    schema: Any = {"type": "object"}
    if kind == "json_schema":
        named = wanted.object("json_schema")
        schema = named.take("schema")
        for name in ("name", "description", "strict"):  # a schema is always followed strictly
            named.take(name)
        named.refuse_others()
        if not isinstance(schema, dict):
            raise named.wrong("schema", schema, "a JSON schema")
    elif kind not in ("text", "json_object"):
        raise wanted.wrong("type", kind, "text, json_object or json_schema")
    wanted.refuse_others()
    return () if kind == "text" else (Grammar(tokenizer, schema, "json_schema"),)


def _messages(fields: Fields) -> list[dict[str, str]]:
    given = fields.take("messages")
    if not isinstance(given, list) or not given:
        raise fields.wrong("messages", given, "an array of at least one message")
    return [_message(one, f"messages[{i}].") for i, one in enumerate(given)]


def _message(given: object, within: str) -> dict[str, str]:
    if not isinstance(given, dict):
        raise ApiError(400, f"{within[:-1]} is no object: expected a message", param=within[:-1])
    fields = Fields(given, within)
    role = fields.text("role")
    if role not in ROLES:
        raise fields.wrong("role", role, " or ".join(ROLES))
    message = {"role": "system" if role == "developer" else role, "content": _content(fields)}
    if (name := fields.text("name")) is not None:
        message["name"] = name
    fields.only("refusal", "", why="a message of this model is never a refusal; leave it out")
    fields.refuse_others()
    return message


def _content(fields: Fields) -> str:
    """Read a text, or an array of parts that are texts, which follow one another."""
    given = fields.take("content")
    if isinstance(given, str) and is_text(given):
        return given
    if not isinstance(given, list):
        raise fields.wrong("content", given, "a text, or an array of parts of type text")
    texts = []
    for part in given:
        if not (
            isinstance(part, dict) and part.get("type") == "text" and is_text(part.get("text"))
        ):
            raise fields.wrong("content", part, "parts of type text, the model reads nothing else")
        texts.append(part["text"])
    return "".join(texts)
