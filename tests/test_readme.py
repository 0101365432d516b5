"""The commands in README.md, in order, each in a short variant."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gptfast.__main__ import main
from gptfast.model import GPT, ModelConfig
from gptfast.train.__main__ import parse_any_config

ROOT = Path(__file__).parents[1]
TINY = ["--max-steps", "2"]
SHORTER = {  # what a command gets in addition, so that it takes seconds
    "import": [],
    "train": [*TINY, "--n-layer", "1", "--eval-windows", "2", "--vocab-size", "300"],
    "finetune": [*TINY, "--eval-windows", "2"],
    "ladder": TINY,
    "plan": ["--n-layer", "1", "--batch-size", "2"],
    "report": ["--no-audits"],
    "audit attention": [],
    "audit repetition": [
        "--samples",
        "2",
        "--sets",
        "2",
        "--prompt-tokens",
        "2",
        "--sample-tokens",
        "5",
    ],
    "rag index": ["--embeddings", "none"],
    "rag ask": [],
    "sample": ["--max-new-tokens", "5"],
    "doctor": [],
    "quantize": ["--text", "my.txt"],
    "eval": [],
    "export": [],
    "serve": ["--help"],  # it would not end
    "data": [],
    # tests/bench has whole rehearsals.
    "bench gpu": ["--rehearse", "--only", "rms_norm"],
}
# A checkout's own commands: `make` is only asked what it would do.
NOT_RUN = ("git clone", "cd gptfast", ". .venv/bin/activate")


def readme_commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [
        shlex.join(shlex.split(line, comments=True)) for b in blocks for line in b.splitlines()
    ]
    return [line for line in lines if line]


def gptfast_command(words: list[str]) -> tuple[str, list[str]] | None:
    """('train', arguments) for `python -m gptfast.train ...` and `gptfast train ...`."""
    if words[0] == "gptfast":
        return words[1], words[2:]  # "--help" is as good as a command
    if words[0].endswith("python") and words[1] == "-m" and words[2].startswith("gptfast."):
        return words[2].removeprefix("gptfast."), words[3:]
    return None


def save_nanogpt(folder: Path) -> None:
    """Write a checkpoint and a vocabulary as nanoGPT does: its names are ours with a prefix."""
    shape = {"vocab_size": 3, "block_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 4}
    state = GPT(ModelConfig(**shape)).state_dict()
    weights = {f"transformer.{name}": tensor for name, tensor in state.items()}
    torch.save({"model": weights, "model_args": shape}, folder / "ckpt.pt")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"itos": dict(enumerate("abc"))}))


def run_command(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Run `gptfast WORDS` in a folder and return its exit code."""
    if words[0] == "bench":  # sets Triton's interpreter, which must be known when it is imported
        command = [sys.executable, "-m", "gptfast", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["gptfast", *words])
    try:
        return main()
    except SystemExit as end:  # --help
        return end.code or 0


def test_the_readmes_commands_run(
    tmp_path: Path,
    corpus_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    commands = readme_commands()
    assert {"make train", "make test"} <= set(commands)
    assert any(command.startswith("python -m gptfast.sample") for command in commands)
    monkeypatch.setattr("gptfast.plan.__main__.PROBE_SECONDS", 0.1)
    (tmp_path / "texts").mkdir()
    shutil.copy(corpus_file, tmp_path / "my.txt")
    lines = corpus_file.read_text(encoding="utf-8").splitlines()
    documents = [json.dumps({"text": line}) for line in lines]
    (tmp_path / "texts" / "a.jsonl").write_text("\n".join(documents), encoding="utf-8")
    chats = [json.dumps({"prompt": str(i), "completion": "yes"}) for i in range(4)]
    (tmp_path / "chats.jsonl").write_text("\n".join(chats), encoding="utf-8")
    save_nanogpt(tmp_path)
    to_run: list[list[str]] = []
    for command in commands:
        if command.startswith("make"):
            if shutil.which("make") is None:
                pytest.skip("needs make")
            # Without what a `make test ARGS=...` that runs this test hands on.
            handed_on = ("MAKEFLAGS", "ARGS")
            environment = {k: v for k, v in os.environ.items() if k not in handed_on}
            dry = subprocess.run(
                [*shlex.split(command), "--dry-run"],
                cwd=ROOT, capture_output=True, text=True, env=environment,
            )  # fmt: skip
            assert dry.returncode == 0, dry.stderr
            to_run += [
                shlex.split(line) for line in dry.stdout.splitlines() if "-m gptfast" in line
            ]
        elif not command.startswith(NOT_RUN):
            to_run.append(shlex.split(command))
    for words in to_run:
        parsed = gptfast_command(words)
        assert parsed, f"the test can't run {words}"
        name, arguments = parsed
        if "--help" not in (name, *arguments):
            on_images = any(word.startswith("vit-") for word in arguments)
            if name in ("train", "ladder") and not on_images:
                arguments = [*arguments, "--corpus", str(corpus_file)]
            key = f"{name} {arguments[0]}" if name in ("audit", "bench", "rag") else name
            arguments = [*arguments, *(TINY if on_images else SHORTER[key])]
        code = run_command([name, *arguments], tmp_path, monkeypatch)
        refused = 3 if name == "rag" else 0  # the text that stands for yours may have no answer
        assert code in (0, refused), f"{shlex.join(words)}: {capfd.readouterr().err}"


def training_commands(page: Path) -> Iterator[tuple[list[str], int]]:
    """The arguments of every training command of a page, and how many processes it starts."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        nodes = re.search(r"#SBATCH --nodes=(\d+)", block)
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            after = re.fullmatch(r"(?:.* )?gptfast[. ]train (.*)", " ".join(words))
            if after and "--help" not in words:
                per_node = re.search(r"--nproc-per-node=(\d+)", line)
                n_nodes = int(nodes[1]) if nodes and "--nnodes" in line else 1
                arguments = re.sub(r"\$\w+", "1", after[1])  # a shell's variables
                arguments = re.sub(r"--init-from \S+", "", arguments).split()  # no such folder
                yield arguments, n_nodes * int(per_node[1] if per_node else 1)


def test_the_documents_training_commands_have_flags_and_batches_that_fit() -> None:
    n_processes = []
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for arguments, n in training_commands(page):
            config = parse_any_config(arguments)
            assert config.micro_batches(n) >= 1  # or it raises
            n_processes.append(n)
    assert {1, 8, 32} <= set(n_processes)


def test_the_ladders_table_is_the_recorded_run_and_keeps_its_promises() -> None:
    record = ROOT / "benchmarks" / "results" / "ladder-tinyshakespeare-cpu.json"
    run = json.loads(record.read_text(encoding="utf-8"))
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    for r in run["rungs"]:
        cells = [r["name"], r["idea"], f"{r['parameters']:,}", f"{r['steps']:,}"]
        cells += [f"{r['val_loss']:.4f}", f"{r['val_bits_per_byte']:.3f}"]
        cells += [f"{r['tokens_per_second']:,.0f}", f"{r['seconds']:.0f}"]
        assert f"| {' | '.join(cells)} |" in table
    loss = {r["name"]: r["val_loss"] for r in run["rungs"]}
    learned = [loss[name] for name in ("bigram", "head", "multihead", "residual", "gpt")]
    assert learned == sorted(learned, reverse=True)
    assert abs(loss["bigram"] - 2.5) < 0.05
    assert loss["gpt"] <= 1.75
    assert run["wall_seconds"] <= 360


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_links_in_the_documents_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), ROOT / "kernels" / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
