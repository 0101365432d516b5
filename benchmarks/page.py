"""Time the page that `gptfast export html` makes of a model folder, in Chromium.

    python benchmarks/page.py runs/shakespeare

First, 50 greedy tokens are compared with those of Python from the same rounded weights. Then the
page writes five times. The speed is that of the page as it is used, with drawing and all. It needs
`pip install playwright`, and Debian's package chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from gptfast.export.html import export_html
from gptfast.model.folder import load_model
from gptfast.model.quantized import quantize
from gptfast.ops import use_backend
from gptfast.sample.config import SamplingConfig
from gptfast.sample.generate import generate

# Sets the fields, presses Generate, and returns how many milliseconds the page writes.
WRITE = """async (fields) => {
  for (const [id, value] of Object.entries(fields)) {
    document.getElementById(id).value = value;
  }
  const announcement = document.getElementById("announcement");
  announcement.textContent = "";
  const began = performance.now();
  const written = new Promise((resolve) => {
    const options = { childList: true, characterData: true, subtree: true };
    new MutationObserver(() => resolve(performance.now())).observe(announcement, options);
  });
  document.getElementById("generate").click();
  return (await written) - began;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompt", default="ROMEO:")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200, help="tokens of a run")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        parser.error("chromium is not installed")
    print(f"load average at the start: {os.getloadavg()[0]:.1f}")
    # Chromium's sandbox doesn't start as root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "page.html"
        export_html(options.folder, file, options.prompt)
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page()
        page.goto(file.as_uri())
        page.locator("#guesses button:enabled").first.wait_for()
        check_greedy(page, options.folder, options.prompt)
        speeds = []
        for run in range(options.runs):
            fields = {"temperature": 0.8, "seed": run, "length": options.tokens}
            milliseconds = page.evaluate(WRITE, fields)
            speeds.append(1000 * n_written(page) / milliseconds)
        print(f"Chromium {browser.version}: {', '.join(f'{speed:.0f}' for speed in speeds)}")
        print(f"median of {len(speeds)} runs: {statistics.median(speeds):.0f} tokens/s")
        browser.close()


def n_written(page: Page) -> int:
    return page.locator("#text .token:not(.prompt)").count()


def check_greedy(page: Page, folder: Path, prompt: str) -> None:
    """Raise SystemExit if the page's greedy tokens are not those of Python."""
    page.evaluate(WRITE, {"temperature": 0, "seed": 0, "length": 50})
    found = page.locator("#text .token").evaluate_all("all => all.map(e => Number(e.dataset.id))")
    model, tokenizer = load_model(folder)
    if model.quantized is None:
        quantize(model.float(), "int8")
    ids = tokenizer.encode_ordinary(prompt)
    sampling = SamplingConfig(temperature=0)
    with use_backend("reference"):
        written = generate(
            model, ids, 50, sampling=sampling, seed=0, stop_tokens=tokenizer.stop_tokens,
            tokenizer=tokenizer,
        )  # fmt: skip
        expected = [*ids, *written]
    if found != expected:
        raise SystemExit(f"greedy tokens differ:\n  page   {found}\n  Python {expected}")
    print(f"{len(expected) - len(ids)} greedy tokens are Python's")


if __name__ == "__main__":
    main()
