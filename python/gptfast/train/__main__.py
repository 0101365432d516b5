"""`python -m gptfast.train`: corpus to tokenizer to trained model, and a first sample of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from gptfast.cli import cli
from gptfast.data.sources import NAMED_SOURCES
from gptfast.model import LanguageModel
from gptfast.model.folder import load_model
from gptfast.sample.generate import write_sample
from gptfast.system import cpu
from gptfast.tokenizer import Tokenizer
from gptfast.train.config import TrainConfig, load_preset
from gptfast.train.loop import Result
from gptfast.train.run import run

MODULE = "gptfast.train"
SAMPLES = 2
SAMPLE_TOKENS = 150


def main(argv: Sequence[str]) -> int:
    """Train as the arguments say. Returns 0, or 130 if a signal ended the run early."""
    config = parse_config(argv)
    console = cli.console()
    say = console.print
    if cpu.notice:
        say(f"note: {cpu.notice}")

    def sample(model: LanguageModel, tokenizer: Tokenizer) -> str:
        # The same random numbers each time: what differs is what the model has learned.
        return write_sample(model, tokenizer, SAMPLE_TOKENS, config.seed)

    result = run(config, cli.this_command(MODULE, argv), console, sample)
    if result is None:
        say(f"stopped and saved; to go on: {cli.resume_command(MODULE, argv)}")
        return 130
    if console.quiet:
        return 0  # the main one of several processes says how it went
    finish(config, result, say)
    return 0


def parse_config(argv: Sequence[str], module: str = MODULE) -> TrainConfig:
    """The configuration that the arguments ask for, on top of the preset that they name."""
    finder = cli.ArgumentParser(f"python -m {module}", add_help=False, allow_abbrev=False)
    finder.add_argument("--preset", default=TrainConfig.preset)
    preset = load_preset(finder.parse_known_args(argv)[0].preset)
    return cli.parse(TrainConfig, argv, f"python -m {module}", default=preset)


def finish(config: TrainConfig, result: Result, say: Callable[[str], None]) -> None:
    """Print samples, the result and how to talk to the model."""
    model, tokenizer = load_model(config.out)
    for seed in range(SAMPLES):
        text = write_sample(model, tokenizer, SAMPLE_TOKENS, seed)
        say(f"\n--- sample {seed + 1} ---\n{text.strip()}")
    prompt = ["--prompt", "ROMEO:"] if config.corpus in NAMED_SOURCES else []
    talk = cli.command_line("gptfast.sample", ["--model", str(config.out), *prompt])
    say(
        f"\nval loss {result.val_loss:.4f} nats/token = {result.val_bits_per_byte:.3f} bits/byte "
        f"over the whole val split, after {result.steps} steps in {result.seconds:.0f} s "
        f"({result.tokens_per_second:,.0f} tokens/s)\n"
        f"the model is in {config.out}; talk to it with:\n"
        f"  {talk}"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
