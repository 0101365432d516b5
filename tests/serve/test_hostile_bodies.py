"""Ten thousand bodies of any kind: all are answered, and none with 500."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx2
from starlette.applications import Starlette

from gptfast.serve.app import Service

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
