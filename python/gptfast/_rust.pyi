"""The Rust extension. Only `gptfast.tokenizer` and `gptfast._cpu` import it."""

from collections.abc import Iterable
from typing import final

import numpy as np
import numpy.typing as npt

__all__ = ["BPE", "amx_state"]

def amx_state() -> tuple[bool, bool]:
    """(CPUID announces AMX, AMX's tiles have a geometry); (False, False) except on x86-64."""

@final
class BPE:
    """A byte-level BPE vocabulary with the pattern that cuts text into pre-tokens.

    Whatever can't be done raises ValueError with a sentence that says why.
    """

    def __new__(
        cls, ranks: dict[bytes, int], pattern: str, special_tokens: dict[str, int]
    ) -> BPE: ...
    @staticmethod
    def train(
        texts: Iterable[str],
        vocab_size: int,
        pattern: str,
        special_tokens: list[str],
        min_frequency: int,
    ) -> BPE: ...
    def pretokenize(self, text: str) -> list[str]: ...
    def encode_ordinary(self, text: str) -> list[int]: ...
    def encode_to_numpy(self, text: str) -> npt.NDArray[np.uint32]: ...
    def encode_bytes(self, data: bytes) -> list[int]: ...
    def decode_bytes(self, ids: list[int]) -> bytes: ...
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
