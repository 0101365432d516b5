"""The token that ends a document is a role, whatever it is called, and told by a folder's files."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from gptfast.cli import cli
from gptfast.data.encode import encode_files
from gptfast.data.manifest import open_prepared
from gptfast.data.prepare import prepare
from gptfast.data.prepare_shards import prepare_files
from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, load_tokenizer
from gptfast.tokenizer.__main__ import main
from gptfast.tokenizer.roles import Roles

TEXT = "The king sees the moon. The queen hears the river.\n" * 3
DOCUMENTS = [f"{number}: {TEXT}" for number in range(12)]


def bpe(*special_tokens: str, roles: Roles | None = None) -> BPETokenizer:
    return BPETokenizer.train(TEXT, 280, special_tokens=special_tokens, roles=roles, progress=False)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, document in enumerate(DOCUMENTS):
        (folder / f"{number:02}.txt").write_text(document)
    return folder


def separators(ids: Any, token_id: int) -> int:
    return int((np.asarray(ids) == token_id).sum())


# ---- who ends a document -------------------------------------------------------------------------


# litgpt#706 TinyLlama#116
@pytest.mark.parametrize(
    ("names", "eos"),
    [
        (["<|endoftext|>"], "<|endoftext|>"),
        (["<|fim|>", "<|endoftext|>"], "<|endoftext|>"),
        (["<|endoftext|>", "</s>"], "<|endoftext|>"),
        (["<s>", "</s>", "<pad>"], "</s>"),
        (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], "<|end_of_text|>"),
        (["<bos>", "<eos>"], "<eos>"),
        (["[END]"], "[END]"),  # the only one
        (["[END]", "[NOTE]"], None),
        (["<|im_end|>"], None),  # ends a turn, not a document
        (["</s>", "<eos>"], None),
        ([], None),
    ],
)
def test_a_trained_tokenizer_knows_its_end_by_well_known_names(
    tmp_path: Path, names: list[str], eos: str | None
) -> None:
    trained: tuple[Tokenizer, ...] = (bpe(*names), CharTokenizer.train(TEXT, names))
    for tokenizer in trained:
        assert tokenizer.roles.eos == eos
        assert tokenizer.eot_token == (None if eos is None else tokenizer.special_tokens[eos])
        tokenizer.save(tmp_path)
        again = load_tokenizer(tmp_path)
        assert (again.roles, again.fingerprint) == (tokenizer.roles, tokenizer.fingerprint)
        again = pickle.loads(pickle.dumps(tokenizer))
        assert (again.roles, again.fingerprint) == (tokenizer.roles, tokenizer.fingerprint)


def test_roles_are_settings() -> None:
    roles = Roles(bos="<a>", eos="<b>", pad="<c>", end_of_turn="<d>")
    names = ["<a>", "<b>", "<c>", "<d>", "<|endoftext|>"]
    for tokenizer in (bpe(*names, roles=roles), CharTokenizer.train(TEXT, names, roles)):
        ids = tokenizer.special_tokens
        assert tokenizer.roles == roles
        assert tokenizer.eot_token == ids["<b>"]
        assert tokenizer.stop_tokens == {ids["<b>"], ids["<d>"]}
        assert [tokenizer.role_id(role) for role in ("bos", "pad", "unk")] == [
            ids["<a>"], ids["<c>"], None,
        ]  # fmt: skip
    assert bpe("<|endoftext|>", roles=Roles()).eot_token is None
    # As for GPT-2, eos also begins a text and fills up a batch, unless another token does.
    assert asdict(bpe("</s>").roles) == {
        "bos": "</s>", "eos": "</s>", "pad": "</s>", "unk": None, "end_of_turn": None,
        "stop": (),
    }  # fmt: skip


def test_a_role_needs_a_token() -> None:
    with pytest.raises(UserError, match=r"eos is '</s>': expected one of .*'<\|endoftext\|>'"):
        bpe("<|endoftext|>", roles=Roles(eos="</s>"))
    with pytest.raises(UserError, match="pad is '<pad>'"):
        CharTokenizer("abc", ["</s>"], Roles(pad="<pad>"))


def test_another_end_makes_other_data_and_nothing_else_does() -> None:
    names = ("<|endoftext|>", "<pad>", "[END]")
    by_default = bpe(*names)
    assert bpe(*names, roles=Roles(eos="<|endoftext|>", pad="<pad>")).fingerprint == (
        by_default.fingerprint
    )
    assert BPETokenizer.from_json(by_default.to_json()).fingerprint == by_default.fingerprint
    others = [bpe(*names, roles=roles) for roles in (Roles(eos="[END]"), Roles())]
    fingerprints = {tokenizer.fingerprint for tokenizer in (by_default, *others)}
    assert len(fingerprints) == 3


# ---- what files say ------------------------------------------------------------------------------

FOREIGN = bpe("<unk>", "<s>", "</s>", "<turn>").to_json()
ID_OF = {token["content"]: token["id"] for token in FOREIGN["added_tokens"]}


@pytest.mark.parametrize(
    ("files", "eos"),
    [
        ({}, "</s>"),
        ({"tokenizer_config.json": {"eos_token": "<turn>"}}, "<turn>"),
        (
            {"tokenizer_config.json": {"eos_token": {"content": "<turn>", "lstrip": False}}},
            "<turn>",
        ),
        ({"tokenizer_config.json": {"eos_token": None}}, None),
        ({"tokenizer_config.json": {"pad_token": "<unk>"}}, "</s>"),
        ({"special_tokens_map.json": {"eos_token": "<turn>"}}, "<turn>"),
        ({"special_tokens_map.json": {"eos_token": {"content": "<turn>"}}}, "<turn>"),
        ({"generation_config.json": {"eos_token_id": ID_OF["<turn>"]}}, "<turn>"),
        ({"generation_config.json": {"eos_token_id": [ID_OF["<turn>"], ID_OF["</s>"]]}}, "<turn>"),
        ({"config.json": {"eos_token_id": ID_OF["<turn>"]}}, "<turn>"),
        ({"config.json": {"eos_token_id": 50256}}, "</s>"),  # no token of this file
        (
            {
                "tokenizer_config.json": {"eos_token": "<turn>"},
                "special_tokens_map.json": {"eos_token": "</s>"},
                "config.json": {"eos_token_id": ID_OF["</s>"]},
            },
            "<turn>",
        ),
    ],
)
def test_the_files_beside_a_foreign_tokenizer_tell_its_end(
    tmp_path: Path, files: dict[str, Any], eos: str | None
) -> None:
    for name, content in {"tokenizer.json": FOREIGN, **files}.items():
        (tmp_path / name).write_text(json.dumps(content))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        for load in (load_tokenizer, BPETokenizer.load, BPETokenizer.from_hf):
            tokenizer = load(path)
            assert tokenizer.roles.eos == eos
            assert tokenizer.eot_token == (None if eos is None else ID_OF[eos])
            assert (tokenizer.roles.bos, tokenizer.roles.unk) == ("<s>", "<unk>")


def test_models_of_dialogues_stop_at_both_ends(tmp_path: Path) -> None:
    tokenizer = bpe("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    ids = tokenizer.special_tokens
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer.to_json()))
    config = {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]]}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    loaded = load_tokenizer(tmp_path)
    assert (loaded.roles.eos, loaded.roles.end_of_turn) == ("<|endoftext|>", "<|im_end|>")
    assert loaded.stop_tokens == {ids["<|im_end|>"], ids["<|endoftext|>"]}


# What `transformers` stops at: every id in eos_token_id, whatever eos_token is.
@pytest.mark.parametrize(
    ("names", "eos_token", "listed", "eos"),
    [
        (["<|end_of_text|>", "<|eot_id|>"], "<|eot_id|>", [0, 1], "<|eot_id|>"),  # Llama 3's
        (["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"], "<|eot_id|>", [0, 1, 2], "<|eot_id|>"),
        (["<x>", "<|im_end|>", "<|eot_id|>"], None, [0, 1], "<x>"),
        (["</s>", "<|im_end|>"], None, [1, 0], "</s>"),  # Qwen's
        (["<|endoftext|>", "<|im_end|>"], "<|im_end|>", [1, 0], "<|im_end|>"),  # pad, too
        (["</s>", "<eos>", "<end>"], None, [0, 1, 2], "</s>"),
        (["</s>", "<x>"], "</s>", [1], "</s>"),  # one id, but another one
        (["</s>", "<x>"], "<x>", [1, 1], "<x>"),
    ],
)
@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_all_listed_ends_are_stops_and_survive(
    tmp_path: Path, names: list[str], eos_token: str | None, listed: list[int], eos: str, kind: str
) -> None:
    from gptfast.model import ModelConfig
    from gptfast.model.folder import save_description

    made = bpe(*names) if kind == "bpe" else CharTokenizer.train(TEXT, names)
    ids = [made.special_tokens[names[i]] for i in listed]
    (tmp_path / "tokenizer.json").write_text(json.dumps(made.to_json()))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    if eos_token is not None:
        config = {"eos_token": eos_token, "pad_token": names[0]}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_tokenizer(tmp_path)
    stops = {*ids, made.special_tokens[eos]}
    assert (loaded.roles.eos, loaded.stop_tokens >= stops) == (eos, True)
    loaded.save(tmp_path / "alone")
    assert load_tokenizer(tmp_path / "alone").roles == loaded.roles
    assert pickle.loads(pickle.dumps(loaded)).roles == loaded.roles
    save_description(tmp_path / "model", ModelConfig(loaded.n_vocab, "gpt", 8, 1, 1, 8), loaded)
    written = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    written = written["eos_token_id"]
    assert set(written if isinstance(written, list) else [written]) == loaded.stop_tokens
    again = load_tokenizer(tmp_path / "model")
    assert (again.roles, again.fingerprint) == (loaded.roles, loaded.fingerprint)


def test_a_listed_end_that_is_no_added_token_is_said(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(FOREIGN))
    config = {"eos_token_id": [ID_OF["</s>"], 10]}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="10 is an id of eos, but of no added token: it is left"):
        assert load_tokenizer(tmp_path).stop_tokens == {ID_OF["</s>"]}
    (tmp_path / "generation_config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"stop": ["<x>", "<s>", 5]}))
    with pytest.warns(UserWarning, match=r"'<x>' is named as stop, but tokenizer\.json has no"):
        assert load_tokenizer(tmp_path).stop_tokens == {ID_OF["</s>"], ID_OF["<s>"]}


def test_further_stops_are_settings() -> None:
    for tokenizer in (
        bpe("</s>", "<a>", "<b>", roles=Roles(eos="</s>", stop=("<a>", "<b>"))),
        CharTokenizer.train(TEXT, ["</s>", "<a>", "<b>"], Roles(eos="</s>", stop=("<a>", "<b>"))),
    ):
        assert tokenizer.stop_tokens == set(tokenizer.special_tokens.values())
    with pytest.raises(UserError, match="stop is '<c>': expected one of the special tokens"):
        bpe("</s>", roles=Roles(eos="</s>", stop=("<c>",)))
    with pytest.raises(UserError, match="stop is a str: expected a list of str"):
        bpe("</s>", roles=Roles(eos="</s>", stop="</s>"))  # type: ignore[arg-type]


def test_a_token_that_only_other_files_name_is_a_special_one(tmp_path: Path) -> None:
    # `transformers` adds it when it loads the folder.
    data = copy.deepcopy(FOREIGN)
    data["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    named = {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>", "pad_token": "<turn>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.special_tokens == ID_OF
    assert asdict(tokenizer.roles) == {
        "bos": "<s>", "eos": "</s>", "pad": "<turn>", "unk": "<unk>", "end_of_turn": None,
        "stop": (),
    }  # fmt: skip


def test_a_named_token_that_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(FOREIGN))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    with pytest.warns(UserWarning, match=r"'\[PAD\]' is named as pad, but tokenizer\.json has no"):
        tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.roles.pad == "</s>"


ORDINARY = BPETokenizer.train(TEXT, 280, progress=False)


# `transformers` loads these: "!" and so on are what text needs, and stay ordinary tokens.
@pytest.mark.parametrize("role", ["pad", "unk", "eos"])
@pytest.mark.parametrize("name", ["!", "Ġthe", "Ċ", "he"])
@pytest.mark.parametrize("older", [False, True])
def test_an_ordinary_token_plays_no_role(tmp_path: Path, role: str, name: str, older: bool) -> None:
    ours, data = ORDINARY, ORDINARY.to_json()
    assert ours.token_to_id(name) is not None
    if older:
        (tmp_path / "vocab.json").write_text(json.dumps(data["model"]["vocab"]))
        merges = [" ".join(pair) for pair in data["model"]["merges"]]
        (tmp_path / "merges.txt").write_text("\n".join(merges), encoding="utf-8")
    else:
        (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({f"{role}_token": name}))
    with pytest.warns(
        UserWarning, match=f"{name!r} is named as {role}, but .* no such added token"
    ):
        loaded = BPETokenizer.from_hf(tmp_path)
    assert loaded.to_json() == data
    assert loaded.roles.eos == (None if role == "eos" else "<|endoftext|>")
    entry = {"content": name, "id": ours.token_to_id(name), "special": True}
    data["added_tokens"].append(entry)  # as `transformers` saves it
    with pytest.raises(UserError, match=f"added_tokens has {name!r} as special, but it is also"):
        BPETokenizer.from_json(data)


def test_an_ordinary_character_plays_no_role(tmp_path: Path) -> None:
    ours = CharTokenizer.train(TEXT, ["</s>"])
    ours.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "k"}))
    with pytest.warns(UserWarning, match="'k' is named as pad, but .* no such added token"):
        assert load_tokenizer(tmp_path).to_json() == ours.to_json()


@pytest.mark.parametrize(
    ("names", "roles", "unk"),
    [
        (["<unk>"], None, "<unk>"),
        (["</s>", "[UNK]"], None, "[UNK]"),
        (["<other>"], Roles(unk="<other>"), "<other>"),
        (["<unk>", "<other>"], Roles(unk="<other>"), "<other>"),
    ],
)
def test_characters_that_can_not_be_encoded_are_unk_as_in_tokenizers(
    tmp_path: Path, names: list[str], roles: Roles | None, unk: str
) -> None:
    ours = CharTokenizer.train("abc \n", names, roles)
    assert ours.roles.unk == unk
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    copies = (ours, load_tokenizer(tmp_path), pickle.loads(pickle.dumps(ours)))
    for text in ("abz", "z", "é e\u0301\r\n", "🦀日本", "", "abc", f"zz{unk}a{names[0]}z", "\0"):
        expected = theirs.encode(text).ids
        for one in copies:
            assert one.encode(text, "all") == one.encode_batch([text], allowed_special="all")[0]
            assert one.encode(text, "all") == expected
        theirs.encode_special_tokens = True
        assert ours.encode_ordinary(text) == theirs.encode(text).ids
        assert ours.encode_to_numpy(text).dtype == np.uint16
        assert ours.count(text) == len(text)
        theirs.encode_special_tokens = False
    assert ours.token_to_id("z") is None
    with pytest.raises(UserError, match="U\\+D83E"):
        ours.encode("z\ud83e")
    assert all(one.roles == ours.roles for one in copies)


def test_only_the_file_says_what_is_unk(tmp_path: Path) -> None:
    ours = CharTokenizer.train("abc", ["<unk>"], Roles())
    ours.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"unk_token": "<unk>"}))
    for loaded in (load_tokenizer(tmp_path), CharTokenizer.from_json(ours.to_json())):
        assert (loaded.roles.unk, loaded.fingerprint) == (None, ours.fingerprint)
        with pytest.raises(UserError, match="'z'"):
            loaded.encode("z")
    data = ours.to_json()
    data["model"]["unk_token"] = "[UNK]"
    with pytest.raises(UserError, match=r"unk is '\[UNK\]': expected one of"):
        CharTokenizer.from_json(data)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json", "config.json"):
        (tmp_path / "tokenizer.json").write_text(json.dumps(FOREIGN))
        (tmp_path / name).write_text("{")
        with pytest.raises(UserError, match=f"{name} is not valid JSON"):
            load_tokenizer(tmp_path)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("added", ["tokenizer_config.json", "added_tokens.json"])
def test_folders_of_the_older_kind_have_roles(tmp_path: Path, added: str) -> None:
    plain = bpe()
    data = plain.to_json()
    vocab = data["model"]["vocab"] | {"</s>": plain.n_vocab}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    merges = [" ".join(pair) for pair in data["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    config: dict[str, Any] = {"eos_token": "</s>", "pad_token": "<pad>"}
    if added == "tokenizer_config.json":
        pad = {"content": "<pad>", "special": True, "normalized": False}
        config["added_tokens_decoder"] = {str(plain.n_vocab + 1): pad}
    else:
        (tmp_path / added).write_text(json.dumps({"<pad>": plain.n_vocab + 1}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = BPETokenizer.from_hf(tmp_path)
    assert tokenizer.special_tokens == {"</s>": plain.n_vocab, "<pad>": plain.n_vocab + 1}
    assert (tokenizer.roles.eos, tokenizer.roles.pad) == ("</s>", "<pad>")


# ---- what goes by the roles ----------------------------------------------------------------------


def test_documents_are_separated_by_the_role(tmp_path: Path, corpus: Path) -> None:
    tokenizer = bpe("<s>", "</s>")
    tokenizer.save(tmp_path / "tokenizer")
    said: list[str] = []
    data = prepare(str(corpus), str(tmp_path / "tokenizer"), 0, 0.25, said.append)
    n_found = separators(data.train, ID := tokenizer.special_tokens["</s>"])
    assert n_found + separators(data.val, ID) == len(DOCUMENTS)
    assert not any("separator" in line for line in said)
    shard = encode_files(tokenizer, corpus, tmp_path / "a.bin", progress=False)
    assert separators(shard.tokens(tokenizer), ID) == len(DOCUMENTS)
    prepare_files(tokenizer, str(corpus), tmp_path / "out", 0.3, progress=False)
    prepared = open_prepared(tmp_path / "out")
    assert prepared.tokenizer.roles == tokenizer.roles
    n_found = separators(prepared.train[np.arange(len(prepared.train))], ID)
    assert n_found == prepared.report.train_documents


@pytest.mark.parametrize(
    "tokenizer", [bpe(), bpe("[A]", "[B]"), CharTokenizer.train("".join(DOCUMENTS))]
)
def test_documents_that_nothing_separates_are_said_every_time(
    tmp_path: Path, corpus: Path, tokenizer: Tokenizer
) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    for _ in range(2):  # the second time, the data is cached
        said: list[str] = []
        prepare(str(corpus), str(tmp_path / "tokenizer"), 0, 0.25, said.append)
        (line,) = [line for line in said if "doesn't say which token ends a document" in line]
        assert "\n" not in line
    if isinstance(tokenizer, BPETokenizer):
        for separator in ("eos", "[END]"):
            with pytest.raises(UserError, match=r"expected (an eos_token|one of)"):
                encode_files(tokenizer, corpus, tmp_path / "a.bin", separator=separator)
        with pytest.raises(UserError, match="expected an eos_token"):
            prepare_files(tokenizer, str(corpus), tmp_path / "out", 0.3)


def test_data_made_with_another_end_is_refused(tmp_path: Path, corpus: Path) -> None:
    tokenizer = bpe("</s>", "<eos>", roles=Roles(eos="</s>"))
    other = bpe("</s>", "<eos>", roles=Roles(eos="<eos>"))
    shard = encode_files(tokenizer, corpus, tmp_path / "a.bin", progress=False)
    with pytest.raises(UserError, match="made by another tokenizer"):
        shard.tokens(other)
    prepare_files(tokenizer, str(corpus), tmp_path / "out", 0.3, progress=False)
    with pytest.raises(UserError, match="another tokenizer"):
        prepare_files(other, str(corpus), tmp_path / "out", 0.3, progress=False)


def test_a_model_folder_and_its_samples_go_by_the_role(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from gptfast.model.folder import load_model
    from gptfast.sample.generate import write_sample
    from gptfast.train.__main__ import parse_config
    from gptfast.train.pretrain import pretrain

    tokenizer = bpe("<s>", "</s>", "<|im_end|>")
    tokenizer.save(tmp_path / "tokenizer")
    options = (
        f"--corpus {corpus} --tokenizer {tmp_path / 'tokenizer'} --out {tmp_path / 'run'} "
        f"--max-steps 1 --n-layer 1 --n-head 1 --n-embd 8 --block-size 8 --batch-size 2 "
        f"--device cpu --dtype float32 --val-fraction 0.25"
    )
    pretrain(parse_config(options.split()))
    ids = tokenizer.special_tokens
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / "run" / name).read_text())
        assert written["bos_token_id"] == ids["<s>"]
        assert written["eos_token_id"] == [ids["</s>"], ids["<|im_end|>"]]
    model, loaded = load_model(tmp_path / "run")
    assert loaded.roles == tokenizer.roles
    for name, text in (("</s>", ""), ("<|im_end|>", ""), ("<s>", "<s>" * 5)):
        logits = torch.full((model.config.vocab_size,), -100.0)
        logits[ids[name]] = 100.0  # a model that writes nothing but this token
        monkeypatch.setattr(model, "prefill", lambda *_, logits=logits, **__: logits)
        monkeypatch.setattr(model, "step", lambda *_, logits=logits: logits[None])
        assert write_sample(model, loaded, 5, seed=0) == text


# ---- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "special_tokens", "roles"),
    [
        ("", ["<|endoftext|>"], Roles(eos="<|endoftext|>")),
        ("--special-tokens </s>", ["</s>"], Roles(eos="</s>")),
        ("--eos-token </s>", ["</s>"], Roles(eos="</s>")),
        ("--special-tokens [A] --special-tokens [B]", ["[A]", "[B]"], Roles()),
        (
            "--special-tokens [A] --special-tokens [B] --eos-token [B]",
            ["[A]", "[B]"],
            Roles(eos="[B]"),
        ),
        (
            "--eos-token </s> --bos-token <s> --pad-token <p> --end-of-turn-token <t>",
            ["<s>", "</s>", "<p>", "<t>"],
            Roles(bos="<s>", eos="</s>", pad="<p>", end_of_turn="<t>"),
        ),
        (
            "--pad-token <p>",
            ["<|endoftext|>", "<p>"],
            Roles(eos="<|endoftext|>", pad="<p>"),
        ),
    ],
)
def test_roles_at_the_command_line(
    tmp_path: Path,
    corpus: Path,
    capsys: pytest.CaptureFixture[str],
    options: str,
    special_tokens: list[str],
    roles: Roles,
) -> None:
    out = tmp_path / "tokenizer"
    command = ["train", str(corpus), "--vocab-size", "280", "--out", str(out), *options.split()]
    assert cli.run(main, command) == 0
    said = capsys.readouterr().out
    assert ("no token ends a document" in said) == (roles.eos is None)
    tokenizer = load_tokenizer(out)
    assert list(tokenizer.special_tokens) == special_tokens
    bos, pad = roles.bos or roles.eos, roles.pad or roles.eos
    assert tokenizer.roles == Roles(bos, roles.eos, pad, None, roles.end_of_turn)
    shard = str(tmp_path / "a.bin")
    file = str(corpus / "00.txt")
    code = cli.run(main, ["encode", file, "--tokenizer", str(out), "--out", shard])
    assert code == (2 if roles.eos is None else 0)


def test_a_warning_is_one_line_of_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(FOREIGN))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    for _ in range(2):
        assert cli.run(main, ["encode", "--tokenizer", str(tmp_path), "--text", "a"]) == 0
        said = capsys.readouterr()
        assert said.out == "97\n"
        assert said.err.startswith("warning: ")
        assert said.err.count("\n") == 1
