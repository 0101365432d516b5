"""Numbers and names of a sentence that its sources don't have."""

from __future__ import annotations

import pytest

from gptfast.rag.claims import unsupported

SOURCES = [
    "The cat Minka eats 3.5 kg of food a month, in two bowls.",
    "On 12 March 1,998 the Old Library burnt down; 40% of Zürich's maps were lost at 10:30.",
]


def claims(sentence: str, *sources: str) -> list[str]:
    found = unsupported(sentence, sources or SOURCES)
    assert found == sorted(found)
    return [sentence[begin:end] for begin, end in found]


@pytest.mark.parametrize(
    "sentence",
    [
        "Minka eats 3.5 kg a month.",
        "The Library burnt down on 12 March 1998, at 10:30.",
        "It has 2 bowls. Two, in fact.",
        "Zürich lost forty percent: 40% of its maps.",
        "minka's bowls, MINKA's maps, and old libraries.",
        "The answer: The cat is in the sources, I think. Yes.",
        "3.5kg",
        "",
    ],
)
def test_what_a_source_has_is_not_marked(sentence: str) -> None:
    assert claims(sentence) == []


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Minka eats 5 kg.", ["5"]),  # of 3.5
        ("Minka eats 3 kg, or 3.50 kg.", ["3", "3.50"]),
        ("Paris burnt down.", ["Paris"]),  # a name that begins the sentence
        ("Down it burnt. Paris, too.", ["Paris"]),
        ('He said: "Rome burnt."', ["Rome"]),
        ("The cat is Bob's, not Anna’s.", ["Bob", "Anna"]),
        ("It burnt in 1999, at 10:31, by USB-C.", ["1999", "10:31", "USB-C"]),
        ("It has three bowls and twenty-one maps.", ["three", "twenty-one"]),
        ("Zurich", ["Zurich"]),  # accents count
        ("½ of 40% is ２０", ["½", "２０"]),
        ("the iPhone of McDonald", ["iPhone", "McDonald"]),
        ("In May the maps burnt.", ["May"]),
        ("РОССИЯ lost maps in MMXX", ["РОССИЯ", "MMXX"]),
    ],
)
def test_what_no_source_has_is_marked(sentence: str, expected: list[str]) -> None:
    assert claims(sentence) == expected


def test_a_part_of_a_word_supports_the_part() -> None:
    assert claims("USB and 5 kg and 2021.", "a USB-C cable of 5kg, since 2021-03-04") == []
    assert claims("USB-C", "usb; c") == []
