"""What every request passes first: checks of its origin, its key and its size; and the counts."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptfast.serve.errors import ApiError, overloaded
from gptfast.serve.fields import Fields, parse_object
from gptfast.serve.limits import BodyLimits
from gptfast.serve.metrics import Metrics

OPEN = ("/", "/documents", "/health")
"""Paths that need no key: the pages, which ask for one, and what a load balancer asks for."""
DISCARDED = 16
"""How many times larger than allowed a body may be, and still be read to its end. Many clients look
for the answer only then."""


class Gate:
    """ASGI middleware: refuses requests without the key or from other web pages; counts all.

    A page on another site could otherwise make its reader's browser use a server on localhost.
    Browsers send the header Origin with such requests. A site may also let its own name point to
    127.0.0.1, so a server on the loopback takes no other host names.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        endpoints: Collection[str],
        keys: Sequence[bytes],
        is_loopback: bool,
    ) -> None:
        self._app, self._metrics, self._endpoints = app, metrics, endpoints
        self._keys, self._is_loopback = keys, is_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with 401 or 403, or let the request pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), "500"
        self._metrics.n_open += 1

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            refusal = self._refusal(scope["path"], dict(scope["headers"]))
            if refusal is None:
                await self._app(scope, receive, watched)
            else:
                answer = JSONResponse(refusal.body(), refusal.status, refusal.headers)
                await answer(scope, receive, watched)
        finally:
            self._metrics.n_open -= 1
            self._metrics.n_accepted -= bool(scope.get("is_accepted"))
            path = _endpoint(scope["path"], self._endpoints)
            status = "499" if scope.get("client_gone") else status
            self._metrics.count(path, status, time.monotonic() - begin)

    def _refusal(self, path: str, headers: Mapping[bytes, bytes]) -> ApiError | None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and origin.partition("://")[2] != host:
            return ApiError(403, "the request comes from a page of another site")
        if self._is_loopback and host and not _is_loopback(host):
            return ApiError(403, "the server takes only requests to localhost")
        if not self._keys or path in OPEN:
            return None
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        # Every key is compared, in a time that does not depend on where they differ.
        matches = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        if scheme.lower() == b"bearer" and any(matches):
            return None
        message = "a key is missing or wrong: expected the header Authorization: Bearer KEY"
        return ApiError(401, message, code="invalid_api_key")


def _endpoint(path: str, endpoints: Collection[str]) -> str:
    """Return the endpoint of a path. One may end in a parameter, such as `/v1/models/{id}`."""
    parent = path.rpartition("/")[0]
    near = (e for e in endpoints if e == path or (e[-1] == "}" and e.rpartition("/")[0] == parent))
    return next(near, "other")


def _is_loopback(host: str) -> bool:
    """Return whether the header Host is an address or a name that nobody can rebind."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def read_fields(request: Request, limits: BodyLimits, draining: asyncio.Event) -> Fields:
    """Return the fields of a request's body. Raises ApiError (400, 408, 413, or 503 to drain)."""
    too_large = ApiError(
        413,
        f"the body is larger than {limits.body_bytes} bytes: send less at once",
        code="body_too_large",
    )
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > DISCARDED * limits.body_bytes:
        raise too_large

    async def read() -> bytes:
        body, size = bytearray(), 0
        async for chunk in request.stream():  # a chunked body declares no length
            size += len(chunk)
            if size <= limits.body_bytes:
                body += chunk
            elif size > DISCARDED * limits.body_bytes:
                break
        if size > limits.body_bytes:
            raise too_large
        return bytes(body)

    reading, ending = asyncio.create_task(read()), asyncio.create_task(draining.wait())
    try:
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait([reading, ending], timeout=limits.body_seconds, return_when=first)
        if reading.done():
            return parse_object(reading.result())
        if draining.is_set():
            raise overloaded("the server is about to stop")
        message = f"the body did not arrive within {limits.body_seconds:g} seconds"
        raise ApiError(408, message, code="timeout")
    finally:
        reading.cancel()
        ending.cancel()
