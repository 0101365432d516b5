"""The fixture that opens pages refuses and records what a page should not do."""

from __future__ import annotations

from pathlib import Path

from browser import Open


def test_a_visit_records_requests_and_errors(open_page: Open, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(
        "<title>ran</title><script>console.error('told'); throw new Error('thrown')</script>"
        "<img src='beside.png'><img src='https://example.org/far.png'>"
    )
    visit = open_page(file.as_uri())
    assert visit.page.title() == "ran"
    assert {"told", "thrown"} <= set(visit.errors)
    assert sorted(visit.requests) == [
        (tmp_path / "beside.png").as_uri(), "https://example.org/far.png",
    ]  # fmt: skip


def test_a_visit_to_a_quiet_page_records_nothing(open_page: Open, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("<title>quiet</title><script>console.log('fine')</script>")
    visit = open_page(file.as_uri())
    assert (visit.errors, visit.requests) == ([], [])
