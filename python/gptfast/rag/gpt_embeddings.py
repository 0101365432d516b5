"""Vectors of texts by one of our own models: an exhibit for teaching, not a retriever.

B texts, T time, C channels, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gptfast.errors import UserError
from gptfast.model.folder import load_float_model
from gptfast.model.transformer import GPT
from gptfast.rag.lsa import unit
from gptfast.rag.store import Vectors

_SIF = 1e-3
"""The constant a of Arora et al., 2017."""


class GPTEmbeddings:
    """Vectors by a GPT: the mean of its last hidden states, or of its token embeddings."""

    def __init__(self, folder: Path, texts: list[str], from_table: bool) -> None:
        """Load a model, and learn how frequent tokens are in the texts.

        from_table: take the mean of the rows of the token table, weighted by smooth inverse
        frequency (SIF) a / (a + p), less the mean of all texts and their first principal component
        (Arora et al., 2017). Otherwise the plain mean of the last hidden states, in windows of the
        context. Raises UserError if the model is no GPT.
        """
        model, self._tokenizer = load_float_model(folder, "embeddings")
        if not isinstance(model, GPT):
            raise UserError(f"{folder} is a {model.config.architecture}: expected a GPT")
        self._model = model.eval()
        self._from_table = from_table
        self._mean_C = self._first_C = np.zeros(model.config.n_embd, np.float32)
        if from_table:
            counts_V = np.zeros(model.config.vocab_size)
            for text in texts:
                np.add.at(counts_V, self._tokenizer.encode_ordinary(text), 1)
            weight_V = _SIF / (_SIF + counts_V / max(counts_V.sum(), 1))
            self._weight_V = weight_V.astype(np.float32)
            self._table_VC: Vectors = model.wte.weight.detach().float().numpy()
            vectors_NC = np.stack([self._mean(text) for text in texts])
            self._mean_C = vectors_NC.mean(0)
            self._first_C = np.linalg.svd(vectors_NC - self._mean_C, full_matrices=False)[2][0]

    def embed(self, texts: list[str]) -> Vectors:
        """Return unit vectors (N, C)."""
        vectors_NC = np.stack([self._mean(text) for text in texts]) - self._mean_C
        return unit(vectors_NC - (vectors_NC @ self._first_C)[:, None] * self._first_C)

    def _mean(self, text: str) -> Vectors:
        """Return the mean vector (C,) of the tokens of a text, before it is centred."""
        ids = self._tokenizer.encode_ordinary(text)
        if not ids:
            return np.zeros(self._model.config.n_embd, np.float32)
        if self._from_table:
            rows_TC: Vectors = self._table_VC[ids] * self._weight_V[ids][:, None]
            table_C: Vectors = rows_TC.mean(0)
            return table_C
        windows = torch.split(torch.tensor(ids), self._model.config.block_size)
        with torch.inference_mode():
            hidden = [self._model.hidden(window[None])[0] for window in windows]
        mean_C: Vectors = torch.cat(hidden).float().mean(0).numpy()
        return mean_C
