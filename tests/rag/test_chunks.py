from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptfast.rag.chunks import MAX_CHARS, RECORDS_END, Layout, chunk, sentences

PIECES = [
    "# Title", "## Part", "A sentence of some words.", "Is it e.g. Dr. Smith's?", "- an item",
    "| a | b |", "```", "x = 1", "", "", "    indented", "你好。再见！", "word " * 60, "z" * 1000,
]  # fmt: skip


def cut(text: str, layout: Layout = "plain") -> list[str]:
    return [text[span.char_start : span.char_end] for span in chunk(text, layout)[0]]


def sentence_texts(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize("layout", ["plain", "markdown", "records"])
@given(st.lists(st.sampled_from(PIECES), max_size=40), st.booleans())
def test_chunks_are_the_text_in_order_with_its_lines(
    layout: Layout, pieces: list[str], ends: bool
) -> None:
    text = "\n".join(pieces) + "\n" * ends
    at = 0
    for span in chunk(text, layout)[0]:
        # Only white space is left out, between chunks.
        assert not text[at : span.char_start].strip()
        part = text[span.char_start : span.char_end]
        assert part.strip()
        assert not part[-1].isspace()
        # The lines, counted in another way.
        assert span.line_start == len(text[: span.char_start].split("\n"))
        assert span.line_end == len(text[: span.char_end].split("\n"))
        at = span.char_end
    assert not text[at:].strip()


@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_only_too_long_sentences_make_too_long_chunks(pieces: list[str]) -> None:
    text = "\n".join(pieces)
    spans, n_long = chunk(text)
    assert sum(span.char_end - span.char_start > MAX_CHARS for span in spans) == n_long


def test_no_chunk_ends_inside_a_sentence() -> None:
    random.seed(1)
    made = [f"Sentence {n} has {'words ' * random.randint(1, 30)}in it." for n in range(200)]
    made[50] = "It was Dr. B. Smith, cf. Fig. 3, e.g. Alice et al. Then."
    made[60] = 'He said: "No!"'
    chunks = cut(" ".join(made))
    assert len(chunks) > 20
    assert max(map(len, chunks)) <= MAX_CHARS
    again = [sentence for part in chunks for sentence in sentence_texts(part)]
    assert again == made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("A wrapped\nline. The\nnext", ["A wrapped\nline.", "The\nnext"]),
        ("Version 3.10 of a.b is out. See it", ["Version 3.10 of a.b is out.", "See it"]),
        ("an end. not a new one", ["an end. not a new one"]),
        ("J. R. Tolkien vs. Dr. Who etc. Pp. 3", ["J. R. Tolkien vs. Dr. Who etc. Pp. 3"]),
        ("List:\n- one\n- two. Three\n2. four", ["List:", "- one", "- two.", "Three", "2. four"]),
        ("# Head\nText.", ["# Head", "Text."]),
        ("```\na. B\nc\n```\nAfter. All", ["```", "a. B", "c", "```", "After.", "All"]),
        ("我来了。你呢？好", ["我来了。", "你呢？", "好"]),
        ("(Really.) “Yes.” No", ["(Really.)", "“Yes.”", "No"]),
        ("", []),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentence_texts(text) == expected


def test_headings_begin_chunks_and_are_known_below() -> None:
    text = f"# A\n\nintro\n\n## B\n\n{'word ' * 170}.\n\n{'more ' * 100}.\n\n## C\n\n### D\n\nend\n"
    spans, _ = chunk(text, "markdown")
    found = [(text[s.char_start : s.char_start + 4], s.heading) for s in spans]
    assert found == [("# A\n", ""), ("## B", "A"), ("more", "A > B"), ("## C", "A")]
    assert text[spans[-1].char_start :].strip() == "## C\n\n### D\n\nend"
    # In plain text, # is a character like any other.
    assert cut("# a\n\nb", "plain") == ["# a\n\nb"]
    assert cut("```\n# no heading\n```\n\n# a", "markdown") == ["```\n# no heading\n```", "# a"]


def test_records_are_never_joined() -> None:
    text = RECORDS_END.join(["one", "two\n\nmore", "three"])
    assert cut(text, "records") == ["one", "two\n\nmore", "three"]
    assert cut(text, "plain") == [text]


def test_a_long_sentence_is_kept_whole_and_counted() -> None:
    long = "X" * 1200 + " ends."
    text = f"Short. {long} Short."
    assert cut(text) == ["Short.", long, "Short."]
    assert chunk(text)[1] == 1
