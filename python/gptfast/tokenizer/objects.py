"""A tokenizer as an object of another library, with the same ids."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gptfast.errors import UserError
from gptfast.tokenizer.base import Tokenizer
from gptfast.tokenizer.bpe import BPETokenizer
from gptfast.tokenizer.checks import check_kind

if TYPE_CHECKING:
    import tiktoken
    import tokenizers


def as_tiktoken(tokenizer: BPETokenizer) -> tiktoken.Encoding:
    """Return a `tiktoken.Encoding` that gives the same ids.

    Raises UserError if tiktoken lacks one of the parts, or is not installed.
    """
    check_kind("tokenizer", tokenizer, BPETokenizer, "a BPETokenizer")
    pat_str = tokenizer.pat_str
    try:
        import tiktoken
    except ImportError as error:
        raise UserError(f"as_tiktoken needs a library ({error}): pip install tiktoken") from error
    return tiktoken.Encoding(
        "gptfast",
        pat_str=pat_str,
        mergeable_ranks=tokenizer.mergeable_ranks,
        special_tokens=tokenizer.special_tokens,
    )


def as_hf(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """Return a `tokenizers.Tokenizer` that gives the same ids.

    It finds special tokens in every text, as `encode(text, "all")` does, unless its
    `encode_special_tokens` is set. For `transformers`, save a folder instead: that has the roles.

    Raises UserError if `tokenizers` is not installed.
    """
    check_kind("tokenizer", tokenizer, Tokenizer, "a Tokenizer")
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(f"as_hf needs a library ({error}): pip install tokenizers") from error
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer.to_json()))
