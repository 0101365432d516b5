"""Run `gptfast serve` as users do, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MANY_STEPS = 10**9


@dataclass
class Running:
    """A server that listens, and what it has printed."""

    process: subprocess.Popen[str]
    port: int
    log: IO[str]
    steps: Path
    """The engine takes as many steps as this file has bytes: see held.py."""

    def hold(self) -> None:
        """Let the engine, which is idle, take no further step."""
        os.truncate(self.steps, int(self.metric("steps_total")))

    def allow(self, n: int) -> None:
        """Let it take n steps more."""
        os.truncate(self.steps, self.steps.stat().st_size + n)

    def release(self) -> None:
        """Let it take any number of steps."""
        os.truncate(self.steps, MANY_STEPS)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        found = re.search(rf"^gptfast_{name} (\S+)$", self.get("/metrics"), re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def wait_for(self, name: str, value: float) -> None:
        """Wait until a metric has a value."""
        deadline = time.monotonic() + 60
        while self.metric(name) != value:
            assert time.monotonic() < deadline, f"{name} is {self.metric(name)}, never {value}"
            time.sleep(0.01)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def health(self) -> int:
        """The status of /health; 0 if there is no server any more."""
        try:
            self.get("/health")
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0
        return 200

    def wait_for_health(self, status: int) -> None:
        """Wait until /health has a status."""
        deadline = time.monotonic() + 60
        while self.health() != status:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def memory(self) -> int:
        """Bytes of resident memory."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def errors(self) -> str:
        self.log.seek(0)
        return self.log.read()


def post_bytes(path: str, body: dict[str, Any], keep: bool = False) -> bytes:
    """An HTTP request."""
    content = json.dumps(body).encode()
    end = "keep-alive" if keep else "close"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {end}\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


@contextmanager
def running(folder: Path, log: Path, *flags: str) -> Iterator[Running]:
    """Start a server of a model folder on a free port; end it."""
    steps = log.with_name(f"{log.name}-steps")
    steps.touch()
    os.truncate(steps, MANY_STEPS)
    held = Path(__file__).with_name("held.py")
    command = [sys.executable, str(held), str(steps), str(folder), "--port", "0", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    with log.open("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            port = re.search(r":(\d+)$", line.strip())
            assert port is not None, (line, log.read_text(encoding="utf-8"))
            server = Running(process, int(port[1]), errors, steps)
            deadline = time.monotonic() + 60
            while True:
                try:
                    server.get("/health")
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            yield server
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
