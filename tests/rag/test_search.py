from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from gptfast.errors import UserError
from gptfast.rag.indexing import index_files
from gptfast.rag.lsa import Lsa
from gptfast.rag.search import Searcher, highest
from gptfast.rag.store import Index

TEXTS = {
    "a.txt": "the red fox sat on a mat",
    "b.txt": "a red mat lay here and a red hat lay there beside the red cat",
    "c.txt": "blue birds sing",
    "d.txt": "blue boats sail past",
    "e.txt": "green grass",
    "f.txt": "one fox and one cat",
    "g.txt": "nothing at all of this kind",
}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    (tmp_path / "texts").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "texts" / name).write_text(text)
    index_files([tmp_path / "texts"], tmp_path / "index", "none")
    return Index.open(tmp_path / "index")


def bm25(question: str) -> list[float]:
    """BM25 with k1 = 1.2 and b = 0.75, and SQLite's least idf."""
    documents = [re.findall(r"\w+", text) for text in TEXTS.values()]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        score = 0.0
        for word in question.split():
            n_with = sum(word in other for other in documents)
            idf = max(math.log((len(documents) - n_with + 0.5) / (n_with + 0.5)), 1e-6)
            tf = words.count(word)
            score += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(words) / mean))
        scores.append(score)
    return scores


def z(values: list[float]) -> np.ndarray:
    return (np.array(values) - np.mean(values)) / np.std(values)


def lsa_cosines(question: str) -> list[float]:
    """The cosines by a dense SVD of scikit-learn's counts."""
    counter = CountVectorizer(token_pattern=r"[^\W_]{2,}", min_df=2)
    counts = counter.fit_transform(TEXTS.values()).toarray()
    idf = np.log(len(TEXTS) / (counts > 0).sum(0))

    def weights(counts: np.ndarray) -> np.ndarray:
        found = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * idf
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    basis = np.linalg.svd(weights(counts), full_matrices=False)[2]

    def project(counts: np.ndarray) -> np.ndarray:
        found = weights(counts) @ basis.T
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    return list(project(counts) @ project(counter.transform([question]).toarray())[0])


def test_words_are_ranked_by_bm25(index: Index) -> None:
    scores, cosines = Searcher(index, "fts5").scores("red cat sing")
    assert cosines is None
    assert scores == pytest.approx(bm25("red cat sing"), abs=1e-9)
    assert [hit.chunk.file for hit in Searcher(index, "fts5").search("red cat", k=2)] == [
        "b.txt",
        "f.txt",
    ]
    # Words that questions have are ignored, unless there are no others.
    asked, _ = Searcher(index, "fts5").scores("What is the cat that I had on my red mat?")
    assert asked == pytest.approx(bm25("cat red mat"), abs=1e-9)
    assert max(Searcher(index, "fts5").scores("and at all of this")[0]) > 0
    assert list(Searcher(index, "fts5").scores("at of this")[0]).index(0) == 0


def test_lsa_agrees_with_a_dense_svd(index: Index) -> None:
    scores, cosines = Searcher(index, "lsa").scores("red cat")
    assert cosines is scores
    assert scores == pytest.approx(lsa_cosines("red cat"), abs=2e-3)  # stored as float16


def test_hybrid_is_the_sum_of_z_scores(index: Index) -> None:
    searcher = Searcher(index, "hybrid-lsa")
    scores, cosines = searcher.scores("red cat")
    assert scores == pytest.approx(z(bm25("red cat")) + z(lsa_cosines("red cat")), abs=0.01)
    hits = searcher.search("red cat", k=3)
    assert [hit.score for hit in hits] == sorted(scores, reverse=True)[:3]
    assert cosines is not None
    assert hits[0].cosine == max(cosines)
    # Beside MiniLM, the root of BM25 counts.
    assert searcher._dense is not None
    searcher._dense = dataclasses.replace(searcher._dense, kind="minilm")
    roots = z([math.sqrt(score) for score in bm25("red cat")])
    found = searcher.scores("red cat")[0]
    assert found == pytest.approx(roots + z(lsa_cosines("red cat")), abs=0.01)
    # Without MiniLM, hybrid is the same as with LSA, and says so.
    other = Searcher(index)
    assert [hit.chunk for hit in other.search("red cat", k=3)] == [hit.chunk for hit in hits]
    assert "no vectors of MiniLM" in other.notes[0]


def test_ranking_of_a_low_rank_is_that_of_the_first_singular_vectors() -> None:
    rng = np.random.default_rng(0)
    topics = [[f"w{topic}x{n}" for n in range(30)] for topic in range(4)]
    texts = [" ".join(rng.choice(topics[n % 4], 20)) for n in range(400)]
    lsa = Lsa.fit(texts)
    vectors = lsa.embed(texts)
    assert vectors.shape == (400, 120)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert (lsa.basis_VK.T @ lsa.basis_VK) == pytest.approx(np.eye(120), abs=1e-4)
    assert (Lsa.fit(texts).basis_VK == lsa.basis_VK).all()
    assert (lsa.embed(["unknown words"]) == 0).all()


def test_highest_is_the_head_of_a_stable_sort() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = rng.integers(0, 5, rng.integers(1, 40)).astype(float)
        k = int(rng.integers(1, 45))
        assert list(highest(scores, k)) == sorted(range(len(scores)), key=lambda i: -scores[i])[:k]


def test_scores_of_sentences(index: Index) -> None:
    sentences = ["a fox", "the red cat", "something else"]
    scores = Searcher(index, "hybrid-lsa").scores_of("red cat", sentences)
    assert len(scores) == 3
    assert scores[1] == max(scores)
    by_words = Searcher(index, "fts5").scores_of("red fox", ["red fox", "fox", "none", "red"])
    assert by_words[0] > by_words[1] > by_words[2] == 0
    assert by_words[1] > 0
    # Rare words among the chunks count for more, whatever the sentences are.
    assert Searcher(index, "fts5").scores_of("red blue one", ["one", "blue"])[0] > 0
    assert Searcher(index, "fts5").scores_of("red", []) == []


@pytest.mark.parametrize("question", ["", "?!", '"', "NEAR(a, b) OR * AND", "fox's", "a_b", "É"])
def test_any_question_can_be_asked(index: Index, question: str) -> None:
    for retriever in ("fts5", "lsa", "hybrid"):
        searcher = Searcher(index, retriever)
        assert len(searcher.search(question, k=3)) == 3
        assert len(searcher.scores_of(question, ["a", "b"])) == 2


def test_an_index_without_text(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    index_files([tmp_path / "empty.txt"], tmp_path / "index", "none")
    for retriever in ("fts5", "lsa", "hybrid"):
        assert Searcher(Index.open(tmp_path / "index"), retriever).search("a") == []


def test_what_cannot_be_used_is_refused(index: Index) -> None:
    with pytest.raises(UserError, match="expected one of fts5, lsa"):
        Searcher(index, "bm25")
    with pytest.raises(UserError, match="needs the folder of a model"):
        Searcher(index, "gpt")
    with index.transaction() as connection:
        connection.execute("DELETE FROM meta WHERE key = 'lsa_basis'")
    with pytest.raises(UserError, match=r"lacks what LSA learns.*run `gptfast rag index` again"):
        Searcher(index)
