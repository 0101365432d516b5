from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import ndcg_score

from gptfast.errors import UserError
from gptfast.rag.evaluate import Judge, bootstrap, rank_metrics, read_questions
from gptfast.rag.indexing import index_files
from gptfast.rag.search import Searcher
from gptfast.rag.store import Index


def test_metrics_by_hand() -> None:
    # Places 0 and 1 of grades 1 and 3; the second result holds place 0, the fourth place 1.
    found = rank_metrics([[], [0], [0], [1], [], []], [1, 3])
    assert found["hit_at_1"] == 0
    assert found["hit_at_5"] == 1
    assert found["recall_at_10"] == 1
    assert found["mrr"] == 1 / 2
    dcg = 1 / math.log2(3) + 3 / math.log2(5)
    assert found["ndcg_at_10"] == pytest.approx(dcg / (3 / math.log2(2) + 1 / math.log2(3)))


def test_metrics_end_where_they_say() -> None:
    late = [[]] * 5 + [[0]] + [[]] * 4 + [[1]]
    found = rank_metrics(late, [1, 1])
    assert (found["hit_at_5"], found["recall_at_10"], found["mrr"]) == (0, 0.5, 1 / 6)
    assert found["ndcg_at_10"] == pytest.approx((1 / math.log2(7)) / (1 + 1 / math.log2(3)))
    nothing = rank_metrics([[]] * 20, [1])
    assert set(nothing.values()) == {0.0}
    assert rank_metrics([[], [0]], [1, 1])["recall_at_10"] == 0.5  # fewer than ten results


def test_a_result_with_two_places_is_no_better_than_the_best_order() -> None:
    assert rank_metrics([[0, 1]], [1, 1])["ndcg_at_10"] <= 1


def test_ndcg_agrees_with_scikit_learn() -> None:
    rng = random.Random(0)
    for _ in range(200):
        n = rng.randint(2, 30)
        grades = [rng.choice([0, 0, 0, 1, 2, 3]) for _ in range(n)]
        relevant = [place for place in range(n) if grades[place]]
        if not relevant:
            continue
        order = rng.sample(range(n), n)
        ranked = [[relevant.index(place)] if grades[place] else [] for place in order]
        scores = [-order.index(place) for place in range(n)]
        expected = ndcg_score([grades], [scores], k=10)
        found = rank_metrics(ranked, [grades[place] for place in relevant])
        assert found["ndcg_at_10"] == pytest.approx(expected)


def test_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).random(200) < 0.8
    found = bootstrap(values)
    other = scipy_bootstrap((values,), np.mean, method="percentile", rng=5).confidence_interval
    assert found.mean == values.mean()
    assert found.low == pytest.approx(other.low, abs=0.015)
    assert found.high == pytest.approx(other.high, abs=0.015)
    assert bootstrap(values) == found
    assert bootstrap([1.0, 1.0]).low == 1


@pytest.fixture
def index(tmp_path: Path) -> Index:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "cats.md").write_text("# Cats\n\nA cat  meows\nloudly.\n\n## Food\n\nIt eats fish.\n")
    (texts / "dogs.md").write_text("# Dogs\n\nA dog barks.\n\n## Food\n\nIt eats bones.\n")
    (texts / "same.md").write_text("# Dogs\n\nA dog barks.\n\n## Food\n\nIt eats bones.\n")
    index_files([texts], tmp_path / "index", "none")
    return Index.open(tmp_path / "index")


def questions(tmp_path: Path, *records: object) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return path


def test_places_are_files_or_quotes(index: Index, tmp_path: Path) -> None:
    path = questions(
        tmp_path,
        {"question": "bones", "relevant": [{"file": "same.md", "quote": "eats bones"}]},
        {"question": "meows", "relevant": [{"file": "cats.md", "quote": "cat meows loudly"}]},
        # The best passage about fish is not the one that is quoted; but it is in the file.
        {"question": "fish", "relevant": [{"file": "cats.md", "quote": "meows"}]},
        {"question": "fish", "relevant": [{"file": "cats.md"}]},
        {"question": "the moon", "relevant": []},
    )
    judge = Judge(index, read_questions(path))
    result = judge.judge(Searcher(index, "fts5"))
    assert (len(judge.own), len(judge.foreign)) == (4, 1)
    assert result.hit_at_1.mean == 3 / 4
    for each in (result, judge.judge(Searcher(index, "lsa"))):
        assert each.answered.mean == 1  # each question has one word, which a chunk has
        assert each.foreign_answered is not None
        assert each.foreign_answered.mean == 0  # no chunk has a word of it that counts


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "a", "relevant": [{"file": "no.md"}]}, "the index has no no.md"),
        (
            {"question": "a", "relevant": [{"file": "cats.md", "quote": "dog"}]},
            "no cats.md with the text 'dog'",
        ),
        ({"question": "a", "relevant": [{"file": "cats.md", "page": 2}]}, "with pages"),
    ],
)
def test_a_place_that_is_not_there_is_named(
    index: Index, tmp_path: Path, record: object, message: str
) -> None:
    with pytest.raises(UserError, match=f"line 1: .*{message}"):
        Judge(index, read_questions(questions(tmp_path, record)))


@pytest.mark.parametrize(
    "line",
    ['{"question": "a"}', '{"question": "", "relevant": []}', "[]", "{", "null",
     '{"question": "a", "relevant": [{"file": "a", "grade": 0}]}',
     '{"question": "a", "relevant": [{"quote": "a"}]}',
     '{"question": "a", "relevant": [{"file": "a", "pages": 1}]}'],
)  # fmt: skip
def test_wrong_questions_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(f'{{"question": "a", "relevant": []}}\n{line}\n')
    with pytest.raises(UserError, match="line 2: "):
        read_questions(path)
    with pytest.raises(UserError, match="can't read"):
        read_questions(tmp_path / "none.jsonl")


def test_the_docs_have_what_the_questions_of_the_benchmark_ask_for() -> None:
    root = Path(__file__).parents[2]
    for question in read_questions(root / "benchmarks/questions/own_docs.jsonl"):
        for place in question.relevant:
            text = " ".join((root / place.file).read_text(encoding="utf-8").split())
            assert " ".join((place.quote or "").split()) in text, (
                f"{question.where}: {place.file} has moved {place.quote!r}: name its new place"
            )


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ('{"file": 3}', "the file is 3"),
        ('{"file": "a.md", "page": "3"}', "the page is '3'"),
        ('{"file": "a.md", "page": []}', r"the page is \[\]"),
        ('{"file": "a.md", "page": true}', "the page is True"),
        ('{"file": "a.md", "quote": 3}', "the quote is 3"),
        ('{"file": "a.md", "quote": " "}', "the quote is ' '"),
        ('{"file": "a.md", "grade": "2"}', "the grade is '2'"),
        ('{"file": "a.md", "grade": Infinity}', "the grade is inf"),
    ],
)
def test_a_place_of_the_wrong_kind(tmp_path: Path, place: str, said: str) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text(f'\ufeff{{"question": "a", "relevant": [{place}]}}\r\n', encoding="utf-8")
    with pytest.raises(UserError, match=f"line 1: {said}"):
        read_questions(questions)
