"""run.json: what made a model, so that it can be made again."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gptfast import __version__
from gptfast.data.dataset import Mixture
from gptfast.errors import UserError
from gptfast.system.files import write_text_atomically
from gptfast.train.config import TrainConfig
from gptfast.train.loop import Result


def write_record(
    config: TrainConfig,
    command: str,
    data: Mixture,
    result: Result | None,
    older: dict[str, Any] | None,
    processes: int,
) -> None:
    """Write config.out/run.json.

    result: None while the run is not finished. older: the record of the run that this command goes
    on with; its command stays, and this one is added to those that resumed it.
    """
    resumed_by = [*older.get("resumed_by", []), command] if older else []
    content = {
        "config": config.to_json(),
        "command": older["command"] if older else command,
        "resumed_by": resumed_by,
        "data": asdict(data.parts[0].report),
        "further_data": [asdict(part.report) for part in data.parts[1:]],
        "shares": list(data.weights),
        "versions": {
            "gptfast": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": _version("triton"),
            "numpy": _version("numpy"),
        },
        "hardware": hardware() | {"processes": processes},
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "result": asdict(result) if result else None,
    }
    write_text_atomically(config.out / "run.json", json.dumps(content, indent=2) + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """The content of a folder's run.json. Raises UserError if it is damaged."""
    path = folder / "run.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["config"].items(), content["command"], content["data"]["corpus_sha256"]
        [report["corpus_sha256"] for report in content.get("further_data", [])]
        if content["result"] is not None:
            Result(**content["result"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): train again with --overwrite") from error
    return content


def hardware() -> dict[str, Any]:
    """What this process computes on."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
