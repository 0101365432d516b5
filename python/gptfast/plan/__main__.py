"""`gptfast plan PRESET`: predict the cost of a training run before it starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from gptfast.cli import cli
from gptfast.cli.units import count, duration, flop_count, flop_rate, gib
from gptfast.data.dataset import is_prepared
from gptfast.errors import UserError
from gptfast.export import onnx
from gptfast.export.html import describe_tokenizer
from gptfast.model.device import resolve_device
from gptfast.model.formats import gguf, why_not_transformers
from gptfast.ops import use_backend
from gptfast.system.memory import total_memory
from gptfast.system.threads import share_cores
from gptfast.tokenizer import Tokenizer, load_tokenizer
from gptfast.tokenizer import gguf as vocabulary
from gptfast.train.__main__ import parse_config
from gptfast.train.config import TrainConfig
from gptfast.train.plan import (
    OPTIMAL_TOKENS_PER_PARAMETER,
    Memory,
    Plan,
    Probe,
    plan,
    probe,
    with_vocabulary,
)
from gptfast.train.precision import resolve_dtype

MODULE = "gptfast.plan"
PROBE_SECONDS = 5.0
CHARACTERS = 65
"""The number of characters in Shakespeare, assumed as the vocabulary of a character tokenizer."""


def main(argv: Sequence[str]) -> int:
    """Print the plan of a preset with optional flags of `gptfast train`. Return 0."""
    if argv and not argv[0].startswith("-"):
        argv = ["--preset", *argv]
    config = with_vocabulary(parse_config(argv, MODULE), CHARACTERS)
    device = resolve_device(config.device)
    if config.dtype == "auto":
        config = replace(config, dtype=resolve_dtype(device).dtype)
    if config.model.architecture != "gpt":
        raise UserError(
            f"architecture is {config.model.architecture!r}: plan supports architecture 'gpt' "
            f"only; the rungs below it train within a minute"
        )
    with use_backend(config.kernels), share_cores():
        planned = plan(config)
        available = total_memory(device)
        enough = available is None or planned.memory.total < available
        probed = probe(config, PROBE_SECONDS) if enough else None
    console = cli.console()
    console.print(table(config, planned, probed), soft_wrap=False)
    if config.tokenizer == "char":
        console.print(f"a vocabulary of {CHARACTERS} characters was assumed, that of Shakespeare")
    if available is None:
        console.print("this system does not say how much memory it has: the run may not fit")
    elif not enough:
        console.print(
            f"this needs {gib(planned.memory.total)}, but {device} has only "
            f"{gib(available)}: no time was measured. Try a lower "
            f"--micro-batch-size, --activation-checkpointing, or a smaller model"
        )
    return 0


def table(config: TrainConfig, planned: Plan, probed: Probe | None) -> Table:
    """Return the plan as a table with the columns quantity, value and explanation."""
    shown = Table(title=f"plan of {config.preset}", show_header=False)
    m = planned.memory
    shown.add_row("parameters", f"{planned.parameters:,}", "")
    shown.add_row(
        "FLOPs per token", f"{planned.forward_flops:,}", "forward; training takes 3 times as many"
    )
    shown.add_row("tokens per step", f"{planned.tokens_per_step:,}", _batch(config))
    shown.add_row("tokens of the run", f"{planned.tokens:,}", count(config.max_steps, "step"))
    shown.add_row(
        "compute-optimal tokens", f"{planned.optimal_tokens:,}",
        f"{OPTIMAL_TOKENS_PER_PARAMETER} per parameter that a token uses: "
        f"{count(round(planned.optimal_tokens / planned.tokens_per_step), 'step')}",
    )  # fmt: skip
    shown.add_row("FLOPs of the run", flop_count(planned.training_flops), "without evaluations")
    shown.add_row("memory", gib(m.total), _parts(m))
    shown.add_row("precision", config.dtype, "of the matrix products")
    for program, why, how in (
        ("llama.cpp", why_not_gguf(config), "by gptfast export gguf"),
        ("transformers", why_not_transformers(config.model), "loads the folder as it is"),
        ("ONNX", onnx.why_not(config.model), "by gptfast export onnx"),
        ("a web page", why_not_page(config), "by gptfast export html"),
    ):
        shown.add_row(program, "no" if why else "yes", why or how)
    if probed is not None:
        speed = planned.tokens_per_step / probed.step_seconds
        flops = 3 * planned.forward_flops * speed
        shown.add_row(
            "tokens/s", f"{speed:,.0f}",
            f"{flop_rate(flops)}; mean of {count(probed.steps, 'step')} of "
            f"{duration(probed.step_seconds)}",
        )  # fmt: skip
        shown.add_row(
            "time", duration(probed.seconds),
            f"includes an evaluation of {duration(probed.eval_seconds)} every "
            f"{count(config.eval_interval, 'step')}",
        )  # fmt: skip
    return shown


def why_not_gguf(config: TrainConfig) -> str | None:
    """Return why `gptfast export gguf` will refuse the trained model; None if it will not."""
    tokenizer = _given_tokenizer(config)
    why = gguf.why_not(config.model)
    return why or (None if tokenizer is None else vocabulary.why_not(tokenizer))


def why_not_page(config: TrainConfig) -> str | None:
    """Return why `gptfast export html` will refuse the trained model; None if it will not."""
    try:
        if (tokenizer := _given_tokenizer(config)) is not None:
            describe_tokenizer(tokenizer)
    except UserError as error:
        return str(error)
    return None


def _given_tokenizer(config: TrainConfig) -> Tokenizer | None:
    """Return the tokenizer of the run; None if it is trained first, with the pattern 'gpt2'."""
    is_given = config.tokenizer not in ("bpe", "char")
    folder = config.corpus if is_prepared(Path(config.corpus)) else config.init_from
    folder = config.tokenizer if is_given else folder
    return None if folder is None else load_tokenizer(folder)


def _batch(config: TrainConfig) -> str:
    parts = f", {config.windows_at_a_time()} at a time" if config.micro_batches() > 1 else ""
    return f"{count(config.batch_size, 'window')} of {config.model.block_size}{parts}"


def _parts(m: Memory) -> str:
    return (
        f"weights {gib(m.weights)}, gradients {gib(m.gradients)}, optimizer {gib(m.optimizer)}, "
        f"activations {gib(m.activations)}"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
