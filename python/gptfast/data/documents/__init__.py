"""Documents from files, streamed: plain text and JSON lines, packed or not, and Parquet.

`listing` finds the files, `unpack` opens them, `read` finds the documents in them, and `cut` cuts
those into blocks of a quarter of a megabyte, so that memory stays bounded however large a file is.
Whatever is wrong with a file is said with its name and line.
"""

from gptfast.data.documents.cut import BLOCK_BYTES, Block, longest_uncut
from gptfast.data.documents.listing import Paths, find_files, path_list
from gptfast.data.documents.read import ReadReport, read_blocks

__all__ = [
    "BLOCK_BYTES",
    "Block",
    "Paths",
    "ReadReport",
    "find_files",
    "longest_uncut",
    "path_list",
    "read_blocks",
]
