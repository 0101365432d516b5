"""Documents from files, streamed: plain text and JSON lines, compressed or not, and Parquet.

`listing` finds the files, `unpack` decompresses them, `read` finds their documents (`separator`
those of a text file), and `cut` cuts documents into blocks of 256 KiB, which bounds memory whatever
the size of a file. An error names the file and the line.
"""

from gptfast.data.documents.block import Block, Place
from gptfast.data.documents.cut import BLOCK_BYTES
from gptfast.data.documents.listing import Paths, find_files
from gptfast.data.documents.options import ReadOptions
from gptfast.data.documents.read import read_blocks
from gptfast.data.documents.report import ReadReport

__all__ = [
    "BLOCK_BYTES",
    "Block",
    "Paths",
    "Place",
    "ReadOptions",
    "ReadReport",
    "find_files",
    "read_blocks",
]
