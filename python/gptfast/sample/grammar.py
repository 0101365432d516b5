"""Text that follows a JSON schema, a regular expression or a grammar, through llguidance.

Legend: V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gptfast.errors import UserError, shown
from gptfast.sample.processors import EndOfText
from gptfast.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Kind = Literal["json_schema", "regex", "lark"]


class Grammar:
    """A logits processor that forbids every token with which the text would break a grammar.

    The text may end only where the grammar allows it. A tokenizer without a token that ends a text
    ends it where nothing more may follow.
    """

    def __init__(self, tokenizer: Tokenizer, source: str | Mapping[str, Any], kind: Kind) -> None:
        """Compile a grammar.

        Args:
            tokenizer: that of the model.
            source: a JSON schema, as text or parsed; a regular expression of Rust's crate `regex`,
                which must match the whole text; or a grammar in llguidance's Lark.
            kind: which of these it is. JSON is written without white space, because a small model
                could otherwise go on with it for ever.

        Raises:
            UserError: the grammar is not valid or not supported, or llguidance is missing.
        """
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise UserError(
                f'a grammar needs a library ({error}): pip install "gptfast[grammar]"'
            ) from error
        grammar = _compiled(source, kind)
        self._matcher: LLMatcher = LLMatcher(_llguidance(tokenizer), grammar, log_level=0)
        self._n_read: int | None = None
        self._check()

    def __copy__(self) -> Grammar:
        """Return a processor for another text, at the beginning of the grammar."""
        new = object.__new__(Grammar)
        new._n_read = None
        new._matcher = self._matcher.deep_copy()
        new._matcher.reset()
        return new

    def __call__(self, ids: Sequence[int], logits_V: Tensor) -> Tensor:
        """Return the logits (V,) with -inf for the tokens that may not follow.

        The grammar begins after the ids of the first call. Raises EndOfText where nothing may
        follow, and UserError where the grammar goes on, but with no token of this tokenizer, and
        where llguidance gives up.
        """
        if self._n_read is None:
            self._n_read = len(ids)
        for token in ids[self._n_read :]:
            self._matcher.consume_token(token)
        self._n_read = len(ids)
        self._check()
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(logits_V)].astype(bool)
        if self._matcher.is_stopped() or not allowed.any():
            if self._matcher.is_accepting():  # the end may be no token of this tokenizer
                raise EndOfText
            raise UserError("the grammar demands more text, but no token may follow")
        return logits_V.masked_fill(~torch.from_numpy(allowed).to(logits_V.device), -torch.inf)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UserError(
                f"the grammar can't be followed: {_in_one_line(self._matcher.get_error())}"
            )


def _compiled(source: str | Mapping[str, Any], kind: Kind) -> str:
    from llguidance import LLMatcher

    if kind not in get_args(Kind):
        raise UserError(f"the kind of a grammar is {kind!r}: expected one of {get_args(Kind)}")
    if kind == "json_schema":
        try:
            schema = json.loads(source) if isinstance(source, str) else source
            text = json.dumps(schema, allow_nan=False)
            if isinstance(schema, Mapping):
                return LLMatcher.grammar_from_json_schema(
                    text, overrides={"whitespace_flexible": False}
                )
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"the JSON schema is not JSON: {_in_one_line(str(error))}") from error
        raise UserError(f"the JSON schema is {shown(schema)}: expected an object in braces")
    if not isinstance(source, str):
        raise UserError(f"a {kind} grammar is a {type(source).__name__}: expected a str")
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the {kind} grammar has a lone surrogate: {error}") from error
    if kind == "regex":
        return LLMatcher.grammar_from_regex(source)
    return LLMatcher.grammar_from_lark(source)


def _in_one_line(message: str) -> str:
    """Return what a message says, without the excerpt that it shows."""
    first, *others = message.strip().splitlines()
    return " ".join([first, *(line for line in others if line.startswith("error"))])


@lru_cache(maxsize=4)
def _llguidance(tokenizer: Tokenizer) -> LLTokenizer:
    """Return llguidance's form of a tokenizer. For 50,000 tokens this takes 0.1 s."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer)))


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        named = [tokenizer.id_to_token(i) for i in range(tokenizer.n_vocab)]
        self.tokens = [
            b"" if name is None else tokenizer.token_bytes(i) for i, name in enumerate(named)
        ]
        unused = [i for i, name in enumerate(named) if name is None]
        self.special_token_ids = sorted([*tokenizer.special_tokens.values(), *unused])
        self.eos_token_id = tokenizer.eot_token
        if self.eos_token_id is None:  # the id of no token, which says that the text may end
            self.eos_token_id = tokenizer.n_vocab
            self.tokens.append(b"")
            self.special_token_ids.append(tokenizer.n_vocab)

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode_ordinary(text)
