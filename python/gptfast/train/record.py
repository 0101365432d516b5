"""Read and write run.json, which records how a model was trained."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gptfast.errors import UserError
from gptfast.system.files import write_text_atomically
from gptfast.system.machine import hardware, versions
from gptfast.train.config import RunConfig
from gptfast.train.loop import Result
from gptfast.train.objective import Task


def write_record(
    config: RunConfig,
    command: str,
    task: Task,
    result: Result | None,
    older: dict[str, Any] | None,
    processes: int,
) -> None:
    """Write config.out/run.json.

    result: None until the run is finished. older: the record of the run that this command resumes.
    Its command is kept, and `command` is added to `resumed_by`.
    """
    content = {
        "config": config.to_json(),
        "command": older["command"] if older else command,
        "resumed_by": [*older["resumed_by"], command] if older else [],
        "fingerprint": task.source.fingerprint,
        **task.record,
        "versions": versions(),
        "hardware": hardware() | {"processes": processes},
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "result": asdict(result) if result else None,
    }
    write_text_atomically(config.out / "run.json", json.dumps(content, indent=2) + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's run.json. Raises UserError if it is damaged."""
    path = folder / "run.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["config"].items(), content["command"], content["fingerprint"]
        iter(content["resumed_by"])
        if content["result"] is not None:
            Result(**content["result"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): train again with --overwrite") from error
    return content
