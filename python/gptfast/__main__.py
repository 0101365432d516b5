"""The `gptfast` command, which imports only the chosen subcommand."""

from __future__ import annotations

import sys
from importlib import import_module

from gptfast import __version__

COMMANDS = {
    "train": "train a GPT and its tokenizer, or a vision transformer; write a model folder",
    "finetune": "teach a model: chats, preferences, rewards, classes; audit what it learned",
    "sample": "generate text with a trained model",
    "serve": "serve a model with OpenAI's API, and a page to try it in",
    "rag": "search in your own documents, and answer by quotes",
    "eval": "judge a model: loss, bits per byte, another model, tasks",
    "audit": "see what a model learned: attention, repetition, tokenizer, what size buys",
    "quantize": "make a model smaller: int8, int4 or bfloat16",
    "tokenizer": "train a tokenizer, encode and decode with it, audit it, show its tokens",
    "plan": "predict the parameters, memory, tokens and time of a training run",
    "compare": "show how runs differ, on the terminal: settings, results, samples",
    "report": "write one HTML file about a run, or one that compares several",
    "ladder": "train the rungs from bigram to GPT and compare them",
    "bench": "check and measure the kernels on this GPU, and let 'auto' use the fastest",
    "export": "write a model as GGUF, as one HTML page, as ONNX",
    "import": "convert a nanoGPT checkpoint or a GGUF file to a model folder",
    "data": "describe a corpus; prepare token shards from files or the Hub",
    "doctor": "print what a bug report needs: versions, machine, kernels",
}

PACKAGES = {"import": "convert"}
"""Packages of commands with another name, because a keyword can't name a package."""


def main() -> int:
    """Run `gptfast COMMAND ARGUMENTS` and return the exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: gptfast COMMAND [--help] [ARGUMENTS]\n\ncommands:")
        for name, what in COMMANDS.items():
            print(f"  {name:10}{what}")
        print("\n`gptfast COMMAND --help` shows the arguments of a command.")
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
