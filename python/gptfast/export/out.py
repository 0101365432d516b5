"""The check of a file to write, which all exporters share."""

from __future__ import annotations

from pathlib import Path

from gptfast.errors import UserError
from gptfast.system.files import make_folder


def check_out(out: Path, *beside: Path) -> None:
    """Make the folder of a file that is to be written.

    beside: further files that are written with it. Raises UserError if one of the files exists, or
    if the folder can't be made.
    """
    for file in (out, *beside):
        if file.exists():
            raise UserError(f"{file} exists already: choose another --out, or delete it first")
    make_folder(out.parent)
