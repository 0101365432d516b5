"""The memory that encoding takes: within its limit, and bounded however many threads encode."""

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path

import pytest

from gptfast.data.documents import ReadOptions
from gptfast.data.encode import encode_files
from gptfast.system.cpu import n_cores
from gptfast.tokenizer import BPETokenizer

BYTES = {bytes([byte]): byte for byte in range(256)}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


# tokenizers#1345, tokenizers#1546: a long document fits a limit, whatever the pattern.
@pytest.mark.parametrize(
    "pattern",
    [QWEN, r"\S+|\s+", r"\s?\p{L}+|\p{N}{1,3}|[^\p{L}\p{N}]", r"\b\w+\b|\w|[^\w\s]+|\s", r"\w+|\W"],
)
def test_a_long_document_is_encoded_within_a_limit_by_any_pattern(
    pattern: str, tmp_path: Path
) -> None:
    text = "It's 12 words, and\n  a  few\tmore! 字 é\r\n\r\n" * 20_000
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    tokenizer = BPETokenizer(BYTES | {b"wo": 256, b"It": 257}, pattern, {"<|endoftext|>": 258})
    # A document that can't be cut may take a sixteenth of it: 500 kB of these 900.
    options = ReadOptions(memory_limit=8_000_000, n_threads=1)
    shard = encode_files(tokenizer, tmp_path / "a.txt", tmp_path / "a.bin", options, progress=False)
    assert shard.tokens(tokenizer).tolist() == [*tokenizer.encode_ordinary(text), 258]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# gigatoken#36, gigatoken#29: each thread kept a cache of its own.
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_many_threads_is_bounded_and_can_be_released() -> None:
    tokenizer = BPETokenizer(BYTES)
    source = random.Random(7)
    words = (f" {''.join(source.choices(LETTERS, k=9))}" for _ in range(120_000))
    text = "".join(words)

    before = resident_bytes()
    tokenizer.count(text)
    alone = resident_bytes() - before
    assert alone > 20_000_000  # the cache of one thread has grown to its largest size
    tokenizer.release_memory()
    assert resident_bytes() - before < alone / 3

    barrier = threading.Barrier(10)

    def encode() -> None:
        barrier.wait()
        tokenizer.count(text)

    threads = [threading.Thread(target=encode) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    n_largest = min(max(2, n_cores()), 10)
    assert resident_bytes() - before < n_largest * 45_000_000 + 20_000_000
    tokenizer.release_memory()
    assert resident_bytes() - before < alone / 2
    assert tokenizer.count(text[:1000]) == 1000
