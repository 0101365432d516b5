"""The page of a server, driven in Chromium."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from servers import in_thread

from browser import Open, Visit
from gptfast.model import GPT, ModelConfig
from gptfast.sample.engine import Engine
from gptfast.serve.app import Service
from gptfast.serve.limits import Limits
from gptfast.tokenizer import BPETokenizer


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


@pytest.fixture
def hostile_url() -> Iterator[str]:
    """A model with a long context, whose tokens and name are HTML."""
    torch.manual_seed(0)
    html = "<img src=x onerror=alert(1)></pre><script>alert(2)</script>"
    tokenizer = BPETokenizer.train([html] * 50, 300, "none", special_tokens=(), progress=False)
    model = GPT(ModelConfig(tokenizer.n_vocab, "gpt", 4096, 1, 2, 16)).eval()
    engine = Engine(model, tokenizer, n_slots=1, max_waiting=8)
    name = "<img src=y onerror=alert(3)>"
    with in_thread(Service(model, engine, tokenizer, name, Limits(4096, 1, 8))) as url:
        yield url


def test_stop_stops_and_text_is_never_html(hostile_url: str, open_page: Open) -> None:
    visit = open_page(f"{hostile_url}/", viewport={"width": 360, "height": 700})
    page = visit.page
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    assert not page.locator("#modes").is_visible()  # without a template
    page.locator("#prompt").fill("<script>alert(0)</script>")
    page.locator("#stop").fill("never")
    page.locator("#seed").fill("1")
    page.locator("#generate").click()
    page.locator("#text .token >> nth=200").wait_for(state="attached")
    page.keyboard.press("Escape")
    page.wait_for_selector("#generate:text-is('Generate')")
    written = shown(visit)
    assert written.startswith("<script>alert(0)</script>")
    assert "<" in written[30:]  # the model has written some of it, too
    assert page.locator("#text .token").count() < 4000
    with urllib.request.urlopen(f"{hostile_url}/metrics", timeout=60) as answer:
        metrics = answer.read().decode()
    assert re.search(r"^gptfast_completion_tokens_total (\d+)$", metrics, re.M) is not None
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
