"""What all commands share: failures become one line on stderr and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from gptfast.errors import RunError, UserError

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


def run(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Call a command with its arguments (default: the process's) and return its exit code.

    2 for what the user can mend (UserError), 1 for a failure at run time (RunError, a full disk),
    130 for Ctrl-C. Other exceptions are bugs and keep their traceback.
    """
    try:
        return command(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        return _fail(error, 2)
    except BrokenPipeError:
        # Whoever read our output, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (RunError, OSError) as error:
        return _fail(error, 1)
    except (MemoryError, RuntimeError) as error:
        # PyTorch says that memory is full by a RuntimeError, whose text differs by device.
        full = re.search("out of memory|can't allocate memory|not enough memory", str(error))
        if isinstance(error, MemoryError) or full:
            what = str(error).strip().split("\n")[0]
            return _fail(f"out of memory: take a smaller model or batch ({what})", 1)
        raise
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, whose mistakes are UserErrors: one line."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message}: see {self.prog} --help")


def parse(configuration: type[T], argv: Sequence[str], prog: str, default: T | None = None) -> T:
    """Fill a dataclass from command-line arguments. --help ends the process.

    Raises UserError for wrong flags, and the one that the dataclass raises for values that can't be
    used.
    """
    import tyro  # a quarter of a second that `gptfast --help` doesn't need

    defaults: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: T = tyro.cli(
                configuration,
                args=argv,
                prog=prog,
                # The flags of a nested configuration are named as if it were not nested.
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
                **defaults,
            )
            return parsed
    except SystemExit as end:
        if not end.code:
            raise
        # tyro frames what is wrong in a box, a dataclass's ValueError as well. We say it in a line.
        error: BaseException | None = end
        while error is not None:
            if isinstance(error, UserError):
                raise error from None
            error = error.__context__
        raise UserError(f"{_first_of_box(said.getvalue())}: see {prog} --help") from None


def parse_groups(
    configuration: type[T], groups: Mapping[str, type], argv: Sequence[str], prog: str, default: T
) -> T:
    """Fill a flat dataclass from arguments that `--help` shows in groups.

    groups: a dataclass for each heading. One whose fields `configuration` inherits has flags for
    these; otherwise the heading is a field of `configuration` that holds such a dataclass.
    """
    nested = {n for n, group in groups.items() if isinstance(getattr(default, n, None), group)}
    values = {
        name: getattr(default, name)
        if name in nested
        else group(**{f.name: getattr(default, f.name) for f in dataclasses.fields(group)})
        for name, group in groups.items()
    }
    flags = dataclasses.make_dataclass(
        "Flags",
        [(name, group, dataclasses.field(default=values[name])) for name, group in groups.items()],
        frozen=True,
    )
    flags.__doc__ = configuration.__doc__
    parsed: Any = parse(flags, argv, prog)
    merged: dict[str, Any] = {}
    for name in groups:
        value = getattr(parsed, name)
        merged |= {name: value} if name in nested else vars(value)
    return configuration(**merged)


def _first_of_box(text: str) -> str:
    """What the first of tyro's boxes says, in one line, without its explanations.

    A box has sections with lines between them: what is wrong, perhaps what was meant, the help.
    """
    box = text.partition("╰")[0]
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    sections = [part.split("\n") for part in re.split(r"\n─+\n", "\n".join(lines))]
    what = " ".join(sections[0]) if sections else text
    meant = [part[1] for part in sections[1:] if part[0].startswith("Perhaps you meant")]
    return "; perhaps you meant ".join([what.rstrip(".:"), *meant])


def command_line(module: str, arguments: Sequence[str]) -> str:
    """The command that runs `python -m module arguments` with the Python that runs this one."""
    python = sys.executable
    if shutil.which("python") == python:
        python = "python"
    elif python.startswith(f"{os.getcwd()}{os.sep}"):  # .venv/bin/python, where `make` was called
        python = os.path.relpath(python)
    return shlex.join([python, "-m", module, *arguments])


def this_command(module: str, arguments: Sequence[str]) -> str:
    """The command that started this process: torchrun's, where that did."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return command_line(module, arguments)
    processes = f"--nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}"
    return shlex.join(["torchrun", processes, "-m", module, *arguments])


def resume_command(module: str, arguments: Sequence[str]) -> str:
    """Return the command that resumes what `module` was doing when it was stopped."""
    kept = [a for a in arguments if a not in ("--resume", "--overwrite")]
    return this_command(module, [*kept, "--resume"])


def console() -> Console:
    """Return a console that prints text as it is, lines of any length."""
    from rich.console import Console

    plain: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
    console = Console(**plain)
    if console.is_jupyter:  # which would make HTML of each line
        console = Console(**plain, force_jupyter=False, force_terminal=False)
    return console


def _fail(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
