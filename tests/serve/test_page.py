"""The page of a server, driven in Chromium."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import urllib.request
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
import torch

from browser import Open, Visit
from gptfast.model import GPT, ModelConfig
from gptfast.sample.engine import Engine
from gptfast.sample.request import Generation
from gptfast.serve.app import Service
from gptfast.serve.jobs import Job
from gptfast.serve.limits import Limits
from gptfast.serve.reply import Reply
from gptfast.tokenizer import BPETokenizer
from serving import in_thread

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture
def url(service: Callable[..., Service]) -> Iterator[str]:
    with in_thread(service(chat=True)) as url:
        yield url


@pytest.fixture
def visit(url: str, open_page: Open) -> Iterator[Visit]:
    visit = open_page(f"{url}/")
    yield visit
    assert visit.errors == []
    assert all(request.startswith(url) for request in visit.requests)


def post(url: str, path: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


def wait_until_idle(visit: Visit) -> None:
    visit.page.wait_for_selector("#send:text-is('Send')", state="attached")
    visit.page.wait_for_selector("#speed:not(:empty)")


def shown(visit: Visit) -> str:
    return "".join(visit.page.locator("#text .token").all_text_contents())


def test_the_keyboard_alone_writes_the_text_that_the_api_writes(url: str, visit: Visit) -> None:
    page, keys = visit.page, visit.page.keyboard
    page.locator("#temperature").fill("0")
    page.locator("#prompt").focus()
    keys.type("The king")
    keys.press("Control+Enter")
    wait_until_idle(visit)
    n_prompt = post(url, "/tokenize", prompt="The king")["count"]
    answer = post(
        url, "/v1/completions", prompt="The king", max_tokens=64 - n_prompt, temperature=0,
        echo=True, logprobs=10,
    )  # fmt: skip
    choice = answer["choices"][0]
    assert shown(visit) == choice["text"]
    tokens = page.locator("#text .token")
    assert tokens.count() == len(choice["logprobs"]["tokens"])
    assert page.locator("#text .prompt").count() == n_prompt
    assert page.locator("#usage").text_content() == f"{n_prompt} + {64 - n_prompt} of 64 tokens"

    # The bars tell of the token that the arrow keys have come to.
    tokens.first.focus()
    for _ in range(n_prompt + 2):
        keys.press("ArrowRight")
    logprobs = choice["logprobs"]["top_logprobs"][n_prompt + 2]
    percents = [100 * 2.718281828**value for value in sorted(logprobs.values(), reverse=True)]
    values = page.locator("#guesses .value").all_text_contents()
    # The grid tells where it looks, and the text is coloured by it.
    page.locator("#heads-about").filter(has_text="Each strip is a head").wait_for()
    assert page.locator("#heads .head").count() == 1 + 2 * 2
    page.locator("#text.painted .looking").wait_for()
    assert values[:3] == [f"{percent:.1f} %" for percent in percents[:3]]
    assert page.locator("#guesses .taken .value").text_content() == values[0]  # greedy

    # Another token goes on from there.
    ranked = sorted(logprobs, key=lambda name: logprobs[name], reverse=True)
    other = next(token for token in ranked[1:] if not token.startswith(("bytes:", "<|")))
    page.locator("#guesses button").nth(ranked.index(other)).focus()
    keys.press("Enter")
    page.wait_for_selector("#guesses-title:text-is('Next token')")
    before = choice["text"][: choice["logprobs"]["text_offset"][n_prompt + 2]]
    assert shown(visit) == before + other


def test_what_is_typed_is_read_at_once(url: str, visit: Visit) -> None:
    visit.page.locator("#prompt").press_sequentially("The crow")
    visit.page.locator("#text").filter(has_text="The crow").wait_for()
    visit.page.locator("#guesses .value").first.filter(has_text="%").wait_for()
    assert shown(visit) == "The crow"
    answer = post(url, "/v1/completions", prompt="The crow", max_tokens=1, temperature=0,
                  logprobs=1, logit_bias={})  # fmt: skip
    (likeliest,) = answer["choices"][0]["logprobs"]["token_logprobs"]
    percent = f"{100 * 2.718281828**likeliest:.1f} %"
    assert visit.page.locator("#guesses .value").first.text_content() == percent


def test_a_chat_is_sent_by_enter(url: str, visit: Visit) -> None:
    page = visit.page
    page.locator("#temperature").fill("0")
    page.locator("#length").fill("4")
    page.locator("input[value=chat]").check(force=True)
    page.locator("#message").fill("<b>Who</b>")
    page.keyboard.press("Enter")
    wait_until_idle(visit)
    messages: list[dict[str, str]] = [{"role": "user", "content": "<b>Who</b>"}]
    found = page.locator(".message").all_text_contents()
    assert found[0] == "You" + messages[0]["content"]
    chat = {"temperature": 0, "max_tokens": 4}
    answer = post(url, "/v1/chat/completions", messages=messages, **chat)
    content = answer["choices"][0]["message"]["content"]
    assert found[1] == "Model" + content
    # The second message is sent with what came before.
    page.locator("#message").fill("And?")
    page.keyboard.press("Enter")
    page.locator(".message >> nth=3").wait_for()
    page.wait_for_selector("#send:text-is('Send')")
    more = [{"role": "assistant", "content": content}, {"role": "user", "content": "And?"}]
    answer = post(url, "/v1/chat/completions", messages=messages + more, **chat)
    expected = answer["choices"][0]["message"]["content"]
    assert page.locator(".message").all_text_contents()[3] == "Model" + expected
    page.locator("#forget").click()
    assert page.locator(".message").count() == 0


def say(page: Page, text: str) -> None:
    page.locator("#message").fill(text)
    page.keyboard.press("Enter")


def test_a_chat_that_no_longer_fits_can_forget_its_oldest_turns(
    service: Callable[..., Service], open_page: Open
) -> None:
    with in_thread(service(chat=True)) as url:
        page = open_page(f"{url}/").page
        page.locator("#length").fill("2")
        page.locator("input[value=chat]").check(force=True)
        for n in range(2):
            say(page, f"{n}" * 10)
            page.wait_for_selector("#send:text-is('Send')")
        assert not page.locator("#full").is_visible()
        say(page, "2" * 40)
        page.locator("#full").wait_for()
        assert "the context has 64 tokens" in (page.locator("#failure").text_content() or "")
        # What was refused is where it was typed, and no part of the chat.
        assert page.locator(".message").count() == 4
        assert page.locator("#message").input_value() == "2" * 40
        with page.expect_request("**/v1/chat/completions") as sent:
            page.locator("#forget-oldest").click()
        contents = [message["content"] for message in sent.value.post_data_json["messages"]]
        assert (contents[0], contents[-1]) == ("1" * 10, "2" * 40)
        page.wait_for_selector("#send:text-is('Send')")
        shown = page.locator(".message").all_text_contents()
        assert (len(shown), shown[0], shown[2]) == (4, "You" + "1" * 10, "You" + "2" * 40)
        assert not page.locator("#full").is_visible()
        assert not page.locator("#failure").is_visible()
        assert page.locator("#message").input_value() == ""
        # A first message that is too long can only be shortened.
        page.locator("#forget").click()
        say(page, "3" * 100)
        page.locator("#failure").filter(has_text="the context has 64 tokens").wait_for()
        assert not page.locator("#full").is_visible()
        assert page.locator("#message").input_value() == "3" * 100


@pytest.mark.parametrize(
    ("n_chunks", "is_cut", "message"),
    [
        (4, True, "The connection to the server was lost."),
        (4, False, "The server ended the answer early."),
        (1, True, "The connection to the server was lost."),
    ],
)
def test_a_stream_that_breaks_off_is_said(
    service: Callable[..., Service],
    open_page: Open,
    monkeypatch: pytest.MonkeyPatch,
    n_chunks: int,
    is_cut: bool,
    message: str,
) -> None:
    events = Reply._events
    has_begun = n_chunks > 1
    is_seen = threading.Event()  # or else the browser may drop what it has received

    async def broken(self: Reply, job: Job) -> AsyncGenerator[str, None]:
        n = 0
        async with aclosing(events(self, job)) as whole:
            async for event in whole:
                yield event
                n += 1
                if n == n_chunks and is_cut:
                    await asyncio.to_thread(is_seen.wait, 60)
                    is_seen.clear()
                    raise ConnectionResetError("the test cuts the answer off")
                if n == n_chunks:
                    return

    monkeypatch.setattr(Reply, "_events", broken)
    with in_thread(service(chat=True)) as url:
        visit = open_page(f"{url}/")
        page = visit.page
        failure = page.locator("#failure").filter(has_text=message)
        page.locator("#temperature").fill("0")
        page.locator("#generate").click()
        if has_begun:
            page.locator("#text .token").first.wait_for(state="attached")
        is_seen.set()
        failure.wait_for()
        assert page.locator("#generate").text_content() == "Generate"
        page.locator("input[value=chat]").check(force=True)
        say(page, "Who")
        if has_begun:
            page.locator(".message >> nth=1").filter(has_text=re.compile("Model.")).wait_for()
        is_seen.set()
        page.wait_for_selector("#send:text-is('Send')")
        failure.wait_for()
        # An answer that has begun is kept; a message without one is put back.
        assert page.locator(".message").count() == (2 if has_begun else 0)
        assert page.locator("#message").input_value() == ("" if has_begun else "Who")
    assert not any("TypeError" in error or "Uncaught" in error for error in visit.errors)


class HeldEngine(Engine):
    """Takes so many steps, and then waits until it is released."""

    n_left: int | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.released = threading.Event()

    def step(self) -> Sequence[Generation]:
        if self.n_left == 0:
            self.released.wait(60)
        elif self.n_left is not None:
            self.n_left -= 1
        return super().step()


@pytest.fixture
def hostile() -> Iterator[tuple[str, HeldEngine]]:
    """A model with a long context, whose tokens and name are HTML."""
    torch.manual_seed(0)
    html = "<img src=x onerror=alert(1)></pre><script>alert(2)</script>"
    tokenizer = BPETokenizer.train([html] * 50, 300, "none", special_tokens=(), progress=False)
    model = GPT(ModelConfig(tokenizer.n_vocab, "gpt", 4096, 1, 2, 16)).eval()
    engine = HeldEngine(model, tokenizer, n_slots=1, max_waiting=8)
    name = "<img src=y onerror=alert(3)>"
    with in_thread(Service(model, engine, tokenizer, name, Limits(4096, 1, 8))) as url:
        yield url, engine
        engine.released.set()


def test_stop_stops_and_text_is_never_html(
    hostile: tuple[str, HeldEngine], open_page: Open
) -> None:
    hostile_url, engine = hostile
    visit = open_page(f"{hostile_url}/", viewport={"width": 360, "height": 700})
    page = visit.page
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    assert not page.locator("#modes").is_visible()  # without a template
    page.locator("#prompt").fill("<script>alert(0)</script>")
    page.locator("#stop").fill("never")
    page.locator("#seed").fill("1")
    page.locator("#text").filter(has_text="<script>alert(0)</script>").wait_for()
    n_prompt = page.locator("#text .token").count()
    engine.n_left = 200
    page.locator("#generate").click()
    page.locator(f"#text .token >> nth={n_prompt + 150}").wait_for(state="attached")
    page.keyboard.press("Escape")
    page.wait_for_selector("#generate:text-is('Generate')")
    engine.released.set()
    written = shown(visit)
    assert written.startswith("<script>alert(0)</script>")
    assert "<" in written[30:]  # the model has written some of it, too
    assert page.locator("#text .token").count() <= n_prompt + 201
    assert page.locator("h1").text_content() == "<img src=y onerror=alert(3)>"
    assert page.locator("main img, main script, h1 img, #text b").count() == 0
    assert dialogs == []
    # A context that is full is said in words.
    page.locator("#prompt").fill("<" * 5000)
    page.locator("#failure").filter(has_text="the context has 4096 tokens").wait_for()
    refused = [error for error in visit.errors if "400" not in error]  # the console shows each 400
    assert refused == []
    assert all(request.startswith(hostile_url) for request in visit.requests)
    # Nothing is wider than a phone.
    assert page.locator("html").evaluate("e => e.scrollWidth") <= 360


def test_a_key_is_asked_for_once(service: Callable[..., Service], open_page: Open) -> None:
    with in_thread(service(keys=["open sesame"])) as url:
        page = open_page(f"{url}/").page
        page.locator("#key").fill("open sesame")
        page.keyboard.press("Enter")
        page.locator("#guesses .value").first.filter(has_text="%").wait_for()
        assert not page.locator("#key-form").is_visible()
        assert not page.locator("#failure").is_visible()
        page.reload()
        page.locator("#guesses .value").first.filter(has_text="%").wait_for()
