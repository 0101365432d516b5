"""Read the text to measure on, as the options say or as the model's run read its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gptfast.data.dataset import is_prepared
from gptfast.data.documents import ReadOptions
from gptfast.data.sources import load_corpus
from gptfast.errors import UserError
from gptfast.eval.config import CorpusConfig
from gptfast.tokenizer import Tokenizer
from gptfast.train.reading import Say, reading


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
        options = (reading(model, name, asked.given, say) or ReadOptions()).separated_by(
            tokenizer.roles.eos
        )
        corpus = load_corpus(name, options)
        for note in corpus.notes:
            say(note)
        texts += corpus.documents
    return texts
