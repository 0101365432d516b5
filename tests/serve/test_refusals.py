"""What is refused, with which status, and what the answer says: never 500, never a path."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest.mock import ANY

import httpx2
import openai
import pytest
import torch
from served import PROMPT, Serve, openai_of, run
from starlette.applications import Starlette

from gptfast.model import GPT
from gptfast.sample.engine import Engine
from gptfast.serve import limits
from gptfast.serve.app import Service
from gptfast.serve.running import Running
from gptfast.tokenizer import BPETokenizer


def check_error(answer: httpx2.Response, status: int, param: Any = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["param"] == param or param is ANY
    assert isinstance(body["error"]["message"], str)
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    return body["error"]  # type: ignore[no-any-return]


JSON_CHAT = {
    "messages": [{"role": "user", "content": "a"}],
    "response_format": {"type": "json_object"},
}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": 5}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": {}}, "prompt"),
    ({"prompt": ["a", 5]}, "prompt"),
    ({"prompt": [[1], "a", [None]]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prompt": [100_000]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [10**30]}, "prompt"),
    ({"prompt": "\ud800"}, "prompt"),
    ({"prompt": "a" * 500}, "prompt"),
    ({"prompt": ["a"] * 37}, "prompt"),
    ({"max_tokens": 64}, "prompt"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 65}, "max_tokens"),
    ({"max_tokens": 1e1}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "0"}, "temperature"),
    ({"temperature": False}, "temperature"),
    ({"temperature": 10**400}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": 0}, "top_k"),
    ({"top_k": 0.5}, "top_k"),
    ({"min_p": -1}, "min_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": []}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"²": 1}}, "logit_bias"),
    ({"logit_bias": {"99999": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"logit_bias": {"5": "x"}}, "logit_bias.5"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": 37}, "prompt"),
    ({"n": 3, "best_of": 2}, "best_of"),
    ({"best_of": 3, "stream": True}, "best_of"),
    ({"echo": 1}, "echo"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
    ({"logprobs": True}, "logprobs"),
    ({"logprobs": 21}, "logprobs"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"stop": {}}, "stop"),
    ({"stop": "a" * 1001}, "stop"),
    ({"seed": 1.5}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"suffix": "end"}, "suffix"),
    ({"max_token": 5}, "max_token"),
    ({"messages": []}, "messages"),
    ({"model": 5}, "model"),
    ({"user": [1]}, "user"),
    ({"service_tier": 1}, "service_tier"),
    ({"metadata": "a"}, "metadata"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
]


def test_a_wrong_field_is_named(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        for body, param in WRONG:
            content = json.dumps({"prompt": PROMPT} | body)
            error = check_error(await client.post("/v1/completions", content=content), 400, param)
            assert "\n" not in error["message"]
            assert len(error["message"]) < 250, error["message"]

    run(serve, work)


def test_a_text_beyond_the_context_is_told_what_fits(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        async def message(path: str, **body: Any) -> str:
            return str(check_error(await client.post(path, json=body), 400, ANY)["message"])

        begin = "the context has 64 tokens, but the "
        assert await message("/v1/completions", prompt=[5] * 60, max_tokens=6) == (
            begin + "prompt has 60 and max_tokens is 6: send at most 5, or a shorter text"
        )
        for max_tokens in (0, 1):
            said = await message("/v1/completions", prompt=[5] * 65, max_tokens=max_tokens)
            assert said == begin + "prompt has 65: send a shorter text"
        said = await message("/attention", tokens=[5] * 65)
        assert said == begin + "tokens have 65: send a shorter text"

    run(serve, work)


def test_log_probabilities_of_one_answer_are_bounded(serve: Serve) -> None:
    """36 texts of 64 tokens with 20 each are 48,384; so the bound is put lower here."""

    async def work(client: httpx2.AsyncClient) -> None:
        body: dict[str, Any] = {"prompt": [5], "max_tokens": 64, "logprobs": 20}
        for more in ({"n": 2}, {"prompt": [[5], [5]]}, {"echo": True, "max_tokens": 64}):
            answer = await client.post("/v1/completions", json=body | more)
            assert "expected at most 1344" in check_error(answer, 400, "logprobs")["message"]
        assert (await client.post("/v1/completions", json=body)).status_code == 200

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "MOST_LOGPROBS", 64 * 21)
        run(serve, work)


def test_slow_work_does_not_hold_up_the_event_loop(
    serve: Serve, tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large texts are tokenized, and large answers spelled, in another thread."""
    threads: list[bool] = []
    token_bytes, encode = type(tokenizer).token_bytes, type(tokenizer).encode

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*arguments: Any) -> Any:
            if threading.current_thread().name != "engine":
                threads.append(threading.current_thread() is threading.main_thread())
            return function(*arguments)

        return watch

    monkeypatch.setattr(type(tokenizer), "token_bytes", watched(token_bytes))
    monkeypatch.setattr(type(tokenizer), "encode", watched(encode))

    async def work(client: httpx2.AsyncClient) -> None:
        large = {"prompt": "a" * 5000}
        scored = {"prompt": [[5] * 60] * 5, "echo": True, "logprobs": 1, "max_tokens": 0}
        for path, body, status in (
            ("/tokenize", large, 200),
            ("/v1/completions", large, 400),
            ("/v1/completions", scored, 200),
        ):
            threads.clear()
            assert (await client.post(path, json=body)).status_code == status
            assert threads
            assert not any(threads)

    run(serve, work)


def test_a_missing_extra_is_not_the_clients_fault(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)

    async def work(client: httpx2.AsyncClient) -> None:
        check_error(await client.post("/v1/chat/completions", json=JSON_CHAT), 501)

    run(serve, work, chat=True)


# ---- failures of ours ----------------------------------------------------------------------------


def test_logits_that_are_nan_are_not_the_clients_fault(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llguidance")
    nan_V = torch.full((320,), math.nan)
    monkeypatch.setattr(GPT, "prefill", lambda *arguments, **options: nan_V)

    async def work(client: httpx2.AsyncClient) -> None:
        answer = await client.post("/v1/chat/completions", json=JSON_CHAT)
        assert "NaN" in check_error(answer, 500)["message"]

    run(serve, work, chat=True)


@pytest.mark.parametrize("method", ["submit", "step", "prefill"])
def test_a_failure_ends_its_request_and_no_other(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], method: str
) -> None:
    """Of the requests for a single slot, one fails; those that wait are answered."""
    owner = GPT if method == "prefill" else Engine
    real, has_failed = getattr(owner, method), False

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal has_failed
        if not has_failed:
            has_failed = True
            raise RuntimeError("a bug")
        return real(*arguments, **options)

    monkeypatch.setattr(owner, method, failing)

    async def work(client: httpx2.AsyncClient) -> None:
        body = {"prompt": "a", "max_tokens": 2}
        posts = [client.post("/v1/completions", json=body) for _ in range(5)]
        answers = await asyncio.wait_for(asyncio.gather(*posts), 60)
        assert sorted(answer.status_code for answer in answers) == [200] * 4 + [500]
        metrics = (await client.get("/metrics")).text
        assert "gptfast_slots_in_use 0\n" in metrics
        assert "gptfast_queue 0\n" in metrics

    run(serve, work, n_slots=1)
    assert "RuntimeError: a bug" in capfd.readouterr().err


def test_a_stream_that_the_worker_cant_spell_ends(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing(self: Running) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Running, "news", failing)

    async def work(client: httpx2.AsyncClient) -> None:
        body = {"prompt": "a", "max_tokens": 20, "stream": True}
        answer = await asyncio.wait_for(client.post("/v1/completions", json=body), 60)
        assert '"error":{"message":"the server failed' in answer.text

    run(serve, work)
    assert "RuntimeError: a bug" in capfd.readouterr().err


def test_the_limits_themselves_are_taken(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        for body in (
            {"prompt": [5] * 64, "max_tokens": 1},  # the last token needs no place in the context
            {"prompt": [5], "max_tokens": 64},
            {"prompt": [[5]] * 36, "max_tokens": 1},
            {"n": 36, "max_tokens": 1},
            {"logprobs": 20, "temperature": 2.0, "top_p": 1, "min_p": 1, "seed": -(2**63)},
            {"stop": ["a" * 1000] * 4, "presence_penalty": 2, "frequency_penalty": -2},
            {"best_of": 2, "n": 2, "stream": True},
        ):
            answer = await client.post("/v1/completions", json={"prompt": PROMPT} | body)
            assert answer.status_code == 200, answer.text

    run(serve, work)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"prompt": NaN}', "NaN"),
        (b'{"temperature": -Infinity}', "Infinity"),
        (b'{"temperature": 1e999}', "float"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        ('{"prompt": "a"}'.encode("utf-16"), "not UTF-8"),
        (b'\xef\xbb\xbf{"prompt": "a"}', "not JSON"),
        (b"[]", "expected a JSON object"),
        (b'"prompt"', "expected a JSON object"),
        (b"null", "expected a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"1" * 10_000, "too many digits"),
        (b'{"prompt": ' + b"1" * 900_000 + b"}", "too many digits"),
    ],
    ids=range(15),
)
def test_a_body_that_is_no_json_object(serve: Serve, content: bytes, words: str) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
            error = check_error(await client.post(path, content=content), 400)
            assert words in error["message"]

    run(serve, work, chat=True)


def test_the_size_of_a_body_is_bounded(serve: Serve) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 4000

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async def work(client: httpx2.AsyncClient) -> None:
        fits = json.dumps({"prompt": "a"}).ljust(2000)
        assert (await client.post("/v1/completions", content=fits)).status_code == 200
        error = check_error(await client.post("/v1/completions", content=fits + " "), 413)
        assert "2000 bytes" in error["message"]
        check_error(await client.post("/v1/completions", content=endless()), 413)
        lie = {"content-length": "x"}
        check_error(await client.post("/v1/completions", content=fits, headers=lie), 413)
        check_error(await client.post("/v1/completions", content=slow()), 408)

    run(serve, work, body_bytes=2000, body_seconds=0.2)


def test_paths_and_methods(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        for path in ("/v1", "/v1/models/", "/v1/completions/", "/../etc/passwd", "/v1/embeddings"):
            check_error(await client.get(path), 404)
        answer = await client.get("/v1/completions")
        check_error(answer, 405)
        assert answer.headers["allow"] == "POST"
        check_error(await client.post("/v1/models"), 405)
        check_error(await client.get("/v1/models/large"), 404, "model")
        body = {"model": "large", "prompt": "a"}
        error = check_error(await client.post("/v1/completions", json=body), 404, "model")
        assert error["code"] == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            await openai_of(client).completions.create(model="large", prompt="a")
        with pytest.raises(openai.BadRequestError) as raised:
            await openai_of(client).completions.create(model="small", prompt="a", max_tokens=-1)
        assert raised.value.param == "max_tokens"

    run(serve, work)


def test_metrics_say_what_they_mean(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        await client.get("/v1/models/small")
        await client.get("/v1/engines/small")
        text = (await client.get("/metrics")).text
        assert 'endpoint="/v1/models/{id}",status="200"} 1\n' in text
        assert 'endpoint="other",status="404"} 1\n' in text
        for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE):
            assert f"# HELP {name} " in text

    run(serve, work)


def test_models(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        models = await openai_of(client).models.list()
        assert [model.id for model in models.data] == ["small"]
        model = await openai_of(client).models.retrieve("small")
        assert model.object == "model"
        assert model == models.data[0]

    run(serve, work)


def test_a_key_is_asked_for_everywhere_but_at_the_door(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        for path in ("/", "/health"):
            assert (await client.get(path)).status_code == 200
        wrong = ["", "Bearer", "Bearer ", "Bearer wrong", "Basic one", "one", "Bearer one two"]
        for key in (None, *wrong, "Bearer ONE", "Bearer \xff"):
            headers = {} if key is None else {"authorization": key.encode("latin-1")}
            for path in ("/v1/models", "/metrics", "/nothing"):
                answer = await client.get(path, headers=headers)
                check_error(answer, 401)
                assert answer.headers["www-authenticate"] == "Bearer"
            check_error(await client.post("/v1/completions", content=b"{", headers=headers), 401)
        for key in ("Bearer one", "bearer two", "Bearer  two "):
            assert (
                await client.get("/v1/models", headers={"authorization": key})
            ).status_code == 200
        with pytest.raises(openai.AuthenticationError):
            await openai_of(client).models.list()

    run(serve, work, keys=["one", "two"])


def test_pages_of_other_sites_are_refused(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        async def status(**headers: str) -> int:
            return (
                await client.post("/v1/completions", json={"prompt": "a"}, headers=headers)
            ).status_code

        assert await status(origin="http://localhost") == 200
        assert await status(host="127.0.0.1:8000", origin="http://127.0.0.1:8000") == 200
        for host in ("[::1]:8000", "127.0.0.2", "127.1.2.3:8000"):
            assert await status(host=host) == 200
        for origin in (
            "http://evil.example",
            "null",
            "http://localhost:9",
            "http://localhost.evil",
        ):
            assert await status(origin=origin) == 403
        # A name that its owner has pointed to 127.0.0.1.
        for host in (
            "evil.example",
            "evil.example:8000",
            "localhost.evil",
            "[",
            "127.0.0.1.evil",
            "128.0.0.1",
            "[::2]",
            "2130706433",
        ):
            assert await status(host=host, origin=f"http://{host}") == 403

    run(serve, work)

    async def elsewhere(client: httpx2.AsyncClient) -> None:
        headers = {"host": "gpt.example"}
        assert (await client.get("/v1/models", headers=headers)).status_code == 200

    run(serve, elsewhere, is_loopback=False)


# ---- hostile bodies ------------------------------------------------------------------------------

NAMES = ["model", "prompt", "messages", "max_tokens", "temperature", "top_p", "top_k", "min_p", "n",
         "best_of", "stop", "stream", "stream_options", "logprobs", "top_logprobs", "echo", "seed",
         "logit_bias", "presence_penalty", "frequency_penalty", "repetition_penalty", "suffix",
         "response_format", "tools", "user", "tokens", "allow_special", "max_completion_tokens",
         "add_special_tokens", "content", "role", "type", "", "\x00", "__proto__"]  # fmt: skip

ALPHABETS = ["ab \n", "\x00\x7f\ufeff\u2028", "é漢🙂\u0301", "\ud800\udc00\udfff", '<|user|>/\\"']
STRINGS = ["".join(random.Random(21).choices(alphabet, k=600)) for alphabet in ALPHABETS]


def hostile(rng: random.Random, depth: int = 0) -> Any:
    """A value of any kind, now and then a plausible one."""
    kind = rng.randrange(12 if depth < 3 else 9)
    if kind == 0:
        return rng.choice([None, True, False, "", [], {}, 0, -0.0])
    if kind == 1:
        return rng.randint(-3, 70)
    if kind == 2:
        return rng.choice(
            [10 ** rng.randint(1, 400), -(2**63), 2**64, 1e308, -1e-308, math.nan, math.inf]
        )
    if kind == 3:
        return rng.uniform(-2, 3)
    if kind < 7:
        begin = rng.randrange(300)
        return rng.choice(STRINGS)[begin : begin + rng.choice([0, 1, 5, 40, 300])]
    if kind < 9:
        return rng.choice(["small", "The king", "user", "text", "<|endoftext|>", "json_schema"])
    if kind == 9:
        return [hostile(rng, depth + 1) for _ in range(rng.choice([0, 1, 2, 40]))]
    return {
        rng.choice([*NAMES, str(rng.randint(-5, 400))]): hostile(rng, depth + 1)
        for _ in range(rng.randint(0, 4))
    }


def hostile_body(rng: random.Random) -> bytes:
    names = rng.sample(NAMES, rng.randint(1, 5))
    data: dict[str, Any] = {name: hostile(rng) for name in names}
    if rng.random() < 0.5:  # so that the rest is looked at
        data |= {"prompt": "a", "max_tokens": 1}
        data.pop("model", None)
    body = json.dumps(data, ensure_ascii=rng.random() < 0.5).encode("utf-8", errors="surrogatepass")
    if rng.random() < 0.1:
        body = bytearray(body)
        for _ in range(rng.randint(1, 5)):
            body[rng.randrange(len(body))] = rng.randrange(256)
    if rng.random() < 0.03:
        body = rng.choice(
            [b"[" * 5000, body[:-1], body * 2, b"\xff" + body, rng.randbytes(50), b""]
        )
    return bytes(body)


async def post(app: Starlette, path: str, body: bytes) -> tuple[int, bytes]:
    """What a client would do, but quicker."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": b"", "headers": [(b"host", b"localhost")],
    }  # fmt: skip
    sent: list[Any] = []
    incoming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if incoming:
            return incoming.pop()
        return await asyncio.get_running_loop().create_future()  # connected until the end

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:])


PATHS = (
    "/v1/completions",
    "/v1/completions",
    "/v1/chat/completions",
    "/tokenize",
    "/detokenize",
    "/attention",
)


def test_hostile_bodies_are_answered_and_never_with_500(service: Callable[..., Service]) -> None:
    rng = random.Random(21)
    counts: Counter[int] = Counter()

    async def work() -> str:
        app = service(chat=True).app()
        async with app.router.lifespan_context(app):
            for _ in range(500):
                posts = [post(app, rng.choice(PATHS), hostile_body(rng)) for _ in range(20)]
                for status, body in await asyncio.wait_for(asyncio.gather(*posts), 60):
                    counts[status] += 1
                    if status != 200:
                        error = json.loads(body)["error"]
                        assert set(error) == {"message", "type", "param", "code"}
            # It is as well as before.
            assert (await post(app, "/v1/completions", b'{"prompt": "a"}'))[0] == 200
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
                return (await http.get("/metrics")).text

    metrics = asyncio.run(work())
    assert "gptfast_slots_in_use 0\n" in metrics
    assert "gptfast_queue 0\n" in metrics
    assert counts.total() == 10_000
    assert set(counts) == {200, 400, 404}
    assert min(counts.values()) > 50
