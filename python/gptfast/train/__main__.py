"""`python -m gptfast.train`: corpus to tokenizer to trained model, and a first sample of it.

With a preset for images: images to a trained vision transformer, and its accuracy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from gptfast.cli import cli
from gptfast.cli.printing import lossy_output
from gptfast.system import cpu
from gptfast.train.config import GROUPS, TrainConfig, load_preset
from gptfast.train.vision_config import GROUPS as VISION_GROUPS
from gptfast.train.vision_config import VisionTrainConfig, is_vision_preset, load_vision_preset

# Imported late: PyTorch takes two seconds, which `--help` and a wrong flag don't need.
if TYPE_CHECKING:
    from rich.console import Console

    from gptfast.model import LanguageModel
    from gptfast.tokenizer import Tokenizer
    from gptfast.train.loop import Result

AnyTrainConfig = TypeVar("AnyTrainConfig", bound=TrainConfig)

MODULE = "gptfast.train"
SAMPLES = 2
SAMPLE_TOKENS = 150


def main(argv: Sequence[str]) -> int:
    """Train as the arguments say. Return 0, or 130 if a signal ended the run early."""
    config = parse_any_config(argv)
    with lossy_output():
        return _train(config, argv)


def parse_any_config(argv: Sequence[str]) -> TrainConfig | VisionTrainConfig:
    """Return the settings that the arguments ask for, of text or of images."""
    preset = _given(argv).preset
    if not is_vision_preset(preset):
        return parse_config(argv)
    defaults = load_vision_preset(preset)
    prog = f"python -m {MODULE}"
    return cli.parse_groups(VisionTrainConfig, VISION_GROUPS, argv, prog, defaults)


def _train(config: TrainConfig | VisionTrainConfig, argv: Sequence[str]) -> int:
    console = cli.console()
    if cpu.notice:
        console.print(f"note: {cpu.notice}")
    command = cli.this_command(MODULE, argv)
    if isinstance(config, VisionTrainConfig):
        result = _train_vision(config, command, console)
    else:
        result = _train_text(config, command, console)
    if result is None:
        console.print(f"stopped and saved; to continue: {cli.resume_command(MODULE, argv)}")
        return 130
    return 0


def _train_text(config: TrainConfig, command: str, console: Console) -> Result | None:
    from gptfast.sample.generate import write_sample
    from gptfast.train.pretrain import pretrain

    def sample(model: LanguageModel, tokenizer: Tokenizer) -> str:
        # The same random numbers each time: what differs is what the model has learned.
        return write_sample(model, tokenizer, SAMPLE_TOKENS, config.seed)

    result = pretrain(config, command, console, sample)
    if result is not None and not console.quiet:  # the main one of several processes says it
        finish(config, result, console.print)
    return result


def _train_vision(config: VisionTrainConfig, command: str, console: Console) -> Result | None:
    from gptfast.train.run import run
    from gptfast.train.vision import prepare_images

    result = run(config, prepare_images, command=command, console=console)
    if result is not None and not console.quiet:
        measured = result.measured
        console.print(
            f"val loss {result.val_loss:.4f} nats/image, {measured['accuracy']:.1%} right, by the "
            f"weights of step {result.best_step}, after {result.steps} steps in "
            f"{result.seconds:.0f} s\n"
            f"test images: {measured['test_accuracy']:.1%} right (standard error "
            f"{measured['test_accuracy_stderr']:.1%})\n"
            f"the model is in {config.out}; show it images with:\n"
            f"  {cli.command_line('gptfast.eval', [str(config.out), '--images', 'IMAGES'])}"
        )
    return result


def parse_config(argv: Sequence[str], module: str = MODULE) -> TrainConfig:
    """Return the configuration that the arguments ask for.

    Its defaults are those of the preset that they name, and the model and the tokenizer those of
    the folder that `--init-from` names, or of the run that `--resume` continues.
    """
    return parse_extended(TrainConfig, GROUPS, argv, f"python -m {module}")


def parse_extended(
    configuration: type[AnyTrainConfig],
    groups: Mapping[str, type],
    argv: Sequence[str],
    prog: str,
) -> AnyTrainConfig:
    """Return what `parse_config` does, of a class that may have further fields.

    groups: the groups of all fields, as for `cli.parse_groups`.
    """
    known = _given(argv, prog)
    defaults = load_preset(known.preset)
    if known.init_from is not None:
        from gptfast.train.init_from import with_init

        given = {name: value for name, value in vars(known).items() if value is not None}
        defaults = with_init(replace(defaults, **given))
        defaults = replace(defaults, resume=False, overwrite=False)  # the flags set them
    return cli.parse_groups(configuration, groups, argv, prog, defaults)


def _given(argv: Sequence[str], prog: str = f"python -m {MODULE}") -> argparse.Namespace:
    """Return the arguments that decide the defaults of the others."""
    finder = cli.ArgumentParser(prog, add_help=False, allow_abbrev=False)
    finder.add_argument("--preset", default=TrainConfig.preset)
    for name in ("--init-from", "--out"):
        finder.add_argument(name, type=cli.path)
    for name in ("--resume", "--overwrite"):
        finder.add_argument(name, action="store_true")
    return finder.parse_known_args(argv)[0]


def finish(config: TrainConfig, result: Result, say: Callable[[str], None]) -> None:
    """Print samples, the result and how to talk to the model."""
    from gptfast.data.sources import NAMED_SOURCES
    from gptfast.model.folder import load_model
    from gptfast.sample.generate import write_sample

    model, tokenizer = load_model(config.out)
    for seed in range(SAMPLES):
        text = write_sample(model, tokenizer, SAMPLE_TOKENS, seed)
        say(f"\n--- sample {seed + 1} ---\n{text.strip()}")
    prompt = ["--prompt", "ROMEO:"] if config.corpus in NAMED_SOURCES else []
    talk = cli.command_line("gptfast.sample", ["--model", str(config.out), *prompt])
    bits = result.measured["val_bits_per_byte"]
    say(
        f"\nval loss {result.val_loss:.4f} nats/token = {bits:.3f} bits/byte "
        f"over the whole val split, after {result.steps} steps in {result.seconds:.0f} s "
        f"({result.tokens_per_second:,.0f} tokens/s)\n"
        f"the model is in {config.out}; talk to it with:\n"
        f"  {talk}"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
