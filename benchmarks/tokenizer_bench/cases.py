"""Cases of their own inside the benchmark's folder: other sizes, vocabularies and scripts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from gptfast.errors import UserError
from tokenizer_bench.calls import Ids
from tokenizer_bench.inputs import SAFE_CUT, Inputs, pieces, write_vocabulary_and_ids
from tokenizer_bench.texts import KINDS, text_of
from tokenizer_bench.vocabularies import VOCABULARIES

FIRST_MEGABYTES = (1, 10, 40, 100, 1000)
VOCABULARY_BYTES, SCRIPT_BYTES = 10_000_000, 4_000_000


def cases_of(group: str, megabytes: float, ranks: dict[str, Path]) -> list[str]:
    """Return the names of a group's cases; [""] if it works on the whole text.

    megabytes: the size of the largest text.
    """
    match group:
        case "first":
            return [f"first-{n}" for n in FIRST_MEGABYTES if n <= max(1, megabytes)]
        case "vocabularies":
            return [f"vocabulary-{name}" for name in VOCABULARIES if name in ranks]
        case "scripts":
            names = [name for name in ("gpt2", "o200k") if name in ranks]
            return [f"script-{name}-{kind}" for name in names for kind in KINDS]
        case _:
            return [""]


def make_case(base: Inputs, case: str, ranks: Path | None) -> dict[str, Any]:
    """Write a case's folder. `ranks` is the rank file of its vocabulary.

    Raises UserError if it can't be made.
    """
    inputs = Inputs(base.folder / case)
    if inputs.folder.exists():
        return {}
    inputs.folder.mkdir()
    match case.split("-"):
        case ["first", megabytes]:
            _write_repeated(base, inputs, int(float(megabytes) * 1e6))
            return {}
        case ["vocabulary", name]:
            text = next(pieces(base.text, VOCABULARY_BYTES))
        case [_, name, kind]:
            text = text_of(kind, SCRIPT_BYTES, base.text)
        case _:
            raise UserError(f"no case {case}")
    inputs.corpus.write_bytes(text)
    (inputs.folder / "vocabulary.txt").write_text(name)
    shutil.copyfile(ranks or base.ranks, inputs.ranks)
    return write_vocabulary_and_ids(inputs)


def _write_repeated(base: Inputs, inputs: Inputs, n_bytes: int) -> None:
    """Write the base's text, its beginning or several times, and its ids as often."""
    inputs.ranks.symlink_to(base.ranks.resolve())
    inputs.tokenizer_json.parent.symlink_to(base.tokenizer_json.parent.resolve())
    text, ids = base.text, base.expected_ids("text")
    first = SAFE_CUT.search(text)
    last = [*SAFE_CUT.finditer(text, max(0, len(text) - 100_000))]
    if first is None or not last:
        raise UserError("the text has no place where it could be repeated")
    token_bytes = np.array([len(base.bytes_of([i])) for i in range(int(ids.max()) + 1)])
    ends = np.cumsum(token_bytes[ids])
    start, stop = first.end(), last[-1].end()

    def between(begin: int, end: int) -> Ids:
        return ids[np.searchsorted(ends, begin, "right") : np.searchsorted(ends, end, "right")]

    times, rest = divmod(n_bytes, stop - start)
    cut = SAFE_CUT.search(text, start + rest, stop)
    end = cut.end() if cut else stop
    with inputs.corpus.open("wb") as file:
        for _ in range(times):
            file.write(text[start:stop])
        file.write(text[start:end])
    whole = between(start, stop)
    np.save(inputs.folder / "text.npy", np.concatenate([*[whole] * times, between(start, end)]))
