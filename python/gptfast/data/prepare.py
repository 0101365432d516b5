"""Turn a corpus into token shards: split it, train a tokenizer on train, encode both parts.

The result is cached by its inputs, so the same corpus, tokenizer and split are prepared once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from gptfast.data.dataset import DataReport, Dataset, is_prepared, open_tokens
from gptfast.data.documents import Place, ReadOptions
from gptfast.data.shard import Shard, write_shard
from gptfast.data.sources import cache_folder, load_corpus
from gptfast.data.split import overlap, split_documents
from gptfast.errors import UserError
from gptfast.system.files import write_folder_atomically, write_text_atomically
from gptfast.tokenizer import Tokenizer, load_tokenizer
from gptfast.tokenizer.base import IdArray
from gptfast.tokenizer.roles import END_OF_TEXT

_FORMAT = 1  # increase when the content of the shards changes


def prepare(
    corpus_name: str,
    tokenizer_name: str,
    vocab_size: int,
    val_fraction: float,
    say: Callable[[str], None],
    options: ReadOptions | None = None,
) -> Dataset:
    """Load the shards of a corpus, and make them if they aren't cached.

    tokenizer_name: 'bpe' (byte-level BPE with `vocab_size` ids, trained on the train part), 'char'
    (one id per distinct character), or the path of a folder with a tokenizer.json. say: called with
    each progress message. options: how to read the files.

    A folder made by `gptfast data prepare` is opened with its own tokenizer and split, so
    tokenizer_name must be 'bpe' or the path of the same tokenizer. Raises UserError or
    MissingFileError for an unusable corpus, tokenizer or size.
    """
    folder = Path(corpus_name)
    if is_prepared(folder):
        if options not in (None, ReadOptions()):
            say(
                f"{folder} is prepared already: field, column and document_separator do not change "
                f"its documents"
            )
        return _open_prepared(folder, tokenizer_name)
    if (folder / "plan.json").is_file():
        _refuse_partly_prepared(folder)
    given = None if tokenizer_name in ("bpe", "char") else load_tokenizer(Path(tokenizer_name))
    options = options or ReadOptions()
    if given:
        options = options.separated_by(given.roles.eos)
    corpus = load_corpus(corpus_name, options, given.special_tokens if given else ())
    for note in corpus.notes:
        say(note)
    train, val = split_documents(corpus.documents, val_fraction)
    if not (any(train) and any(val)):
        raise UserError(
            f"the corpus {corpus_name} is too short to be split into train and val: expected at "
            f"least a few thousand characters"
        )
    # A character tokenizer needs an end of text only where there was one.
    char_tokens = (END_OF_TEXT,) if corpus.is_split else ()
    made_from = {
        "format": _FORMAT,
        "corpus": corpus.sha256,
        "tokenizer": given.fingerprint if given else tokenizer_name,
        "vocab_size": vocab_size if tokenizer_name == "bpe" else None,
        "val_fraction": val_fraction,
        "char_tokens": char_tokens if tokenizer_name == "char" else None,
    }
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / "datasets" / key
    if folder.is_dir():
        try:
            return _described(_read(folder, corpus_name), say)
        except (UserError, OSError, ValueError, TypeError):
            say(f"{folder} is damaged: making it again")
            shutil.rmtree(folder)
    tokenizer = given or _train_tokenizer(tokenizer_name, vocab_size, char_tokens, train, val, say)
    say(f"encoding {corpus_name}")
    # The last document of train and the first of val may be parts of the same.
    val_places = corpus.places[len(corpus.documents) - len(val) :]
    ids = [_encode(train, corpus.places, tokenizer), _encode(val, val_places, tokenizer)]
    report = DataReport(
        corpus_name, corpus.sha256,
        len(train), _n_bytes(train), sum(map(len, ids[0])),
        len(val), _n_bytes(val), sum(map(len, ids[1])),
        overlap(train, val),
    )  # fmt: skip

    def write(temporary: Path) -> None:
        tokenizer.save(temporary)
        write_shard(temporary / "train.bin", [ids[0]], tokenizer)
        write_shard(temporary / "val.bin", [ids[1]], tokenizer)
        write_text_atomically(temporary / "report.json", json.dumps(asdict(report), indent=2))

    try:
        write_folder_atomically(folder, write)
    except OSError:
        if not folder.is_dir():  # if it exists, another process has just made it
            raise
    return _described(_read(folder, corpus_name), say)


def _described(data: Dataset, say: Callable[[str], None]) -> Dataset:
    """Return the data; say so if nothing separates its documents."""
    n_documents = max(data.report.train_documents, data.report.val_documents)
    if n_documents > 1 and data.tokenizer.eot_token is None:
        say(
            "the tokenizer doesn't say which token ends a document: the documents follow one "
            "another without a separator (eos_token in tokenizer_config.json names one)"
        )
    return data


def _refuse_partly_prepared(folder: Path) -> None:
    from gptfast.data.manifest import Plan

    if Plan.read(folder):  # otherwise plan.json is the user's own
        raise UserError(
            f"{folder} is only partly prepared: run the same `gptfast data prepare` command again"
        )


def _open_prepared(folder: Path, tokenizer_name: str) -> Dataset:
    from gptfast.data.manifest import open_prepared  # imported late: text files don't need it

    data = open_prepared(folder)
    if not len(data.val):
        raise UserError(
            f"{folder} was prepared with --val-fraction 0 and has no val part: prepare the files "
            f"again with a larger one"
        )
    if tokenizer_name == "bpe":  # the default
        return data
    given = None if tokenizer_name == "char" else load_tokenizer(Path(tokenizer_name))
    if given is None or given.fingerprint != data.tokenizer.fingerprint:
        raise UserError(
            f"{folder} was prepared with another tokenizer than {tokenizer_name}: leave "
            f"--tokenizer out to use the folder's own, or prepare the files with the other one"
        )
    return data


def _read(folder: Path, corpus_name: str) -> Dataset:
    tokenizer = load_tokenizer(folder)
    train_ids = open_tokens(Shard.open(folder / "train.bin"), tokenizer)
    val_ids = open_tokens(Shard.open(folder / "val.bin"), tokenizer)
    report = DataReport(**json.loads((folder / "report.json").read_text(encoding="utf-8")))
    # The cached text may have been prepared under another name.
    return Dataset(folder, tokenizer, train_ids, val_ids, replace(report, corpus=corpus_name))


def _train_tokenizer(
    name: str,
    vocab_size: int,
    char_tokens: Sequence[str],
    train: Sequence[str],
    val: Sequence[str],
    say: Callable[[str], None],
) -> Tokenizer:
    if name == "char":
        from gptfast.tokenizer import CharTokenizer

        # Include val, because unknown characters can't be encoded.
        return CharTokenizer.train("".join((*train, *val)), char_tokens)
    say(f"training a BPE tokenizer of {vocab_size:,} ids on {_n_bytes(train):,} bytes")
    from gptfast.tokenizer import BPETokenizer

    # As bytes, because a document may be an address, which `train` would take for a path.
    tokenizer = BPETokenizer.train(map(str.encode, train), vocab_size)
    if tokenizer.n_vocab < vocab_size:
        say(f"the text has no more pairs to merge: the tokenizer has {tokenizer.n_vocab:,} ids")
    return tokenizer


def _encode(
    documents: Sequence[str], places: Sequence[Place | None], tokenizer: Tokenizer
) -> list[IdArray]:
    """Return the ids of each document, followed by the end-of-text token if there is one.

    Raises UserError with the place of a document that can't be encoded.
    """
    encoded = []
    for i, document in enumerate(documents):
        try:
            ids = tokenizer.encode_to_numpy(document)
        except UserError as error:
            where = places[i] if i < len(places) else None
            raise UserError(f"{where}: {error}" if where else str(error)) from error
        if tokenizer.eot_token is not None:
            ids = np.append(ids, ids.dtype.type(tokenizer.eot_token))
        encoded.append(ids)
    return encoded


def _n_bytes(documents: Sequence[str]) -> int:
    return sum(len(document.encode()) for document in documents)
