"""A server with OpenAI's API that answers what a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, str, bytes]
"""Status, content type, body."""


def said(text: str) -> Reply:
    """A message of a chat model."""
    return as_json({"choices": [{"message": {"role": "assistant", "content": text}}]})


def as_json(value: object, status: int = 200) -> Reply:
    return status, "application/json", json.dumps(value).encode()


@dataclass
class Stub:
    """What the server answers, and what it was asked."""

    answer: Callable[[str, dict[str, Any]], Reply]
    """(path, body) to the answer."""
    asked: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    """Path, body and the header Authorization of each request."""
    released: threading.Event = field(default_factory=threading.Event)
    """For answers that wait for the end of the test."""
    url: str = ""

    @property
    def prompts(self) -> list[str]:
        """What a model was asked to answer."""
        found = [body.get("prompt") or body["messages"][0]["content"] for _, body, _ in self.asked
                 if body]  # fmt: skip
        return [str(prompt) for prompt in found]


@contextmanager
def stub(answer: Callable[[str, dict[str, Any]], Reply]) -> Iterator[Stub]:
    """Run a server on a free port. It lists the model "stub", whatever `answer` says."""
    state = Stub(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body: dict[str, Any]) -> None:
            state.asked.append((self.path, body, self.headers.get("Authorization", "")))
            if self.path == "/v1/models" and not body:
                reply = as_json({"data": [{"id": "stub"}]})
            else:
                reply = state.answer(self.path, body)
            status, kind, content = reply
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status in (301, 302, 307):
                self.send_header("Location", content.decode())
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
