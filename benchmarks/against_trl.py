"""SFT and LoRA steps beside TRL and peft: same folder, data and machine, in one run.

    python benchmarks/against_trl.py runs/chat-base chats.jsonl

The folder is of a format that transformers reads, and has a chat template. Each trainer works in
separate processes, with AdamW and float32. Settings in which the libraries differ are made equal,
and the others are the defaults.
TRL runs twice: with padding, and with packing, whose rows its attention keeps apart by positions.

First, losses are compared: three steps on the same conversations. An adapter starts at random, so
LoRA is compared before the first update. Then they take turns, and the medians are compared. A
token is one of a conversation, not of the padding; an epoch has equally many for all.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import tyro

from gptfast.cli import cli
from gptfast.errors import RunError
from saving import save_results
from spinning import no_spin_count

GPTFAST, PADDED, PACKED = "gptfast", "TRL, padded", "TRL, packed"
TOLERANCE = 1e-3
WARM_UP = 2
"""Steps before those that are timed."""


@dataclass(frozen=True)
class Config:
    """What to train, and for how long."""

    model: Annotated[Path, tyro.conf.Positional]
    """Model folder with a chat template."""
    data: Annotated[Path, tyro.conf.Positional]
    """JSON of conversations, as for `gptfast finetune sft`."""
    rank: int = 8
    """Rank of the adapters; 0 leaves LoRA out."""
    rows: int = 16
    """Rows of a step. Without packing, a step has the conversations of as many rows."""
    steps: int = 20
    """Steps of each run."""
    rounds: int = 5
    """Runs of each, in turns."""
    json: Path | None = None
    """File for the results."""


@dataclass(frozen=True)
class Work:
    """What a process trains."""

    entrant: str
    model: str
    data: str
    rank: int
    """0 trains all weights."""
    rows: int
    """Rows of a step; 0 for all conversations in one step."""
    steps: int


@dataclass(frozen=True)
class Speed:
    """Tokens/s of one trainer."""

    entrant: str
    rank: int
    tokens_per_second: float
    runs: list[float]


def main(argv: Sequence[str]) -> int:
    """Compare losses and speeds, print, save. Returns 0."""
    if argv[:1] == ["--work"]:
        print(json.dumps(work(Work(**json.loads(argv[1])))))
        return 0
    config = cli.parse(Config, argv, "benchmarks/against_trl.py")
    ranks = list(dict.fromkeys((0, config.rank)))
    with TemporaryDirectory() as folder:
        some = few_conversations(config.data, Path(folder) / "some.jsonl")
        losses = {rank: check_losses(config, rank, some) for rank in ranks}
        runs: dict[tuple[str, int], list[float]] = {}
        for _ in range(config.rounds):
            for rank in ranks:
                for entrant in (GPTFAST, PADDED, PACKED):
                    done = run(config, entrant, rank, config.data, config.rows, config.steps)
                    runs.setdefault((entrant, rank), []).append(done["tokens_per_second"])
    speeds = [
        Speed(entrant, rank, statistics.median(values), values)
        for (entrant, rank), values in runs.items()
    ]
    for rank in ranks:
        ours, *others = (speed for speed in speeds if speed.rank == rank)
        best = max(other.tokens_per_second for other in others)
        print(f"\n{f'LoRA of rank {rank}' if rank else 'all weights'}: tokens/s, median of runs")
        for speed in (ours, *others):
            print(f"  {speed.entrant:12} {speed.tokens_per_second:9,.0f}")
        print(f"  gptfast / the faster TRL: {ours.tokens_per_second / best:.2f}")
    if config.json:
        save_results(config.json, {"losses": losses, "speeds": [asdict(s) for s in speeds]})
    return 0


def few_conversations(data: Path, path: Path, n: int = 24) -> Path:
    """Write the first few conversations of a file to another file."""
    from gptfast.data.conversations import read_conversations

    messages = [{"messages": list(c.messages)} for c in read_conversations(data)[:n]]
    path.write_text("".join(json.dumps(record) + "\n" for record in messages), encoding="utf-8")
    return path


def check_losses(config: Config, rank: int, data: Path) -> dict[str, list[float]]:
    """Return the losses on the same conversations. Raise RunError if they differ."""
    steps = 1 if rank else 3
    losses: dict[str, list[float]] = {
        entrant: run(config, entrant, rank, data, 0, steps)["losses"]
        for entrant in (GPTFAST, PADDED, PACKED)
    }
    print(f"losses {f'of LoRA of rank {rank}' if rank else 'of all weights'}: {losses}")
    for entrant, values in losses.items():
        if max(abs(a - b) for a, b in zip(values, losses[GPTFAST], strict=True)) > TOLERANCE:
            raise RunError(f"the losses of {entrant} differ by more than {TOLERANCE}: {losses}")
    return losses


def run(
    config: Config, entrant: str, rank: int, data: Path, rows: int, steps: int
) -> dict[str, Any]:
    """Train in a new process and return what `work` does. Raises RunError if it fails."""
    asked = Work(entrant, str(config.model), str(data), rank, rows, steps)
    command = [sys.executable, __file__, "--work", json.dumps(asdict(asked))]
    with no_spin_count():  # this process has set one already
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"{entrant} failed: {done.stderr.strip().splitlines()[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


# ---- the trainers --------------------------------------------------------------------------------


def work(asked: Work) -> dict[str, Any]:
    """Train; return the losses of the steps, and the speed of those after the warm-up."""
    return train_ours(asked) if asked.entrant == GPTFAST else train_theirs(asked)


def train_ours(asked: Work) -> dict[str, Any]:
    import torch
    from rich.console import Console

    from gptfast.data.loader import Prefetcher
    from gptfast.data.shuffled import ShuffledSource
    from gptfast.finetune.settings.supervised import SFTConfig
    from gptfast.finetune.sft import prepare
    from gptfast.system.memory import keep_freed_memory
    from gptfast.system.threads import share_cores
    from gptfast.train.optim import build_optimizer
    from gptfast.train.step import gradient_scaler, train_step

    cpu, data = torch.device("cpu"), Path(asked.data)
    keep_freed_memory(cpu)
    config = SFTConfig(
        model=Path(asked.model), data=data, val_data=data, out=Path("out"), lora_rank=asked.rank,
        device="cpu", dtype="float32",
    )  # fmt: skip
    task = prepare(config, Console(quiet=True))
    drawn = task.source
    assert isinstance(drawn, ShuffledSource)
    drawn.batch_size = asked.rows or drawn.n_items
    model = task.new_model(cpu).train()
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert bool(asked.rank) == (n_trained < sum(p.numel() for p in model.parameters()))
    optimizer, scaler = build_optimizer(config, model), gradient_scaler("float32", cpu)
    source = Prefetcher(drawn)
    losses, began = [], 0.0
    with share_cores():
        for step in range(asked.steps):
            if step == WARM_UP:
                began = time.perf_counter()
            batch = source.next_batch()
            losses.append(train_step(model, batch, optimizer, task.objective, scaler).loss)
    seconds = time.perf_counter() - began
    source.close()
    per_step = task.record["data"]["train"]["tokens"] / drawn.n_items * drawn.batch_size
    return measured(losses, per_step * (asked.steps - WARM_UP), seconds)


def train_theirs(asked: Work) -> dict[str, Any]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from gptfast.data.chats import open_chats
    from gptfast.finetune.settings.supervised import SFTConfig as Ours
    from gptfast.finetune.start import open_start
    from gptfast.tokenizer.chat import ChatTemplate

    data, folder = Path(asked.data), Path(asked.model)
    ours = Ours(model=folder, data=data, val_data=data, out=Path("out"))
    start = open_start(ours)
    assert start.chat_template is not None
    template = ChatTemplate(start.chat_template, start.tokenizer)
    block_size = start.config.block_size
    chats, _ = open_chats(data, data, 0.1, 0, template, block_size)
    records = [{"messages": list(c.messages)} for c in chats.conversations]  # the same that fit
    is_packed = asked.entrant == PACKED
    n_rows = asked.rows or len(chats.rows)
    per_row = len(records) / len(chats.rows)
    n_tokens, began, ended = 0, 0.0, 0.0

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *further: Any, **others: Any) -> Any:
            nonlocal n_tokens
            if self.state.global_step >= WARM_UP:
                mask = inputs.get("attention_mask")
                n_tokens += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
            return super().training_step(model, inputs, *further, **others)

    class Watch(TrainerCallback):
        def on_step_end(self, arguments: Any, state: Any, control: Any, **others: Any) -> None:
            nonlocal began, ended
            ended = time.perf_counter()
            if state.global_step == WARM_UP:
                began = ended

    with TemporaryDirectory() as out:
        settings = SFTConfig(
            output_dir=out, max_steps=asked.steps, max_length=block_size + is_packed,
            per_device_train_batch_size=n_rows if is_packed else round(n_rows * per_row),
            packing=is_packed, assistant_only_loss=True, learning_rate=ours.learning_rate,
            lr_scheduler_type="constant", weight_decay=ours.weight_decay, adam_beta2=ours.beta2,
            max_grad_norm=ours.grad_clip, optim="adamw_torch_fused", bf16=False, use_cpu=True,
            gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to="none",
            disable_tqdm=True, model_init_kwargs={"dtype": "float32"},
        )  # fmt: skip
        adapter = LoraConfig(
            r=asked.rank, lora_alpha=2 * asked.rank, target_modules="all-linear",
            task_type="CAUSAL_LM",
        )  # fmt: skip
        trainer = Counting(
            model=str(folder),
            args=settings,
            train_dataset=Dataset.from_list(records),
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=adapter if asked.rank else None,
            callbacks=[Watch()],
        )
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return measured(losses, n_tokens, ended - began)


def measured(losses: list[float], n_tokens: float, seconds: float) -> dict[str, Any]:
    return {"losses": losses, "tokens_per_second": n_tokens / seconds}


if __name__ == "__main__":
    sys.exit(cli.run(main))
