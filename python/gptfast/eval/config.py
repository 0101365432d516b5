"""The options of `gptfast eval`'s parts. Needs no PyTorch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CorpusConfig:
    """What of a corpus to measure, and how to read files."""

    part: Literal["val", "train", "all"] = "val"
    """The part of the corpus to measure on."""
    val_fraction: float = 0.1
    """Share at the end of the corpus that is its val part. A prepared folder has its own split."""
    mask_documents: bool = False
    """Prevent documents in the same window from seeing each other, as for `gptfast train`."""
    field: str | None = None
    """The key of the text in JSON, with --corpus and --text. By default that of the run which
    trained the model."""
    column: str | None = None
    """The column of the text in CSV, TSV and Parquet files. By default that of the run."""
    document_separator: str | None = None
    """Text between the documents inside a plain text file, as for `gptfast train`. By default that
    of the run."""

    @property
    def given(self) -> dict[str, str]:
        """How to read files, as far as the options say."""
        options = {
            "field": self.field,
            "column": self.column,
            "document_separator": self.document_separator,
        }
        return {name: value for name, value in options.items() if value is not None}
