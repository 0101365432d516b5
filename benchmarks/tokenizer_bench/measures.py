"""Which rows each group's table has, with their targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from tokenizer_bench.entrants import OURS
from tokenizer_bench.report import Row, Run


@dataclass(frozen=True)
class _Measure:
    """Which runs a row is made of, and which of a reply's numbers it takes."""

    group: str
    title: str
    task: str
    number: Callable[[Run], float]
    unit: str
    targets: dict[str, float] = field(default_factory=dict)
    """By peer; BEST for the best of them."""
    threads: int = 2
    pattern: str = "gpt2"


BEST = "the best rival"
_FILES = _FIRST = {"gigatoken": 1.5}
_BEST, _TWICE = {BEST: 1.5}, {BEST: 2.0}
_MEMORY = {"gigatoken": 2.0, "rustbpe": 2.0}


def _cold(reply: Run) -> float:
    return float(reply["seconds"][0])


def _warm(reply: Run) -> float:
    return float(median(reply["seconds"][1:]))


def _memory(moment: str) -> Callable[[Run], float]:
    return lambda reply: float(reply[moment])


_MEASURES = [
    _Measure("encode", "encode, warm, 1 thread", "encode", _warm, "MB/s", {"gigatoken": 1.5}, 1),
    _Measure("encode", "encode_batch to lists, 2 threads", "encode_batch", _warm, "MB/s"),
    # gigatoken's call ends with the ids in memory, ours with a shard flushed to the disk.
    _Measure("files", "file to shard, cold, 2 threads", "encode_files", _cold, "MB/s", _FILES),
    _Measure("files", "file to shard, warm, 2 threads", "encode_files", _warm, "MB/s", _FILES),
    _Measure("first", "first call, 1 thread", "encode", _cold, "MB/s", _FIRST, 1),
    _Measure("vocabularies", "encode, warm, 1 thread", "encode", _warm, "MB/s", _TWICE, 1),
    _Measure("scripts", "encode, warm, 1 thread", "encode", _warm, "MB/s", {}, 1),
    _Measure("chat", "10,000 messages to lists, 2 threads", "chat_lists", _warm, "MB/s", _BEST),
    _Measure("chat", "the same to arrays", "chat_arrays", _warm, "MB/s", _BEST),
    # gigatoken's call ends with the ids in memory; tiktoken's is a loop over json.loads.
    _Measure("jsonl", "JSONL to shards, 1 thread", "jsonl_to_shards", _warm, "MB/s", {}, 1),
    _Measure("jsonl", "JSONL to shards, 2 threads", "jsonl_to_shards", _warm, "MB/s"),
    _Measure("scaling", "encode in memory, 2 threads", "encode_blocks", _warm, "MB/s"),
    _Measure("small", "a 30-byte string", "encode_short", _warm, "ns", {"tiktoken": 2}, 1),
    _Measure("decode", "decode, 1,000 ids a call", "decode", _warm, "MB/s", {"tiktoken": 1}, 1),
    _Measure("decode", "decode_bytes, the same", "decode_bytes", _warm, "MB/s", {"tiktoken": 1}, 1),
    # Ours decodes on one thread; those peers that can use two do.
    _Measure("decode", "decode_batch", "decode_batch", _warm, "MB/s", {"tiktoken": 1}),
    _Measure("train", "train, time", "train", _cold, "s", {"gigatoken": 4, "rustbpe": 8}),
    _Measure("train", "train, peak memory", "train", _memory("rss_peak"), "MB", _MEMORY),
    _Measure("train", "memory before training", "train", _memory("rss_before"), "MB"),
    _Measure("train", "train, cl100k's pattern", "train", _cold, "s", {"rustbpe": 8}, 2, "cl100k"),
    _Measure(
        "train",
        "peak memory, cl100k's pattern",
        "train",
        _memory("rss_peak"),
        "MB",
        {"rustbpe": 2},
        2,
        "cl100k",
    ),
]


def rows_of(group: str, runs: list[Run]) -> list[Row]:
    """The rows of a group. Whoever was refused or failed in one round is in none of them."""
    rows = []
    cases = list(dict.fromkeys(run["case"] for run in runs if run["group"] == group))
    for case in cases:
        for m in _MEASURES:
            if m.group != group or not (chosen := _chosen(runs, m, case)):
                continue
            amount = chosen[0]["reply"]["amount"]
            samples = _samples(chosen, m.number)
            title = ", ".join(filter(None, (_label(case), m.title)))
            rows.append(Row(title, m.unit, samples, _resolved(m.targets, samples), amount))
    if group in ("files", "scaling", "jsonl"):
        rows += _scaling(runs, group)
    if group == "vocabularies":
        rows += _beside(runs, "vocabulary-gpt2", cases, 1 / 1.3)
    if group == "scripts":
        for name in ("gpt2", "o200k"):
            same = [case for case in cases if case.startswith(f"script-{name}-")]
            rows += _beside(runs, f"script-{name}-english", same, 0.4)
    return rows


def _label(case: str) -> str:
    """What a case is called in tables."""
    match case.split("-"):
        case ["first", megabytes]:
            return f"{megabytes} MB"
        case ["script", name, kind]:
            return f"{kind} ({name})"
        case [*_, name]:
            return name
    return case


def _resolved(targets: dict[str, float], samples: dict[str, list[float]]) -> dict[str, float]:
    """The targets, with a name in the place of BEST."""
    rivals = {who: median(values) for who, values in samples.items() if who != OURS}
    best = min(rivals, key=rivals.__getitem__) if rivals else BEST
    return {best if peer == BEST else peer: goal for peer, goal in targets.items()}


def _chosen(runs: list[Run], m: _Measure, case: str) -> list[Run]:
    """The runs of everybody who was never refused, round by round."""
    wanted = (m.group, m.task, m.threads, m.pattern, case)
    of_task = [
        run
        for run in runs
        if (run["group"], run["task"], run["threads"], run["pattern"], run["case"]) == wanted
    ]
    out = {run["who"] for run in of_task if "seconds" not in run["reply"]}
    return [run for run in of_task if run["who"] not in out]


def _samples(runs: list[Run], number: Callable[[Run], float]) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {}
    for run in runs:
        samples.setdefault(run["who"], []).append(number(run["reply"]))
    return samples


def _scaling(runs: list[Run], group: str) -> list[Row]:
    """Each library on 2 threads beside itself on 1."""
    tasks = {"files": "encode_files", "scaling": "encode_blocks", "jsonl": "jsonl_to_shards"}
    goal = 1.7 if group == "jsonl" else 1.8
    chosen = [
        _chosen(runs, _Measure(group, "", tasks[group], _warm, "", threads=n), "") for n in (1, 2)
    ]
    one, two = (_samples(each, _warm) for each in chosen)
    return [
        Row(
            f"scaling of {who}'s {tasks[group]}, warm",
            "MB/s",
            {"2 threads": two[who], "1 thread": one[who]},
            {"1 thread": goal} if who == OURS else {},
            chosen[0][0]["reply"]["amount"],
            ours="2 threads",
        )
        for who in one.keys() & two.keys()
    ]


def _beside(runs: list[Run], reference: str, cases: list[str], goal: float) -> list[Row]:
    """Our speed in each case beside our speed in another."""
    measure = _Measure(runs[0]["group"], "", "encode", _warm, "", threads=1)

    def per_byte(reply: Run) -> float:
        return _warm(reply) / float(reply["amount"])

    ours = {c: _samples(_chosen(runs, measure, c), per_byte).get(OURS) for c in cases}
    theirs = ours.get(reference)
    return [
        Row(
            f"ours, {_label(case)} beside {_label(reference)}",
            "MB/s",
            {_label(case): samples, _label(reference): theirs},
            {_label(reference): round(goal, 2)},
            ours=_label(case),
        )
        for case, samples in ours.items()
        if case != reference and samples and theirs
    ]
