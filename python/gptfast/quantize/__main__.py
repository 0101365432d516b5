"""`gptfast quantize`: make a smaller folder of a model folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gptfast.cli import cli
from gptfast.cli.path import PATH
from gptfast.cli.printing import lossy_output
from gptfast.errors import UserError, check_at_least
from gptfast.model.config import Precision

MODULE = "gptfast.quantize"


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """Make a smaller folder of a model folder, and measure what that costs.

    It is also faster where reading the weights takes the time, as at GPT-2's size. The new folder
    works wherever a folder does, but can't be trained. The blocks of int8 and int4 are GGUF's Q8_0
    and Q4_0.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The model folder, such as runs/shakespeare."""
    to: Precision
    """'int8': 8.5 bits per weight. 'int4': 4.5 bits, and 8.5 for the embedding and the head.
    'bf16': 16 bits. In int8 and int4, norms, biases, positions and the router of experts stay
    float32, and so do matrices whose rows have no multiple of 32 numbers."""
    out: Path
    """The model folder to write: a new or an empty one."""
    text: Annotated[tuple[str, ...], PATH, tyro.conf.arg(metavar="FILES...")] = ()
    """Text files, folders or globs, to measure on the last tenth of each; the rest calibrates int4.
    By default the corpus that the model was trained on, as run.json names it. Without any text,
    losses are not measured, and int4 is rounded to the nearest step."""
    eval_tokens: int | None = 65_536
    """Most tokens to measure on, in windows spread over the text; None for all of it."""
    threads: int = 1
    """Threads whose speed is measured."""

    def __post_init__(self) -> None:
        check_at_least("threads", self.threads, 1)
        if self.eval_tokens is not None:
            check_at_least("eval_tokens", self.eval_tokens, 1)


def main(argv: Sequence[str]) -> int:
    """Write the folder and print the table. Return 0; raise UserError for what can't be used."""
    config = cli.parse(QuantizeConfig, argv, f"python -m {MODULE}")
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise UserError(f"{config.out} already holds something: choose another --out")
    # These import PyTorch, which --help doesn't need.
    from gptfast.quantize.write import write_quantized
    from gptfast.system.threads import share_cores

    with lossy_output(), share_cores():
        write_quantized(
            config.model,
            config.out,
            config.to,
            texts=config.text,
            eval_tokens=config.eval_tokens,
            threads=config.threads,
            command=cli.this_command(MODULE, argv),
            console=cli.console(),
        )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
