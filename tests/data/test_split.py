from __future__ import annotations

import random
import string

import pytest

from gptfast.data.split import OVERLAP_WINDOW, overlap, split_documents
from gptfast.errors import UserError


def test_one_document_is_cut_where_nanogpt_cuts_it() -> None:
    text = "".join(random.Random(0).choices(string.ascii_letters, k=1001))
    (train,), (val,) = split_documents([text], 0.1)
    assert train == text[: int(0.9 * 1001)]
    assert train + val == text


def test_documents_stay_whole_and_val_is_the_end() -> None:
    documents = ["a" * 50, "b" * 30, "c" * 9, "d" * 11]
    assert split_documents(documents, 0.1) == (tuple(documents[:3]), ("d" * 11,))
    assert split_documents(documents, 0.2) == (tuple(documents[:2]), ("c" * 9, "d" * 11))


def test_a_document_is_cut_where_whole_ones_are_far_from_the_fraction() -> None:
    # A note beside a book: by whole documents, val would be 99% of the text.
    assert split_documents(["a", "b" * 99], 0.1) == (("a", "b" * 89), ("b" * 10,))
    assert split_documents(["abc"], 1e-17) == (("ab",), ("c",))
    assert split_documents(["b" * 99, "a"], 0.1) == (("b" * 90,), ("b" * 9, "a"))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="expected a share between 0 and 1"):
        split_documents(["abc"], fraction)


def exact_overlap(train: list[str], val: list[str]) -> float:
    def windows(document: str) -> list[bytes]:
        data = document.encode()
        return [data[i : i + OVERLAP_WINDOW] for i in range(len(data) - OVERLAP_WINDOW + 1)]

    seen = {w for document in train for w in windows(document)}
    found = [w in seen for document in val for w in windows(document)]
    return sum(found) / len(found) if found else 0.0


def test_overlap_equals_the_definition_by_sets_of_bytes() -> None:
    rng = random.Random(1)
    # Two letters only, so that long runs recur by chance as well.
    words = ["".join(rng.choices("ab", k=rng.randint(1, 60))) for _ in range(40)]
    for _ in range(20):
        train = [" ".join(rng.choices(words, k=30)) for _ in range(3)]
        val = [" ".join(rng.choices(words, k=30)), "é" * 20, ""]
        expected = exact_overlap(train, val)
        assert overlap(train, val) == pytest.approx(expected, abs=1e-12)
    assert expected > 0


def test_overlap_of_equal_and_of_foreign_texts() -> None:
    text = "".join(random.Random(2).choices(string.printable, k=500))
    other = "".join(random.Random(3).choices(string.printable, k=500))
    assert overlap([text], [text]) == 1.0
    assert overlap([text], [other]) == 0.0
    assert overlap([text], ["too short for a window"]) == 0.0
    # 49 equal bytes are not enough, 50 are one window of 51.
    assert overlap([text], [other[:100] + text[:49] + other[100:200]]) == 0.0
    assert overlap([text], [text[7:57] + "\x00"]) == 0.5
