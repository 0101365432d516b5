"""The server of a model: its routes, and what they share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from gptfast import __version__
from gptfast.model import GPT, LanguageModel
from gptfast.sample.engine import Engine
from gptfast.serve.attention import attention_of_last
from gptfast.serve.chat import Chat
from gptfast.serve.completions import Completions
from gptfast.serve.documents import Documents
from gptfast.serve.errors import ApiError
from gptfast.serve.fields import Fields
from gptfast.serve.jobs import while_connected
from gptfast.serve.limits import Limits, check_length
from gptfast.serve.logprobs import spelled
from gptfast.serve.metrics import Values
from gptfast.serve.page import build_page, headers_of
from gptfast.serve.reply import Reply
from gptfast.serve.site import Handler, Site
from gptfast.serve.worker import Worker
from gptfast.tokenizer import Tokenizer
from gptfast.tokenizer.chat import ChatTemplate

T = TypeVar("T")
LARGE = 4096
"""A body of more bytes is worked on in another thread. This many are tokenized in 5 ms."""


class Service(Site):
    """A model, and the endpoints that use it. Make the ASGI application with `app`."""

    def __init__(
        self,
        model: LanguageModel,
        engine: Engine,
        tokenizer: Tokenizer,
        name: str,
        limits: Limits,
        template: ChatTemplate | None = None,
        keys: Sequence[str] = (),
        is_loopback: bool = True,
        documents: Documents | None = None,
    ) -> None:
        super().__init__(limits, documents, keys, is_loopback)
        self.name, self.limits = name, limits
        self.worker: Worker
        self._network, self._engine = model, engine
        self._tokenizer, self._template = tokenizer, template
        self._created = int(time.time())
        self._page_text = build_page(
            name, model, tokenizer, template is not None, documents is not None
        )

    def posts(self) -> dict[str, Handler]:
        """Return the handlers of POST by path."""
        return super().posts() | {
            "/v1/completions": self._completions,
            "/v1/chat/completions": self._chat,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
            "/attention": self._attention,
        }

    def gets(self) -> dict[str, Handler]:
        """Return the handlers of GET by path."""
        return super().gets() | {
            "/": self._page,
            "/v1/models": self._models,
            "/v1/models/{id}": self._model,
        }

    @property
    def has_failed(self) -> bool:
        """Whether the thread of the engine has ended by an error."""
        return self.worker.has_failed

    def abort(self, error: ApiError) -> None:
        """End all texts that are being written with an error."""
        self.worker.abort(error)

    def start(self) -> None:
        """Start the worker."""
        self.worker = Worker(self._engine, asyncio.get_running_loop(), self.limits)
        self.worker.start()

    def end(self) -> None:
        """End the worker."""
        self.worker.end()

    # ---- text ------------------------------------------------------------------------------------

    async def _completions(self, request: Request) -> Reply:
        fields = await self._fields(request)
        read = partial(Completions, fields, self._tokenizer, self.limits)
        return self._reply(await _aside(fields, read))

    async def _chat(self, request: Request) -> Reply:
        fields = await self._fields(request)
        read = partial(Chat, fields, self._tokenizer, self._template, self.limits)
        return self._reply(await _aside(fields, read))

    def _reply(self, shape: Completions | Chat) -> Reply:
        return Reply(shape, self.worker, self.name, f"gptfast-{__version__}")

    async def _fields(self, request: Request) -> Fields:
        fields = await super()._fields(request)
        model = fields.text("model")
        if model is not None:
            self._check_model(model)
        return fields

    def _check_model(self, model: str) -> None:
        if model != self.name:
            message = f"there is no model {model[:100]!r}: expected {self.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    # ---- tokens ----------------------------------------------------------------------------------

    async def _tokenize(self, request: Request) -> Response:
        fields = await self._fields(request)
        text = fields.text("prompt")
        allow_special = fields.boolean("allow_special")
        fields.only("add_special_tokens", False, why="no tokens are added: expected false")
        fields.refuse_others()
        if text is None:
            raise fields.wrong("prompt", None, "a text")
        return await _aside(fields, partial(self._tokenized, text, allow_special))

    def _tokenized(self, text: str, allow_special: bool) -> Response:
        ids = self._tokenizer.encode(text, "all" if allow_special else ())
        names = [spelled(self._tokenizer.token_bytes(i)) for i in ids]
        size = self.limits.block_size
        answer = {"tokens": ids, "token_strs": names, "count": len(ids), "max_model_len": size}
        return JSONResponse(answer)

    async def _detokenize(self, request: Request) -> Response:
        fields = await self._fields(request)
        ids = fields.take("tokens")
        fields.refuse_others()
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise fields.wrong("tokens", ids, "an array of token ids")
        return JSONResponse({"prompt": self._tokenizer.decode(ids)})

    async def _attention(self, request: Request) -> Response:
        fields = await self._fields(request)
        ids = fields.take("tokens")
        fields.refuse_others()
        if not isinstance(ids, list) or not all(type(i) is int for i in ids) or not ids:
            raise fields.wrong("tokens", ids, "an array of token ids")
        check_length(len(ids), 0, self.limits.block_size, "tokens")
        for token_id in ids:
            if not 0 <= token_id < self._tokenizer.n_vocab:
                raise fields.wrong("tokens", token_id, f"ids below {self._tokenizer.n_vocab}")
        model = self._network
        if not isinstance(model, GPT):
            raise ApiError(400, "this model has no heads of attention")
        work = self.worker.call(partial(attention_of_last, model, ids))
        weights_LHT = await while_connected(work, request.receive)
        weights = [
            [[round(w, 4) for w in head] for head in layer] for layer in weights_LHT.tolist()
        ]
        return JSONResponse({"weights": weights})

    # ---- the rest --------------------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def _model(self, request: Request) -> Response:
        self._check_model(request.path_params["id"])
        return JSONResponse(self._described())

    def _described(self) -> dict[str, object]:
        return {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": "gptfast",
            "max_model_len": self.limits.block_size,
            "has_chat_template": self._template is not None,
        }

    def gauges(self) -> Values:
        """Return what Prometheus may read as it is now."""
        return super().gauges() | {
            "slots": ("Continuations that can be written at once.", self.limits.n_slots),
            "slots_in_use": ("Continuations that are being written.", self.worker.n_running),
            "queue": ("Continuations that wait for a slot.", self.worker.n_waiting),
        }

    def counters(self) -> Values:
        """Return what Prometheus may read of what has happened since the start."""
        counts = self.worker.counts
        return {
            "prompt_tokens_total": ("Tokens of accepted prompts.", counts.prompt_tokens),
            "completion_tokens_total": (
                "Tokens of continuations that came to their end.",
                counts.completion_tokens,
            ),
            "steps_total": ("Steps of the engine.", counts.steps),
        }

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(self._page_text, headers=headers_of("serve"))


async def _aside(fields: Fields, work: Callable[[], T]) -> T:
    """Return the result of work on a body; if it may take long, done in another thread."""
    is_slow = fields.n_bytes > LARGE or "response_format" in fields.names()
    return await asyncio.to_thread(work) if is_slow else work()
