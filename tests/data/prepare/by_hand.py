"""What prepared shards must hold, by a loop over the documents; and ways to kill a run."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken

from gptfast.cli import cli
from gptfast.data import parts
from gptfast.data.__main__ import main
from gptfast.data.prepare_shards import prepare_files
from gptfast.tokenizer import BPETokenizer


def make_documents(seed: int, nursery_text: str) -> list[str]:
    """200 documents of up to 300 characters, about a third of which occurs again."""
    rng = random.Random(seed)
    documents: list[str] = []
    for _ in range(200):
        if documents and rng.random() < 0.3:
            documents.append(rng.choice(documents))
        else:
            at, size = rng.randrange(len(nursery_text) - 300), rng.randint(1, 300)
            documents.append(f"{rng.random():.3f} {nursery_text[at : at + size]}")
    return documents


@dataclass(frozen=True)
class Source:
    """Files, and the documents in them, in order."""

    folder: Path
    documents: list[list[str]]


def is_val(document: str, fraction: float) -> bool:
    digest = hashlib.blake2b(document.encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < fraction


def split_by_hand(documents: Sequence[str], fraction: float) -> tuple[list[str], list[str]]:
    """Train and val, without those that have been seen before."""
    seen: set[str] = set()
    sides: tuple[list[str], list[str]] = ([], [])
    for document in documents:
        if document not in seen:
            seen.add(document)
            sides[is_val(document, fraction)].append(document)
    return sides


def ids_by_hand(documents: list[str], oracle: tiktoken.Encoding) -> list[int]:
    return [i for text in documents for i in [*oracle.encode_ordinary(text), oracle.eot_token]]


def exact_overlap(train_texts: list[str], val_texts: list[str]) -> float:
    def windows(text: str) -> list[bytes]:
        data = text.encode()
        return [data[i : i + 50] for i in range(len(data) - 49)]

    seen = {window for text in train_texts for window in windows(text)}
    found = [window in seen for text in val_texts for window in windows(text)]
    return sum(found) / len(found)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def all_ids(tokens: Any) -> list[int]:
    ids: list[int] = tokens[np.arange(len(tokens))].tolist()
    return ids


class Killed(BaseException):
    pass


def raise_at(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, n: int, *, after: bool
) -> None:
    """Have the n-th call of a function raise, before it does anything or after it has."""
    function: Callable[..., Any] = getattr(owner, name)
    calls = itertools.count(1)

    def raising(*arguments: Any, **options: Any) -> Any:
        is_nth = next(calls) == n  # also where several threads call at a time
        if is_nth and not after:
            raise Killed
        result = function(*arguments, **options)
        if is_nth:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, raising)


def kill_in_third_shard(tokenizer: BPETokenizer, source: Source, out: Path) -> None:
    with pytest.MonkeyPatch.context() as context:
        raise_at(context, parts, "write_shard", 3, after=False)
        with pytest.raises(Killed):
            prepare_files(tokenizer, source.folder, out, 0.2)


def run(*arguments: object) -> int:
    return cli.run(main, [str(argument) for argument in arguments])


def error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a mistake leaves."""
    capsys.readouterr()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err
