"""`gptfast export`: write a model folder in the format of another program."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gptfast.cli import cli
from gptfast.export.options import Export, Gguf, Html, Onnx

MODULE = "gptfast.export"


def main(argv: Sequence[str]) -> int:
    """Write the file. Return 0; raise UserError or MissingFileError for what can't be used."""
    # Each imports PyTorch, which --help doesn't need.
    match cli.parse(Export, argv, f"python -m {MODULE}").command:
        case Gguf() as config:
            from gptfast.export.gguf import export_gguf

            export_gguf(config.folder, config.out, config.type)
        case Html() as config:
            from gptfast.export.html import export_html

            export_html(config.folder, config.out)
        case Onnx() as config:
            from gptfast.export.onnx import export_onnx

            export_onnx(config.folder, config.out)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
