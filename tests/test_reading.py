"""docs/reading.md: every stop shows exactly the symbols that it names, and the road stays short.

`python tests/test_reading.py` writes the right line ranges and the total into the page.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "reading.md"
STOP = re.compile(r"\[(the whole file|`[^]]+`)\]\(([^)#]+)#L(\d+)-L(\d+)\)")
TOTAL = re.compile(r"^\d+ stops, [\d,]+ lines\.$", re.MULTILINE)


def definition(tree: ast.AST, name: str) -> ast.FunctionDef | ast.ClassDef:
    """The function or class that `train_step` or `Trainer.run` names."""
    for part in name.split("."):
        found = [
            node
            for node in ast.iter_child_nodes(tree)
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == part
        ]
        assert found, f"there is no {name}: name another symbol in {PAGE.name}"
        tree = found[-1]  # after its overloads, if it has some
    assert isinstance(tree, (ast.FunctionDef, ast.ClassDef))
    return tree


def lines_of(what: str, file: Path) -> tuple[int, int]:
    """The first and the last line of `first`, of `first` to `last`, or of the whole file."""
    source = file.read_text(encoding="utf-8")
    if what == "the whole file":
        return 1, len(source.splitlines())
    names = re.findall(r"`([^`]+)`", what)
    tree = ast.parse(source)
    end = definition(tree, names[-1]).end_lineno
    assert end is not None
    return definition(tree, names[0]).lineno, end


def corrected(page: str) -> str:
    """The page with the line ranges of today's code, and their total."""
    lengths = []

    def stop(match: re.Match[str]) -> str:
        first, last = lines_of(match[1], PAGE.parent / match[2])
        lengths.append(last - first + 1)
        return f"[{match[1]}]({match[2]}#L{first}-L{last})"

    page = STOP.sub(stop, page)
    return TOTAL.sub(f"{len(lengths)} stops, {sum(lengths):,} lines.", page)


def test_every_stop_shows_the_symbols_that_it_names() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for old, new in zip(page.splitlines(), corrected(page).splitlines(), strict=True):
        assert old == new, f"the code has moved: write {new!r}, or run python {__file__}"


def test_the_road_is_short() -> None:
    page = PAGE.read_text(encoding="utf-8")
    stops = STOP.findall(page)
    assert len(stops) == page.count("#L") == len(re.findall(r"^## \d+\. ", page, re.MULTILINE))
    assert 8 <= len(stops) <= 12
    assert len(TOTAL.findall(page)) == 1
    assert sum(int(last) - int(first) + 1 for _, _, first, last in stops) <= 1_500


def test_a_stop_starts_at_a_definition_within_its_file() -> None:
    for _, target, first, last in STOP.findall(PAGE.read_text(encoding="utf-8")):
        lines = (PAGE.parent / target).read_text(encoding="utf-8").splitlines()
        assert 1 <= int(first) <= int(last) <= len(lines), target
        start = lines[int(first) - 1]
        assert int(first) == 1 or re.match(r"\s*(def|class) ", start), f"{target}: {start}"


if __name__ == "__main__":
    PAGE.write_text(corrected(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
