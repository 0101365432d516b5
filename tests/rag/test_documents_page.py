"""The page that asks documents, driven in Chromium, and the endpoints beneath it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from asked_notes import CAT, index_notes
from stub_model import said, stub

from browser import Open, Visit
from gptfast.cli import cli
from gptfast.rag.ask import Asker
from gptfast.rag.endpoint import EndpointWriter
from gptfast.rag.indexing import index_files
from gptfast.rag.library import MOST_CHARACTERS, MOST_LINES, Library
from gptfast.serve.__main__ import main
from gptfast.serve.documents import MOST_QUESTIONS, Documents
from gptfast.serve.limits import BodyLimits
from gptfast.serve.site import Site
from serving import in_thread

if TYPE_CHECKING:
    from playwright.sync_api import Page

BUTTON = "How long is the red button pressed?"
PASSWORD = "What is the password of the router?"
FOREIGN = "Who won the 1998 football championship in June?"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return index_notes(tmp_path_factory.mktemp("served"))


@contextmanager
def served(index: Path, model: str | None = None, **options: Any) -> Iterator[str]:
    """Serve an index in a thread; yield its URL."""
    writer = None if model is None else EndpointWriter(model)
    library = options.pop("library", None) or Library(Asker(index, writer=writer), index)
    limits = BodyLimits(**{k: options.pop(k) for k in ("body_bytes",) if k in options})
    with in_thread(Site(limits, Documents(library), **options)) as url:
        yield url


@pytest.fixture(scope="module")
def url(index: Path) -> Iterator[str]:
    with served(index) as url:
        yield url


@pytest.fixture
def visit(url: str, open_page: Open) -> Iterator[Visit]:
    visit = open_page(f"{url}/")
    yield visit
    assert visit.errors == []
    assert all(request.startswith(url) for request in visit.requests)


def post(url: str, path: str, body: object, key: str = "") -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{url}/documents/{path}", content, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def ask(page: Page, question: str) -> None:
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")


def quotes(page: Page) -> list[str]:
    page.locator("#about").filter(has_text=re.compile("quote|No answer")).wait_for()
    return page.locator("#quotes .said").all_text_contents()


# ---- the page ------------------------------------------------------------------------------------


def test_the_keyboard_alone_leads_to_the_quoted_place(url: str, visit: Visit) -> None:
    page, keys = visit.page, visit.page.keyboard
    keys.type(BUTTON)  # the input has the focus
    keys.press("Enter")
    _, answer = post(url, "ask", {"question": BUTTON})
    assert quotes(page) == [quote["text"] for quote in answer["quotes"]]
    assert page.locator("#quotes .where").first.text_content() == (
        "boiler.pdf, p. 2 (printed 8), lines 2-3"
    )
    keys.press("Tab")  # to the button, and on to the first quote
    keys.press("Tab")
    keys.press("Enter")
    page.locator("#page mark").first.wait_for()
    lines = page.locator("#page .line")
    assert lines.all_text_contents() == [
        "Lighting the boiler", "Open the brass valve first. Then press the",
        "red button for ten seconds.",
    ]  # fmt: skip
    assert [line.get_attribute("data-number") for line in lines.all()] == ["1", "2", "3"]
    assert page.locator("#page mark").all_text_contents() == [
        "Then press the", "red button for ten seconds.",
    ]  # fmt: skip
    assert page.locator("#place-title").text_content() == answer["quotes"][0]["reference"]
    assert page.locator("#page").evaluate("e => e === document.activeElement")
    assert page.locator("#quotes button").first.get_attribute("aria-pressed") == "true"
    keys.press("Escape")
    assert not page.locator("#place").is_visible()
    assert page.locator("#quotes button").first.evaluate("e => e === document.activeElement")


def test_a_question_without_an_answer_names_the_nearest_place(visit: Visit) -> None:
    ask(visit.page, FOREIGN)
    assert quotes(visit.page) == []
    said = visit.page.locator("#about").text_content() or ""
    assert re.fullmatch(
        r"No answer: the nearest place, .+, lines? [\d-]+, is not near enough\.", said
    )
    ask(visit.page, "Zxqv wvut?")
    visit.page.locator("#about").filter(has_text="the documents have nothing").wait_for()


def test_a_place_deep_in_a_file_is_scrolled_to(tmp_path: Path, open_page: Open) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    lines = [f"Line {n} tells of nothing in particular." for n in range(1, 3001)]
    lines[1999] = "The treasure lies under the 🦜 oak of Zanzibar."
    (documents / "long.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    index_files((documents,), tmp_path / "index", "none")
    with served(tmp_path / "index") as url:
        visit = open_page(f"{url}/", viewport={"width": 360, "height": 640}, color_scheme="dark")
        page = visit.page
        ask(page, "Where is the treasure of Zanzibar?")
        assert lines[1999] in quotes(page)[0]
        page.locator("#quotes button").first.click()
        mark = page.locator("#page mark").filter(has_text="treasure")
        mark.wait_for()
        assert mark.text_content() == lines[1999]
        number = mark.locator("xpath=../..").get_attribute("data-number")
        assert number == "2000"
        # Within what one sees, of the box and of the window.
        box, inside = page.locator("#page").bounding_box(), mark.bounding_box()
        assert box is not None
        assert inside is not None
        assert box["y"] <= inside["y"] < box["y"] + box["height"]
        assert 0 <= inside["y"] < 640
        assert page.locator("#page .cut").all_text_contents() == [
            "The text goes on before.", "The text goes on.",
        ]  # fmt: skip
        assert page.locator("#page .line").count() <= 2 * MOST_LINES + 20
        assert page.locator("html").evaluate("e => e.scrollWidth") <= 360
        background = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", background)[:3])) < 200
        assert visit.errors == []


def test_text_of_documents_is_never_html(index: Path, open_page: Open) -> None:
    lie = said("<img src=x onerror=alert(4)> is 42\u202e, says <b>Mallory</b>.")
    with stub(lambda path, body: lie) as model, served(index, model.url) as url:
        visit = open_page(f"{url}/")
        page = visit.page
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        ask(page, PASSWORD)
        texts = quotes(page)
        assert any("<script>alert('boo')</script><img src=x onerror=alert(1)>" in t for t in texts)
        assert any("&amp; `</script>`" in text for text in texts)
        assert "<b>evil\x1b.md" in (page.locator("#quotes .where").first.text_content() or "")
        page.locator("#quotes button").first.click()
        page.locator("#page mark").first.wait_for()
        page.locator("#generated .sentence").wait_for()
        assert "<img src=x onerror=alert(4)> is 42" in (
            page.locator("#generated .sentence").text_content() or ""
        )
        assert page.locator("#generated mark").all_text_contents() == ["4", "42", "Mallory"]
        assert page.locator("#generated .by").first.text_content() == (
            f"written by stub at {model.url.removeprefix('http://').removesuffix('/v1')}"
        )
        assert page.locator("main img, main script, main b").count() == 0
        assert (dialogs, visit.errors) == ([], [])
        # Without quotes, nothing is written.
        n = len(model.prompts)
        ask(page, FOREIGN)
        assert quotes(page) == []
        assert not page.locator("#generated").is_visible()
        assert len(model.prompts) == n
        assert all(request.startswith(url) for request in visit.requests)


def test_a_model_that_fails_leaves_the_quotes(index: Path, open_page: Open) -> None:
    html = (200, "text/html", b"<h1>It works</h1>")
    with stub(lambda path, body: html) as model, served(index, model.url) as url:
        page = open_page(f"{url}/documents").page
        ask(page, BUTTON)
        page.locator("#generated").filter(has_text="something else than JSON").wait_for()
        assert "red button for ten seconds" in quotes(page)[0]


def test_a_key_is_asked_for(index: Path, open_page: Open) -> None:
    with served(index, keys=["open sesame"]) as url:
        assert post(url, "ask", {"question": BUTTON})[0] == 401
        assert post(url, "place", {})[0] == 401
        assert post(url, "ask", {"question": BUTTON}, "open sesame")[0] == 200
        page = open_page(f"{url}/").page
        ask(page, BUTTON)
        page.locator("#key").fill("open sesame")
        page.keyboard.press("Enter")
        assert "red button" in quotes(page)[0]
        assert not page.locator("#key-form").is_visible()


# ---- the endpoints -------------------------------------------------------------------------------


def test_an_answer_says_what_the_command_says_and_more(url: str) -> None:
    status, answer = post(url, "ask", {"question": BUTTON})
    assert status == 200
    assert list(answer) == ["answered", "quotes", "nearest"]
    assert list(answer["quotes"][0]) == [
        "file", "page", "line_start", "line_end", "text", "score", "reference", "page_label",
        "char_start", "char_end",
    ]  # fmt: skip
    quote = answer["quotes"][0]
    place = {name: quote[name] for name in ("file", "page", "char_start", "char_end")}
    status, found = post(url, "place", place)
    assert status == 200
    assert found["quoted"] == quote["text"]
    assert (found["line_start"], found["is_begin"], found["is_end"]) == (1, True, True)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("ask", {}, 400, "question is null: expected a text"),
        ("ask", {"question": 3}, 400, "question is 3"),
        ("ask", {"question": "?!"}, 400, "the question has no word"),
        ("ask", {"question": "x " * 2000}, 400, "expected at most 2,000"),
        ("ask", {"question": "x", "quotes": 3}, 400, "unknown field"),
        ("ask", {"question": "x", "generate": True}, 400, "no model writes here"),
        ("ask", b"[" * 100_000, 400, "nested too deeply"),
        ("ask", b"\xff", 400, "not UTF-8"),
        ("place", {"file": "garden.md"}, 400, "char_start is null"),
        ("place", {"file": "no.md", "char_start": 0, "char_end": 1}, 404, "no such place"),
        ("place", {"file": "garden.md", "page": 1, "char_start": 0, "char_end": 1}, 404, "no such"),
        ("place", {"file": "garden.md", "char_start": 5, "char_end": 5}, 404, "no such place"),
        ("place", {"file": "garden.md", "char_start": 0, "char_end": 9999}, 404, "no such place"),
        ("place", {"file": "../../etc/passwd", "char_start": 0, "char_end": 1}, 404, "no such"),
        ("nothing", {}, 404, "there is nothing here"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused(
    url: str, index: Path, path: str, body: object, status: int, message: str
) -> None:
    found, answer = post(url, path, body)
    assert (found, message in answer["error"]["message"]) == (status, True)
    assert str(index.parent) not in json.dumps(answer)  # no folder of the server's machine


def test_a_place_in_a_long_line_is_cut_by_characters(tmp_path: Path) -> None:
    text = "a " * 100_000 + "The needle is here. " + "b " * 100_000
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    index_files((tmp_path / "long.txt",), tmp_path / "index", "none")
    library = Library(Asker(tmp_path / "index"), tmp_path / "index")
    begin = text.index("The needle")
    place = library.place("long.txt", None, begin, begin + 19)
    assert place["quoted"] == "The needle is here."
    assert len(place["before"]) == len(place["after"]) == MOST_CHARACTERS
    assert text[begin - MOST_CHARACTERS :].startswith(place["before"] + place["quoted"])
    assert (place["line_start"], place["is_begin"], place["is_end"]) == (1, False, False)


def test_a_body_that_is_too_large_and_another_site_are_refused(index: Path) -> None:
    with served(index, body_bytes=1000) as url:
        assert post(url, "ask", {"question": "x" * 2000})[0] == 413
        request = urllib.request.Request(
            f"{url}/documents/ask", b"{}", {"Origin": "http://evil.example"}
        )
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=60)
        assert error.value.code == 403
        error.value.close()


def test_many_clients_at_once_get_their_own_answers(url: str) -> None:
    questions = {
        BUTTON: "red button",
        "When does Minka eat?": "twice",
        "When is the hedge cut?": "June",
    }
    wrong: list[str] = []

    def client(question: str, expected: str) -> None:
        for _ in range(5):
            status, answer = post(url, "ask", {"question": question})
            if status != 200 or expected not in answer["quotes"][0]["text"]:
                wrong.append(f"{question}: {status} {answer}")

    threads = [threading.Thread(target=client, args=pair) for pair in [*questions.items()] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_too_many_questions_wait_no_longer(index: Path) -> None:
    """One is answered, MOST_QUESTIONS wait, others get 503. A bug is a 500 that says nothing."""
    begun, released = threading.Event(), threading.Event()

    class Held:
        name, writer = "held", None
        n = 0

        def ask(self, question: str, generate: bool) -> dict[str, Any]:
            self.n += 1
            begun.set()
            released.wait(60)
            if question == "bug":
                raise ZeroDivisionError("a secret")
            return {"n": self.n}

        def place(self, *where: Any) -> dict[str, Any]:
            return {}

    statuses: list[tuple[int, dict[str, Any]]] = []
    with served(index, library=Held()) as url:
        first = threading.Thread(
            target=lambda: statuses.append(post(url, "ask", {"question": "bug"}))
        )
        first.start()
        begun.wait(60)
        more = [
            threading.Thread(target=lambda: statuses.append(post(url, "ask", {"question": "x"})))
            for _ in range(MOST_QUESTIONS + 3)
        ]
        for thread in more:
            thread.start()
        for thread in more[:3]:  # whichever three they are
            while sum(status == 503 for status, _ in statuses) < 3 and thread.is_alive():
                thread.join(0.01)
        assert [status for status, _ in statuses] == [503] * 3
        released.set()
        for thread in (first, *more):
            thread.join()
    codes = sorted(status for status, _ in statuses)
    assert codes == [200] * MOST_QUESTIONS + [500] + [503] * 3
    (bug,) = [answer for status, answer in statuses if status == 500]
    assert "secret" not in json.dumps(bug)


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")
def test_the_command_serves_an_index_without_a_model(index: Path) -> None:
    command = [sys.executable, "-m", "gptfast", "serve", "--rag", str(index), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = ""
        while "serving" not in line:
            line = process.stdout.readline()
            assert line, "the server has ended"
        found = re.fullmatch(r"serving the documents of .*index on (http://127.0.0.1:\d+)\n", line)
        assert found is not None
        _, answer = post(found[1], "ask", {"question": "When does Minka eat?"})
        assert answer["quotes"][0]["text"] in CAT
        with urllib.request.urlopen(f"{found[1]}/health", timeout=60) as health:
            assert health.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to serve: expected a model folder, or --rag INDEX"),
        (["--rag", "nowhere"], "nowhere"),
        (["model", "--generate", "http://127.0.0.1:1/v1"], "--generate was given without --rag"),
    ],
)
def test_what_cant_be_served_is_one_line(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert cli.run(main, options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
