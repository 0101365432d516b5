"""Read the text to measure on, as the options say or as the model's run read its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gptfast.data.dataset import is_prepared
from gptfast.data.documents import ReadOptions
from gptfast.data.sources import load_corpus
from gptfast.errors import UserError
from gptfast.eval.config import CorpusConfig
from gptfast.tokenizer import Tokenizer
from gptfast.train.record import read_record
from gptfast.train.resume import READING

Say = Callable[[str], None]


def reading(model: Path, corpus: str, asked: CorpusConfig, say: Say) -> ReadOptions | None:
    """Return how to read a corpus: as the options say, otherwise as the model's run read its own.

    None for a folder that is prepared already, if nothing was given.
    """
    given = {name: value for name in READING if (value := getattr(asked, name)) is not None}
    of_run: dict[str, Any] = {}
    if (model / "run.json").is_file() and not is_prepared(Path(corpus)):
        settings = read_record(model)["config"]
        usual = asdict(ReadOptions())
        of_run = {
            name: settings[name]
            for name in READING
            if name not in given and settings.get(name, usual[name]) != usual[name]
        }
    for name, value in of_run.items():
        say(f"reading {corpus} with {name} {value!r}, as the model's run did")
    return ReadOptions(**of_run, **given) if of_run or given else None


def read_texts(
    names: Sequence[str], model: Path, tokenizer: Tokenizer, asked: CorpusConfig, say: Say
) -> list[str]:
    """Return the documents of files, folders and globs; `load_corpus` describes them.

    The text of the tokenizer's end-of-text token separates the documents in a file, unless another
    separator is given. Raises UserError and MissingFileError as `load_corpus` does.
    """
    texts: list[str] = []
    for name in names:
        if is_prepared(Path(name)):
            raise UserError(f"{name} holds token shards: expected files of text, or --corpus")
        options = (reading(model, name, asked, say) or ReadOptions()).separated_by(
            tokenizer.roles.eos
        )
        corpus = load_corpus(name, options)
        for note in corpus.notes:
            say(note)
        texts += corpus.documents
    return texts
