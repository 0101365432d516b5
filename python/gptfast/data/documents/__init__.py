"""Documents from files of many formats, streamed.

- `listing` finds the files, by the rules in `wanted`, without what is our `own`; `pipes` makes
  files of pipes.
- `unpack` decompresses; `sniff` finds the format by the content, `foreign` what is no text.
- `archives`, `json_lines`, `json_records`, `tables` and `parquet` read what is no plain text.
- `read` puts them together. `blocks` makes blocks of documents (`separator` finds those inside a
  text file), cut by `cut` to 256 KiB, which bounds memory whatever the size of a file.

An error names the file, the member of an archive, and the line.
"""

from gptfast.data.documents.block import Block, Documents, Place
from gptfast.data.documents.cut import BLOCK_BYTES
from gptfast.data.documents.listing import Paths, find_files
from gptfast.data.documents.options import ReadOptions, TextOptions
from gptfast.data.documents.read import read_blocks, read_documents
from gptfast.data.documents.report import ReadReport

__all__ = [
    "BLOCK_BYTES",
    "Block",
    "Documents",
    "Paths",
    "Place",
    "ReadOptions",
    "ReadReport",
    "TextOptions",
    "find_files",
    "read_blocks",
    "read_documents",
]
