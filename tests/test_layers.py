"""The house has floors; imports only go down (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "python" / "gptfast"
FLOOR = {
    "kernels": 0, "_rust": 0,
    "ops": 1, "tokenizer": 1,
    "model": 2, "data": 2,
    "train": 3, "sample": 3, "convert": 3,
    "bench": 4,
}  # fmt: skip
# Used by every floor, and importing none; system/cpu.py alone asks _rust what the CPU is.
GROUND = {"errors", "system", "cli", "__version__"}
# Doors open onto every room: commands are where the rooms meet.
DOORS = {"__main__", "__init__", "compare", "doctor", "ladder", "plan"}


def imports(path: Path) -> Iterator[str]:
    """The names that a file imports from this package: 'model.folder', 'ops', ..."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (n.removeprefix("gptfast.") for n in names if n.startswith("gptfast."))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def files() -> list[Path]:
    found = [p for p in PACKAGE.rglob("*.py") if room(p) not in DOORS and p.stem != "__main__"]
    assert len(found) > 25
    return found


def test_imports_only_go_down() -> None:
    for path in files():
        here = room(path)
        for name in imports(path):
            there = name.split(".")[0]
            if there == here or there in GROUND:
                continue
            if here in GROUND:
                assert (path.name, there) == ("cpu.py", "_rust"), f"{path} imports {name}"
                continue
            assert FLOOR[there] < FLOOR[here], f"{path} imports {name}"


def test_only_the_foundations_touch_the_accelerators() -> None:
    for path in files():
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        external = {
            name.split(".")[0]
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names] if isinstance(node, ast.Import)
                else [node.module or ""] if isinstance(node, ast.ImportFrom)
                else []
            )
        }  # fmt: skip
        if "triton" in external or any(n.startswith("kernels") for n in imports(path)):
            # bench times with Triton's own do_bench
            assert room(path) in ("kernels", "ops", "bench"), path
        if any(n.startswith("_rust") for n in imports(path)):
            assert room(path) in ("tokenizer", "system"), path
