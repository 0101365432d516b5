"""Read a column of strings from a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from gptfast.data.documents.records import BadRecordError, Record
from gptfast.data.documents.unpack import DamagedFileError, needs_library
from gptfast.tokenizer.rust import utf8_error

_BATCH_BYTES = 1 << 20


def parquet_rows(
    file: Path | BinaryIO, where: str, column: str, errors: Literal["strict", "replace"]
) -> Iterator[Record]:
    """Yield the number of each row and the text in its column; read about 1 MiB at a time.

    column: a name, or a path such as `meta.text` into columns of structs. where: how messages name
    the file. The last record may be a DamagedFileError: the file can't be read any further, or has
    no such column of strings. Raises UserError if pyarrow is not installed.
    """
    row = 0
    try:
        for value in _values(file, where, column):
            row += 1
            try:
                yield row, _text_of(value, errors)
            except BadRecordError as error:
                yield row, error
    except DamagedFileError as error:
        yield row, error


def _text_of(value: bytes | None, errors: Literal["strict", "replace"]) -> bytes:
    if value is None:
        raise BadRecordError("is null: expected a string")
    if errors == "replace":
        return value.decode(errors="replace").encode()
    if (bad := utf8_error(value)) is not None:
        raise BadRecordError(f"is not UTF-8 text (byte {bad} of the value)")
    return value


def _values(file: Path | BinaryIO, where: str, column: str) -> Iterator[bytes | None]:
    """Yield the column's value in each row as raw bytes, None for null."""
    try:
        import pyarrow
        import pyarrow.compute
        from pyarrow import parquet
    except ImportError as error:
        raise needs_library(where, error) from error
    try:
        with parquet.ParquetFile(file, pre_buffer=False, buffer_size=_BATCH_BYTES) as table:
            if table.metadata.num_rows == 0:
                return  # also of a table without columns, or with one of the type null
            path = _path_of(pyarrow, table.schema_arrow, column)
            for i in range(table.num_row_groups):
                group = table.metadata.row_group(i)
                n_rows = max(1, _BATCH_BYTES * group.num_rows // max(1, group.total_byte_size))
                if group.num_rows == 0:
                    continue
                batch_rows = min(n_rows, group.num_rows)
                for batch in table.iter_batches(batch_rows, [i], [column], use_threads=False):
                    text = batch.column(0)
                    if path:
                        text = pyarrow.compute.struct_field(text, path)
                    text = text.cast(pyarrow.large_string())
                    yield from text.cast(pyarrow.large_binary()).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DamagedFileError(str(error).strip().split("\n")[0]) from error


def _path_of(pyarrow: Any, schema: Any, column: str) -> list[str]:
    """Return the names of the fields inside the column; none for a column of strings.

    Raises DamagedFileError if there is no such column, or if it isn't one of strings.
    """
    names = [column]
    if column not in schema.names:
        names = column.split(".")
    kind: Any = schema
    for name in names:
        has_fields = kind is schema or pyarrow.types.is_struct(kind)
        at = kind.get_field_index(name) if has_fields else -1  # -1 if several have the name, too
        if at < 0:
            raise DamagedFileError(
                f"expected a column {column!r}, it has {schema.names}; --column names another"
            )
        kind = kind.field(at).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    strings = (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view(), pyarrow.null())
    if kind not in strings:
        raise DamagedFileError(f"its column {column!r} is of the type {kind}, expected string")
    return names[1:]
