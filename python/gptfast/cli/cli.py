"""Run commands: parse arguments, and turn failures into one line on stderr and an exit code."""

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
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_type_hints

from gptfast.cli.path import PATH
from gptfast.cli.printing import LossyStream, escape_unprintable, one_line
from gptfast.errors import MissingFileError, RunError, UserError

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

_PACKAGE = Path(__file__).parents[1]


def run(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command with `argv` (default: the process's arguments) and return its exit code.

    The code is 2 for what the user can fix (UserError), 1 for a failure at run time (RunError, a
    full disk, no memory), and 130 for Ctrl-C. Other exceptions are bugs and keep their traceback.
    Characters that standard output lacks are escaped.
    """
    escape_unprintable()
    try:
        with _own_warnings_as_lines():
            code = command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # here, a failure is one line
        return code
    except UserError as error:
        return _fail(error, 2)
    except BrokenPipeError:
        # The reader of our output, such as `head`, has closed it.
        LossyStream(sys.stdout).flush()
        return 1
    except PermissionError as error:
        return _fail(
            f"permission denied for {error.filename or error}: run as a user who has it, or change "
            f"the permissions of the file and of its folders",
            2,
        )
    except (RunError, OSError) as error:
        LossyStream(sys.stdout).flush()  # what failed may be a print, and would fail again at exit
        return _fail(error, 1)
    except (MemoryError, RuntimeError) as error:
        # PyTorch reports full memory as a RuntimeError whose text depends on the device.
        full = re.search("out of memory|can't allocate memory|not enough memory", str(error))
        if isinstance(error, MemoryError) or full:
            what = str(error).strip().split("\n")[0]
            return _fail(f"out of memory: take a smaller model or batch ({what})", 1)
        raise
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted", 130)


@contextlib.contextmanager
def _own_warnings_as_lines() -> Iterator[None]:
    """Print this package's warnings as single lines, without the source line that Python adds."""
    show: Any = warnings.showwarning

    def show_ours(message: Any, category: Any, filename: str, *rest: Any, **named: Any) -> None:
        if Path(filename).is_relative_to(_PACKAGE):
            print(f"warning: {message}", file=sys.stderr)
        else:
            show(message, category, filename, *rest, **named)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning, module=r"gptfast\.|__main__$")
        warnings.showwarning = show_ours
        yield


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser that raises UserError, which becomes one line."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError with argparse's message."""
        raise UserError(f"{message}: see {self.prog} --help")


def parse(configuration: type[T], argv: Sequence[str], prog: str, default: T | None = None) -> T:
    """Fill a dataclass from command-line arguments. --help exits the process.

    Paths that begin with ~ are expanded, because no shell does so in `--out=~/x`. Other texts are
    UTF-8, whatever the locale.
    Raises UserError for wrong flags, and whatever UserError the dataclass raises for bad values.
    """
    import tyro  # imported late: takes a quarter of a second

    defaults: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: T = tyro.cli(
                configuration,
                args=argv,
                prog=prog,
                # Flags of a nested dataclass have no prefix.
                config=(tyro.conf.OmitArgPrefixes,),
                **defaults,
            )
            return with_values(parsed)
    except SystemExit as end:
        if not end.code:
            raise
        # tyro prints errors in a box, a dataclass's ValueError included. Reduce it to one line.
        error: BaseException | None = end
        while error is not None:
            if isinstance(error, UserError):
                raise error from None
            error = error.__context__
        raise UserError(f"{_first_of_box(said.getvalue())}: see {prog} --help") from None


def read_text(file: Path) -> str:
    """Return the text of a UTF-8 file, or of standard input for `-`.

    Raises MissingFileError, or UserError if it is not UTF-8.
    """
    if str(file) == "-":
        name, data = "standard input", sys.stdin.buffer.read()
    elif file.is_dir():
        raise UserError(f"{file} is a folder: expected a text file")
    else:
        try:
            name, data = str(file), file.read_bytes()
        except FileNotFoundError:
            raise MissingFileError(f"there is no file {file}: expected a text") from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text (byte {error.start}): convert it") from None


def path(given: str) -> Path:
    """Return a path, for argparse. A leading ~ is the home folder."""
    return Path(os.path.expanduser(given))


def with_values(config: T) -> T:
    """Return a dataclass whose paths are expanded and whose texts are decoded.

    The fields of its fields are, too.
    """
    hints = get_type_hints(type(config), include_extras=True)
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        is_marked = PATH in getattr(hints[field.name], "__metadata__", ())
        if dataclasses.is_dataclass(value):
            changed[field.name] = with_values(value)
        elif isinstance(value, tuple):
            changed[field.name] = tuple(_value(element, is_marked) for element in value)
        else:
            changed[field.name] = _value(value, is_marked)
    return dataclasses.replace(config, **changed)  # type: ignore[type-var]


def _value(value: Any, is_path: bool) -> Any:
    if isinstance(value, Path):
        return path(str(value))
    if not isinstance(value, str):
        return value
    return os.path.expanduser(value) if is_path else _decoded(value)


def _decoded(text: str) -> str:
    """Return a text argument as UTF-8, if Python has read it with the locale's encoding instead.

    Bytes that are not UTF-8 remain the lone surrogates that Python made of them.
    """
    with contextlib.suppress(UnicodeError):
        return os.fsencode(text).decode()
    return text


def parse_groups(
    configuration: type[T],
    groups: Mapping[str, type],
    argv: Sequence[str],
    prog: str,
    default: object | None = None,
) -> T:
    """Fill a flat dataclass from arguments that `--help` shows in groups.

    groups: heading to dataclass. Either `configuration` inherits the fields of that dataclass, or
    `configuration` has a field of the heading's name that holds one. default: an instance of
    `configuration`, or of a class that it inherits, whose values replace the defaults of
    `configuration`. The values of an inherited class leave out fields that `configuration` declares
    without a default: they must be given.
    """
    import tyro

    had = _defaults(configuration)
    if isinstance(default, configuration):
        had = dict(vars(default))
    elif default is not None:
        had |= {name: value for name, value in vars(default).items() if had[name] != tyro.MISSING}
    nested = {n for n, group in groups.items() if isinstance(had.get(n), group)}
    values = {
        name: had[name]
        if name in nested
        else group(**{f.name: had[f.name] for f in dataclasses.fields(group)})
        for name, group in groups.items()
    }
    flags = dataclasses.make_dataclass(
        "Flags",
        [(name, group, dataclasses.field(default=values[name])) for name, group in groups.items()],
        frozen=True,
    )
    flags.__doc__ = (configuration.__doc__ or "").partition(" Raises ")[0]  # for programmers
    parsed: Any = parse(flags, argv, prog)
    merged: dict[str, Any] = {}
    for name in groups:
        value = getattr(parsed, name)
        merged |= {name: value} if name in nested else vars(value)
    return configuration(**merged)


def _defaults(configuration: type) -> dict[str, Any]:
    """Return the default of each field, or tyro's mark of those that must be given."""
    import tyro

    found: dict[str, Any] = {}
    for field in dataclasses.fields(configuration):
        found[field.name] = field.default
        if field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
        elif field.default is dataclasses.MISSING:
            found[field.name] = tyro.MISSING
    return found


def _first_of_box(text: str) -> str:
    """Return the message of tyro's first box in one line, without explanations.

    Horizontal lines separate a box's sections: the error, perhaps a suggestion, the help.
    """
    if "╭" in text:
        box = text.partition("╰")[0]
        lines = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    else:  # standard output is not UTF-8: a title, a line, the sections, a blank line
        rows = [line.strip() for line in text.splitlines()[2:]]
        lines = rows[: rows.index("")] if "" in rows else rows
    sections = [part.split("\n") for part in re.split(r"\n[─-]+\n", "\n".join(lines))]
    what = " ".join(sections[0]) if sections else text
    meant = [part[1] for part in sections[1:] if part[0].startswith("Perhaps you meant")]
    return "; perhaps you meant ".join([what.rstrip(".:"), *meant])


def command_line(module: str, arguments: Sequence[str]) -> str:
    """Return the shell command that runs `python -m module arguments` with this Python."""
    python = sys.executable
    if shutil.which("python") == python:
        python = "python"
    elif python.startswith(f"{os.getcwd()}{os.sep}"):  # such as .venv/bin/python after `make`
        python = os.path.relpath(python)
    return shlex.join([python, "-m", module, *arguments])


def this_command(module: str, arguments: Sequence[str]) -> str:
    """Return the shell command that started this process, torchrun's if torchrun did."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return command_line(module, arguments)
    processes = f"--nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}"
    return shlex.join(["torchrun", processes, "-m", module, *arguments])


def resume_command(module: str, arguments: Sequence[str]) -> str:
    """Return the command that resumes what `module` was doing when it was stopped."""
    kept = [a for a in arguments if a not in ("--resume", "--overwrite")]
    return this_command(module, [*kept, "--resume"])


def console() -> Console:
    """Return a console that prints text verbatim, in lines of any length."""
    from rich.console import Console

    plain: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
    console = Console(**plain)
    if console.is_jupyter:  # which would make HTML of each line
        console = Console(**plain, force_jupyter=False, force_terminal=False)
    return console


def _fail(error: object, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):  # a closed terminal doesn't change the code
        print(f"error: {one_line(str(error))}", file=sys.stderr, flush=True)
    return code
