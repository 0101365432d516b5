"""Read a GGUF file: its keys and values, and where its tensors are.

A file may come from anywhere, so no count in it is believed: nothing is read beyond the end of the
file, and the lists that are made are never longer than the file. The package `gguf` has a reader,
which makes an object for each number of the file before it looks at its end.
The layout is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptfast.errors import MissingFileError, UserError

_NUMBERS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q",
            12: "<d"}  # fmt: skip
_STRING, _ARRAY = 8, 9
"""The types of values, as they are numbered in a file."""
_MOST_AXES = 4


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: its shape, as PyTorch counts axes, its type and its bytes."""

    shape: tuple[int, ...]
    kind: Any
    """A gguf.GGMLQuantizationType."""
    data: npt.NDArray[np.uint8]
    """Part of the mapped file."""


@dataclass(frozen=True)
class GgufFile:
    """The keys and values, and the tensors by their names."""

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_gguf(path: Path, gguf: Any) -> GgufFile:
    """Read a GGUF file of version 2 or 3, little-endian. Its weights stay on the disk.

    gguf: the package. Raises MissingFileError if there is none, UserError if it is damaged.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}: expected a GGUF file")
    if path.stat().st_size < 24:
        raise UserError(f"{path} is no GGUF file: it has only {path.stat().st_size} bytes")
    try:
        return _Cursor(np.memmap(path, mode="r")).read(gguf)
    except _DamagedError as error:
        raise UserError(f"{path} is no GGUF file that can be used: {error}") from None


class _DamagedError(Exception):
    """What is wrong with the file."""


class _Cursor:
    """A position in the bytes of a file, which only moves forward."""

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        self.data, self.at = data, 0

    def read(self, gguf: Any) -> GgufFile:
        if (magic := bytes(self.take(4))) != b"GGUF":
            raise _DamagedError(f"it begins with {magic!r}, not with b'GGUF'")
        version = self.number("<I")
        if version not in (2, 3):
            raise _DamagedError(f"its version is {version}: expected 2 or 3, little-endian")
        n_tensors, n_keys = self.number("<Q"), self.number("<Q")
        metadata = self.named(n_keys, lambda: self.value(self.number("<I")), "key")
        infos = self.named(n_tensors, self.tensor_info, "tensor")
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise _DamagedError(f"general.alignment is {alignment!r}: expected a power of two")
        start = -(-self.at // alignment) * alignment
        tensors = {name: self.tensor(name, start, info, gguf) for name, info in infos.items()}
        return GgufFile(metadata, tensors)

    def take(self, n_bytes: int) -> npt.NDArray[np.uint8]:
        if n_bytes > len(self.data) - self.at:
            raise _DamagedError(f"it ends at byte {len(self.data):,}, in the middle of a value")
        self.at += n_bytes
        return self.data[self.at - n_bytes : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack(code, bytes(self.take(struct.calcsize(code))))[0]

    def string(self) -> str:
        try:
            return bytes(self.take(self.number("<Q"))).decode()
        except UnicodeDecodeError:
            raise _DamagedError(f"the text that ends at byte {self.at:,} is not UTF-8") from None

    def named(self, n: int, read: Callable[[], Any], what: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(n):  # ends with the file at the latest
            name = self.string()
            if name in found:
                raise _DamagedError(f"it has the {what} {name!r} twice")
            found[name] = read()
        return found

    def value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise _DamagedError(f"the value at byte {self.at:,} has the unknown type {kind}")
        inner, n = self.number("<I"), self.number("<Q")
        if inner in _NUMBERS:
            code = _NUMBERS[inner]
            return np.frombuffer(self.take(n * struct.calcsize(code)), code).tolist()
        if inner != _STRING:
            raise _DamagedError(f"the list at byte {self.at:,} has elements of the type {inner}")
        return [self.string() for _ in range(n)]

    def tensor_info(self) -> tuple[tuple[int, ...], int, int]:
        """Return the shape, the type's number and the offset of a tensor."""
        n_axes = self.number("<I")
        if not 1 <= n_axes <= _MOST_AXES:
            raise _DamagedError(f"the tensor before byte {self.at:,} has {n_axes} axes")
        shape = tuple(self.number("<Q") for _ in range(n_axes))[::-1]
        return shape, self.number("<I"), self.number("<Q")

    def tensor(
        self, name: str, start: int, info: tuple[tuple[int, ...], int, int], gguf: Any
    ) -> StoredTensor:
        shape, kind, offset = info
        try:
            known = gguf.GGMLQuantizationType(kind)
        except ValueError:
            raise _DamagedError(f"{name} has the unknown type {kind}") from None
        block, size = gguf.GGML_QUANT_SIZES[known]
        n_bytes = math.prod(shape) // block * size
        end = start + offset + n_bytes
        if shape[-1] % block or end > len(self.data) or not math.prod(shape):
            raise _DamagedError(
                f"{name}, {known.name} of shape {shape}, does not fit into its {len(self.data):,} "
                f"bytes"
            )
        return StoredTensor(shape, known, self.data[end - n_bytes : end])
