"""The house has floors; imports only go down, and never in a circle (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "python" / "gptfast"
FLOOR = {
    "kernels": 0, "_rust": 0,
    "ops": 1, "tokenizer": 1,
    "model": 2, "data": 2,
    "train": 3, "sample": 3,
    "audit": 4, "bench": 4, "convert": 4, "eval": 4, "export": 4, "finetune": 4,
    "quantize": 4, "rag": 4, "report": 4, "serve": 4,
}  # fmt: skip
# Used by every floor, and importing none; system/cpu.py alone asks _rust what the CPU is.
GROUND = {"errors", "system", "cli", "web", "__version__"}
# Doors open onto every room: commands are where the rooms meet.
DOORS = {"__main__", "__init__", "compare", "doctor", "ladder", "llm", "plan"}
# A room's own command, and its options.
DOORS_OF_A_ROOM = {"__main__", "options"}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def statements(tree: ast.AST, with_types: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements of a file, those within functions too; `with_types`: also those that
    only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif is_type_checking(node) and not with_types:
            assert isinstance(node, ast.If)
            for other in node.orelse:
                yield from statements(other, with_types)
        else:
            yield from statements(node, with_types)


def imports(path: Path, with_types: bool = True) -> Iterator[str]:
    """The names that a file imports from this package: 'model.folder', 'ops', ..."""
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), with_types):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names]
        yield from (n.removeprefix("gptfast.") for n in names if n.startswith("gptfast."))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_door(path: Path) -> bool:
    in_room = path.relative_to(PACKAGE).parent == Path(room(path))
    return room(path) in DOORS or (in_room and path.stem in DOORS_OF_A_ROOM)


def files() -> list[Path]:
    """All but the doors. The kernels are behind a link, which rglob doesn't follow."""
    everything = {*PACKAGE.rglob("*.py"), *(PACKAGE / "kernels").rglob("*.py")}
    found = sorted(path for path in everything if not is_door(path))
    assert len(found) > 25
    return found


def file_of(name: str) -> Path | None:
    """The file that 'model.folder', or 'model.folder.load_model', names; None for a door."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:n])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return None if is_door(file) else file
    return None


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


def test_nobody_imports_a_door() -> None:
    for path in files():
        for name in imports(path):
            parts = name.split(".")
            assert parts[0] not in DOORS, f"{path} imports {name}"
            assert not DOORS_OF_A_ROOM & set(parts[1:2]), f"{path} imports {name}"


def test_no_file_imports_itself_by_way_of_others() -> None:
    graph = {
        str(path.relative_to(PACKAGE)): {
            str(file.relative_to(PACKAGE))
            for name in imports(path, with_types=False)
            if (file := file_of(name)) is not None
        }
        for path in files()
    }
    assert sum(map(len, graph.values())) > 100
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


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
            allowed = room(path) in ("tokenizer", "system", "ops") or path.name == "rust_step.py"
            assert allowed, path


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("gptfast", ["torch", "tyro", "rich", "matplotlib", "gptfast.tokenizer"]),
        ("gptfast.tokenizer", ["torch", "tyro", "rich", "matplotlib", "gptfast.data"]),
        ("gptfast.data.encode, gptfast.data.prepare_shards", ["torch", "tyro", "matplotlib"]),
        ("gptfast.tokenizer.__main__, gptfast.data.__main__", ["torch", "matplotlib"]),
        ("gptfast.audit.report", ["torch", "matplotlib"]),
    ],
)
def test_text_needs_no_pytorch(modules: str, unwanted: list[str]) -> None:
    """A fresh interpreter imports the modules, and nothing that they don't need."""
    code = f"import sys, {modules}; print(*(m for m in {unwanted} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
