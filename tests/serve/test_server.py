"""A real server in its own process: streams, clients that leave, a full queue, the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from servers import Running, post_bytes, running
from starlette.applications import Starlette

from gptfast.cli import cli
from gptfast.model import GPT, ModelConfig
from gptfast.model.folder import save_description, save_weights
from gptfast.serve.__main__ import main, read_keys
from gptfast.serve.errors import ApiError
from gptfast.serve.metrics import Metrics
from gptfast.serve.server import Server
from gptfast.tokenizer import BPETokenizer

pytestmark = pytest.mark.integration

ENDLESS = {"prompt": "a", "max_tokens": 4000, "logit_bias": {"256": -100}, "stream": True}
"""No id but 256 ends a text; some thousand tokens outlast every test."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a long context."""
    torch.manual_seed(0)
    tokenizer = BPETokenizer.train(["the king"], 257, progress=False)
    model = GPT(ModelConfig(tokenizer.n_vocab, "gpt", 4096, 1, 2, 16))
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_description(path, model.config, tokenizer)
    save_weights(model, path / "model.safetensors")
    return path


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("logs") / "server.log"
    with running(folder, log, "--parallel", "2", "--max-waiting", "2") as server:
        yield server
        assert server.errors() == ""


def test_the_openai_client_reads_a_stream_as_it_comes(server: Running) -> None:
    with openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0) as client:
        stream: Any = client.completions.create(model="tiny", **ENDLESS)
        for _, chunk in zip(range(20), stream, strict=False):
            assert chunk.choices[0].finish_reason is None  # so it has not waited for the end
        stream.close()
        server.wait_for("slots_in_use", 0)
        assert server.metric("open_requests") == 1  # the one that asks


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_frees_its_slot(server: Running, streamed: bool) -> None:
    """Without waiting for the 4,000 tokens."""
    written = server.metric("completion_tokens_total")
    with server.connect() as connection:
        connection.sendall(post_bytes("/v1/completions", ENDLESS | {"stream": streamed, "n": 2}))
        server.wait_for("slots_in_use", 2)
    server.wait_for("slots_in_use", 0)
    assert server.metric("completion_tokens_total") == written  # neither was written to its end
    assert 'endpoint="/v1/completions",status="499"' in server.get("/metrics")


def test_a_client_that_leaves_the_queue_is_forgotten(server: Running) -> None:
    with server.connect() as first, server.connect() as second:
        first.sendall(post_bytes("/v1/completions", ENDLESS | {"n": 2}))
        server.wait_for("slots_in_use", 2)
        second.sendall(post_bytes("/v1/completions", ENDLESS | {"stream": False, "n": 2}))
        server.wait_for("queue", 2)
        second.close()
        server.wait_for("queue", 0)
        assert server.metric("slots_in_use") == 2
    server.wait_for("slots_in_use", 0)


def test_a_full_queue_sends_clients_away_for_a_second(server: Running) -> None:
    with server.connect() as first:
        first.sendall(post_bytes("/v1/completions", ENDLESS | {"n": 4}))
        server.wait_for("queue", 2)
        for body in ({"prompt": "a"}, {"prompt": "a", "stream": True}, {"prompt": ["a", "b"]}):
            answer = talk(server, post_bytes("/v1/completions", body))
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in answer
            assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] == "overloaded"
        assert server.metric("queue") == 2
    server.wait_for("slots_in_use", 0)
    # The client of OpenAI waits and comes again by itself.
    with openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=9) as client:
        with server.connect() as first:
            first.sendall(post_bytes("/v1/completions", ENDLESS | {"n": 4, "max_tokens": 300}))
            server.wait_for("queue", 2)
            answer = client.completions.create(model="tiny", prompt="a", max_tokens=2)
        assert answer.usage is not None


def talk(server: Running, request: bytes) -> bytes:
    """Send a request; return all that comes back until the server closes the connection."""
    with server.connect() as connection:
        connection.sendall(request)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_a_large_body_is_refused(server: Running) -> None:
    """Also to a client that looks for an answer only when it has sent all."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    sized, chunked = (
        head + b"Content-Length: %d\r\n\r\n",
        head + b"Transfer-Encoding: chunked\r\n\r\n",
    )
    for request in (
        sized % (2**20 + 1) + b" " * (2**20 + 1),
        chunked + b"100001\r\n" + b" " * 0x100001 + b"\r\n0\r\n\r\n",
        sized % 10**9,
    ):
        answer = talk(server, request)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"code":"body_too_large"' in answer
    before = server.memory()
    with server.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(chunked)
        for _ in range(40):  # of a MiB each
            connection.sendall(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
        pytest.fail("the server reads on")
    assert server.memory() - before < 8 * 2**20


@pytest.mark.parametrize("is_second", [True, False])
def test_a_deadline_or_a_second_signal_ends_the_wait(is_second: bool) -> None:
    class Worker:
        told: ApiError | None = None

        def abort(self, error: ApiError) -> None:
            self.told = error

    class Stopping:
        is_draining = False
        metrics = Metrics()
        worker = Worker()

    service: Any = Stopping()
    service.metrics.n_open = 1
    server = Server(Starlette(), service, drain_seconds=1000 if is_second else 0)
    assert not asyncio.run(server.on_tick(1))
    server.handle_exit(signal.SIGTERM, None)
    assert service.is_draining
    if is_second:
        assert not asyncio.run(server.on_tick(1))
        server.handle_exit(signal.SIGTERM, None)
    assert asyncio.run(server.on_tick(1))
    assert service.worker.told.status == 503


def test_a_second_signal_tells_the_clients(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path / "log", "--parallel", "1") as server:
        with server.connect() as streamed, server.connect() as waiting:
            streamed.sendall(post_bytes("/v1/completions", ENDLESS))
            server.wait_for("slots_in_use", 1)
            waiting.sendall(post_bytes("/v1/completions", ENDLESS | {"stream": False}))
            server.wait_for("queue", 1)
            server.process.send_signal(signal.SIGINT)
            while server.health() == 200:
                time.sleep(0.01)
            server.process.send_signal(signal.SIGINT)
            answer = read_all(streamed)
            assert read_all(waiting).startswith(b"HTTP/1.1 503 ")
        assert server.process.wait(timeout=60) == 0
        assert b'"error":{"message":"the server has stopped"' in answer
        assert b"[DONE]" not in answer
        assert server.errors() == ""


# ---- many clients --------------------------------------------------------------------------------


async def complete(port: int, seed: int) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = {"prompt": "the", "max_tokens": 2, "seed": seed, "temperature": 1, "logprobs": 0}
    body |= {"logit_bias": {"256": -100}}
    writer.write(post_bytes("/v1/completions", body))
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return json.loads(content)  # type: ignore[no-any-return]


async def complete_all(port: int, seeds: range) -> list[dict[str, Any]]:
    return await asyncio.gather(*(complete(port, seed) for seed in seeds))


def test_many_clients_lose_nothing_and_the_end_waits_for_them(folder: Path, tmp_path: Path) -> None:
    """300 here; docs/log/inference.md has the figures for 1,000 clients and 10,000 requests."""
    n = 300
    with running(folder, tmp_path / "log", "--parallel", "8") as server:
        answers = asyncio.run(complete_all(server.port, range(n)))
        assert len({answer["id"] for answer in answers}) == n
        assert all(answer["usage"]["completion_tokens"] == 2 for answer in answers)
        # Each has got what it gets alone.
        for seed in (0, n // 2, n - 1):
            alone = asyncio.run(complete(server.port, seed))
            assert alone["choices"] == answers[seed]["choices"]
        before = server.memory()
        for _ in range(2):
            asyncio.run(complete_all(server.port, range(n)))
        assert server.memory() - before < 4 * 2**20
        assert server.metric("completion_tokens_total") == 2 * (3 * n + 3)
        assert server.metric("slots_in_use") == server.metric("queue") == 0

        with server.connect() as connection:
            connection.sendall(post_bytes("/v1/completions", ENDLESS | {"max_tokens": 1500}))
            server.wait_for("slots_in_use", 1)
            server.process.send_signal(signal.SIGTERM)
            while (status := server.health()) == 200:
                time.sleep(0.01)
            assert status == 503
            refused = talk(server, post_bytes("/v1/completions", {"prompt": "a"}))
            assert refused.startswith(b"HTTP/1.1 503 ")
            answer = read_all(connection)
        assert server.process.wait(timeout=60) == 0
        assert answer.count(b'"finish_reason":"length"') == 1
        assert b"data: [DONE]\n\n" in answer
        assert server.errors() == ""


# ---- the command ---------------------------------------------------------------------------------


def test_what_cant_be_served_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("\n \n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, words in (
            ([str(folder), "--port", port], f"can't listen on 127.0.0.1:{port}"),
            ([str(folder), "--host", "192.0.2.1"], "can't listen on 192.0.2.1"),
            ([str(tmp_path / "none")], "no model in"),
            ([str(folder), "--port", "99999"], "port is 99999"),
            ([str(folder), "--parallel", "0"], "parallel is 0"),
            ([str(folder), "--api-key-file", str(tmp_path / "no-keys")], "there is no file"),
            ([str(folder), "--api-key-file", str(keys)], "has no key"),
        ):
            assert cli.run(main, arguments) == 2
            said = capsys.readouterr().err
            assert said.startswith("error: ")
            assert words in said
            assert said.count("\n") == 1


def test_a_key_file_has_a_key_on_each_line(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\n\n  second  \n")
    assert read_keys(keys) == ["first", "second"]


def test_a_missing_library_names_the_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "gptfast.serve.server")
    assert cli.run(main, [str(folder)]) == 2
    assert 'pip install "gptfast[serve]"' in capsys.readouterr().err
