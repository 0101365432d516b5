"""Which jobs a group has, and how many rounds."""

from __future__ import annotations

from tokenizer_bench.entrants import ENTRANTS, OURS
from tokenizer_bench.trainers import TRAINERS
from tokenizer_bench.worker import Job

VOCAB_SIZE = 32_768
ASK_ONCE_SECONDS = 20
_TASKS = {
    "first": [("encode", 1)],
    "encode": [("encode", 1), ("encode_batch", 2)],
    "vocabularies": [("encode", 1)],
    "scripts": [("encode", 1)],
    "files": [("encode_files", 1), ("encode_files", 2)],
    "scaling": [("encode_blocks", 1), ("encode_blocks", 2)],
    "jsonl": [("jsonl_to_shards", 1), ("jsonl_to_shards", 2)],
    "chat": [("chat_lists", 2), ("chat_arrays", 2)],
    "small": [("encode_short", 1)],
    "decode": [("decode", 1), ("decode_bytes", 1), ("decode_batch", 2)],
}
GROUPS = ("limits", *_TASKS, "train", "growth")
# These are told by the fastest alone: the whole text would take the others minutes.
_FASTEST = (OURS, "gigatoken")
_ON_ALL_TEXT = (*_FASTEST, "tiktoken", "splintr", "tokie")


def rounds_of(group: str, repeats: int) -> int:
    match group:
        case "limits":
            return 1
        case "first":
            return 2 * repeats - 1
        case "vocabularies" | "scripts" | "train":
            return (repeats + 1) // 2
        case _:
            return repeats


def jobs_of(group: str, installed: list[str], case: str) -> list[Job]:
    match group:
        case "limits":
            return [Job("limits", OURS, 1)]
        case "train":
            return [
                Job("train", who, 2, VOCAB_SIZE, pattern=pattern)
                for pattern in ("gpt2", "cl100k")
                for who in TRAINERS
                if who in installed
            ]
        case "growth":
            sizes = [(n * 1024, 1.0) for n in (8, 16, 32, 64)]
            texts = [(VOCAB_SIZE, fraction) for fraction in (0.1, 0.2, 0.5)]
            return [Job("train", OURS, 2, size, fraction) for size, fraction in sizes + texts]
    return [
        Job(task, who, threads, case=case, calls=1 if group == "first" else 0)
        for task, threads in _TASKS[group]
        for who, entrant in ENTRANTS.items()
        if who in installed
        and hasattr(entrant, task)
        and (group not in ("first", "scripts") or who in _FASTEST)
        and (group != "encode" or task != "encode" or who in _ON_ALL_TEXT)
    ]
