"""The `gptfast` command: finds the subcommand and loads only that one."""

from __future__ import annotations

import sys
from importlib import import_module

from gptfast import __version__

COMMANDS = {
    "train": "train a GPT, its tokenizer included, into a model folder",
    "sample": "let a trained model write",
    "tokenizer": "train a tokenizer, encode and decode with it, audit it, show its tokens",
    "plan": "predict parameters, memory, tokens and time of a training run",
    "compare": "show how runs differ: settings, curves, samples",
    "ladder": "train the rungs from bigram to GPT and compare them",
    "bench": "check the kernels on this GPU, measure them, have 'auto' take the fastest",
    "import": "make a model folder of another project's checkpoint: nanoGPT's",
    "data": "describe a corpus; prepare token shards from files or the Hub",
    "doctor": "show device, data types and which kernels run here",
}

PACKAGES = {"import": "convert"}
"""Where a command is in a package of another name: a keyword can't be one's."""


def main() -> int:
    """Run `gptfast COMMAND ARGUMENTS`; returns the exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: gptfast COMMAND [--help] [ARGUMENTS]\n\ncommands:")
        for name, what in COMMANDS.items():
            print(f"  {name:10}{what}")
        print("\n`gptfast COMMAND --help` shows what a command takes.")
        return 0
    if arguments[0] == "--version":
        print(f"gptfast {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: unknown command {arguments[0]!r}: expected one of {known}", file=sys.stderr)
        return 2
    from gptfast.cli import cli

    package = PACKAGES.get(arguments[0], arguments[0])
    command = import_module(f"gptfast.{package}.__main__").main
    return cli.run(command, arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
