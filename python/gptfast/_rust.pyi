"""The Rust extension, for tokenizer, system.cpu, ops.quantized_linear and model.rust_step."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "BPE",
    "Cache",
    "Decoder",
    "Names",
    "amx_state",
    "hash_documents",
    "json_texts",
    "multiply",
    "shared_windows",
    "utf8_error",
]

_Ids: TypeAlias = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
_Positions: TypeAlias = npt.NDArray[np.int64]

_Documents: TypeAlias = tuple[bytes, _Positions, _Positions]
"""(data, starts, ends): texts, each a range of the same bytes."""
_JsonTexts: TypeAlias = tuple[bytes, _Positions, _Positions, _Positions]
"""(data, starts, ends, numbers): texts, each followed by the byte 0xFF, and their lines."""

def amx_state() -> tuple[bool, bool]:
    """(CPUID announces AMX, AMX's tiles have a geometry); (False, False) except on x86-64."""

def multiply(
    kind: str,
    weights: npt.NDArray[Any],
    x: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
    n_threads: int,
) -> None:
    """Multiply each vector of x (vectors, columns) by a matrix, into out (vectors, rows).

    The weights are float32 or uint16 (rows, columns) for the kinds 'f32' and 'bf16', or uint8
    (rows, bytes of a row) for the blocks 'q8_0' and 'q4_0'. All arrays are contiguous, and out
    shares no memory with the others. The GIL is released.

    Raises ValueError if the arrays don't fit together, TypeError for other arrays.
    """

@final
class Names:
    """Names that texts may have in them. Raises ValueError for too many."""

    def __new__(cls, names: Sequence[bytes]) -> Names: ...
    def are_in(self, data: bytes) -> bool:
        """Return whether any of the names is in data. The GIL is released."""

def json_texts(
    lines: bytes, field: str, part_bytes: int, longest: int, n_threads: int
) -> tuple[list[_JsonTexts], list[tuple[int, int, int]], int]:
    """Read the texts under a key, or a path of keys with dots between, of lines of JSON.

    Returns (texts, others, n_lines): the texts that are not empty, in parts of about part_bytes of
    lines, and each line without one that is not blank, as (number, start, end). The caller must
    judge those: they are not JSON, not UTF-8, of `longest` bytes or more, nested deeply, or have
    no string under the key. Numbers count from 0. The GIL is released.
    """

def hash_documents(documents: _Documents) -> bytes:
    """Return the BLAKE2b hashes of the documents, 16 bytes each, one after another."""

def shared_windows(
    train: Iterable[str | bytes],
    val: Iterable[str | bytes],
    n_bytes: int,
    n_threads: int,
) -> tuple[int, int]:
    """Return how many windows of val's texts occur in train's, and how many there are in val's.

    A window is n_bytes long, inside a single text. Windows are compared by a hash of 64 bits.
    Raises ValueError for n_bytes 0. The GIL is released.
    """

def utf8_error(data: bytes) -> int | None:
    """Return the position of the first byte that is not UTF-8, or None if all are."""

@final
class Decoder:
    """A GPT on the CPU. It reads the weights where they are, so the caller keeps them alive.

    tensors: (address, kind, rows, columns) by name. A kind is "f32", "bf16", "q8_0" or "q4_0".
    """

    def __new__(cls, config: object, tensors: dict[str, tuple[int, str, int, int]]) -> Decoder: ...
    def step(
        self,
        ids: list[int],
        rows: list[int],
        lengths: list[int],
        cache: Cache,
        n_threads: int,
        logits: int,
    ) -> None:
        """Append ids[i] to row rows[i] of the cache; several ids of one row stand together.

        logits: address of the result, float32 (n, V).
        """

@final
class Cache:
    """Where the keys and values of a `KVCache` are. The caller keeps them alive.

    config: that of the model. layers: (address of the keys, of the values, capacity) of each layer.
    ids: address of the ids.
    """

    def __new__(
        cls,
        config: object,
        layers: list[tuple[int, int, int]],
        n_rows: int,
        ids: int,
        is_bf16: bool,
    ) -> Cache: ...

@final
class BPE:
    """A byte-level BPE vocabulary with the pattern that cuts text into pre-tokens.

    Whatever can't be done raises ValueError with a sentence that says why.
    """

    def __new__(
        cls,
        ranks: dict[bytes, int],
        pattern: str,
        special_tokens: dict[str, int],
        added_tokens: list[tuple[str, int, bool, bool, bool, bool, bool]],
        *,
        merges: list[tuple[bytes, bytes]] | None = None,
        ignore_merges: bool = False,
        unk: int | None = None,
        fuse_unk: bool = False,
        byte_fallback: bool = False,
        normalizer: str | None = None,
    ) -> BPE:
        """added_tokens: (name, id, special, normalized, lstrip, rstrip, single_word) of each.

        pattern, normalizer: a pattern may be, a normalizer is JSON as in a tokenizer.json.
        """
    @staticmethod
    def train(
        texts: Iterable[str | bytes],
        vocab_size: int,
        pattern: str,
        special_tokens: list[str],
        min_frequency: int,
        forbidden: list[bytes],
        alphabet: bytes,
        max_token_length: int | None,
        n_threads: int,
        memory_limit: int | None,
        progress: Callable[[str, int, int], object],
    ) -> BPE: ...
    def further_merges(
        self,
        texts: Iterable[str | bytes],
        n_merges: int,
        min_frequency: int,
        forbidden: list[bytes],
        max_token_length: int | None,
        n_threads: int,
        memory_limit: int | None,
        progress: Callable[[str, int, int], object],
    ) -> list[tuple[int, int]]: ...
    @staticmethod
    def canonical_pattern(pattern: str) -> str:
        """Return the pattern by its name if one cuts every text as this one does."""

    @staticmethod
    def pattern_to_oniguruma(pattern: str) -> str: ...
    @staticmethod
    def pattern_matches_everything(pattern: str) -> bool: ...
    @staticmethod
    def pattern_is_linear(pattern: str) -> bool: ...
    def pretokenize(self, text: str) -> list[str]: ...
    def align(self, text: str) -> tuple[bytes, npt.NDArray[np.uint64], npt.NDArray[np.uint64]]: ...
    @property
    def keeps_text(self) -> bool: ...
    def safe_cut(self, data: bytes) -> int: ...
    def encode_ordinary(self, text: str | bytes) -> list[int]: ...
    def encode(self, text: str, allowed: set[str] | None) -> list[int]: ...
    def release_memory(self) -> None: ...
    def count(self, text: str | bytes) -> int: ...
    def encode_to_numpy(self, text: str | bytes) -> _Ids: ...
    def encode_batch(self, texts: Sequence[str | bytes], n_threads: int) -> list[list[int]]: ...
    def encode_batch_special(
        self, texts: Sequence[str | bytes], allowed: set[str] | None, n_threads: int
    ) -> list[list[int]]: ...
    def encode_blocks(self, texts: Sequence[str | bytes], n_threads: int) -> list[_Ids]: ...
    def encode_documents(
        self, documents: Sequence[_Documents], separator: int | None, n_threads: int
    ) -> list[tuple[_Ids, _Positions]]: ...
    def decode_bytes(self, ids: list[int] | npt.NDArray[Any]) -> bytes: ...
    def token_lengths(self) -> npt.NDArray[np.uint32]: ...
    def id_of(self, token: bytes) -> int | None: ...
    @property
    def n_vocab(self) -> int: ...
    @property
    def pattern(self) -> str: ...
    @property
    def ranks(self) -> dict[bytes, int]: ...
    @property
    def special_tokens(self) -> dict[str, int]: ...
    @property
    def merges(self) -> list[tuple[bytes, bytes]]: ...
    @property
    def follows_ids(self) -> bool: ...
    @property
    def looks_up_whole(self) -> bool: ...
    @property
    def merges_ascend(self) -> bool: ...
