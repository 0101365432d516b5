"""Stream a data set from the Hugging Face Hub into JSON Lines files."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptfast.cli.progress import show_bytes
from gptfast.data.sources import cache_folder
from gptfast.errors import MissingFileError, UserError
from gptfast.system.files import write_atomically, write_text_atomically

DOCUMENTS_PER_FILE = 50_000
"""Also the maximum number of documents that are streamed again after a kill."""


@dataclass(frozen=True)
class HubDataset:
    """One split of a data set."""

    name: str
    """OWNER/NAME, or the path of a folder with the layout of a Hub data set."""
    config: str | None = None
    split: str = "train"
    """A name, or slices as `datasets` writes them: train[:1%], train[1000:2000]+test."""


def open_hub(dataset: HubDataset) -> Any:
    """Return a `datasets.DatasetBuilder`, whose `hash` changes with the content of the data set.

    Raises UserError if the library is not installed, or if it can't open the data set or its
    configuration. Raises MissingFileError if it can't reach the data set, OSError for a full disk.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f'reading a Hub data set needs a library ({error}): pip install "gptfast[hub]"'
        ) from error
    # The readers log why they can't read a file. The UserError below contains the same reason.
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)
    cache = str(cache_folder() / "hub")
    try:
        with _in_one_line(f"the data set {dataset.name} can't be opened"):
            return datasets.load_dataset_builder(dataset.name, dataset.config, cache_dir=cache)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            error.filename = error.filename or cache
            raise
        raise MissingFileError(
            f"the data set {dataset.name!r} can't be reached ({error}): expected OWNER/NAME on the "
            f"Hub, or a folder with the layout of a Hub data set"
        ) from error


def stream_to_files(
    builder: Any, split: str, column: str, folder: Path, progress: bool
) -> list[Path]:
    """Write the texts in `column` to `folder`/00000.jsonl and so on; return the files in order.

    builder: from `open_hub`. Each line has the text under the key `column`. Existing files are
    kept, and their documents are not streamed again. A slice by percents or from the end of a split
    streams it twice, unless the data set says how many rows it has. Raises UserError for an unknown
    split or column or a damaged data set, OSError for a full disk or if the Hub fails.
    """
    folder.mkdir(exist_ok=True)
    ended = folder / "ended"
    files = sorted(folder.glob("*.jsonl"))
    if ended.exists():
        return files
    with _in_one_line("the data set can't be streamed"):
        rows = _rows(builder, split, column)
    texts = _texts(rows.skip(DOCUMENTS_PER_FILE * len(files)), column)
    written = sum(file.stat().st_size for file in files)
    with show_bytes("streaming", None, progress) as move:
        for first in texts:
            in_file = itertools.chain([first], itertools.islice(texts, DOCUMENTS_PER_FILE - 1))
            path = folder / f"{len(files):05}.jsonl"
            _write_lines(path, column, in_file)
            files.append(path)
            written += path.stat().st_size
            move(written)
    write_text_atomically(ended, "")
    return files


def row_of(line: bytes, dataset: HubDataset) -> bytes:
    """Return a line of a log of what was skipped, with rows of the data set for lines of files."""
    entry = json.loads(line)
    if "line" not in entry:  # a file that can't be read any more
        return line
    row = int(Path(entry["file"]).stem) * DOCUMENTS_PER_FILE + entry["line"]
    place = f"{entry['file']}, line {entry['line']}"
    reason = entry["reason"].replace(place, f"{dataset.name}, {dataset.split}, row {row}")
    named = {"file": dataset.name, "split": dataset.split, "row": row, "reason": reason}
    return json.dumps(named).encode() + b"\n"


def _rows(builder: Any, split: str, column: str) -> Any:
    """Return the split, or the slices of splits, as a `datasets.IterableDataset` of one column."""

    def whole(name: str) -> Any:
        return builder.as_streaming_dataset(split=name).select_columns([column])

    if "[" not in split and "+" not in split:
        return whole(split)
    from datasets import ReadInstruction, concatenate_datasets

    names = {part.split("[")[0].strip() for part in split.split("+")}
    if re.search(r"%|\[\s*-|:\s*-", split):
        known = builder.info.splits or {}
        sizes = {
            name: known[name].num_examples if name in known else sum(1 for _ in whole(name))
            for name in names
        }
    else:
        sizes = dict.fromkeys(names, sys.maxsize)
    slices = ReadInstruction.from_spec(split).to_absolute(sizes)
    return concatenate_datasets(
        [whole(part.splitname).skip(part.from_).take(part.to - part.from_) for part in slices]
    )


def _texts(rows: Iterable[dict[str, Any]], column: str) -> Iterator[Any]:
    with _in_one_line("the data set can't be read"):
        try:
            for row in rows:
                yield row[column]
        except KeyError as error:  # some data sets don't list their columns in advance
            raise UserError(f"the data set has no column {error}: give another --column") from error


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """Convert any exception of the library to a UserError of one line."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"{what} ({reason}): expected a configuration, a split and files that the datasets "
            f"library can read"
        ) from error


def _write_lines(path: Path, column: str, texts: Iterable[Any]) -> None:
    """Write a line of JSON for each text. The reader raises for a text that is not a string."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            for text in texts:
                # Types unknown to JSON (bytes, dates) become null, which is no string either.
                json.dump({column: text}, file, ensure_ascii=False, default=lambda _: None)
                file.write("\n")

    write_atomically(path, write)
