"""Make the writer that options ask for."""

from __future__ import annotations

from pathlib import Path

from gptfast.cli import cli
from gptfast.errors import UserError
from gptfast.rag.ask_options import WriterOptions
from gptfast.rag.endpoint import EndpointWriter
from gptfast.rag.generate import FolderWriter, Writer


def make_writer(options: WriterOptions) -> Writer | None:
    """Return the model that writes sentences; None if none is asked for.

    Raises as the writers do, and UserError for a file without a key.
    """
    if options.generate is None:
        return None
    if not options.is_url:
        return FolderWriter(Path(options.generate))
    key = None
    if options.generate_key_file is not None:
        lines = cli.read_text(options.generate_key_file).split()
        if not lines or not lines[0].isascii():
            raise UserError(f"{options.generate_key_file} has no key: expected one in ASCII")
        key = lines[0]
    return EndpointWriter(options.generate, options.generate_model, key, options.generate_seconds)
