"""MiniLM. Without its weights in the cache, most tests are skipped: they never download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptfast.errors import MissingFileError, UserError
from gptfast.rag import embeddings
from gptfast.rag.indexing import index_files
from gptfast.rag.search import Searcher
from gptfast.rag.store import Index
from gptfast.system.files import cache_path

CACHED = cache_path()  # before the fixture `cache` sets another


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = CACHED / "all-MiniLM-L6-v2"
    if not folder.is_dir():
        pytest.skip("needs MiniLM in the cache: `gptfast rag index` downloads it")
    monkeypatch.setenv("GPTFAST_CACHE", str(CACHED))
    return folder


@pytest.mark.slow
def test_vectors_are_the_mean_over_all_tokens(weights: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(weights), AutoTokenizer.from_pretrained(weights)

    def alone(text: str) -> np.ndarray:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            mean = model(ids).last_hidden_state[0].mean(0).numpy()
        return mean / np.linalg.norm(mean)

    texts = ["A cat sat.", "x", "Much longer text, so that the others are padded. " * 4, ""]
    minilm = embeddings.MiniLM()
    found = minilm.embed(texts)
    assert found == pytest.approx(np.stack([alone(text) for text in texts]), abs=1e-5)
    # What is beyond 256 tokens counts, too.
    long = "the same words again and again. " * 60
    assert np.abs(minilm.embed([long + "whales"]) - minilm.embed([long + "stocks"])).max() > 1e-3
    cat, kitten, tax = minilm.embed(["a cat", "a kitten", "income tax"])
    assert cat @ kitten > 0.5 > cat @ tax
    assert minilm.embed([]).shape == (0, 384)


@pytest.mark.slow
def test_index_with_embeddings(weights: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("The cat eats fish.")
    (texts / "b.txt").write_text("Income is taxed.")
    index_files([texts], tmp_path / "index", "none")
    # Vectors are added to an index without, and only once.
    assert index_files([texts], tmp_path / "index").n_embedded == 2
    (texts / "c.txt").write_text("Boats float.")
    assert index_files([texts], tmp_path / "index").n_embedded == 1
    assert index_files([texts], tmp_path / "index").n_embedded == 0
    searcher = Searcher(Index.open(tmp_path / "index"))
    assert searcher.notes == []
    (hit,) = searcher.search("What do kittens eat?", k=1)
    assert hit.chunk.file == "a.txt"
    assert hit.cosine is not None
    assert searcher.has_minilm
    assert hit.cosine > 0.35 > max(h.cosine or 0 for h in searcher.search("railways of Peru"))
    # They can be removed again.
    done = index_files([texts], tmp_path / "index", "none")
    assert "removed the vectors" in done.notes[0]
    assert Index.open(tmp_path / "index").embedders() == {"lsa"}


def test_other_weights_are_refused(cache: Path) -> None:
    pytest.importorskip("transformers")
    folder = cache / "all-MiniLM-L6-v2"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"others")
    with pytest.raises(UserError, match="is damaged or another model's"):
        embeddings.MiniLM()


def test_without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "find_spec", lambda name: None)
    (tmp_path / "a.txt").write_text("a")
    done = index_files([tmp_path / "a.txt"], tmp_path / "index")
    assert "no embeddings, searching by words and LSA alone" in done.notes[0]
    assert "gptfast[rag-embeddings]" in done.notes[0]
    with pytest.raises(UserError, match="rag-embeddings"):
        index_files([tmp_path / "a.txt"], tmp_path / "index", "minilm")
    # An index that has vectors would get chunks without.
    index = Index.open(tmp_path / "index")
    (chunk,) = index.chunks()
    index.add_vectors(embeddings.NAME, [chunk.id], np.ones((1, 384), np.float32))
    with pytest.raises(UserError, match="--embeddings none"):
        index_files([tmp_path / "a.txt"], tmp_path / "index")
    searcher = Searcher(index)
    assert "words and LSA alone" in searcher.notes[0]


def test_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")

    def fail(*arguments: object, **named: object) -> Path:
        raise MissingFileError("MiniLM can't be downloaded: no network")

    monkeypatch.setattr(embeddings, "package_file", fail)
    (tmp_path / "a.txt").write_text("a")
    done = index_files([tmp_path / "a.txt"], tmp_path / "index")
    assert "no network" in done.notes[0]


@pytest.mark.parametrize("lengths", [[], [1], [5, 300, 5], [10] * 1000, list(range(1, 256))])
def test_batches_hold_each_piece_once(lengths: list[int]) -> None:
    batches = list(embeddings._batches(lengths))
    assert sorted(piece for batch in batches for piece in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max((lengths[piece] for piece in batch), default=0)
        assert len(batch) <= 1 or len(batch) * longest <= embeddings.BATCH_TOKENS
