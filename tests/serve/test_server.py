"""A real server in its own process: streams, clients that leave, a full queue, the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
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
from gptfast.serve.app import Service
from gptfast.serve.errors import ApiError
from gptfast.serve.metrics import Metrics
from gptfast.serve.server import Server
from gptfast.serve.worker import MOST_CALLS
from gptfast.tokenizer import BPETokenizer
from serving import in_thread

pytestmark = pytest.mark.integration

ENDLESS = {"prompt": "a", "max_tokens": 4000, "logit_bias": {"256": -100}, "stream": True}
"""No id but 256 ends a text. The tests hold the engine long before 4,000 steps."""


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
    with running(folder, log, "--parallel", "2", "--max-waiting", "40") as server:
        yield server
        assert server.errors() == ""


@pytest.fixture
def held(server: Running) -> Iterator[Running]:
    """The server, idle. Its engine steps only as far as a test allows."""
    server.hold()
    yield server
    server.release()
    server.wait_for("slots_in_use", 0)
    server.wait_for("queue", 0)


def wait_for_leaving(server: Running) -> None:
    """Wait until the server knows that its clients have gone, while the engine is in a step."""
    server.wait_for("open_requests", 1)  # the one that asks


def test_the_openai_client_reads_a_stream_as_it_comes(held: Running) -> None:
    with openai.OpenAI(api_key="none", base_url=f"{held.url}/v1", max_retries=0) as client:
        stream: Any = client.completions.create(model="tiny", **ENDLESS)
        held.allow(20)
        for _, chunk in zip(range(10), stream, strict=False):  # a byte may be no whole character
            assert chunk.choices[0].finish_reason is None
        stream.close()
        wait_for_leaving(held)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_frees_its_slot_within_a_step(held: Running, streamed: bool) -> None:
    begin = held.metric("steps_total")
    with held.connect() as connection:
        connection.sendall(post_bytes("/v1/completions", ENDLESS | {"stream": streamed, "n": 2}))
        held.allow(3)
        held.wait_for("steps_total", begin + 3)
        assert held.metric("slots_in_use") == 2
    wait_for_leaving(held)
    held.release()  # the fourth step has begun
    held.wait_for("slots_in_use", 0)
    assert held.metric("steps_total") <= begin + 4
    assert 'endpoint="/v1/completions",status="499"' in held.get("/metrics")


def test_a_client_that_leaves_the_queue_is_forgotten(held: Running) -> None:
    with held.connect() as first, held.connect() as second:
        first.sendall(post_bytes("/v1/completions", ENDLESS | {"n": 2}))
        held.allow(1)
        held.wait_for("slots_in_use", 2)
        second.sendall(post_bytes("/v1/completions", ENDLESS | {"stream": False, "n": 2}))
        held.wait_for("accepted_requests", 2)
        held.allow(1)
        held.wait_for("queue", 2)
        second.close()
        held.wait_for("accepted_requests", 1)
        held.allow(1)
        held.wait_for("queue", 0)
        assert held.metric("slots_in_use") == 2


def test_a_full_queue_sends_clients_away_for_a_second(held: Running) -> None:
    with held.connect() as first:
        first.sendall(post_bytes("/v1/completions", ENDLESS | {"n": 42}))
        held.allow(1)
        held.wait_for("queue", 40)
        for body in ({"prompt": "a"}, {"prompt": "a", "stream": True}, {"prompt": ["a", "b"]}):
            with held.connect() as second:
                second.sendall(post_bytes("/v1/completions", body))
                # The worker looks at what is new between two steps.
                while not select.select([second], [], [], 0.05)[0]:
                    held.allow(1)
                answer = read_all(second)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in answer
            assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] == "overloaded"
        assert held.metric("queue") == 40
        # The client of OpenAI waits and comes again by itself.
        with openai.OpenAI(api_key="none", base_url=f"{held.url}/v1", max_retries=9) as client:
            begin = time.monotonic()
            refused = 'endpoint="/v1/completions",status="503"} '
            n_before = held.get("/metrics").split(refused)[1].split()[0]

            def leave() -> None:
                while held.get("/metrics").split(refused)[1].split()[0] == n_before:
                    assert time.monotonic() < begin + 60
                    held.allow(1)
                first.close()
                held.release()

            with ThreadPoolExecutor(1) as pool:
                leaving = pool.submit(leave)
                answer = client.completions.create(model="tiny", prompt="a", max_tokens=2)
                leaving.result()
        assert answer.usage is not None


@pytest.mark.parametrize("many", [{"prompt": ["a"] * 40}, {"n": 40}])
def test_a_request_of_many_texts_does_not_hold_up_another(
    held: Running, many: dict[str, Any]
) -> None:
    """40 texts of 10 tokens are written two at a time; one that comes later need not wait."""
    with held.connect() as first, held.connect() as second:
        first.sendall(post_bytes("/v1/completions", ENDLESS | many | {"max_tokens": 10}))
        held.allow(1)
        held.wait_for("queue", 38)
        second.sendall(post_bytes("/v1/completions", {"prompt": "a", "max_tokens": 1}))
        held.wait_for("accepted_requests", 2)
        held.allow(20)
        assert read_all(second).startswith(b"HTTP/1.1 200 ")
        assert held.metric("queue") >= 34


def test_calls_are_bounded_and_forgotten_when_their_clients_leave(held: Running) -> None:
    """The engine is in a step, so they wait."""
    with ExitStack() as stack:
        stack.enter_context(held.connect()).sendall(post_bytes("/v1/completions", ENDLESS))
        held.allow(1)
        held.wait_for("steps_total", held.steps.stat().st_size)
        clients = [stack.enter_context(held.connect()) for _ in range(MOST_CALLS)]
        for client in clients:
            client.sendall(post_bytes("/attention", {"tokens": [1, 2]}))
        held.wait_for("accepted_requests", 1 + MOST_CALLS)
        answer = talk(held, post_bytes("/attention", {"tokens": [1, 2]}))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answer
        for client in clients[1:]:
            client.close()
        held.wait_for("accepted_requests", 2)
        last = stack.enter_context(held.connect())
        last.sendall(post_bytes("/attention", {"tokens": [1, 2]}))
        held.wait_for("accepted_requests", 3)
        held.allow(3)  # one call between two steps: the first, then the last
        assert read_all(clients[0]).startswith(b"HTTP/1.1 200 ")
        assert read_all(last).startswith(b"HTTP/1.1 200 ")


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
    with server.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(chunked)
        for _ in range(40):  # of a MiB each
            connection.sendall(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
        pytest.fail("the server reads on")


@pytest.mark.parametrize("is_second", [True, False])
def test_a_deadline_or_a_second_signal_ends_the_wait(is_second: bool) -> None:
    class Stopping:
        draining = asyncio.Event()
        metrics = Metrics()
        told: ApiError | None = None
        has_failed = False

        def abort(self, error: ApiError) -> None:
            self.told = error

    async def work() -> None:
        service: Any = Stopping()
        service.metrics.n_accepted = 1
        server = Server(Starlette(), service, drain_seconds=1000 if is_second else 0)
        assert not await server.on_tick(1)
        server.handle_exit(signal.SIGTERM, None)
        if is_second:
            assert not await server.on_tick(1)
            assert service.draining.is_set()
            server.handle_exit(signal.SIGTERM, None)
        assert await server.on_tick(1)
        assert service.told.status == 503

    asyncio.run(work())


def test_a_second_signal_tells_the_clients(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path / "log", "--parallel", "1") as server:
        with server.connect() as streamed, server.connect() as waiting:
            server.hold()
            streamed.sendall(post_bytes("/v1/completions", ENDLESS))
            server.allow(1)
            server.wait_for("slots_in_use", 1)
            waiting.sendall(post_bytes("/v1/completions", ENDLESS | {"stream": False}))
            server.wait_for("accepted_requests", 2)
            server.allow(1)
            server.wait_for("queue", 1)
            server.process.send_signal(signal.SIGINT)
            server.wait_for_health(503)
            server.process.send_signal(signal.SIGINT)
            server.wait_for_health(0)  # it has told its engine, and listens no more
            server.allow(1)
            answer = read_all(streamed)
            assert read_all(waiting).startswith(b"HTTP/1.1 503 ")
        assert server.process.wait(timeout=60) == 0
        assert b'"error":{"message":"the server has stopped"' in answer
        assert b"[DONE]" not in answer
        assert server.errors() == ""


def test_a_thread_that_ends_ends_the_process(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path / "log", "--parallel", "1") as server:
        server.hold()
        with server.connect() as streamed, server.connect() as waiting:
            streamed.sendall(post_bytes("/v1/completions", ENDLESS))
            server.allow(1)
            server.wait_for("slots_in_use", 1)
            waiting.sendall(post_bytes("/v1/completions", ENDLESS | {"stream": False}))
            server.wait_for("accepted_requests", 2)
            server.steps.unlink()  # which ends the thread
            assert read_all(waiting).startswith(b"HTTP/1.1 500 ")
            assert b'"error":{"message":"the server failed' in read_all(streamed)
        assert server.process.wait(timeout=60) == 1
        assert "error: the thread of the engine has failed" in server.errors()


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
    """200 here; docs/log/inference.md has the figures for 1,000 clients and 10,000 requests."""
    n = 200
    flags = ("--parallel", "8", "--drain-seconds", "1000")
    with running(folder, tmp_path / "log", *flags) as server:
        answers = asyncio.run(complete_all(server.port, range(n)))
        assert len({answer["id"] for answer in answers}) == n
        assert all(answer["usage"]["completion_tokens"] == 2 for answer in answers)
        # Each has got what it gets alone.
        for seed in (0, n // 2, n - 1):
            alone = asyncio.run(complete(server.port, seed))
            assert alone["choices"] == answers[seed]["choices"]
        before = server.memory()
        asyncio.run(complete_all(server.port, range(n)))
        assert server.memory() - before < 32 * 2**20  # less than a cache of keys for each
        assert server.metric("completion_tokens_total") == 2 * (2 * n + 3)
        assert server.metric("slots_in_use") == server.metric("queue") == 0

        # Half a body and half a head do not delay the end; one text does.
        with server.connect() as body, server.connect() as head, server.connect() as connection:
            server.hold()
            body.sendall(post_bytes("/v1/completions", {"prompt": "a"})[:-3])
            head.sendall(b"POST /v1/comp")
            server.wait_for("open_requests", 2)
            connection.sendall(post_bytes("/v1/completions", ENDLESS | {"max_tokens": 100}))
            server.allow(1)
            server.wait_for("slots_in_use", 1)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for_health(503)
            assert read_all(body).startswith(b"HTTP/1.1 503 ")
            refused = talk(server, post_bytes("/v1/completions", {"prompt": "a"}))
            assert refused.startswith(b"HTTP/1.1 503 ")
            server.release()
            answer = read_all(connection)
            assert server.process.wait(timeout=60) == 0
        assert answer.count(b'"finish_reason":"length"') == 1
        assert b"data: [DONE]\n\n" in answer
        assert server.errors() == ""


def test_half_a_head_is_not_waited_for(
    service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither that of the first request, nor that of another one."""
    get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    with in_thread(service()) as url, ExitStack() as stack:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        later = stack.enter_context(socket.create_connection(address, timeout=60))
        later.sendall(get + b"\r\n")
        assert b"200 OK" in later.recv(65536)
        monkeypatch.setattr("gptfast.serve.server.HEAD_SECONDS", 0.1)
        later.sendall(get + b"\r\n")
        first = stack.enter_context(socket.create_connection(address, timeout=60))
        for connection in (first, later):
            with contextlib.suppress(ConnectionError):
                connection.sendall(get)
                read_all(connection)


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
