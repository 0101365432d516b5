"""`gptfast audit attention`: where each head of a model looks, and that none sees the future.

Legend: L layers, H heads, T tokens. Layers and heads are counted from 1, as on the pages of
`gptfast export html` and `gptfast serve`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gptfast import ops
from gptfast.audit.heads import Head, Induction, measure_induction, scores
from gptfast.audit.mask import Check, Place, check_paths, check_weights
from gptfast.errors import UserError
from gptfast.model import LanguageModel, ModelConfig
from gptfast.model.attention import SelfAttention
from gptfast.tokenizer import Tokenizer
from gptfast.tokenizer.show import visible

MOST_TOKENS = 128
"""Longest text: nobody can read a larger matrix."""


@dataclass(frozen=True)
class AttentionAudit:
    """What was measured. `json.dumps(asdict(...))` takes it."""

    tokens: list[str]
    """The T tokens, with white space made visible."""
    texts: list[str]
    """Their texts as they are; U+FFFD for parts of characters."""
    ids: list[int]
    layer: int
    """The layer and the head to show a matrix of, counted from 1."""
    head: int
    masks: list[list[list[int]]]
    """`masks[layer - 1]` is (T, T): 1 where token t (the row) may see token s (the column)."""
    rules: list[str]
    """Which token may see which, in sentences."""
    sees: list[str]
    """The same of each token in the layer to show."""
    checks: list[Check]
    heads: list[Head]
    """The scores of all heads, layer by layer."""
    induction: Induction | None
    """None if the context or the vocabulary is too small to repeat a sequence."""
    weights: list[list[list[list[float]]]]
    """`weights[layer - 1][head - 1][t][s]` for s up to t, to 4 decimals."""

    @property
    def mask(self) -> list[list[int]]:
        """The mask of the chosen layer, (T, T)."""
        return self.masks[self.layer - 1]

    @property
    def matrix(self) -> list[list[float]]:
        """The weights of the chosen head, (T, T)."""
        rows, T = self.weights[self.layer - 1][self.head - 1], len(self.ids)
        return [row + [0.0] * (T - len(row)) for row in rows]

    @property
    def is_sound(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)


def measure(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: str,
    layer: int | None = None,
    head: int | None = None,
    *,
    mask_documents: bool = False,
    seed: int = 1337,
) -> AttentionAudit:
    """Audit the attention of a model on a text.

    Args:
        model: with attention: a GPT, or a rung below it from 'head' on.
        tokenizer: the model's.
        text: 2 to 128 tokens, which fit into the model's context.
        layer: of the head to show, counted from 1. Without it or `head`, the head is chosen whose
            weights are the least even, by their entropy, among those that were asked for.
        head: likewise.
        mask_documents: read end-of-text tokens in the text as such. The documents that they begin
            must not see each other, as with `gptfast train --mask-documents`.
        seed: of the random sequences for the induction score.

    Raises:
        UserError: the model has no attention, or lacks the layer or the head; the text has too few
            or too many tokens, or the tokenizer none that ends a document.
    """
    layers = [m for m in model.modules() if isinstance(m, SelfAttention)]
    if not layers:
        name = model.config.architecture
        raise UserError(f"a model of the kind {name!r} has no attention: expected another model")
    ids = _encode(model, tokenizer, text, mask_documents)
    ids_1T = torch.tensor([ids], device=next(model.parameters()).device)
    starts = [0, *(t for t in range(1, len(ids)) if ids[t] == tokenizer.eot_token)]
    starts = starts if mask_documents else [0]
    cu_seqlens = torch.tensor([*starts, len(ids)], dtype=torch.int32, device=ids_1T.device)
    place = Place(ids_1T, cu_seqlens if mask_documents else None, _first(starts, len(ids)))
    windows = [model.config.layer_window(layer) for layer in range(len(layers))]
    with _evaluating(model), torch.inference_mode():
        with ops.return_weights() as recorded:
            place.run(model)
        weights_LHTT = torch.stack([w[0].cpu() for w in recorded])
        sees_LTT = torch.stack([place.sees(window) for window in windows])
        checks = [
            *check_weights(weights_LHTT, sees_LTT),
            *check_paths(model, layers, place),
        ]
        n_ids = min(tokenizer.n_vocab, model.config.vocab_size)
        ordinary = set(range(n_ids)) - {token.id for token in tokenizer.added_tokens}
        longest = min((w for w in windows if w is not None), default=model.config.block_size)
        induction = measure_induction(model, ordinary, longest, seed)
    heads = _heads(weights_LHTT, sees_LTT, place.first_T, induction)
    chosen = _choose(heads, layer, head)
    tokens = [visible(tokenizer.token_bytes(token_id)) for token_id in ids]
    return AttentionAudit(
        tokens=tokens,
        texts=[tokenizer.decode([token_id]) for token_id in ids],
        ids=ids,
        layer=chosen.layer,
        head=chosen.head,
        masks=sees_LTT.int().tolist(),
        rules=_rules(model.config, windows, mask_documents),
        sees=_sees(tokens, sees_LTT[chosen.layer - 1]),
        checks=checks,
        heads=heads,
        induction=induction,
        weights=[
            [[[round(w, 4) for w in row[: t + 1]] for t, row in enumerate(head)] for head in layer]
            for layer in weights_LHTT.tolist()
        ],
    )


def _encode(
    model: LanguageModel, tokenizer: Tokenizer, text: str, mask_documents: bool
) -> list[int]:
    if mask_documents and tokenizer.eot_token is None:
        raise UserError("mask_documents: the tokenizer has no end-of-text token that separates")
    ids = tokenizer.encode(text, "all") if mask_documents else tokenizer.encode_ordinary(text)
    most = min(MOST_TOKENS, model.config.block_size)
    if not 2 <= len(ids) <= most:
        raise UserError(f"the text has {len(ids)} tokens: expected 2 to {most}")
    return ids


def _first(starts: list[int], T: int) -> Tensor:
    """Return the first token of each token's document, (T,)."""
    starts_N, t_T = torch.tensor(starts), torch.arange(T)
    return starts_N[torch.searchsorted(starts_N, t_T, right=True) - 1]


@contextmanager
def _evaluating(model: LanguageModel) -> Iterator[None]:
    """Turn dropout off within a `with` block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _heads(
    weights_LHTT: Tensor, sees_LTT: Tensor, first_T: Tensor, induction: Induction | None
) -> list[Head]:
    L, H = weights_LHTT.shape[:2]
    return [
        Head(
            layer=layer + 1,
            head=head + 1,
            **scores(weights_LHTT[layer, head], sees_LTT[layer], first_T),
            induction=None if induction is None else induction.scores[layer][head],
        )
        for layer in range(L)
        for head in range(H)
    ]


def _choose(heads: list[Head], layer: int | None, head: int | None) -> Head:
    """Return the head to show."""
    last = heads[-1]
    for name, given, most in (("layer", layer, last.layer), ("head", head, last.head)):
        if given is not None and not 1 <= given <= most:
            raise UserError(f"--{name} is {given}: expected 1 to {most}")
    wanted = [h for h in heads if layer in (None, h.layer) and head in (None, h.head)]
    return min(wanted, key=lambda h: h.entropy or 0.0)


def _rules(config: ModelConfig, windows: list[int | None], mask_documents: bool) -> list[str]:
    """Return which token may see which, and what else shapes the weights, in sentences."""
    rules = ["A token sees itself and the tokens before it, and never one after it."]
    for window in sorted({w for w in windows if w is not None}):
        of = [str(i + 1) for i, w in enumerate(windows) if w == window]
        rules.append(
            f"In layer{'s' * (len(of) > 1)} {', '.join(of)}, it sees only the {window} newest of "
            f"these, itself included (sliding window)."
        )
    if mask_documents:
        rules.append("It sees only tokens of its own document.")
    share = config.n_head // config.key_value_heads
    if share > 1:
        rules.append(
            f"Each {share} heads in a row share keys and values; their weights differ, because "
            f"their queries do."
        )
    if config.logit_softcap is not None:
        rules.append("The cap on logits acts after the last layer, and on no attention weight.")
    return rules


def _sees(tokens: list[str], sees_TT: Tensor) -> list[str]:
    lines = []
    for t, row in enumerate(sees_TT.tolist()):
        first = row.index(True)
        seen = f"tokens {first + 1} to {t + 1}, “{tokens[first]}” to “{tokens[t]}”"
        lines.append(f"token {t + 1} “{tokens[t]}” sees {'itself' if first == t else seen}")
    return lines
