"""The BPE tokenizer beside the libraries of ENTRANTS and TRAINERS: same files, one run.

    python benchmarks/tokenizer.py --rows encode,files --repeats 5 --json out.json

Each measurement runs in a fresh process, in turns (A B C, A B C, ...) so that whatever else the
machine does meets everybody. Cold is a process's first call, with the tokenizer loaded and the text
in memory; warm is the median of further calls. A process takes only as many CPUs as the row says,
by its affinity mask, and RAYON_NUM_THREADS says the same. No speed is shown for an output that was
not compared: ids with tiktoken's, decoded bytes with the rank file's; a trained vocabulary must
have the size asked for and give a sample back.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from gptfast.cli import cli
from gptfast.errors import MissingFileError, RunError, UserError
from gptfast.system.files import write_text_atomically
from saving import circumstances
from tokenizer_bench import report, worker
from tokenizer_bench.cases import cases_of
from tokenizer_bench.entrants import ENTRANTS, OURS
from tokenizer_bench.inputs import Inputs, copy_text, sha256
from tokenizer_bench.measures import rows_of
from tokenizer_bench.plan import ASK_ONCE_SECONDS, GROUPS, VOCAB_SIZE, jobs_of, rounds_of
from tokenizer_bench.trainers import TRAINERS
from tokenizer_bench.vocabularies import VOCABULARIES, find_ranks

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
GPT2_RANKS = SHARED / "gpt2.tiktoken"


@dataclass(frozen=True)
class Config:
    """What to measure, and on what."""

    corpus: Path = SHARED / "prose.txt.xz"
    """A text in UTF-8; unpacked if it ends in .xz."""
    vocabulary: Path = GPT2_RANKS
    """A tiktoken rank file for GPT-2's pattern. If the default is missing, ours trains one."""
    rows: str = ",".join(GROUPS)
    """Which tables, with commas between."""
    repeats: int = 5
    """Rounds, each with a fresh process for every library and row. "first" has nearly twice as
    many (9 of 5), "vocabularies", "scripts" and "train" half."""
    libraries: str = ",".join(ENTRANTS | TRAINERS)
    """Which libraries, with commas between; those that are not installed are left out."""
    ranks: Path = Path(".venv/vocabularies")
    """A folder with the rank files of cl100k, o200k, Llama 3 and Qwen 2, under any names; those
    that are missing are left out."""
    megabytes: float | None = None
    """Use only the beginning of the corpus: for a quick run."""
    json: Path | None = None
    """Where every raw sample goes, with the machine, the versions and the corpus' checksum."""
    scratch: Path = Path("runs")
    """Folder on the disk that token shards are written to; what is put there is deleted again."""

    def __post_init__(self) -> None:
        unknown = set(self.groups) - set(GROUPS)
        if unknown:
            raise UserError(
                f"rows has {', '.join(sorted(unknown))}: expected of {','.join(GROUPS)}"
            )
        strangers = set(self.libraries.split(",")) - set(ENTRANTS | TRAINERS)
        if strangers:
            raise UserError(
                f"libraries has {', '.join(sorted(strangers))}: expected of "
                f"{','.join(ENTRANTS | TRAINERS)}"
            )
        if not {OURS, "tiktoken"} <= set(self.libraries.split(",")):
            raise UserError(
                f"libraries lacks {OURS} or tiktoken: one is measured, one the reference"
            )
        if self.repeats < 1:
            raise UserError(f"repeats is {self.repeats}: expected at least 1")
        if self.megabytes is not None and self.megabytes <= 0:
            raise UserError(f"megabytes is {self.megabytes}: expected more than 0")
        if not self.corpus.is_file():
            raise MissingFileError(f"no file {self.corpus}: name a text with --corpus")
        if self.vocabulary != GPT2_RANKS and not self.vocabulary.is_file():
            raise MissingFileError(f"no rank file {self.vocabulary}")

    @property
    def groups(self) -> list[str]:
        return self.rows.split(",")


def main(argv: Sequence[str]) -> int:
    """Measure, print, save. Returns 1 if an output of ours was refused or failed, else 0."""
    config = cli.parse(Config, argv, "python benchmarks/tokenizer.py")
    if len(_cpus()) < 2:
        raise UserError("this process may use 1 CPU: the rows for 2 threads need 2")
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 120)
    config.scratch.mkdir(parents=True, exist_ok=True)
    wanted = config.libraries.split(",")
    installed = [who for who in wanted if importlib.util.find_spec(who)]
    left_out = [who for who in wanted if who not in installed]
    for who in left_out:
        console.print(f"{who} is left out: it is not installed")
    if "tiktoken" in left_out:
        raise UserError("tiktoken is needed, as the reference: pip install tiktoken")
    with tempfile.TemporaryDirectory(dir=config.scratch, prefix="benchmark-") as folder:
        inputs = Inputs(Path(folder))
        record = _record(config, inputs, installed, left_out)
        console.print_json(data={key: record[key] for key in ("hardware", "versions", "corpus")})
        rows: list[report.Row] = []
        for group in config.groups:
            measure(group, config, installed, inputs, record["runs"])
            rows += show(group, record, inputs.folder, console)
            if config.json is not None:
                write_text_atomically(config.json, json.dumps(record, indent=1) + "\n")
    report.print_targets(rows, record["growth"], console)
    without_ours = [r for r in record["runs"] if r["who"] == OURS and "seconds" not in r["reply"]]
    return 1 if without_ours else 0


def measure(
    group: str, config: Config, installed: list[str], inputs: Inputs, runs: list[dict[str, Any]]
) -> None:
    """Append to `runs` what every job of the group replied, in each round.

    Whoever is refused or fails once is not asked again for the same; nor is whoever is very slow.
    """
    ranks = {"gpt2": inputs.ranks} | find_ranks(config.ranks)
    if group == "vocabularies" and (missing := VOCABULARIES.keys() - ranks.keys()):
        names = ", ".join(sorted(missing))
        print(f"{names} left out: no rank file in {config.ranks}", file=sys.stderr)
    cases = cases_of(group, config.megabytes or 1000, ranks)
    for case in filter(None, cases):
        path = ranks[case.split("-")[1]] if not case.startswith("first") else ""
        reply = run_worker(["case", str(inputs.folder), case, str(path)], 2)
        if why := reply.get("error") or reply.get("failed"):
            raise RunError(f"the inputs of {case} could not be made: {why}")
    given_up = set()
    rounds = rounds_of(group, config.repeats)
    for round_number in range(rounds):
        for job in (job for case in cases for job in jobs_of(group, installed, case)):
            if job in given_up:
                continue
            place = f"{group} {job.case}, round {round_number + 1} of {rounds}"
            print(f"{place}: {job.who}, {job.task}, threads: {job.threads}", file=sys.stderr)
            reply = run_worker(worker.arguments_of(job, inputs.folder), job.threads)
            if sum(reply.get("seconds", [ASK_ONCE_SECONDS])) >= ASK_ONCE_SECONDS:
                given_up.add(job)
            runs.append({"group": group, "round": round_number, **asdict(job), "reply": reply})


def run_worker(arguments: list[str], threads: int) -> dict[str, Any]:
    """The last line of a fresh process' output; {"failed": why} if it died instead."""
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--worker", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"failed": lines[-1]}
    reply: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return reply


def show(group: str, record: dict[str, Any], folder: Path, console: Console) -> list[report.Row]:
    """Print a group's tables, note in the record what is in them, and return the rows."""
    runs = [run for run in record["runs"] if run["group"] == group]
    for run in runs:
        if "seconds" not in run["reply"]:
            ((why, what),) = run["reply"].items()
            job = ", ".join(filter(None, (run["case"], run["who"], run["task"])))
            console.print(f"{job}: {why}, so no speed is shown: {what}", soft_wrap=True)
    if group == "limits":
        record["limits"] = runs[0]["reply"].get("limits", {})
        console.print("what this machine can do at most, on one thread")
        report.print_limits(record["limits"], console)
        return []
    if group == "growth":
        record["growth"] = report.growth_of(runs)
        report.print_growth(record["growth"], console)
        return []
    rows = rows_of(group, runs)
    report.print_rows(group, rows, console)
    if group == "first":
        report.print_first(runs, record["limits"], console)
    if group == "train":
        record["notes"] = report.training_notes(runs, folder)
        for note in record["notes"]:
            console.print(note, soft_wrap=True)
    record["rows"] += [
        {**asdict(row), "ratios": {w: row.ratios(w) for w in row.samples if w != row.ours}}
        for row in rows
    ]
    return rows


def _record(
    config: Config, inputs: Inputs, installed: list[str], left_out: list[str]
) -> dict[str, Any]:
    """Make the inputs, and the JSON with everything but measurements."""
    limit = int(config.megabytes * 1e6) if config.megabytes is not None else None
    copy_text(config.corpus, inputs.corpus, limit)
    ranks = str(config.vocabulary) if config.vocabulary.is_file() else ""
    vocabulary = run_worker(["prepare", str(inputs.folder), ranks, str(VOCAB_SIZE)], 2)
    if "error" in vocabulary:
        raise UserError(vocabulary["error"])
    if "failed" in vocabulary:
        raise RunError(f"the inputs could not be made: {vocabulary['failed']}")
    about = circumstances()
    about["hardware"] |= _resources(config.scratch)
    package = importlib.metadata.packages_distributions()
    about["versions"] |= {
        who: importlib.metadata.version(package[who][0]) for who in installed if who != OURS
    }
    return {
        **about,
        "command": shlex.join(["python", "benchmarks/tokenizer.py", *sys.argv[1:]]),
        "left_out": left_out,
        "corpus": {
            "name": config.corpus.name,
            "bytes": inputs.corpus.stat().st_size,
            "sha256": sha256(inputs.corpus),
        },
        "vocabulary": {
            "name": config.vocabulary.name if ranks else "trained by gptfast",
            **vocabulary,
        },
        "repeats": config.repeats,
        "limits": {},
        "rows": [],
        "growth": {},
        "notes": [],
        "runs": [],
    }


def _resources(scratch: Path) -> dict[str, Any]:
    """Return what the measured processes may use of the machine."""
    file_system = subprocess.run(
        ["stat", "-f", "-c", "%T", scratch], capture_output=True, text=True, check=False
    )
    return {
        "cpus": len(_cpus()),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "shards_on": file_system.stdout.strip() or "unknown",
    }


def _cpus() -> list[int]:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker.main(sys.argv[2:])
    else:
        sys.exit(cli.run(main))
