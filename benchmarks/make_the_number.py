"""One base, one verifier, and the ways to learn from it, each in the same CPU time.

    python benchmarks/make_the_number.py --out runs/make-the-number --seeds 1 2 3

The task is `03 18=054:` -> `03*18`. The base has seen problems, but no answer. SFT learns from a
demonstrator that knows the answer 30% of the time, and otherwise guesses an expression of the two
numbers, so that 43% of its answers are right. Then GRPO raises the verifier's reward. The control
is SFT on the same demonstrations for as many CPU seconds as both took. All is measured on problems
that no method has seen. Every stage is a command of gptfast, which is printed. CPU seconds are
those of one thread, of the training alone.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from gptfast.finetune.__main__ import main as finetune
from gptfast.finetune.prompts import encode_prompts, user_message
from gptfast.finetune.rollouts import GREEDY, Rollout, roll_out, seed_of
from gptfast.finetune.start import Start
from gptfast.finetune.tasks import find_task
from gptfast.model.folder import load_float_model
from gptfast.tokenizer.chat import read_chat_template
from gptfast.train.__main__ import main as train

TASK = find_task("make-the-number")
N_SAMPLES = 16
RIGHT = 0.43
MODEL = ("--n-layer", "2", "--n-head", "4", "--n-embd", "64", "--block-size", "20")
SFT = ("--batch-size", "64", "--optimizer", "muon", "--matrix-learning-rate", "0.02",
       "--learning-rate", "3e-3")  # fmt: skip
GRPO = (
    "--reward", "task:make-the-number", "--max-new-tokens", "7", "--batch-size", "16",
    "--group-size", "8", "--learning-rate", "5e-4", "--warmup-steps", "10",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What a model reaches on the held-out problems."""

    model: str
    seed: int
    cpu_seconds: float
    """Of its training; for GRPO and more SFT, of what came after those of SFT."""
    greedy: float
    """Share of the problems that the likeliest answer solves."""
    at_1: float
    """Share of the answers at temperature 1 that are right."""
    at_16: float
    """Share of the problems that one of 16 answers solves."""
    well_formed: float
    stop_rate: float
    """Shares of the answers at temperature 1 that have the format, and that end."""
    entropy: float
    """Mean of -log p of the tokens of these answers, in nats."""


def measure(name: str, folder: Path, seed: int, cpu_seconds: float) -> Row:
    """Return what the model of a folder reaches."""
    model, tokenizer = load_float_model(folder, "a measurement")
    start = Start(model.config, tokenizer, read_chat_template(folder), "", None)
    problems = TASK.problems("test")
    prompts = [one.ids for one in encode_prompts(start, [user_message(p.prompt) for p in problems])]
    seeds = [seed_of(2024, i) for i in range(len(problems))]
    stop = tokenizer.stop_tokens
    sampled = roll_out(model, prompts, N_SAMPLES, 7, seeds, stop)
    greedy = roll_out(model, prompts, 1, 7, seeds, stop, GREEDY)

    def right(rollouts: list[Rollout], n: int) -> torch.Tensor:
        texts = [one.text(tokenizer) for one in rollouts]
        rewards = [TASK.reward(problems[i // n].prompt, text) for i, text in enumerate(texts)]
        return torch.tensor(rewards).view(-1, n)

    right_PG = right(sampled, N_SAMPLES)
    n_tokens = sum(len(one.ids) for one in sampled)
    return Row(
        name, seed, cpu_seconds,
        greedy=right(greedy, 1).mean().item(),
        at_1=right_PG.mean().item(),
        at_16=right_PG.amax(1).mean().item(),
        well_formed=sum(TASK.is_well_formed(o.text(tokenizer)) for o in sampled) / len(sampled),
        stop_rate=sum(one.finished for one in sampled) / len(sampled),
        entropy=-sum(sum(one.logprobs) for one in sampled) / n_tokens,
    )  # fmt: skip


def timed(command: Callable[[list[str]], int], *argv: object) -> float:
    """Run a command; return its CPU seconds."""
    words = [str(word) for word in argv]
    print(f"$ gptfast {'train' if command is train else 'finetune'} {' '.join(words)}", flush=True)
    began = time.process_time()
    assert command(words) == 0
    return time.process_time() - began


def write_corpus(path: Path) -> None:
    """Write a text of problems without answers, and of other numbers."""
    rng, lines = random.Random(0), []
    for problem in TASK.problems("train") * 8:
        lines.append(problem.prompt + rng.choice("+-*"))
        lines.append(" ".join(f"{rng.randint(1, 400):02}" for _ in range(rng.randint(1, 4))))
    rng.shuffle(lines)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def one_seed(out: Path, seed: int, sft_steps: int, grpo_steps: int) -> list[Row]:
    """Run all stages with one seed."""
    out.mkdir(parents=True, exist_ok=True)
    write_corpus(out / "problems.txt")
    data = ("--data", out / "data" / "demonstrations.jsonl", "--val-data", out / "data/test.jsonl")
    timed(
        finetune,
        "tasks",
        TASK.name,
        "--out",
        out / "data",
        "--right-fraction",
        RIGHT,
        "--seed",
        seed,
    )
    common = ("--seed", seed, "--device", "cpu", "--dtype", "float32", "--sample-interval", 0)
    base = timed(
        train, "--corpus", out / "problems.txt", "--tokenizer", "char", *MODEL, "--max-steps", 150,
        "--batch-size", 32, "--eval-interval", 150, "--optimizer", "adamw", "--learning-rate", 2e-3,
        "--out", out / "base", *common,
    )  # fmt: skip
    rows = [measure("base", out / "base", seed, base)]

    def sft(name: str, model: str, steps: int) -> float:
        return timed(
            finetune, "sft", "--model", out / model, *data, *SFT, "--max-steps", steps,
            "--eval-interval", max(steps // 2, 1), "--out", out / name, *common,
        )  # fmt: skip

    sft_seconds = sft("sft", "base", sft_steps)
    rows.append(measure("SFT", out / "sft", seed, sft_seconds))
    grpo = timed(
        finetune, "grpo", "--model", out / "sft", *GRPO, "--max-steps", grpo_steps,
        "--eval-interval", max(grpo_steps // 4, 1), "--out", out / "grpo", *common,
    )  # fmt: skip
    rows.append(measure("GRPO", out / "grpo", seed, grpo))
    control = sft("more-sft", "base", round((sft_seconds + grpo) / sft_seconds * sft_steps))
    rows.append(measure("more SFT", out / "more-sft", seed, control - sft_seconds))
    return rows


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| model | seed | CPU s | greedy | T=1 | pass@16 | well-formed | stopped | entropy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = (row.greedy, row.at_1, row.at_16, row.well_formed, row.stop_rate)
        cells = [row.model, f"{row.seed}", f"{row.cpu_seconds:.0f}"]
        cells += [f"{100 * share:.1f}" for share in shares] + [f"{row.entropy:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the stages of each seed, and print and keep their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--sft-steps", type=int, default=1000)
    parser.add_argument("--grpo-steps", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.out.exists():
        parser.error(f"{options.out} exists: give a new folder")
    rows: list[Row] = []
    for seed in options.seeds:
        rows += one_seed(options.out / f"seed-{seed}", seed, options.sft_steps, options.grpo_steps)
        content = json.dumps([asdict(row) for row in rows], indent=1)
        (options.out / "result.json").write_text(content + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
