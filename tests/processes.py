"""Processes that train together, started as torchrun starts them but without its start-up time.

Importing PyTorch takes seconds, and torchrun imports it once more than there are processes. Here
Python's fork server imports it once, and every process is a fork of that server.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest.mock import patch

import torch
from torch.distributed import TCPStore

from gptfast.cli import cli
from gptfast.train.__main__ import main

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["gptfast.train.pretrain", "gptfast.train.optim", "gptfast.finetune.sft", "torch._dynamo"]
)
TIMEOUT = 500  # seconds

Program = Callable[[list[str]], int]


@dataclass
class Team:
    """Processes that run, and where their output goes."""

    processes: list[ForkServerProcess]
    output: Path
    store: TCPStore
    """Held, as it is the server through which the processes find one another."""

    def finished(self) -> str:
        """Wait for all; return what they printed. Fails unless each exits with 0."""
        codes = self.exit_codes()
        assert set(codes) == {0}, f"{codes}: {self.printed()}"
        return self.printed()

    def exit_codes(self) -> list[int | None]:
        """Wait for all. When one fails or none ends in time, kill all, as torchrun does."""
        running = {process.sentinel for process in self.processes}
        while running:
            ended = wait(running, TIMEOUT)
            running.difference_update(ended)
            for process in self.processes:
                process.join(0)
            if not ended or any(process.exitcode for process in self.processes):
                self.kill()
        return [process.exitcode for process in self.processes]

    def are_running(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def printed(self) -> str:
        return self.output.read_text(encoding="utf-8")


def start(
    n: int, arguments: list[str], output: Path, program: Program = main, *, grouped: bool = True
) -> Team:
    """Start `program(arguments)` in n processes.

    grouped: as torchrun starts them, in a process group; else as `python -m gptfast.train` runs.
    """
    with patch.dict(os.environ, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    shared = {
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n),
    }  # fmt: skip
    # As the process that the results are compared with has them, or one for each of several.
    n_threads = torch.get_num_threads() if n == 1 else 1
    processes = []
    for rank in range(n):
        environment = dict(os.environ)
        if grouped:
            environment |= shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = CONTEXT.Process(
            target=_run, args=(program, arguments, environment, n_threads, output)
        )
        process.start()
        processes.append(process)
    return Team(processes, output, store)


def _run(
    program: Program,
    arguments: list[str],
    environment: dict[str, str],
    n_threads: int,
    output: Path,
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(n_threads)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    sys.argv = ["gptfast.train", *arguments]
    sys.exit(cli.run(program, arguments))
