"""Mistral's tekken.json gives the ids that mistral_common's way with tiktoken gives."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from family_text import every_script, strings
from test_families import N_BYTES, N_STRINGS, VOCABULARIES

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer, load_tokenizer
from gptfast.tokenizer.published import open_tokenizer

PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]"
    r"?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def small() -> dict[str, Any]:
    """A file of version v13, which lists its special tokens, with more tokens than it uses."""
    learned = BPETokenizer.train([every_script(60_000, 1), *strings(400, 2)], 900, PATTERN, ())
    tokens = [learned.token_bytes(i) for i in range(learned.n_vocab)]
    return {
        "config": {
            "pattern": PATTERN, "num_vocab_tokens": len(tokens), "default_vocab_size": 850,
            "default_num_special_tokens": 30, "version": "v13",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(tokens)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": name, "is_control": True}
            for rank, name in enumerate(["<unk>", "<s>", "</s>", "[INST]", "[THINK]"])
        ],
        "audio": {"sampling_rate": 16000},
    }  # fmt: skip


@pytest.fixture(params=["small", "real"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "small":
        path = tmp_path / "tekken.json"
        path.write_text(json.dumps(small()))
        return path
    path = VOCABULARIES / "tekken.json"
    if not path.is_file():
        pytest.skip("tekken.json is missing: tests/families/fetch.py fetches it")
    return path


def test_the_ids_are_those_of_mistral_common(path: Path) -> None:
    config, ours = json.loads(path.read_bytes())["config"], BPETokenizer.from_hf(path)
    n_special = config["default_num_special_tokens"]
    vocab = json.loads(path.read_bytes())["vocab"][: config["default_vocab_size"] - n_special]
    ranks = {base64.b64decode(token["token_bytes"]): token["rank"] for token in vocab}
    theirs = tiktoken.Encoding(
        "tekken", pat_str=config["pattern"], mergeable_ranks=ranks, special_tokens={}
    )
    given = [*strings(N_STRINGS, 3, ["[INST]", "</s>"]), every_script(N_BYTES, 4)]
    expected = [[i + n_special for i in ids] for ids in theirs.encode_ordinary_batch(given)]
    for text, mine, ids in zip(given, ours.encode_batch(given), expected, strict=True):
        assert mine == ids, text[:400]
        assert ours.decode(ids) == text
    assert ours.n_vocab == config["default_vocab_size"]
    assert (ours.roles.bos, ours.roles.eos, ours.roles.unk) == ("<s>", "</s>", "<unk>")
    assert ours.encode("[INST]a</s>", "all")[::2] == [3, 2]
    assert ours.special_tokens["<SPECIAL_25>"] == 25


def test_it_saves_as_tokenizer_json(tmp_path: Path) -> None:
    path = tmp_path / "any name.json"
    path.write_text(json.dumps(small()))
    ours = load_tokenizer(path)
    ours.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again == ours == open_tokenizer(path)
    assert again.roles == ours.roles
    given = strings(50, 6, ["[INST]"])
    assert again.encode_batch(given) == ours.encode_batch(given)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"lattice": 1}, "lattice is a part of no known tekken.json"),
        ({"config": {**small()["config"], "fold": True}}, r"config\.fold is a part of no known"),
        ({"vocab": small()["vocab"][:100]}, "vocab has 100 different tokens: expected 820"),
        ({"vocab": [small()["vocab"][1]] * 900}, "expected token_bytes in base64 and rank 0"),
        ({"special_tokens": [{"rank": 99, "token_str": "<s>"}]}, "and below 30"),
        ({"special_tokens": ["<s>"]}, "special_tokens has '<s>': expected a rank and token_str"),
    ],
)
def test_what_is_not_known_is_refused(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    (tmp_path / "tekken.json").write_text(json.dumps(small() | change))
    for load in (load_tokenizer, BPETokenizer.from_hf, BPETokenizer.load):
        with pytest.raises(UserError, match=complaint):
            load(tmp_path)
