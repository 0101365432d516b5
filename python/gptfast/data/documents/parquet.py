"""Read a column of strings from a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptfast.data.documents.unpack import DamagedFileError
from gptfast.errors import UserError

_BATCH_BYTES = 1 << 20


def parquet_values(path: Path, column: str) -> Iterator[bytes | None]:
    """Yield the column's value in each row as raw bytes, None for null; read about 1 MiB at a time.

    Raises DamagedFileError where the file can't be read or has no such column of strings,
    UserError if pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"reading {path} needs a library ({error}): pip install 'gptfast[files]'"
        ) from error
    try:
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=_BATCH_BYTES) as file:
            _check_column(pyarrow, file.schema_arrow, column)
            for i in range(file.num_row_groups):
                group = file.metadata.row_group(i)
                n_rows = max(1, _BATCH_BYTES * group.num_rows // max(1, group.total_byte_size))
                batch_rows = min(n_rows, group.num_rows)
                for batch in file.iter_batches(batch_rows, [i], [column], use_threads=False):
                    text = batch.column(0).cast(pyarrow.large_string())
                    yield from text.cast(pyarrow.large_binary()).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DamagedFileError(str(error).strip().split("\n")[0]) from error


def _check_column(pyarrow: Any, schema: Any, column: str) -> None:
    if schema.names.count(column) != 1:
        raise DamagedFileError(f"expected a column {column!r}, it has {schema.names}")
    kind = schema.field(column).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        raise DamagedFileError(f"its column {column!r} is of the type {kind}, expected string")
