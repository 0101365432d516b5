"""`gptfast rag chat`: one question after another."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from asked_notes import index_notes
from stub_model import said, stub

from gptfast.cli import cli
from gptfast.rag import ask
from gptfast.rag.__main__ import main
from gptfast.rag.answer import Answer
from terminals import until


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return index_notes(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """What stands in standard input, a pipe."""
    content = io.BytesIO()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(content, encoding="utf-8"))
    return content


def chat(index: Path, *options: str) -> int:
    return cli.run(main, ["chat", "--index", str(index), "--quotes", "1", *options])


CAT = "[1] notes/cat.md, lines 7-8\n    Minka eats twice a day: at seven in the morning\n"
HEDGE = "[1] garden.md, line 4\n    - The hedge is cut in June and in September.\n"


def test_each_line_of_a_pipe_is_answered_alone(
    index: Path, typed: io.BytesIO, capsys: pytest.CaptureFixture[str]
) -> None:
    typed.write(b"When does Minka eat?\n\n  \n\xff?\nWhen is the hedge cut?\n/quit\nNever asked?\n")
    typed.seek(0)
    assert chat(index) == 0
    printed = capsys.readouterr()
    help_, *answers = printed.out.split("> ")
    assert help_ == ask.HELP + "\n"
    assert answers[0].startswith(CAT)
    assert answers[1:4] == ["", "", ""]
    assert answers[4:] == [HEDGE, ""]
    assert printed.err.splitlines()[1:] == [
        "error: the question has no word: expected one, such as 'How do I ...?'"
    ]


def test_the_end_of_the_pipe_ends_the_chat(
    index: Path, typed: io.BytesIO, capsys: pytest.CaptureFixture[str]
) -> None:
    typed.write(b"When is the hedge cut?")
    typed.seek(0)
    assert chat(index) == 0
    assert capsys.readouterr().out.endswith(f"> {HEDGE}> \n")


def test_a_model_that_fails_does_not_end_the_chat(
    index: Path, typed: io.BytesIO, capsys: pytest.CaptureFixture[str]
) -> None:
    typed.write(b"When is the hedge cut?\nWhen is the hedge cut?\n")
    typed.seek(0)
    replies = iter([(500, "text/plain", b""), said("In June, says Bob.")])
    with stub(lambda path, body: next(replies)) as model:
        assert chat(index, "--generate", model.url) == 0
        # Nothing of the first question is told with the second.
        assert model.prompts[0] == model.prompts[1]
    printed = capsys.readouterr()
    assert printed.out.count(HEDGE) == 2
    assert printed.out.count("In June, says [Bob?].") == 1
    assert printed.err.count("answered 500") == 1


def test_ctrl_c_ends_an_answer_and_not_the_chat(
    index: Path,
    typed: io.BytesIO,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed.write(b"When is the hedge cut?\nWhen is the hedge cut?\n")
    typed.seek(0)
    whole = ask.Asker.ask
    presses = [KeyboardInterrupt()]

    def interrupted(self: ask.Asker, question: str) -> Answer:
        if presses:
            raise presses.pop()
        return whole(self, question)

    monkeypatch.setattr(ask.Asker, "ask", interrupted)
    assert chat(index) == 0
    assert capsys.readouterr().out.partition("> ")[2] == f"\n> {HEDGE}> \n"


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_chat_on_a_terminal_has_a_history(index: Path) -> None:
    import pty

    pytest.importorskip("readline")

    outside, inside = pty.openpty()
    command = [sys.executable, "-m", "gptfast", "rag", "chat", "--index", str(index)]
    process = subprocess.Popen(
        command, stdin=inside, stdout=inside, stderr=inside,
        env={**os.environ, "TERM": "dumb"}, start_new_session=True,
    )  # fmt: skip
    os.close(inside)
    try:
        until(outside, "> ")
        os.write(outside, b"When is the hedge cut?\n")
        until(outside, "The hedge is cut in June")
        until(outside, "\n> ")
        os.write(outside, b"\x1b[A\n")  # the line before, from the history
        until(outside, "The hedge is cut in June")
        until(outside, "\n> ")
        os.write(outside, b"\x1b[A\x15/quit\n")  # the line is cleared, and another typed
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(outside)
