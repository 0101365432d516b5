"""`gptfast finetune METHOD`: teach a model by examples, preferences or rewards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gptfast.cli import cli
from gptfast.cli.printing import lossy_output
from gptfast.errors import UserError
from gptfast.system import cpu
from gptfast.train.config import RunConfig, TrainConfig

MODULE = "gptfast.finetune"


@dataclass(frozen=True)
class Method:
    """A method of fine-tuning. gptfast.finetune has a module of its name, with `prepare`."""

    settings: str
    """Class in gptfast.finetune.settings, such as 'supervised.SFTConfig'."""
    what: str
    """Its purpose, for --help."""
    makes_chat: bool = False
    """Whether one can talk to the model that it makes, if it has a chat template."""


METHODS = {
    "sft": Method("supervised.SFTConfig", "learn to answer from examples of chats", True),
    "classify": Method("supervised.ClassifyConfig", "learn to name a class"),
    "dpo": Method("preferences.DPOConfig", "learn from pairs of good and bad answers", True),
    "reward": Method("preferences.RewardConfig", "learn to score answers, from pairs"),
    "ppo": Method("rollouts.PPOConfig", "raise the score of a reward model (PPO)", True),
    "grpo": Method("rollouts.GRPOConfig", "raise a reward that is a function (GRPO)", True),
    "distill": Method("distill.DistillConfig", "learn what a teacher predicts"),
}

TOOLS = {
    "merge": ("finetune.merge", "add an adapter to its base, and write one model folder"),
    "tasks": ("data.verifiable.main", "write problems with verified answers, to try methods on"),
    "audit": ("audit.tuned.main", "compare a tuned model with its base: what was gained and lost"),
}
"""Other subcommands: a module of gptfast with `main`, (argv) -> exit code, and its purpose."""


def main(argv: Sequence[str]) -> int:
    """Run the subcommand. Return 0, or 130 if a signal ended a run early."""
    purposes = {name: method.what for name, method in METHODS.items()}
    purposes |= {name: what for name, (_, what) in TOOLS.items()}
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage(purposes))
        return 0
    name, *rest = argv
    if name not in purposes:
        raise UserError(f"unknown method {name!r}: expected one of {', '.join(purposes)}")
    if name in TOOLS:
        tool: Callable[[Sequence[str]], int] = _load(TOOLS[name][0], "main")
        return tool(rest)
    config = parse_config(name, rest)
    with lossy_output():
        return _train(name, config, argv)


def parse_config(name: str, argv: Sequence[str]) -> RunConfig:
    """Return the settings of a method that the arguments ask for."""
    module, _, settings = METHODS[name].settings.partition(".")
    configuration: Any = _load(f"finetune.settings.{module}", settings)
    parse: Any = cli.parse_groups
    if issubclass(configuration, TrainConfig):  # it has presets, and starts from --init-from
        from gptfast.train.__main__ import parse_extended as parse
    config: RunConfig = parse(configuration, configuration.groups, argv, f"gptfast finetune {name}")
    return config


def _train(name: str, config: RunConfig, argv: Sequence[str]) -> int:
    console = cli.console()
    if cpu.notice:
        console.print(f"note: {cpu.notice}")
    from gptfast.tokenizer.chat import read_chat_template
    from gptfast.train.run import run

    command = cli.this_command(MODULE, argv)
    result = run(config, _load(f"finetune.{name}", "prepare"), command=command, console=console)
    if result is None:
        console.print(f"stopped and saved; to continue: {cli.resume_command(MODULE, argv)}")
        return 130
    if not console.quiet:
        console.print(
            f"{name}: loss {result.val_loss:.4f} by the weights of step {result.best_step}, after "
            f"{result.steps} steps in {result.seconds:.0f} s; the model is in {config.out}"
        )
        if METHODS[name].makes_chat and read_chat_template(config.out) is not None:
            talk = cli.command_line("gptfast.sample", ["--model", str(config.out), "--chat"])
            console.print(f"talk to it with:\n  {talk}")
    return 0


def _load(module: str, name: str) -> Any:
    return getattr(import_module(f"gptfast.{module}"), name)


def _usage(purposes: Mapping[str, str]) -> str:
    lines = [f"  {name:10}{what}" for name, what in purposes.items()]
    return "\n".join(
        [
            "usage: gptfast finetune METHOD [--help] [ARGUMENTS]",
            "",
            "methods:",
            *lines,
            "",
            "`gptfast finetune METHOD --help` shows the arguments of a method.",
        ]
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
