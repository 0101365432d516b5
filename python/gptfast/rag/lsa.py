"""Latent semantic analysis: vectors of texts by the singular vectors of their TF-IDF matrix.

Deerwester et al., 1990. N texts, V terms, K singular vectors.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gptfast.rag.store import Index, Vectors

N_COMPONENTS = 256
_TERM = re.compile(r"[^\W_]{2,}")


@dataclass(frozen=True)
class Lsa:
    """What was learned of a collection of texts."""

    rows: dict[str, int]
    """Row of `basis` by term."""
    idf_V: npt.NDArray[np.float32]
    """log(N / texts with the term)."""
    basis_VK: npt.NDArray[np.float32]

    def embed(self, texts: list[str]) -> Vectors:
        """Return unit vectors (N, K); zeros for a text without known terms."""
        vectors_NK = np.zeros((len(texts), self.basis_VK.shape[1]), np.float32)
        for row, text in enumerate(texts):
            counts = Counter(self.rows[term] for term in _terms(text) if term in self.rows)
            if counts:
                terms = np.array(list(counts))
                vectors_NK[row] = self._weights(terms, counts) @ self.basis_VK[terms]
        return unit(vectors_NK)

    def _weights(self, terms: npt.NDArray[np.int64], counts: Counter[int]) -> Vectors:
        tf = 1 + np.log(np.array([counts[term] for term in terms], np.float32))
        weights: Vectors = tf * self.idf_V[terms]
        return weights / max(float(np.linalg.norm(weights)), 1e-12)

    @classmethod
    def fit(cls, texts: list[str]) -> Lsa:
        """Learn from texts. Terms that are in one text only are left out."""
        import torch

        counted = [Counter(_terms(text)) for text in texts]
        n_with = Counter(term for counts in counted for term in counts)
        rows = {term: row for row, term in enumerate(sorted(t for t in n_with if n_with[t] > 1))}
        idf_V = np.log(len(texts) / np.array([n_with[term] for term in rows], np.float32))
        empty = cls(rows, idf_V, np.zeros((len(rows), 0), np.float32))
        places: list[npt.NDArray[np.int64]] = []
        values: list[Vectors] = []
        for n, counts in enumerate(counted):
            known = Counter({rows[term]: count for term, count in counts.items() if term in rows})
            if known:
                terms = np.array(sorted(known))
                places.append(np.stack([np.full_like(terms, n), terms]))
                values.append(empty._weights(terms, known))
        rank = min(N_COMPONENTS, len(texts), len(rows))
        if not places:
            return empty
        matrix_NV = torch.sparse_coo_tensor(
            torch.from_numpy(np.concatenate(places, axis=1)),
            torch.from_numpy(np.concatenate(values)),
            (len(texts), len(rows)),
            check_invariants=True,
        ).coalesce()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            width = min(rank + 32, len(texts), len(rows))  # more than wanted, for precision
            _, _, basis_VK = torch.svd_lowrank(matrix_NV, q=width, niter=4)
        return cls(rows, idf_V, basis_VK[:, :rank].numpy())

    @classmethod
    def of(cls, index: Index) -> Lsa | None:
        """Return what was learned of the chunks of an index; None if that is out of date."""
        terms, idf, basis = (index.get(f"lsa_{name}") for name in ("terms", "idf", "basis"))
        if not (isinstance(terms, str) and isinstance(idf, bytes) and isinstance(basis, bytes)):
            return None
        names = terms.split()
        basis_VK = np.frombuffer(basis, np.float16).astype(np.float32)
        return cls(
            {term: row for row, term in enumerate(names)},
            np.frombuffer(idf, np.float32),
            basis_VK.reshape(len(names), -1) if names else np.zeros((0, 0), np.float32),
        )


def learn(index: Index) -> None:
    """Learn from all chunks of an index, and store their vectors."""
    texts = [chunk.searched for chunk in index.chunks()]
    lsa = Lsa.fit(texts)
    basis = lsa.basis_VK.astype(np.float16)
    index.set_lsa(" ".join(lsa.rows), lsa.idf_V.tobytes(), basis.tobytes(), lsa.embed(texts))


def unit(vectors: npt.NDArray[np.floating[Any]]) -> Vectors:
    """Return vectors (N, C) of length 1. Zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def _terms(text: str) -> list[str]:
    return _TERM.findall(text.lower())
