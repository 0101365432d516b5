"""Run the application by uvicorn: listen, and stop in order."""

from __future__ import annotations

import contextlib
import socket
import time
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from gptfast.errors import UserError
from gptfast.serve.app import Service
from gptfast.serve.errors import overloaded

BACKLOG = 2048
LAST_WORDS = 5
"""Seconds that clients have to read their last bytes after everything was answered."""


class Server(uvicorn.Server):
    """A uvicorn that drains when it is told to stop.

    After the first SIGTERM or SIGINT, requests that were accepted are finished and others get 503.
    The server ends when all are answered. After `drain_seconds`, or at a second signal, those that
    are left get an error.
    """

    def __init__(self, app: Starlette, service: Service, drain_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="on",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=LAST_WORDS,
            )
        )
        self._service, self._drain_seconds = service, drain_seconds
        self._deadline: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; at the second signal, end that; at the third, drop all connections."""
        if self.should_exit:
            super().handle_exit(sig, frame)
        is_second = self._service.is_draining
        self._service.is_draining = True
        self._deadline = time.monotonic() + (0 if is_second else self._drain_seconds)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end. uvicorn calls this every tenth of a second."""
        if self._deadline is not None and not self.should_exit:
            if self._service.metrics.n_open == 0:
                self.should_exit = True
            elif time.monotonic() > self._deadline:
                self._service.worker.abort(overloaded("the server has stopped"))
                self.should_exit = True
        return await super().on_tick(counter)


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
