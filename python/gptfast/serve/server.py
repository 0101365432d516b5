"""Run the application by uvicorn: listen, and stop in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from gptfast.errors import UserError
from gptfast.serve.errors import overloaded
from gptfast.serve.site import Site

BACKLOG = 2048
LAST_WORDS = 5
"""Seconds that clients have to read their last bytes when the server ends."""
HEAD_SECONDS = 30
"""How long a client may take to send the head of a request."""


class Connection(H11Protocol):
    """A connection that closes if a client does not get as far as a request in `HEAD_SECONDS`."""

    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._expect_request()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        if self._watch is not None:
            self._watch.cancel()

    def _expect_request(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self.loop.call_later(HEAD_SECONDS, self._close_if_none_came)

    def _close_if_none_came(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


class Server(uvicorn.Server):
    """A uvicorn that drains when it is told to stop.

    After the first SIGTERM or SIGINT, requests whose bodies have arrived are finished and others
    get 503. The server ends when all are answered. After `drain_seconds`, or at a second signal,
    those that are left get an error. Clients then have LAST_WORDS seconds to read it.
    """

    def __init__(self, app: Starlette, site: Site, drain_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="on",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=LAST_WORDS + 5,  # not reached: see _drop_connections
            )
        )
        self._site, self._drain_seconds = site, drain_seconds
        self._deadline: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; at the second signal, end that; at the third, drop all connections."""
        if self.should_exit:
            super().handle_exit(sig, frame)
        is_second = self._deadline is not None
        self._deadline = time.monotonic() + (0 if is_second else self._drain_seconds)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end. uvicorn calls this every tenth of a second."""
        site = self._site
        has_ended = site.has_failed
        if self._deadline is not None:
            site.draining.set()
            has_ended |= site.metrics.n_accepted == 0
            if time.monotonic() > self._deadline:
                site.abort(overloaded("the server has stopped"))
                has_ended = True
        if has_ended and not self.should_exit:
            self.should_exit = True
            asyncio.get_running_loop().call_later(LAST_WORDS, self._drop_connections)
        return await super().on_tick(counter)

    def _drop_connections(self) -> None:
        for connection in list(self.server_state.connections):
            if (transport := connection.transport) is not None:
                transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises UserError if the address can't be used."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise UserError(
            f"can't listen on {host}:{port} ({error}): choose another --port or --host"
        ) from None
    listener.listen(BACKLOG)
    return listener


def allow_connections() -> None:
    """Let the process open as many files as its hard limit allows: a connection is one."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
