"""Files of all formats, written by the standard library, pyarrow, zstd and lz4, and their texts."""

from __future__ import annotations

import csv
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gptfast.data.documents import ReadOptions, ReadReport, read_blocks

TEXTS = ['one,\n"two"\tthree', "zwei ö 🙂", "a\u2028b|;c", "last"]


def documents(
    path: str | Path | list[Path], report: ReadReport | None = None, **o: Any
) -> list[str]:
    texts: list[str] = []
    parts: list[bytes] = []
    for block in read_blocks(path, ReadOptions(**o), report=report):
        parts.append(block.data)
        if block.ends_document:
            texts.append(b"".join(parts).decode())
            parts = []
    return texts


def json_lines(texts: list[str] = TEXTS) -> bytes:
    return "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)).encode()


def json_array(indent: int | None = None) -> bytes:
    return json.dumps([{"text": t, "n": [1, {}]} for t in TEXTS], indent=indent).encode()


def table(delimiter: str = ",", **options: Any) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, **options)
    writer.writerows([["id", "text", "n"], *([i, t, ""] for i, t in enumerate(TEXTS))])
    return file.getvalue().encode()


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'gptfast[files]'")
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file, **options)
    return file.getvalue()


def tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def encrypted() -> bytes:
    data = bytearray(zipped({"a.txt": b"secret"}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def zstd_module() -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return pytest.importorskip(name)


def zstd(data: bytes, **options: Any) -> bytes:
    packed: bytes = zstd_module().compress(data, **options)
    return packed


def lz4(data: bytes) -> bytes:
    packed: bytes = pytest.importorskip("lz4.frame").compress(data)
    return packed
