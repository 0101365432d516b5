"""Where a command saves a tokenizer: checked before the work, kept if the folder fails after it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gptfast.errors import RunError, UserError
from gptfast.system.files import make_folder
from gptfast.tokenizer import Tokenizer


def check_out(out: Path, overwrite: bool) -> None:
    """Make the folder of `out`. Raises UserError if a tokenizer can't be written there."""
    file = out / "tokenizer.json"
    if file.is_dir():
        raise UserError(f"{file} is a folder: expected another --out")
    if file.exists() and not overwrite:
        raise UserError(
            f"{out} already holds a tokenizer: give --overwrite to replace it, or another --out"
        )
    make_folder(out, "give another --out")


def save_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    """Save the tokenizer; if this fails by now, in a folder for temporary files.

    Raises RunError, which names that folder.
    """
    try:
        tokenizer.save(out)
    except (OSError, UserError) as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="gptfast-tokenizer-"))
        tokenizer.save(elsewhere)
        raise RunError(f"{error}: the tokenizer is in {elsewhere} instead, move it") from None
