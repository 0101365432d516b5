"""`gptfast audit attention` on the terminal, as files, and as a page in a browser."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from look_models import CHARACTERS, induction_model, random_model, tokenizer

from gptfast.audit.__main__ import main
from gptfast.audit.attention import measure
from gptfast.audit.attention_page import make_page
from gptfast.audit.attention_report import plot
from gptfast.cli import cli
from gptfast.model import GPT
from gptfast.model.folder import save_description, save_weights
from gptfast.tokenizer import BPETokenizer

if TYPE_CHECKING:
    from browser import Visit


def save(folder: Path, model: GPT) -> Path:
    save_description(folder, model.config, tokenizer())
    save_weights(model, folder / "model.safetensors")
    return folder


def test_the_command_prints_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = save(tmp_path / "model", induction_model()), tmp_path / "out"
    given = ["attention", str(folder), "--text", "abcab", "--layer", "2", "--out", str(out)]
    assert cli.run(main, given) == 0
    said = capsys.readouterr().out
    assert "\n  5 b 1 1 1 1 1\n" in said  # the mask
    # The last token looks where b was followed by c; the first, of which a is none, at itself.
    assert "\n  5 b .00 .00 1.0 .00 .00\n" in said
    assert "\n  1 a 1.0\n" in said
    assert "token 2 “b” sees tokens 1 to 2, “a” to “b”" in said
    assert said.count("\nok ") == 6
    assert "│     2 │    1 │" in said
    assert "a gain of " in said
    saved = json.loads((out / "attention.json").read_text(encoding="utf-8"))
    assert saved["tokens"] == list("abcab")
    assert saved["weights"][1][0][4] == [0, 0, 1, 0, 0]
    assert (out / "attention.png").stat().st_size > 10_000
    assert "Attention of model" in (out / "attention.html").read_text(encoding="utf-8")


def test_a_failed_check_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path, random_model())
    real = torch.nn.functional.scaled_dot_product_attention

    def leaky(*arguments: Any, **options: Any) -> torch.Tensor:
        return real(*arguments, **options | {"is_causal": False})

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", leaky)
    assert cli.run(main, ["attention", str(folder), "--text", "abcab"]) == 1
    said = capsys.readouterr().out
    assert "WRONG  changing a token leaves all logits before it, as this machine" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "a"], "the text has 1 tokens: expected 2 to 32"),
        (["--text", "ab", "--head", "3"], "--head is 3: expected 1 to 2"),
        (["--text", "xyz"], "xyz"),
        ([], "--text"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path, random_model())
    assert cli.run(main, ["attention", str(folder), *arguments]) == 2
    error = capsys.readouterr().err
    assert message.replace("xyz", "x") in error
    assert error.count("\n") == 1


def test_help_needs_no_pytorch() -> None:
    code = (
        "import sys, gptfast.audit.__main__ as door\n"
        "try: door.main(['repetition', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "--sample-tokens" in done.stdout
    assert done.returncode == 0


def test_the_tokenizer_audit_is_the_same_by_both_names(
    tmp_path: Path, corpus_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gptfast.tokenizer.__main__ import main as tokenizer_main

    BPETokenizer.train([corpus_file.read_text(encoding="utf-8")], 300).save(tmp_path / "t")
    given = ["--tokenizer", str(tmp_path / "t"), str(corpus_file)]
    assert cli.run(main, ["tokenizer", *given]) == 0
    said = capsys.readouterr().out
    assert cli.run(tokenizer_main, ["audit", *given]) == 0
    assert capsys.readouterr().out == said
    assert "bytes per token of the built-in texts" in said


def test_hostile_tokens_stay_text(tmp_path: Path) -> None:
    """Names that mean something to HTML, to matplotlib or to no font."""
    hostile = tokenizer().train("</script>$_\\n\n\t\x1b日😀&{{name}}")
    model = random_model(vocab_size=hostile.n_vocab)
    audit = measure(model, hostile, "</script>$x_日😀".replace("x", "n"))
    plot(audit, tmp_path / "a.png")
    page = make_page(audit, "<b>&{{lead}}")
    assert page.count("</script>") == 2
    assert "<b>" not in page
    assert "Where 4 heads" in page


@pytest.mark.integration
def test_the_page_shows_the_numbers(open_page: Callable[..., Visit], tmp_path: Path) -> None:
    audit = measure(induction_model(), tokenizer(), CHARACTERS[:4] * 2, layer=2)
    path = tmp_path / "page.html"
    path.write_text(make_page(audit, "a model"), encoding="utf-8")
    visit = open_page(path.as_uri())
    page = visit.page
    assert page.locator("#matrix-title").inner_text() == "Attention of layer 2, head 1"
    # By keyboard from the last cell: token 8 looks at token 5, which followed the first d.
    page.locator("#matrix").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    shown = f"{audit.matrix[7][4]:.4f}"
    assert float(shown) > 0.9
    assert (
        page.locator("#cell").inner_text() == f"“d” (8) gives {shown} of its attention to “a” (5)."
    )
    page.get_by_text("mask", exact=True).click()
    assert page.locator("#cell").inner_text() == "“d” (8) may see “a” (5)."
    page.get_by_text("weights", exact=True).click()
    # Another head, by a click on its strip: every token looks at the one before it.
    page.get_by_label("Layer 1, head 1").click()
    page.locator("#matrix").focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert page.locator("#cell").inner_text() == "“d” (8) gives 1.0000 of its attention to “c” (7)."
    # A token that is chosen is painted, and what it looks at.
    page.locator("#text .token").nth(3).click()
    third = page.locator("#text .token").nth(2)
    assert third.evaluate("e => e.style.getPropertyValue('--weight')") == "1.000"
    assert visit.errors == []
    assert visit.requests == []
