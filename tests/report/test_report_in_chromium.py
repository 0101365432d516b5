"""A report in a real browser, with the network off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from browser import Open, Visit
from gptfast.cli import cli
from gptfast.report.__main__ import main


@pytest.fixture
def report(run: Path, tmp_path: Path) -> Path:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    hostile = "</script><script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>"
    for line in lines:
        if "sample" in line and line["step"] == 20:
            line["sample"] = hostile
    (run / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in lines))
    out = tmp_path / "report.html"
    assert cli.run(main, [str(run), "--out", str(out), "--no-audits"]) == 0
    return out


def assert_unharmed(visit: Visit) -> None:
    assert visit.requests == []
    assert visit.errors == []
    assert visit.page.evaluate("window.harmed") is None


def test_pointer_and_keys_read_the_curves(report: Path, run: Path, open_page: Open) -> None:
    visit = open_page(report.as_uri())
    page = visit.page
    canvas, values = page.locator(".canvas").first, page.locator(".values").first
    assert not values.is_visible()
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    val = {m["step"]: m["val_loss"] for m in lines if "val_loss" in m}
    train = {m["step"]: m["loss"] for m in lines if "loss" in m}
    assert values.inner_text().split("\n") == [
        "step 20", f"train  {train[20]:.4f}", f"val  {val[20]:.4f}"
    ]  # fmt: skip
    page.mouse.move(0, 0)
    assert not values.is_visible()
    # By keys alone: the first stop is the link over the header, then those to the sections.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
        if "canvas" in reached[-1] and not any("canvas" in one for one in reached[:-1]):
            page.keyboard.press("End")
            assert f"val  {val[40]:.4f}" in values.inner_text()
            page.keyboard.press("ArrowLeft")
            assert values.inner_text().startswith("step 30")
            assert canvas.get_attribute("aria-valuetext") == ", ".join(
                values.inner_text().split("\n")
            )
    for what in ("summary", 'id="moment"', 'id="start"'):
        assert any(what in one for one in reached), reached
    assert_unharmed(visit)


def test_samples_are_scrubbed_through_and_the_model_runs(report: Path, open_page: Open) -> None:
    visit = open_page(report.as_uri())
    page = visit.page
    moment, text = page.locator("#moment"), page.locator("#moment-text")
    moment.focus()
    page.keyboard.press("Home")
    assert page.locator("#moment-about").inner_text().startswith("step 0, val loss")
    before = text.inner_text()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert text.inner_text().startswith("</script><script>")
    assert before != text.inner_text()
    page.locator("#start").press("Enter")
    model = page.frame_locator("#frame")
    model.locator("#guesses button:enabled").first.wait_for()
    model.locator("#text .token:nth-child(20)").wait_for()
    frame = page.locator("#frame").bounding_box()
    assert frame
    assert frame["height"] > 700
    assert_unharmed(visit)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_page_does_not_scroll_sideways(report: Path, open_page: Open, scheme: str) -> None:
    view = {"width": 320, "height": 640}
    visit = open_page(report.as_uri(), viewport=view, has_touch=True, color_scheme=scheme)
    page = visit.page
    for details in page.locator("details").all():
        details.evaluate("e => e.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.locator(".canvas").first.tap()
    assert page.locator(".values").first.inner_text().startswith("step ")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 3 * 128) == (scheme == "dark")
    assert_unharmed(visit)


def test_it_prints_what_is_folded_away(report: Path, open_page: Open) -> None:
    pdfium = pytest.importorskip("pypdfium2", reason="needs pypdfium2")
    visit = open_page(report.as_uri(), color_scheme="dark")
    printed = pdfium.PdfDocument(visit.page.pdf(format="A4"))
    text = "".join(page.get_textpage().get_text_range() for page in printed)
    assert "Training report".upper() in text.upper()
    assert "Every evaluation, in numbers" in text
    assert "bits/byte" in text
    assert "Every sample as text" not in text
    assert "Run the model here" not in text
    white = printed[0].render().to_pil().convert("L").getpixel((5, 5))
    assert white == 255
    assert visit.page.locator("details[open]").count() == 0
    assert_unharmed(visit)
