"""Fine-tuning by chats starts from a chat model: its own, or a base that it makes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gptfast.errors import MissingFileError, UserError
from gptfast.finetune.chat_start import base_folder, open_chat_start
from gptfast.finetune.settings.common import FinetuneConfig
from gptfast.model import ModelConfig, build_model
from gptfast.model.adapter_folder import weights_sha256
from gptfast.model.chat_base import RECORD
from gptfast.model.folder import load_model, save_description, save_weights
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.chat import ChatTemplate, read_chat_template, write_chat_template
from gptfast.tokenizer.chat_template import ROLE_TOKENS, standard_template


def plain_base(folder: Path, seed: int = 0) -> Path:
    """Write a model folder without role tokens and template, with random weights."""
    torch.manual_seed(seed)
    config = ModelConfig(300, block_size=64, n_layer=2, n_head=4, n_embd=48)
    tokenizer = BPETokenizer.train("hello hello, how are you", 300, progress=False)
    save_description(folder, config, tokenizer)
    save_weights(build_model(config), folder / "model.safetensors")
    return folder


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=1000, force_terminal=False)


def test_a_chat_model_is_taken_as_it_is(chat_base: Path, tmp_path: Path, console: Console) -> None:
    start = open_chat_start(FinetuneConfig(model=chat_base, out=tmp_path / "a"), console)
    assert start.chat_template == read_chat_template(chat_base)
    assert start.sha256 == weights_sha256(chat_base)
    assert not (tmp_path / "a-base").exists()
    assert console.export_text() == ""


def test_a_base_with_roles_is_made_once(tmp_path: Path, console: Console) -> None:
    folder, base = plain_base(tmp_path / "plain"), tmp_path / "a-base"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    config = FinetuneConfig(model=folder, out=tmp_path / "a")
    start = open_chat_start(config, console)
    (line,) = console.export_text().splitlines()
    assert line == (
        f"{folder} has no chat template: made {base}, the same model with <|system|>, <|user|>, "
        f"<|assistant|>, <|end|>"
    )
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert start.weights_from == base
    assert start.sha256 == weights_sha256(base)
    assert set(ROLE_TOKENS) <= start.tokenizer.special_tokens.keys()
    assert start.chat_template == standard_template(start.tokenizer) == read_chat_template(base)
    ids = torch.randint(300, (2, 8))
    (old, tokenizer), (new, _) = load_model(folder), load_model(base)
    n_old = tokenizer.n_vocab
    assert torch.equal(new(ids % n_old)[..., :n_old], old(ids % n_old)[..., :n_old])
    written = weights_sha256(base), (base / "model.safetensors").stat().st_mtime_ns
    again = open_chat_start(replace(config, overwrite=True), console)
    assert (again.sha256, (base / "model.safetensors").stat().st_mtime_ns) == written
    assert console.export_text() == (
        f"{folder} has no chat template: starting from {base}, made from it\n"
    )
    other = plain_base(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"a-base is not the base that gptfast makes of .*other"):
        open_chat_start(replace(config, model=other), console)
    record = json.loads((base / RECORD).read_text())
    record["made_from"]["version"] = 0
    (base / RECORD).write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"a-base is not the base that gptfast makes of .*plain"):
        open_chat_start(config, console)


def test_the_base_is_beside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert base_folder(Path("runs/chat")) == Path("runs/chat-base")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert base_folder(Path()) == tmp_path / "here-base"


def test_what_is_wrong_with_a_template_is_said(
    chat_base: Path, tmp_path: Path, console: Console
) -> None:
    shutil.copytree(chat_base, tmp_path / "m")
    config = FinetuneConfig(model=tmp_path / "m", out=tmp_path / "a")
    template = "{% for m in messages %}<|user|>ANSWER<|end|>{% endfor %}"
    answer = "{% generation %}{{ m.content }}{% endgeneration %}"
    write_chat_template(tmp_path / "m", template.replace("ANSWER", answer))
    open_chat_start(config, console)
    (line,) = console.export_text().splitlines()
    assert line.startswith(
        "note: the chat template's {% generation %} tags don't enclose the token"
    )
    write_chat_template(tmp_path / "m", template.replace("ANSWER", "{{ m.content }}"))
    with pytest.raises(UserError, match=r"m: the chat template has no .% generation %. tags"):
        open_chat_start(config, console)
    with pytest.raises(MissingFileError, match=r"no model in .*none"):
        open_chat_start(replace(config, model=tmp_path / "none"), console)


def test_a_tokenizer_with_roles_needs_no_base(
    chat_base: Path, tmp_path: Path, console: Console
) -> None:
    model, tokenizer = load_model(chat_base)
    save_description(tmp_path / "m", model.config, tokenizer)
    save_weights(model, tmp_path / "m" / "model.safetensors")
    start = open_chat_start(FinetuneConfig(model=tmp_path / "m", out=tmp_path / "a"), console)
    assert start.weights_from == tmp_path / "m"
    assert not (tmp_path / "a-base").exists()
    theirs = ChatTemplate(str(read_chat_template(chat_base)), tokenizer)
    ours = ChatTemplate(str(start.chat_template), start.tokenizer)
    messages = [{"role": "user", "content": "a"}]
    assert ours.encode(messages) == theirs.encode(messages)


def test_a_turn_ends_even_if_the_tokenizer_says_otherwise(tmp_path: Path, console: Console) -> None:
    """With two well-known names, it leaves open which of them ends a turn."""
    names = ("<|endoftext|>", "<|im_end|>", *ROLE_TOKENS)
    tokenizer = BPETokenizer.train("hello", 300, special_tokens=names, progress=False)
    end = tokenizer.special_tokens["<|end|>"]
    assert end not in tokenizer.stop_tokens
    folder = tmp_path / "m"
    config = ModelConfig(tokenizer.n_vocab, block_size=64, n_layer=1, n_head=2, n_embd=16)
    model = build_model(config)
    save_description(folder, config, tokenizer)
    save_weights(model, folder / "model.safetensors")
    start = open_chat_start(FinetuneConfig(model=folder, out=tmp_path / "a"), console)
    assert end in start.tokenizer.stop_tokens
    assert start.tokenizer == tokenizer  # the ids are the same


def test_a_run_that_resumes_keeps_its_base(tmp_path: Path, console: Console) -> None:
    """Even if the model that it was made from is gone."""
    folder, out = plain_base(tmp_path / "plain"), tmp_path / "a"
    config = FinetuneConfig(model=folder, out=out)
    start = open_chat_start(config, console)
    save_description(out, start.config, start.tokenizer)
    record = {"config": {"model": str(folder)}, "start_sha256": start.sha256, "result": None}
    record |= {"command": "", "fingerprint": "", "resumed_by": []}
    (out / "run.json").write_text(json.dumps(record))
    (out / "chat_template.jinja").write_text(str(start.chat_template))
    (out / "training" / "step-00000001").mkdir(parents=True)
    resumed, other = replace(config, resume=True), plain_base(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"the weights in .*other are not those that the run in"):
        open_chat_start(replace(resumed, model=other), console)
    for same in (folder.rename(tmp_path / "moved"), base_folder(out)):
        assert open_chat_start(replace(resumed, model=same), console).weights_from is None
    again = open_chat_start(resumed, console)
    assert again == replace(start, weights_from=None)
