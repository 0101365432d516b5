"""BPE tokenizers: made, trained, loaded and saved. `bpe_codec.py` has what they do with text.

Rust implements the work. `bpe_reference.py` is the definition.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gptfast.errors import UserError, warn_after_work
from gptfast.tokenizer import formats
from gptfast.tokenizer.added import AddedToken, all_added, special
from gptfast.tokenizer.bpe_codec import BPECodec
from gptfast.tokenizer.bpe_model import BPEModel
from gptfast.tokenizer.checks import check_kind, check_names, shorten
from gptfast.tokenizer.decoders import BYTE_FALLBACK, is_byte_level, new_decoder
from gptfast.tokenizer.extending import learn_further
from gptfast.tokenizer.hf_folder import read_hf, write_vocab
from gptfast.tokenizer.patterns import pat_str, possible_merges
from gptfast.tokenizer.ranks import read_encoding, write_tiktoken
from gptfast.tokenizer.roles import END_OF_TEXT, Roles, checked, roles_of_trained
from gptfast.tokenizer.rust import RUST_ERRORS, rust_bpe, user_error
from gptfast.tokenizer.tekken import from_tekken, is_tekken
from gptfast.tokenizer.template import around_text
from gptfast.tokenizer.training import train_bpe

if TYPE_CHECKING:
    from typing_extensions import Self

    from gptfast.cli.progress import TrainingProgress

_BYTE_LEVEL = BPEModel()


class BPETokenizer(BPECodec):
    """Byte-level BPE, which can encode any text and any bytes.

    `ranks` maps the bytes of each ordinary token to its id, which is also its rank among the merges
    (tiktoken's convention). `pattern` splits text into pre-tokens: the name of a published pattern,
    such as "gpt2" or "llama3", "none" (the text is one pre-token) or a regular expression.
    `special_tokens` maps names to ids. `added_tokens` are further ones, which any text may contain
    unless they are special. `roles` says which of them ends a document, and so on; None recognizes
    well-known names.

    `normalizer` changes each text before it is split, and `template` is the `post_processor` that
    adds tokens around a text if `encode` is asked to. `decoder` turns tokens that are no bytes into
    text. All three are parts of a `tokenizer.json`.

    `merges` lists the pairs of tokens that are merged, those to merge first at the start, as
    `tokenizer.json` does; then ids are no ranks. None: of any two adjacent tokens whose bytes are a
    token, those that make the smallest id are merged first, and a whole pre-token that is a token
    is not merged, as in tiktoken. `model` holds the other fields of `model` in `tokenizer.json`.

    Raises UserError if an id is given twice, a byte has no id (without `merges`), a merge is of or
    makes tokens that have no id, the pattern is not a regular expression, an added token and an
    ordinary token have the same spelling in `tokenizer.json`, or a role is not an added token's.
    """

    _normalizer: dict[str, Any] | None = None
    _template: dict[str, Any] | None = None

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        pattern: str = "gpt2",
        special_tokens: Mapping[str, int] | None = None,
        added_tokens: Sequence[AddedToken] = (),
        roles: Roles | None = None,
        *,
        merges: Sequence[tuple[bytes, bytes]] | None = None,
        model: BPEModel = _BYTE_LEVEL,
        normalizer: dict[str, Any] | None = None,
        template: dict[str, Any] | None = None,
        decoder: dict[str, Any] | None = None,
    ) -> None:
        special_tokens = {} if special_tokens is None else special_tokens
        check_kind("ranks", ranks, Mapping, "a dict of tokens (bytes) and their ids")
        check_kind("special_tokens", special_tokens, Mapping, "a dict of names and ids")
        check_kind("pattern", pattern, str, "the name of a pattern or a regular expression")
        check_kind("model", model, BPEModel, "a BPEModel")
        if merges is not None:
            check_kind("merges", merges, (list, tuple), "a list of pairs of tokens (bytes)")
        tokens = all_added(special_tokens, added_tokens)
        added = [token.for_rust() for token in tokens]
        steps = None if normalizer is None else json.dumps(normalizer, ensure_ascii=False)
        try:
            self._bpe = rust_bpe()(
                dict(ranks),
                pattern,
                special(tokens),
                added,
                merges=None if merges is None else possible_merges(pattern, merges, model),
                ignore_merges=model.ignore_merges,
                unk=model.unk_id(ranks, tokens),
                fuse_unk=model.fuse_unk,
                byte_fallback=model.byte_fallback,
                normalizer=steps,
            )
        except RUST_ERRORS as error:
            raise user_error(error) from None
        # Without listed merges, the whole is looked up, too. One name for what gives the same ids.
        model = replace(model, ignore_merges=self._bpe.looks_up_whole)
        formats.check_spelling(tokens, ranks, model)
        self._added_tokens, self._roles, self._model = tokens, checked(roles, tokens), model
        if decoder is None and model.byte_fallback:
            decoder = BYTE_FALLBACK
        self._around = around_text(template)
        self._normalizer, self._decoder = normalizer, decoder
        self._template = template if any(self._around) else None
        for token_id in chain(*self._around):
            if not 0 <= token_id < self.n_vocab:
                raise UserError(
                    f"template has the id {token_id}: expected an id from 0 to {self.n_vocab - 1}"
                )
        if decoder is not None:
            new_decoder(decoder)  # refuse what can't be decoded

    @classmethod
    def train(
        cls,
        texts: str | bytes | Iterable[str | bytes],
        vocab_size: int = 32_768,
        pattern: str = "gpt2",
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        min_frequency: int = 1,
        *,
        roles: Roles | None = None,
        tie: Literal["bytes", "huggingface"] = "bytes",
        max_token_length: int | None = None,
        n_threads: int | None = None,
        memory_limit: int | None = None,
        progress: bool | TrainingProgress = True,
    ) -> Self:
        """Learn a vocabulary: ids 0 to 255 are single bytes, then merges, then the special tokens.

        texts: merges never cross two of them. A str or bytes is one text. Order is irrelevant.
        vocab_size: maximum number of ids, all included. Training stops earlier when no pair occurs
        `min_frequency` times.
        roles: which special token ends a document, and so on. By default `<|endoftext|>` is eos;
        without it, the only one with a well-known name such as `</s>`, or else the only one.
        tie: of equally frequent pairs, the smallest pair of ids (left, then right) is merged first.
        With "bytes", the id of a single byte is its value; with "huggingface", single bytes are in
        the order of GPT-2's alphabet, so that ties are broken as by Hugging Face `tokenizers`.
        max_token_length: no merge makes a token of more bytes; None for no limit.
        n_threads: None for one per core. The number does not change the result.
        memory_limit: bytes to use beyond what the process uses already; None for no limit. Counts
        that exceed it are kept in temporary files. If even the distinct pre-tokens exceed it, the
        rarest are left out, and a warning says how many.
        progress: show it on stderr; or a function that is called with it, from any thread: with
        ("counting", bytes of text, 0), then with ("merging", merges, the most there can be).

        No merge makes a token that is spelled like a special token. Raises UserError for arguments
        that can't be used, before the first text is read, and for a text that can't be used, such
        as `texts[1]`. What `texts` and `progress` raise passes through.
        """
        check_names("special_tokens", special_tokens)
        names = {name: 256 + i for i, name in enumerate(special_tokens)}
        if len(names) < len(special_tokens):
            raise UserError(f"special_tokens is {special_tokens!r}: a name is given twice")
        roles = roles_of_trained(special_tokens) if roles is None else roles
        # What can't be made with single bytes alone is refused before the work.
        cls({bytes([byte]): byte for byte in range(256)}, pattern, names, roles=roles)
        trained, left_out = train_bpe(
            texts, vocab_size, pattern, special_tokens, min_frequency,
            tie, max_token_length, n_threads, memory_limit, progress,
        )  # fmt: skip
        for line in left_out:
            warn_after_work(line, stacklevel=2)
        tokenizer = cls.__new__(cls)
        tokenizer._bpe, tokenizer._roles, tokenizer._model = trained, roles, _BYTE_LEVEL
        tokenizer._added_tokens = tuple(AddedToken(*t) for t in trained.special_tokens.items())
        return tokenizer

    def extend(
        self,
        texts: str | bytes | Iterable[str | bytes],
        vocab_size: int,
        min_frequency: int = 1,
        *,
        max_token_length: int | None = None,
        n_threads: int | None = None,
        memory_limit: int | None = None,
        progress: bool | TrainingProgress = True,
    ) -> Self:
        """Return a tokenizer with further merges, learned from `texts` as by `train`.

        Training goes on from the tokens that the texts have now. All ids stay as they are, those of
        special tokens too, and new tokens follow them; but text may be encoded with new tokens
        where the old ones stood side by side. Added tokens in the texts are passed over.
        vocab_size: maximum number of ids, the old ones included.

        Raises UserError as `train`, and for a vocabulary that lacks some bytes, has tokens that no
        merge makes, begins with characters, or has a normalizer.
        """
        learned, left_out = learn_further(
            self, texts, vocab_size, min_frequency,
            max_token_length, n_threads, memory_limit, progress,
        )  # fmt: skip
        for line in left_out:
            warn_after_work(line, stacklevel=2)
        ranks = self.ranks | {a + b: self.n_vocab + i for i, (a, b) in enumerate(learned)}
        merges = None if self._bpe.follows_ids else [*self.merges, *learned]
        return type(self)(
            ranks, self.pattern, None, self.added_tokens, self.roles,
            merges=merges, model=self._model, template=self._template, decoder=self._decoder,
        )  # fmt: skip

    @classmethod
    def from_tiktoken(
        cls,
        path: str | Path,
        pattern: str | None = None,
        special_tokens: Mapping[str, int] | None = None,
    ) -> Self:
        """Load a tiktoken rank file, which contains neither the pattern nor the special tokens.

        They default to the published ones if the ranks are exactly those of GPT-2, p50k, cl100k,
        o200k, Llama 3, Llama 4, or Qwen, whose pattern comes with a normalizer. Other ranks need
        `pattern`; for them `special_tokens` defaults to that of `train`, `<|endoftext|>` with the
        id after the highest rank.

        Raises MissingFileError if there is no such file, UserError if it can't be used.
        """
        ranks, pattern, special_tokens, normalizer = read_encoding(path, pattern, special_tokens)
        try:
            return cls(ranks, pattern, special_tokens, normalizer=normalizer)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    @classmethod
    def from_hf(cls, path: str | Path) -> Self:
        """Load another project's tokenizer: a `tokenizer.json`, a `tekken.json`, or a folder.

        The folder holds one of these, or `vocab.json` and `merges.txt` as for GPT-2; other
        files in it tell the roles of its tokens, as for `load`.
        Raises MissingFileError if there is no such file, UserError if the ids would differ.
        """
        data = read_hf(path)  # checks the path
        return cls._from_file(Path(path), data)

    @classmethod
    def _from_file(cls, path: Path, data: dict[str, Any]) -> Self:
        if not is_tekken(data):
            return super()._from_file(path, data)
        try:
            return cls(*from_tekken(data))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def to_tiktoken(self, path: str | Path) -> None:
        """Write a tiktoken rank file, without the pattern and the special tokens.

        Raises UserError if tiktoken would encode differently, or if it can't be written there.
        """
        write_tiktoken(path, self.mergeable_ranks)

    def save_vocab(self, folder: str | Path) -> None:
        """Write `vocab.json` and `merges.txt` into `folder`, the older files of GPT-2's family.

        A `tokenizer_config.json` lists the added tokens and the roles. `from_hf` reads all three.
        Raises UserError if the tokenizer has a part that these files can't say, such as another
        pattern than GPT-2's, or if they can't be written there.
        """
        write_vocab(folder, self.to_json(), self.roles)

    @property
    def pat_str(self) -> str:
        """The pattern as the `pat_str` of a `tiktoken.Encoding`, which gives the same ids.

        Raises UserError if the tokenizer has more than tiktoken has (see `further_part`), or if
        tiktoken would merge differently.
        """
        self._check_follows_ids()
        if part := self.further_part():
            raise UserError(
                f"{part}, and tiktoken has only a pattern, ranks and special tokens: expected a "
                f"tokenizer without it"
            )
        return pat_str(self.pattern)

    def further_part(
        self, *, finds_ordinary: bool = False, is_normalized: bool = False
    ) -> str | None:
        """Return in words a part that is more than a pattern, merges and special tokens.

        None if there is none. Other programs have no more than these. A template is no such part,
        because tokens are added around a text only on request.

        finds_ordinary: whether the program also finds added tokens that are not special.
        is_normalized: whether the normalizer is passed over.
        """
        if self._normalizer is not None and not is_normalized:
            return f"the tokenizer has the normalizer {shorten(self._normalizer)}"
        if self.model.byte_fallback:
            return "the tokenizer has byte_fallback"
        if self.pattern.startswith("{"):
            return f"the tokenizer has the pre_tokenizer {shorten(self.pattern)}"
        for token in self.added_tokens:
            if not (token.special or finds_ordinary):
                return f"the added token {token.name!r} is not special, so any text may contain it"
            for flag in ("lstrip", "rstrip", "single_word"):
                if getattr(token, flag):
                    return f"the added token {token.name!r} has {flag}"
        return None

    @property
    def normalizer(self) -> dict[str, Any] | None:
        """What changes a text before it is split, as in `tokenizer.json`; None for nothing."""
        return self._normalizer

    @property
    def mergeable_ranks(self) -> dict[bytes, int]:
        """The ordinary tokens and their ids, which are their ranks, as tiktoken takes them.

        Raises UserError if tiktoken would encode differently.
        """
        self._check_follows_ids()
        return self._bpe.ranks

    def _check_follows_ids(self) -> None:
        if not self._bpe.follows_ids:
            raise UserError(
                "the merges of this tokenizer are not those that tiktoken derives from the ids of "
                "its tokens: use it as a tokenizer.json, which lists the merges"
            )

    @property
    def added_tokens(self) -> tuple[AddedToken, ...]:
        """The special tokens, and others that are found in any text by their names."""
        return self._added_tokens

    def __repr__(self) -> str:
        shown, n_special = shorten(self.pattern), len(self.special_tokens)
        return f"BPETokenizer(n_vocab={self.n_vocab}, pattern={shown}, n_special={n_special})"

    def to_json(self) -> dict[str, Any]:
        """Return the contents of `tokenizer.json`, in the format of Hugging Face `tokenizers`."""
        return formats.bpe_to_json(
            self.ranks,
            self.merges,
            self.pattern,
            self.added_tokens,
            self.model,
            normalizer=self._normalizer,
            template=self._template,
            decoder=self._decoder,
        )

    @classmethod
    def from_json(cls, data: dict[str, Any], roles: Roles | None = None) -> Self:
        """Return the tokenizer of a BPE `tokenizer.json`, such as GPT-2's.

        roles: None to recognize well-known names of special tokens. Raises UserError if it
        describes anything else.
        """
        ranks, merges, model, pattern, added_tokens = formats.bpe_from_json(data)
        parts = formats.simplified(data)
        decoder = parts.get("decoder")
        return cls(
            ranks,
            pattern,
            added_tokens=added_tokens,
            roles=roles,
            merges=merges,
            model=model,
            normalizer=parts.get("normalizer"),
            template=parts.get("post_processor"),
            decoder=None if is_byte_level(decoder) else decoder,
        )
