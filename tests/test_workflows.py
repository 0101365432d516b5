"""The files that other services read: workflows, issue forms, the citation."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FILES = {
    "github-workflows": WORKFLOWS,
    "github-issue-forms": sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")),
    "github-issue-config": [ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml"],
    "citation-file-format": [ROOT / "CITATION.cff"],
}


@pytest.mark.parametrize("schema", FILES)
def test_files_fit_their_schema(schema: str) -> None:
    """In this process: starting the command for each schema costs more than the checks."""
    check_jsonschema = pytest.importorskip("check_jsonschema")
    assert FILES[schema]
    command = ["--builtin-schema", f"vendor.{schema}", *map(str, FILES[schema])]
    done = CliRunner().invoke(check_jsonschema.main, command)
    assert done.exit_code == 0, done.output


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="needs actionlint")
def test_actionlint_finds_nothing() -> None:
    done = subprocess.run(["actionlint", *WORKFLOWS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("workflow", [*WORKFLOWS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_what_a_workflow_makes_is_a_target(workflow: Path) -> None:
    for targets in re.findall(r"\bmake ([a-z -]+)", workflow.read_text(encoding="utf-8")):
        done = subprocess.run(
            ["make", "--dry-run", *targets.split()], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_every_test_that_a_workflow_names_is_there() -> None:
    for workflow in WORKFLOWS:
        for name in re.findall(r"tests/[\w/]+\.py", workflow.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{workflow.name} names {name}"
