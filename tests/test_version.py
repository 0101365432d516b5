"""One version number: the workspace's in Cargo.toml."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import gptfast

ROOT = Path(__file__).parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def workspace_version() -> str:
    (version,) = re.findall(r'(?m)^version = "(.+)"$', read("Cargo.toml"))
    return str(version)


def test_the_package_has_the_version_of_the_workspace() -> None:
    assert gptfast.__version__ == workspace_version(), "run `make build`"


def test_no_other_file_sets_a_version() -> None:
    assert 'dynamic = ["version"]' in read("pyproject.toml")
    assert "version.workspace = true" in read("rust/Cargo.toml")
    assert not re.search(r"(?m)^version:", read("CITATION.cff"))
    assert f'name = "gptfast"\nversion = "{workspace_version()}"' in read("Cargo.lock")


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    first, *releases = re.findall(r"(?m)^## (.+)$", read("CHANGELOG.md"))
    assert first == "[Unreleased]"
    for heading in releases:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading)


def test_a_checkout_that_is_not_installed_names_no_version() -> None:
    code = (
        "from importlib import metadata\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\n"
        "import gptfast; print(gptfast.__version__)"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "0+unknown\n"
