"""A data set of the Hugging Face Hub, streamed into files of JSON lines."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptfast.cache import cache_path
from gptfast.errors import MissingFileError, UserError
from gptfast.fsync import write_atomically, write_text_atomically
from gptfast.tokenizer.progress import show_bytes

DOCUMENTS_PER_FILE = 50_000
"""How many are streamed again, at most, by a run that was killed."""


@dataclass(frozen=True)
class HubDataset:
    """Which data set, and what of it."""

    name: str
    """OWNER/NAME, or the path of a folder that is laid out like a data set of the Hub."""
    config: str | None = None
    split: str = "train"


def open_hub(dataset: HubDataset) -> Any:
    """Open the data set: a `datasets.DatasetBuilder`, whose `hash` changes with its contents.

    Raises UserError if the library is not installed or there is no such configuration,
    MissingFileError if the data set can't be had.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"a data set of the Hub needs a library to be read ({error}): "
            f'pip install "gptfast[hub]"'
        ) from error
    try:
        return datasets.load_dataset_builder(
            dataset.name, dataset.config, cache_dir=str(cache_path() / "hub")
        )
    except ValueError as error:
        raise UserError(f"the data set {dataset.name} can't be opened: {error}") from error
    except OSError as error:
        raise MissingFileError(
            f"the data set {dataset.name!r} can't be had ({error}): expected OWNER/NAME on the "
            f"Hub, or a folder laid out like one"
        ) from error


def stream_to_files(
    builder: Any, split: str, column: str, folder: Path, progress: bool
) -> list[Path]:
    """Write the texts in `column` to `folder`/00000.jsonl and so on; return the files, in order.

    builder: from `open_hub`. A text is the value of the key `column` on its line. Files that are
    there are kept, and what is in them is not streamed again. Raises UserError if there is no such
    split or column.
    """
    folder.mkdir(exist_ok=True)
    ended = folder / "ended"
    files = sorted(folder.glob("*.jsonl"))
    if ended.exists():
        return files
    try:
        rows = builder.as_streaming_dataset(split=split).select_columns([column])
    except ValueError as error:
        raise UserError(f"the data set can't be streamed: {error}") from error
    texts = (row[column] for row in rows.skip(DOCUMENTS_PER_FILE * len(files)))
    with show_bytes("streaming", None, progress) as move:
        for first in texts:
            in_file = itertools.chain([first], itertools.islice(texts, DOCUMENTS_PER_FILE - 1))
            path = folder / f"{len(files):05}.jsonl"
            _write_lines(path, column, in_file)
            files.append(path)
            move(sum(file.stat().st_size for file in files))
    write_text_atomically(ended, "")
    return files


def _write_lines(path: Path, column: str, texts: Iterable[Any]) -> None:
    """Write a line of JSON for each text. Of one that is no string the reader will complain."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            for text in texts:
                json.dump({column: text}, file, ensure_ascii=False, default=repr)
                file.write("\n")

    write_atomically(path, write)
