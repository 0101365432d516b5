"""What mkdocs.yml can't say: the site has the repository's paths, and a page for each package.

The documents link to one another, to results and to sources by the paths that they have in the
repository. Files keep these paths on the site, so that the links work in both places.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "gptfast"
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "kernels/README.md"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of the site: documents, what they link to, and the reference."""
    documents = [ROOT / name for name in DOCUMENTS]
    documents += sorted((ROOT / "docs").rglob("*.md"))
    links = {target for page in documents for target in linked_files(page)}
    site = [file for file in files if not file.is_documentation_page()]  # the theme's
    site = [file for file in site if not (file.abs_src_path or "").startswith(str(ROOT / "docs"))]
    for path in sorted({*documents, *links}):
        uri = path.relative_to(ROOT).as_posix()
        site.append(File.generated(config, uri, abs_src_path=str(path)))
    for name in ("tokenizer", "model", "ops", "data", "train", "sample"):
        content = reference(name)
        site.append(File.generated(config, f"reference/{name}.md", content=content))
    return Files(site)


def linked_files(page: Path) -> set[Path]:
    """Return the files of the repository that a document links to."""
    targets = re.findall(r"\]\(([^)#:]+)[^)]*\)", page.read_text(encoding="utf-8"))
    found = {(page.parent / target).resolve() for target in targets}
    return {path for path in found if path.is_file() and path.is_relative_to(ROOT)}


def reference(name: str) -> str:
    """Return the Markdown of a package's page: every module that it has, in alphabetical order."""
    modules = [f"gptfast.{name}"]
    for path in sorted((PACKAGE / name).rglob("*.py")):
        if not path.name.startswith("_"):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            modules.append(".".join(parts))
    return f"# gptfast.{name}\n\n" + "\n\n".join(f"::: {module}" for module in modules)
