"""What every server has, whatever it serves: the gate, the counts, health, and an end in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gptfast.serve.documents import Documents
from gptfast.serve.errors import ApiError, overloaded
from gptfast.serve.failures import EXCEPTION_HANDLERS
from gptfast.serve.fields import Fields
from gptfast.serve.gate import Gate, read_fields
from gptfast.serve.jobs import while_connected
from gptfast.serve.limits import BodyLimits
from gptfast.serve.metrics import CONTENT_TYPE, Metrics, Values
from gptfast.serve.page import headers_of
from gptfast.serve.reply import Reply

Handler = Callable[[Request], Awaitable[Response | Reply]]


class Site:
    """A server of documents that can be asked, and the base of one of a model.

    Make the ASGI application with `app`.
    """

    def __init__(
        self,
        limits: BodyLimits,
        documents: Documents | None = None,
        keys: Sequence[str] = (),
        is_loopback: bool = True,
    ) -> None:
        self.metrics = Metrics()
        self.draining: asyncio.Event
        self._body_limits, self._documents = limits, documents
        self._keys, self._is_loopback = [key.encode() for key in keys], is_loopback

    def app(self) -> Starlette:
        """Return the application."""
        posts, gets = self.posts(), self.gets()
        routes = [Route(path, handler, methods=["POST"]) for path, handler in posts.items()]
        routes += [Route(path, handler, methods=["GET"]) for path, handler in gets.items()]
        gate = Middleware(
            Gate,
            metrics=self.metrics,
            endpoints=frozenset([*posts, *gets]),
            keys=self._keys,
            is_loopback=self._is_loopback,
        )
        app = Starlette(
            routes=routes,
            middleware=[gate],
            exception_handlers=EXCEPTION_HANDLERS,
            lifespan=self._lifespan,
        )
        app.router.redirect_slashes = False
        return app

    def posts(self) -> dict[str, Handler]:
        """Return the handlers of POST by path."""
        if self._documents is None:
            return {}
        return {"/documents/ask": self._ask, "/documents/place": self._place}

    def gets(self) -> dict[str, Handler]:
        """Return the handlers of GET by path."""
        gets: dict[str, Handler] = {"/health": self._health, "/metrics": self._show_metrics}
        if self._documents is not None:
            gets |= {"/": self._documents_page, "/documents": self._documents_page}
        return gets

    @property
    def has_failed(self) -> bool:
        """Whether something that the server needs has ended by an error."""
        return False

    def abort(self, error: ApiError) -> None:
        """End what is under way with an error. Answers from documents take no such time."""

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.draining = asyncio.Event()
        self.start()
        yield
        self.end()

    def start(self) -> None:
        """Begin, within the event loop."""

    def end(self) -> None:
        """Stop what `start` has begun, and wait for it."""

    async def _fields(self, request: Request) -> Fields:
        """Return the fields of a request that is to be answered. Raises ApiError."""
        if self.draining.is_set():
            raise overloaded("the server is about to stop")
        fields = await read_fields(request, self._body_limits, self.draining)
        self.metrics.n_accepted += 1
        request.scope["is_accepted"] = True
        return fields

    # ---- documents -------------------------------------------------------------------------------

    async def _ask(self, request: Request) -> Response:
        assert self._documents is not None
        work = self._documents.ask(await self._fields(request))
        return JSONResponse(await while_connected(work, request.receive))

    async def _place(self, request: Request) -> Response:
        assert self._documents is not None
        work = self._documents.place(await self._fields(request))
        return JSONResponse(await while_connected(work, request.receive))

    async def _documents_page(self, request: Request) -> Response:
        assert self._documents is not None
        return HTMLResponse(self._documents.page, headers=headers_of("ask"))

    # ---- the rest --------------------------------------------------------------------------------

    async def _health(self, request: Request) -> Response:
        if self.draining.is_set() or self.has_failed:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok"})

    async def _show_metrics(self, request: Request) -> Response:
        text = self.metrics.text(self.gauges(), self.counters())
        return PlainTextResponse(text, headers={"content-type": CONTENT_TYPE})

    def gauges(self) -> Values:
        """Return what Prometheus may read as it is now."""
        return {
            "open_requests": ("Requests that are being answered.", self.metrics.n_open),
            "accepted_requests": (
                "Those of them whose body has arrived.",
                self.metrics.n_accepted,
            ),
        }

    def counters(self) -> Values:
        """Return what Prometheus may read of what has happened since the start."""
        return {}
