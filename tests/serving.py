"""Run a server within the process of a test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gptfast.serve.server import Server, listen
from gptfast.serve.site import Site


@contextmanager
def in_thread(site: Site) -> Iterator[str]:
    """Run a server in a thread of this process; yield its URL."""
    with listen("127.0.0.1", 0) as listener:
        server = Server(site.app(), site, drain_seconds=10)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
