"""One base, one verifier, and the ways to learn from it, each in about the same CPU time.

    python benchmarks/make_the_number.py --out runs/make-the-number --seeds 1 2 3

The task is `03 18=054:` -> `03*18`. The base has seen problems, but no answer. SFT learns from a
demonstrator that knows the answer 30% of the time, and otherwise guesses an expression of the two
numbers, so that 43% of its answers are right. The other methods start from that model, and each
gets about as many CPU seconds: more SFT with the same settings on new demonstrations (the
control), SFT on the model's own right answers (rejection sampling) of all weights and of a LoRA
adapter, DPO on pairs of right and wrong answers, GRPO on the verifier's reward, and PPO on a reward
model that learned from the same pairs. The weights of each are chosen by val problems, and measured
on test problems, which nothing has seen.

Every stage is a command of gptfast, which is printed. CPU seconds are those of one thread, of
sampling answers and of training.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import torch

from gptfast.data.prompts import encode_prompts, user_message
from gptfast.data.verifiable.tasks import Problem, Split, find_task
from gptfast.finetune.__main__ import main as finetune
from gptfast.model.folder import load_float_model
from gptfast.sample.config import SamplingConfig
from gptfast.sample.rollouts import GREEDY, UNBIASED, Rollout, roll_out, seed_of
from gptfast.tokenizer.chat import read_chat_template
from gptfast.train.__main__ import main as train

TASK = find_task("make-the-number")
N_SAMPLES = 16
RIGHT = 0.43
"""30%, and of the other 70% the share of guesses that are right by chance."""
DEMONSTRATIONS = {"sft": 40_000, "more-sft": 20_000}
MODEL = ("--n-layer", 2, "--n-head", 4, "--n-embd", 64, "--block-size", 20)
SFT = ("--batch-size", 128, "--optimizer", "muon", "--matrix-learning-rate", 0.02,
       "--learning-rate", 3e-3, "--weight-decay", 0.3)  # fmt: skip
REJECTION = ("--batch-size", 64, "--learning-rate", 1e-3)
LORA = ("--batch-size", 64, "--learning-rate", 5e-3, "--lora-rank", 8)
DPO = ("--batch-size", 32, "--learning-rate", 5e-4, "--sft-weight", 1)
GRPO = (
    "--reward", "task:make-the-number", "--max-new-tokens", 7, "--batch-size", 32,
    "--group-size", 8, "--learning-rate", 5e-4, "--warmup-steps", 10,
)  # fmt: skip
REWARD = ("--batch-size", 32, "--learning-rate", 1e-3)
PPO = ("--batch-size", 64, "--learning-rate", 5e-4, "--max-new-tokens", 6, "--warmup-steps", 10,
       "--kl-penalty", 0.5)  # fmt: skip
STEPS = {"sft": 1450, "more-sft": 330, "rejection": 600, "dpo": 550, "grpo": 150, "reward": 225,
         "ppo": 160}  # fmt: skip
"""After SFT, each stage takes about 20 CPU seconds by these, on the machine of the handbook."""


@dataclass(frozen=True)
class Row:
    """What a model reaches on the test problems."""

    model: str
    seed: int
    cpu_seconds: float
    """Of its training; for those that start from the SFT model, of what came after it."""
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
    errors: tuple[float, float, float]
    """Standard errors of greedy, at_1 and at_16, over the problems."""


@dataclass(frozen=True)
class Answers:
    """Answers of a model to the problems of a split, those of a problem together."""

    problems: list[Problem]
    rollouts: list[Rollout]
    texts: list[str]
    right_PG: torch.Tensor


def answer(folder: Path, split: Split, n: int, sampling: SamplingConfig = UNBIASED) -> Answers:
    """Return n answers of the model of a folder to each problem."""
    model, tokenizer = load_float_model(folder, "a measurement")
    problems = TASK.problems(split)
    asked = [user_message(problem.prompt) for problem in problems]
    prompts = [one.ids for one in encode_prompts(asked, tokenizer, read_chat_template(folder))]
    seeds = [seed_of(2024, i) for i in range(len(problems))]
    rollouts = roll_out(model, prompts, n, 7, seeds, tokenizer.stop_tokens, sampling)
    texts = [one.text(tokenizer) for one in rollouts]
    rewards = [TASK.reward(problems[i // n].prompt, text) for i, text in enumerate(texts)]
    return Answers(problems, rollouts, texts, torch.tensor(rewards).view(-1, n))


def measure(name: str, folder: Path, seed: int, cpu_seconds: float) -> Row:
    """Return what the model of a folder reaches."""
    sampled = answer(folder, "test", N_SAMPLES)
    greedy = answer(folder, "test", 1, GREEDY)
    n, ends = len(sampled.texts), [one.finished for one in sampled.rollouts]
    shares_P = [greedy.right_PG[:, 0], sampled.right_PG.mean(1), sampled.right_PG.amax(1)]
    means = [share_P.mean().item() for share_P in shares_P]
    errors = [share_P.std().item() / len(share_P) ** 0.5 for share_P in shares_P]
    return Row(
        name, seed, cpu_seconds, *means,
        well_formed=sum(map(TASK.is_well_formed, sampled.texts)) / n,
        stop_rate=sum(ends) / n,
        entropy=-sum(sum(one.logprobs) for one in sampled.rollouts)
        / sum(len(one.ids) for one in sampled.rollouts),
        errors=(errors[0], errors[1], errors[2]),
    )  # fmt: skip


def write_own_answers(sft: Path, out: Path, seed: int) -> float:
    """Sample answers of the SFT model to train problems, and write what methods learn from them.

    Return the CPU seconds that it took. Answers that were cut off are left out, and those that
    spell a special token.
    """
    began, rng = time.process_time(), random.Random(seed)
    found = answer(sft, "train", N_SAMPLES)
    right_answers, pairs, prompts = [], [], []
    for i, problem in enumerate(found.problems):
        prompts.append({"prompt": problem.prompt})
        right, wrong = [], []
        for j in range(N_SAMPLES):
            text = found.texts[i * N_SAMPLES + j]
            if found.rollouts[i * N_SAMPLES + j].finished and text and "<|" not in text:
                (right if found.right_PG[i, j] else wrong).append(text)
        right_answers += [{"prompt": problem.prompt, "completion": text} for text in right]
        rng.shuffle(wrong)
        pairs += [
            {"prompt": problem.prompt, "chosen": chosen, "rejected": rejected}
            for chosen, rejected in zip(right, wrong, strict=False)
        ]
    for name, records in (("right", right_answers), ("pairs", pairs), ("prompts", prompts)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return time.process_time() - began


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


def one_seed(out: Path, seed: int, scale: float) -> list[Row]:
    """Run all stages with one seed. scale: factor of all numbers of steps."""
    out.mkdir(parents=True, exist_ok=True)
    data = out / "data"
    steps = {name: max(round(scale * n), 2) for name, n in STEPS.items()}
    common = (
        "--seed", seed, "--device", "cpu", "--dtype", "float32", "--sample-interval", 0,
        "--eval-windows", 256,
    )  # fmt: skip
    write_corpus(out / "problems.txt")
    for name, n in DEMONSTRATIONS.items():
        timed(
            finetune, "tasks", TASK.name, "--out", data / name, "--demonstrations", n,
            "--right-fraction", RIGHT, "--seed", seed + 1000 * (name != "sft"),
        )  # fmt: skip
    base = timed(
        train, "--corpus", out / "problems.txt", "--tokenizer", "char", *MODEL, "--max-steps", 150,
        "--batch-size", 32, "--eval-interval", 150, "--optimizer", "adamw", "--learning-rate", 2e-3,
        "--out", out / "base", *common,
    )  # fmt: skip

    def run(method: str, name: str, model: str, n_steps: int, *words: object) -> float:
        return timed(
            finetune, method, "--model", out / model, *words, "--max-steps", n_steps,
            "--eval-interval", max(n_steps // 5, 1), "--out", out / name, *common,
        )  # fmt: skip

    def sft(name: str, model: str, n_steps: int, file: str, *words: object) -> float:
        files = ("--data", data / file, "--val-data", data / "sft" / "val.jsonl")
        return run("sft", name, model, n_steps, *files, *words)

    first = sft("sft", "base", steps["sft"], "sft/demonstrations.jsonl", *SFT)
    control = sft("more-sft", "sft", steps["more-sft"], "more-sft/demonstrations.jsonl", *SFT)
    own = write_own_answers(out / "sft", data, seed)
    rejection = sft("rejection", "sft", steps["rejection"], "right.jsonl", *REJECTION)
    lora = sft("lora", "sft", steps["rejection"], "right.jsonl", *LORA)
    pairs = ("--data", data / "pairs.jsonl")
    dpo = run("dpo", "dpo", "sft", steps["dpo"], *pairs, *DPO)
    grpo = run("grpo", "grpo", "sft", steps["grpo"], *GRPO)
    reward = run("reward", "reward", "sft", steps["reward"], *pairs, *REWARD)
    judge = ("--reward-model", out / "reward", "--prompts", data / "prompts.jsonl")
    ppo = run("ppo", "ppo", "sft", steps["ppo"], *judge, *PPO)
    return [
        measure(name, out / folder, seed, seconds)
        for name, folder, seconds in (
            ("base", "base", base),
            ("SFT", "sft", first),
            ("more SFT (the control)", "more-sft", control),
            ("rejection sampling", "rejection", own + rejection),
            ("rejection sampling, LoRA r=8", "lora", own + lora),
            ("DPO", "dpo", own + dpo),
            ("GRPO", "grpo", grpo),
            ("reward model, PPO", "ppo", own + reward + ppo),
        )
    ]


def pair_accuracy(out: Path) -> str:
    """Return the shares of held-out pairs that DPO and the reward model order rightly."""
    shares = {
        name: json.loads((out / name / "run.json").read_text("utf-8"))["result"]["measured"][key]
        for name, key in (("dpo", "reward_accuracy"), ("reward", "accuracy"))
    }
    return ", ".join(f"{name} {100 * share:.1f}%" for name, share in shares.items())


def table(rows: list[Row]) -> str:
    """Return the means over the seeds as Markdown.

    The errors are those over the problems. With several seeds, they are those over the seeds.
    """
    lines = [
        "| model | CPU s | greedy | T=1 | pass@16 | well-formed | stopped | entropy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        cells = [model, f"{mean(row.cpu_seconds for row in own):.0f}"]
        for i, name in enumerate(("greedy", "at_1", "at_16")):
            values = [getattr(row, name) for row in own]
            error = stdev(values) / len(own) ** 0.5 if len(own) > 1 else own[0].errors[i]
            cells.append(f"{100 * mean(values):.1f} ± {100 * error:.1f}")
        cells += [
            f"{100 * mean(getattr(r, n) for r in own):.1f}" for n in ("well_formed", "stop_rate")
        ]
        cells.append(f"{mean(row.entropy for row in own):.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table_of_seeds(rows: list[Row]) -> str:
    """Return the greedy answers and those at temperature 1 of each seed as Markdown, in %."""
    lines = ["| model | greedy, by seed | T=1, by seed |", "|---|---|---|"]
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        greedy, at_1 = (
            " / ".join(f"{100 * getattr(row, name):.1f}" for row in own)
            for name in ("greedy", "at_1")
        )
        lines.append(f"| {model} | {greedy} | {at_1} |")
    return "\n".join(lines)


def main() -> None:
    """Run the stages of each seed, and print and keep their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all numbers of steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.out.exists():
        parser.error(f"{options.out} exists: give a new folder")
    rows: list[Row] = []
    for seed in options.seeds:
        rows += one_seed(options.out / f"seed-{seed}", seed, options.scale)
        content = json.dumps([asdict(row) for row in rows], indent=1)
        (options.out / "result.json").write_text(content + "\n", encoding="utf-8")
    print(f"{table(rows)}\n\n{table_of_seeds(rows)}")
    for seed in options.seeds:
        print(f"held-out pairs, seed {seed}: {pair_accuracy(options.out / f'seed-{seed}')}")


if __name__ == "__main__":
    main()
