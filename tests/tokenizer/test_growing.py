"""Tokenizers with further tokens: added, learned on new text, or limited in their length."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer, CharTokenizer, bpe_reference, load_tokenizer
from gptfast.tokenizer.__main__ import main
from gptfast.tokenizer.roles import Roles
from gptfast.tokenizer.spelling import byte_level_alphabet

OLD = "the cat sat on the mat, the hat is on the cat. " * 3
NEW = "zebras graze; a zebra's stripes are a zebra's pride, and the cat gazes. " * 3


def naive_further(tokenizer: BPETokenizer, texts: list[str], n_new: int) -> list[bytes]:
    """The tokens that the definition of training makes after those of a vocabulary."""
    bytes_of = {i: token for token, i in tokenizer.ranks.items()}
    words = [
        tuple(tokenizer._bpe.encode_ordinary(piece))
        for text in texts
        for piece in tokenizer.pretokenize(text)
    ]
    made = []
    for new_id in range(tokenizer.n_vocab, tokenizer.n_vocab + n_new):
        counts: dict[tuple[int, int], int] = {}
        for word in words:
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        bytes_of[new_id] = bytes_of[best[0]] + bytes_of[best[1]]
        made.append(bytes_of[new_id])
        words = [bpe_reference.merge(word, best, new_id) for word in words]
    return made


@settings(max_examples=60, deadline=None)
@given(
    old=st.text("abc d", min_size=1, max_size=60),
    new=st.text("abce fé", min_size=1, max_size=60),
    n_old=st.integers(0, 12),
    n_new=st.integers(0, 12),
)
def test_further_merges_are_those_of_the_definition(
    old: str, new: str, n_old: int, n_new: int
) -> None:
    old, new = f"x{old}", f"x{new}"  # so that no text is taken for a path
    first = BPETokenizer.train([old.encode()], 257 + n_old, progress=False)
    grown = first.extend([new.encode()], first.n_vocab + n_new, progress=False)
    made = naive_further(first, [new], n_new)
    assert [grown.ranks[token] for token in made] == list(
        range(first.n_vocab, first.n_vocab + len(made))
    )
    assert grown.n_vocab == first.n_vocab + len(made)
    assert first.ranks.items() <= grown.ranks.items()
    assert grown.special_tokens == first.special_tokens


def test_on_the_same_text_it_is_the_larger_vocabulary() -> None:
    small = BPETokenizer.train([OLD], 270, special_tokens=(), progress=False)
    large = BPETokenizer.train([OLD], 290, special_tokens=(), progress=False)
    assert small.extend([OLD], 290, progress=False) == large
    assert small.ranks != large.ranks


def test_an_extended_vocabulary_has_the_ids_of_tiktoken(tmp_path: Path) -> None:
    first = BPETokenizer.train([OLD], 280, special_tokens=("<|endoftext|>", "<|x|>"))
    grown = first.extend([NEW], 320, progress=False)
    assert grown.special_tokens == first.special_tokens
    assert grown.roles == first.roles
    encoding = tiktoken.Encoding(
        "grown",
        pat_str=grown.pat_str,
        mergeable_ranks=grown.mergeable_ranks,
        special_tokens=grown.special_tokens,
    )
    for text in (OLD, NEW, "zebra cats gaze"):
        assert grown.encode_ordinary(text) == encoding.encode_ordinary(text)
    assert len(grown.encode_ordinary(NEW)) < len(first.encode_ordinary(NEW))
    grown.save(tmp_path)
    assert load_tokenizer(tmp_path) == grown
    hf = HFTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert hf.encode(NEW).ids == grown.encode_ordinary(NEW)


def test_merges_never_cross_an_added_token() -> None:
    first = BPETokenizer.train([OLD], 270, progress=False).with_added(["<q>"], special=False)
    grown = first.extend(["xy<q>xy<q>xy<q>"], first.n_vocab + 5, progress=False)
    assert list(grown.ranks.items() - first.ranks.items()) == [(b"xy", first.n_vocab)]
    assert grown.added_tokens == first.added_tokens


def test_what_cannot_be_extended() -> None:
    first = BPETokenizer.train([OLD], 270, progress=False)
    with pytest.raises(UserError, match=r"vocab_size is 100: expected .*270 ids already"):
        first.extend([NEW], 100)
    ranks = first.ranks | {b"zzzz": 1000}
    with pytest.raises(UserError, match="no merge makes 1 of its tokens"):
        BPETokenizer(ranks).extend([NEW], 1100)
    with pytest.raises(UserError, match="normalizer"):
        BPETokenizer(first.ranks, normalizer={"type": "NFC"}).extend([NEW], 1100)


def test_added_tokens_keep_the_ids_and_the_roles() -> None:
    first = BPETokenizer.train([OLD], 270, progress=False)
    grown = first.with_added(["<think>"], special=False).with_added(["<|tool|>"])
    assert grown.encode_ordinary(OLD) == first.encode_ordinary(OLD)
    assert grown.encode_ordinary("a<think><|tool|>")[:2] == [97, 270]
    assert grown.encode("<|tool|>", "all") == [271]
    assert 271 not in grown.encode_ordinary("<|tool|>")
    assert grown.roles == first.roles
    with pytest.raises(UserError, match="has a token '<think>' already"):
        grown.with_added(["<think>"])
    with pytest.raises(UserError, match="only special"):
        CharTokenizer(["a"]).with_added(["<think>"], special=False)


def train_hf(text: str, vocab_size: int, max_token_length: int) -> list[str]:
    tokenizer: Any = HFTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[],
        initial_alphabet=list(byte_level_alphabet().values()),
        max_token_length=max_token_length,
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    vocab: dict[str, int] = tokenizer.get_vocab()
    return sorted(vocab, key=vocab.__getitem__)


@pytest.mark.parametrize("longest", [2, 3, 5])
def test_no_token_is_longer_than_allowed(longest: int) -> None:
    text = "=" * 40 + " " + OLD + "ünïcödé " * 5
    ours = BPETokenizer.train(
        [text], 330, special_tokens=(), tie="huggingface", max_token_length=longest, progress=False
    )
    assert max(map(len, ours.ranks)) == longest
    names = [ours.id_to_token(i) for i in range(ours.n_vocab)]
    # Its tokens are shorter than its max_token_length, which its documentation says they may reach.
    assert names == train_hf(text, 330, longest + 1)


def test_the_rarest_characters_are_left_out() -> None:
    text = "aaaabbbccé"
    few = CharTokenizer.train(text, ["<unk>"], Roles(unk="<unk>"), max_chars=3)
    assert few.encode_ordinary("abcé") == [0, 1, 2, 3]
    assert few.decode([0, 1, 2, 3]) == "abc<unk>"
    assert CharTokenizer.train("ba", max_chars=2).encode_ordinary("ab") == [0, 1]
    assert CharTokenizer.train("cab", ["<unk>"], Roles(unk="<unk>"), max_chars=2).n_vocab == 3
    with pytest.raises(UserError, match=r"4 characters, more than max_chars 3.*role unk"):
        CharTokenizer.train(text, max_chars=3)
    with pytest.raises(UserError, match="max_chars is 0"):
        CharTokenizer.train(text, max_chars=0)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = BPETokenizer.train([OLD], 270, progress=False)
    first.save(tmp_path / "first")
    (tmp_path / "new.txt").write_text(NEW)
    add = ["add", "--tokenizer", str(tmp_path / "first"), "--out", str(tmp_path / "added")]
    assert main([*add, "--token", "<a>", "--token", "<b>", "--no-special"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "270  <a>",
        "271  <b>",
        f"272 ids, 2 of them new; saved in {tmp_path / 'added'}",
    ]
    with pytest.raises(UserError, match="already holds a tokenizer"):
        main([*add, "--token", "<c>"])
    extend = ["extend", "--tokenizer", str(tmp_path / "added"), "--vocab-size", "280"]
    assert main([*extend, "--out", str(tmp_path / "more"), str(tmp_path / "new.txt")]) == 0
    assert "280 ids, 8 of them new" in capsys.readouterr().out
    grown = load_tokenizer(tmp_path / "more")
    assert grown == first.with_added(["<a>", "<b>"], special=False).extend([NEW], 280)


def test_what_the_commands_refuse(tmp_path: Path) -> None:
    BPETokenizer.train([OLD], 270, progress=False).save(tmp_path / "first")
    (tmp_path / "empty.txt").write_text("")
    out, given = tmp_path / "out", ["--tokenizer", str(tmp_path / "first")]
    add = ["add", *given, "--out", str(out)]
    with pytest.raises(UserError, match="no token was given: expected --token NAME"):
        main(add)
    with pytest.raises(UserError, match="the new token '<x>' is given twice"):
        main([*add, "--token", "<x>", "--token", "<x>"])
    with pytest.raises(UserError, match="has a token 'a' already"):
        main([*add, "--token", "a"])
    assert not out.exists()
    extend = ["extend", *given, "--vocab-size", "300", "--out", str(out)]
    with pytest.raises(UserError, match=r"there is no text in .*empty\.txt"):
        main([*extend, str(tmp_path / "empty.txt")])
