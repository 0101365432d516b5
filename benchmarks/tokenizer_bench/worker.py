"""The timed process: one library, one task, then one line of JSON.

Every output is compared, after the clock has stopped, before its time is told.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptfast.errors import UserError
from tokenizer_bench import limits
from tokenizer_bench.calls import Call, Unsupported, joined_text
from tokenizer_bench.cases import make_case
from tokenizer_bench.entrants import ENTRANTS
from tokenizer_bench.inputs import Inputs, prepare
from tokenizer_bench.trainers import TRAINERS, Trained

WARM_CALLS, WARM_CALLS_IF_SHORT = 5, 20
SHORT_SECONDS, LONG_SECONDS = 0.5, 4.0
SAMPLE_BYTES = 100_000


@dataclass(frozen=True)
class Job:
    """What a timed process does. `who` is a name in ENTRANTS or TRAINERS."""

    task: str
    who: str
    threads: int
    vocab_size: int = 32_768
    fraction: float = 1.0
    """Training only: the part of the text to learn from."""
    pattern: str = "gpt2"
    """Training only: a name in VOCABULARIES."""
    case: str = ""
    """The folder of another text or vocabulary, made by `cases.make_case`."""
    calls: int = 0
    """How often to call at most; 0 for as often as WARM_CALLS and others say."""


class Different(Exception):
    """An output is not what it should be."""


def run_job(job: Job, folder: Path) -> dict[str, Any]:
    """Do a job and say what came of it: {"seconds": ...}, or {"refused": why}."""
    bind_threads(job.threads)
    inputs = Inputs(folder / job.case)
    if job.task == "limits":
        return {"seconds": [], "amount": 0, "limits": limits.measure(inputs.corpus)}
    try:
        return _train(job, inputs) if job.task == "train" else _call_repeatedly(job, inputs)
    except Different as different:
        return {"refused": str(different)}
    except Unsupported as unsupported:
        return {"left out": str(unsupported)}


def _call_repeatedly(job: Job, inputs: Inputs) -> dict[str, Any]:
    call: Call = getattr(ENTRANTS[job.who](inputs, job.threads), job.task)()
    expected = _expected(job.task, inputs)
    seconds: list[float] = []
    first: dict[str, float] = {}
    while _go_on(seconds, job.calls):
        before = limits.usage()
        start = time.perf_counter()
        output = call.run()
        seconds.append(time.perf_counter() - start)
        used = {what: after - before[what] for what, after in limits.usage().items()}
        first = first or used
        compare(call.result(output), expected)
        del output
    return {"seconds": seconds, "amount": _amount(job.task, inputs), "first": first}


def _go_on(seconds: list[float], calls: int = 0) -> bool:
    """Whether to call again: once at least, WARM_CALLS times unless calls are long or short."""
    if calls:
        return len(seconds) < calls
    warm_calls, total = len(seconds) - 1, sum(seconds)
    return (
        warm_calls < 1
        or (warm_calls < WARM_CALLS and total < LONG_SECONDS)
        or (warm_calls < WARM_CALLS_IF_SHORT and total < SHORT_SECONDS)
    )


def _train(job: Job, inputs: Inputs) -> dict[str, Any]:
    path = inputs.prefix(job.fraction)
    call = TRAINERS[job.who](path, job.vocab_size, job.threads, job.pattern)
    with path.open("rb") as file:
        sample = file.read(SAMPLE_BYTES).decode(errors="ignore")
    rss_before = peak_rss()
    start = time.perf_counter()
    output = call.run()
    seconds = time.perf_counter() - start
    rss_peak = peak_rss()

    trained: Trained = call.result(output)
    if trained.n_vocab != job.vocab_size:
        raise Different(f"it has {trained.n_vocab} tokens: {job.vocab_size} were asked for")
    ids = trained.encode(sample)
    if trained.decode(ids) != sample:
        raise Different("its vocabulary does not give a sample of the text back")
    if trained.merges is not None:
        merges = [[left.hex(), right.hex()] for left, right in trained.merges]
        (inputs.folder / f"merges-{job.pattern}-{job.who}.json").write_text(json.dumps(merges))
    return {
        "seconds": [seconds],
        "amount": path.stat().st_size,
        "rss_before": rss_before,
        "rss_peak": rss_peak,
        "bytes_per_token": len(sample.encode()) / len(ids),
    }


def compare(found: Any, expected: Any) -> None:
    """Raise Different, with the first position, unless both are the same ids or bytes."""
    if isinstance(found, bytes):
        found, expected = np.frombuffer(found, np.uint8), np.frombuffer(expected, np.uint8)
    n = min(len(found), len(expected))
    differences = np.flatnonzero(found[:n] != expected[:n])
    if len(differences):
        i = differences[0]
        raise Different(f"at position {i} it has {found[i]}, expected {expected[i]}")
    if len(found) != len(expected):
        raise Different(f"it has {len(found)} in all, expected {len(expected)}")


def peak_rss() -> int:
    """The most memory that this process has held, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        # Not the first choice: on Linux it starts at the peak of the process that started this one.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def bind_threads(threads: int) -> None:
    """Take only `threads` of the CPUs. The thread pools' variables are set by the parent."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def _expected(task: str, inputs: Inputs) -> Any:
    match task:
        case "encode_batch":
            return inputs.expected_ids("documents")
        case "encode_short":
            return inputs.expected_ids("short")
        case "chat_lists" | "chat_arrays":
            return inputs.expected_ids("messages")
        case "jsonl_to_shards":
            return inputs.expected_ids("jsonl")
        case "decode" | "decode_bytes" | "decode_batch":
            return joined_text(map(inputs.bytes_of, inputs.sequences))
        case _:
            return inputs.expected_ids("text")


def _amount(task: str, inputs: Inputs) -> int:
    """The bytes that a timed call is about; of "encode_short", the number of strings."""
    match task:
        case "encode_batch":
            return sum(len(document.encode()) for document in inputs.documents)
        case "encode_short":
            return len(inputs.short)
        case "chat_lists" | "chat_arrays":
            return sum(len(message.encode()) for message in inputs.messages)
        case "jsonl_to_shards":
            return inputs.jsonl.stat().st_size
        case "decode" | "decode_bytes" | "decode_batch":
            return sum(len(inputs.bytes_of(sequence)) for sequence in inputs.sequences)
        case _:
            return len(inputs.text)


def main(arguments: list[str]) -> None:
    """`prepare FOLDER VOCABULARY SIZE`, `case FOLDER CASE RANKS` or `run FOLDER JOB` in JSON."""
    match arguments:
        case ["prepare", folder, vocabulary, vocab_size]:
            path = Path(vocabulary) if vocabulary else None
            try:
                reply = prepare(Inputs(Path(folder)), path, int(vocab_size))
            except UserError as error:
                reply = {"error": str(error)}
        case ["case", folder, case, ranks]:
            try:
                reply = make_case(Inputs(Path(folder)), case, Path(ranks) if ranks else None)
            except UserError as error:
                reply = {"error": str(error)}
        case ["run", folder, job]:
            reply = run_job(Job(**json.loads(job)), Path(folder))
        case _:
            raise SystemExit(f"not a worker's arguments: {arguments}")
    print(json.dumps(reply))


def arguments_of(job: Job, folder: Path) -> list[str]:
    return ["run", str(folder), json.dumps(asdict(job))]
