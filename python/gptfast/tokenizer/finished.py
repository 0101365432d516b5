"""Which shards of a folder are finished, so that a run that was killed goes on where it was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptfast.data.documents import Paths, ReadReport, find_files, path_list
from gptfast.data.shard import Shard
from gptfast.errors import UserError
from gptfast.system.files import write_text_atomically
from gptfast.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from gptfast.data.encode import EncodeOptions


def shard_paths(paths: Paths, folder: Path) -> dict[Path, Path]:
    """Return the shard of each file: `folder/NAME.bin`, NAME from the folder that was given on.

    Raises UserError if two files would have the same one.
    """
    shards: dict[Path, Path] = {}
    files: dict[Path, Path] = {}
    for path in path_list(paths):
        for file in find_files(path):
            name = file.relative_to(path) if Path(path).is_dir() else Path(file.name)
            shard = folder / name.with_name(f"{name.name}.bin")
            if files.setdefault(shard, file) != file:
                raise UserError(
                    f"{files[shard]} and {file} would both become {shard}: expected files of "
                    f"different names, or the folder that they are in"
                )
            shards[file] = shard
    return shards


@dataclass(frozen=True)
class Record:
    """What a finished shard was made from, in `NAME.bin.json` beside it.

    The tokenizer is not in it: its hash is in the shard.
    """

    shard: Path
    made_from: dict[str, Any]

    @classmethod
    def of(cls, file: Path, shard: Path, options: EncodeOptions) -> Record:
        """Note a file's place, size and time of change, and the options that decide on the ids."""
        stat = file.stat()
        made_from = {
            "source": str(file.resolve()),
            "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }
        names = ("separator", "field", "column", "errors", "on_error")
        made_from |= {name: getattr(options, name) for name in names}
        if options.on_error == "skip":  # else it decides on whether the run comes to its end only
            made_from["memory_limit"] = options.memory_limit
        return cls(shard, made_from)

    def finished_shard(self, tokenizer: Tokenizer, report: ReadReport) -> Shard | None:
        """Return the shard if it need not be made again; `report` learns how much that saves."""
        try:
            shard, kept = Shard.open(self.shard), json.loads(self.path.read_bytes())
            made_from, skipped = kept["made_from"], int(kept["skipped"])
        except (UserError, OSError, ValueError, LookupError, TypeError):
            return None
        if shard.tokenizer_sha256 != tokenizer.fingerprint or made_from != self.made_from:
            return None
        report.skipped += skipped
        report.files_kept += 1
        report.bytes_kept += self.made_from["bytes"]
        return shard

    def remove(self) -> None:
        """Forget the shard, before it is made again."""
        self.path.unlink(missing_ok=True)

    def write(self, skipped: int) -> None:
        """Note that the shard is finished, and how much was left out of it."""
        contents = {"made_from": self.made_from, "skipped": skipped}
        write_text_atomically(self.path, json.dumps(contents, indent=2) + "\n")

    @property
    def path(self) -> Path:
        """`NAME.bin.json`."""
        return self.shard.with_name(f"{self.shard.name}.json")
