"""The interface of every model in this package: token ids in, logits or a loss out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.errors import UserError, as_int64, check_at_least
from gptfast.model.config import ModelConfig
from gptfast.model.kv_cache import KVCache, NewTokens
from gptfast.ops.checks import (
    Reduction,
    can_look_at,
    check_cu_seqlens,
    check_reduction,
    check_targets,
)


class LanguageModel(nn.Module):
    """A causal language model: the logits at position t see tokens 0..t and predict token t + 1.

    `model(ids)` returns logits; `model(ids, targets)` returns the loss. Subclasses implement
    `_logits`.
    """

    config: ModelConfig
    quantized: str | None = None
    """'int8' or 'int4' if the matrices are stored in blocks (model/quantized.py)."""
    n_quantized = 0
    """Number of parameters of such a model, of which none is trainable."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        idx_BT: Tensor,
        targets_BT: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        *,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """Return logits (B, T, V) or, if targets are given, the cross entropy in nats.

        Args:
            idx_BT: token ids, int64.
            targets_BT: the ids to predict, int64. Targets of -100 are ignored.
            cu_seqlens: boundaries of documents that must not see each other, as in
                `ops.attention`. Only the GPT uses them; the ladder's simpler models ignore them.
            reduction: "mean" or "sum" over the targets that are not ignored, a scalar; "none" for
                the loss of each token, (B, T) in float32, 0 where the target is -100.

        Raises:
            UserError: the ids, targets or boundaries have another type, shape or device, or there
                are more tokens than block_size. Ids and targets beyond the vocabulary are refused
                on the CPU only, as a check would synchronize a GPU.
        """
        logits_BTV = self._logits(self.checked_ids(idx_BT, cu_seqlens))
        if targets_BT is None:
            return logits_BTV
        name = type(self).__name__
        check_reduction(name, reduction)
        check_targets(name, targets_BT, idx_BT.shape, idx_BT.device, logits_BTV.shape[-1], -100)
        losses = F.cross_entropy(
            logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction=reduction
        )
        return losses.view(targets_BT.shape) if reduction == "none" else losses

    def checked_ids(
        self, idx_BT: Tensor, cu_seqlens: Tensor | None = None, n_past: int = 0
    ) -> Tensor:
        """Return the ids as int64. Raise UserError if the model can't take them; see `forward`.

        n_past: number of tokens before the ids, in a cache.
        """
        name, c = type(self).__name__, self.config
        if not isinstance(idx_BT, Tensor):
            raise UserError(
                f"{name}: the ids are a {type(idx_BT).__name__}; expected a Tensor, int64 of shape "
                f"(batch, time), for instance torch.tensor([ids])"
            )
        if idx_BT.ndim != 2 or 0 in idx_BT.shape or idx_BT.dtype not in (torch.int64, torch.int32):
            raise UserError(
                f"{name}: the ids are {idx_BT.dtype} of shape {tuple(idx_BT.shape)}; expected "
                f"torch.int64 of shape (batch, time), not empty; ids[None] is a batch of one text"
            )
        device = next(self.parameters()).device
        if idx_BT.device != device:
            hint = "load its weights" if device.type == "meta" else "move one of them with .to()"
            raise UserError(
                f"{name}: the ids are on {idx_BT.device}, the model is on {device}; {hint}"
            )
        if n_past + idx_BT.shape[1] > c.block_size:
            raise self._too_long(n_past + idx_BT.shape[1])
        if can_look_at(idx_BT):
            self.check_ids([int(bound) for bound in idx_BT.aminmax()])
        if cu_seqlens is not None:
            check_cu_seqlens(name, cu_seqlens, idx_BT.numel(), idx_BT.device)
        return idx_BT.long()

    def _logits(self, idx_BT: Tensor) -> Tensor:
        """Return the unnormalised log-probabilities (B, T, V) of the next token."""
        raise NotImplementedError

    def new_cache(self, batch_size: int) -> KVCache:
        """Return an empty cache of `batch_size` rows. Raise UserError unless there is at least one.

        Models below the GPT on the ladder keep no keys and values, only the ids.
        """
        check_at_least("batch_size", as_int64("batch_size", batch_size), 1)
        parameter = next(self.parameters())
        return KVCache(self.config, batch_size, 0, device=parameter.device, dtype=parameter.dtype)

    @torch.no_grad()
    def prefill(
        self, ids: Sequence[int], cache: KVCache, row: int, *, all_logits: bool = False
    ) -> Tensor:
        """Append T ids to a row of the cache; return the logits (V,) after the last of them.

        all_logits: return those after each of them, (T, V). Raises UserError for ids that the model
        can't take, and if they don't fit into the context after those in the row.
        """
        ids_1T = torch.tensor([list(ids)], device=cache.ids_BT.device)
        ids_1T = self.checked_ids(ids_1T, n_past=cache.lengths[row])
        logits_1TV = self._next_logits(ids_1T, NewTokens(cache, [row], ids_1T), all_logits)
        return logits_1TV[0] if all_logits else logits_1TV[0, -1]

    @torch.no_grad()
    def verify(self, ids: Sequence[int], cache: KVCache, row: int) -> Tensor:
        """Append T ids to a row, as speculative decoding does; return the logits, (T, V).

        They are what T calls of `step` return: bit by bit where Rust computes steps
        (model/rust_step.py), and to rounding elsewhere. Raises UserError as `prefill` does.
        """
        return self.prefill(ids, cache, row, all_logits=True)

    def step(self, ids: Sequence[int], cache: KVCache, rows: Sequence[int]) -> Tensor:
        """Append one id to each of n rows, which differ; return the logits after each, (n, V).

        Raises UserError as `prefill` does, and for rows that don't fit the ids or the cache.
        """
        _check_rows(ids, rows, len(cache.lengths))
        self._check_new(ids, cache, max(cache.lengths[row] for row in rows) + 1)
        return self._step(ids, cache, rows)

    @torch.no_grad()
    def _step(self, ids: Sequence[int], cache: KVCache, rows: Sequence[int]) -> Tensor:
        """Do what `step` does, of valid ids: the definition."""
        ids_B1 = torch.tensor(ids, device=cache.ids_BT.device)[:, None]
        return self._next_logits(ids_B1, NewTokens(cache, rows, ids_B1), False)[:, -1]

    def _check_new(self, ids: Sequence[int], cache: KVCache, length: int) -> None:
        """Raise UserError if the model lacks an id, or if a text gets longer than the context."""
        if length > cache.block_size:
            raise self._too_long(length)
        self.check_ids(ids)

    def _too_long(self, n_tokens: int) -> UserError:
        return UserError(
            f"{type(self).__name__}: {n_tokens} tokens don't fit into the context of "
            f"{self.config.block_size}"
        )

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raise UserError for an id that the model lacks."""
        least, most = min(ids, default=0), max(ids, default=0)
        if least < 0 or most >= self.config.vocab_size:
            raise UserError(
                f"{type(self).__name__}: a token id is {least if least < 0 else most}; expected 0 "
                f"to {self.config.vocab_size - 1}"
            )

    def _next_logits(self, ids_BT: Tensor, new: NewTokens, all_logits: bool) -> Tensor:
        """Return the logits (B, T, V) after the new ids, or of the last alone, (B, 1, V).

        This computes the whole text of each row again. The GPT has the cache.
        """
        n = ids_BT.size(1) if all_logits else 1
        logits = [self._logits(text_1T)[:, -n:] for text_1T in new.texts()]
        new.finish()
        return torch.cat(logits)

    def end_step(self, sum_over_processes: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Finish an optimizer step; return the model's statistics of that step for metrics.jsonl.

        sum_over_processes: sums a tensor over all processes, in place.
        """
        return {}

    def forget_step(self) -> None:
        """Discard the statistics gathered by forward passes since the last `end_step`."""

    def n_parameters(self) -> int:
        """Return the number of trainable and of quantized parameters. Tied ones count once."""
        return self.n_quantized + sum(p.numel() for p in self.parameters() if p.requires_grad)

    def __repr__(self) -> str:
        """Return one line with the non-default settings and the number of parameters.

        `nn.Module.__repr__(model)` returns the tree of modules.
        """
        settings = ", ".join(
            f"{field.name}={getattr(self.config, field.name)!r}"
            for field in fields(self.config)
            if field.name != "architecture" and getattr(self.config, field.name) != field.default
        )
        kind = f"; {self.quantized}" if self.quantized else ""
        return f"{type(self).__name__}({settings}{kind}; {self.n_parameters():,} parameters)"


def _check_rows(ids: Sequence[int], rows: Sequence[int], n_rows: int) -> None:
    """Raise UserError unless each id has a different row, from 0 to n_rows - 1."""
    if not ids or len(ids) != len(rows):
        given = "no ids" if not ids else f"{len(ids)} ids for {len(rows)} rows"
        raise UserError(f"step: {given}; expected one id for each row")
    if min(rows) < 0 or max(rows) >= n_rows:
        wrong = next(row for row in rows if not 0 <= row < n_rows)
        raise UserError(f"step: row {wrong}; expected 0 to {n_rows - 1}")
    if len(set(rows)) < len(rows):
        twice = next(row for row in rows if rows.count(row) > 1)
        raise UserError(f"step: row {twice} is given twice; expected different rows")
