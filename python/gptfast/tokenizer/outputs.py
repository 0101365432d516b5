"""What may be written: nothing that is read, nobody else's file, and only where it can be."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from gptfast.data.shard import is_shard
from gptfast.errors import UserError
from gptfast.system.files import make_folder, remove_leftovers


def prepare_shards(
    shards: Collection[Path], records: Collection[Path], inputs: Collection[Path]
) -> None:
    """Check all that will be written, make its folders, delete what killed runs left in them.

    Raises UserError if a place can't be written to, or something there would be lost: one of
    `inputs`, a file that is no shard, or beside a shard one that is no record of it.
    """
    read = {_identity(file) for file in inputs}
    for paths, kind, is_ours in (
        (shards, "token shard", is_shard),
        (records, "record of a token shard", _is_record),
    ):
        for path in paths:
            if not path.exists():
                continue
            if path.is_dir():
                raise UserError(f"{path} is a folder: expected the name of the file to be written")
            if _identity(path) in read:
                raise UserError(
                    f"{path} is one of the files to be read, and would be overwritten: choose "
                    f"another place to write to (out)"
                )
            if not is_ours(path):
                raise UserError(
                    f"{path} exists and is no {kind}, so it is not replaced: choose another place "
                    f"to write to (out)"
                )
    for folder in {path.parent for path in (*shards, *records)}:
        make_folder(folder)
    remove_leftovers((*shards, *records))


def _identity(path: Path) -> tuple[int, int]:
    """Equal for two names of the same file."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _is_record(path: Path) -> bool:
    """Whether a file is what `finished.Record` writes."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "made_from" in content
