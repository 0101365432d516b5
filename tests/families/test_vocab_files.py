"""`vocab.json` and `merges.txt`, as GPT-2's family of old has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from family_text import every_script, strings

from gptfast.errors import UserError
from gptfast.tokenizer import AddedToken, BPETokenizer, Roles
from tricky_text import ATOMS

TEXTS = [*strings(200, 11, ["<|endoftext|>", "<think>"]), every_script(10_000, 12)]


def test_transformers_reads_them_with_the_same_ids(tmp_path: Path) -> None:
    from transformers import GPT2Tokenizer

    ours = BPETokenizer.train(ATOMS * 2, 400, special_tokens=["<|endoftext|>"], progress=False)
    ours.save_vocab(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "vocab.json", "merges.txt", "tokenizer_config.json"
    }  # fmt: skip
    theirs = GPT2Tokenizer.from_pretrained(tmp_path)
    assert theirs.eos_token == "<|endoftext|>"
    for text in TEXTS:
        assert ours.encode(text, "all") == theirs.encode(text), text


def test_we_read_them_with_the_same_tokens_and_roles(tmp_path: Path) -> None:
    learned = BPETokenizer.train(ATOMS * 2, 400, special_tokens=(), progress=False)
    tokens = [AddedToken("<think>", 400, special=False), AddedToken("</s>", 401)]
    ours = BPETokenizer(learned.mergeable_ranks, "gpt2", {}, tokens, Roles(eos="</s>"))
    ours.save_vocab(tmp_path / "files")
    again = BPETokenizer.from_hf(tmp_path / "files")
    assert again == ours
    assert again.roles == ours.roles
    assert again.added_tokens == ours.added_tokens


@pytest.mark.parametrize("pattern", ["cl100k", "none"])
def test_another_pattern_is_refused(tmp_path: Path, pattern: str) -> None:
    ours = BPETokenizer.train(ATOMS, 300, pattern, progress=False)
    with pytest.raises(UserError, match=r"pre_tokenizer is .*save a tokenizer\.json instead"):
        ours.save_vocab(tmp_path / "files")
    assert not (tmp_path / "files").exists()
