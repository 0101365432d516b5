"""A folder with gptfast's chat template, in every program that reads one: it answers, and stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gptfast.cli import cli
from gptfast.export.__main__ import main as export_command
from gptfast.finetune.__main__ import main as finetune
from gptfast.llm import LLM
from gptfast.model import ModelConfig, build_model
from gptfast.model.folder import save_description, save_weights
from gptfast.model.resize import add_tokens
from gptfast.quantize.__main__ import main as quantize_command
from gptfast.sample.__main__ import main as sample_command
from gptfast.tokenizer import BPETokenizer, Tokenizer
from gptfast.tokenizer.chat import ChatTemplate, read_chat_template, write_chat_template
from gptfast.tokenizer.chat_template import ROLE_TOKENS, standard_template
from gptfast.train.loop import Result

USER = [{"role": "user", "content": "how are you?"}]
ANSWER = "I am well, thanks."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in GPT-2's layout that has learned one answer, and to end its turn after it."""
    torch.manual_seed(0)
    config = ModelConfig(270, block_size=64, n_layer=1, n_head=2, n_embd=32)
    tokenizer: Tokenizer = BPETokenizer.train([ANSWER, "how are you?"], 270, progress=False)
    model, tokenizer = add_tokens(build_model(config), tokenizer, ROLE_TOKENS)
    template = standard_template(tokenizer)
    messages = [*USER, {"role": "assistant", "content": ANSWER}]
    ids, mask = ChatTemplate(template, tokenizer).encode_with_mask(messages)
    targets = torch.where(torch.tensor(mask), torch.tensor(ids), -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(torch.tensor([ids[:-1]]), targets[None, 1:])
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    path = tmp_path_factory.mktemp("chat")
    save_description(path, model.config, tokenizer)
    save_weights(model, path / "model.safetensors")
    write_chat_template(path, template)
    return path


def answer(folder: Path) -> str:
    return LLM.load(folder, device="cpu").chat(USER, max_new_tokens=40, temperature=0)


def test_transformers_answers_and_stops(folder: Path) -> None:
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    end, border = tokenizer.convert_tokens_to_ids(["<|end|>", "<|endoftext|>"])
    for stored in (model.generation_config, model.config):
        assert sorted(stored.eos_token_id) == sorted([end, border])
    prompt = tokenizer.apply_chat_template(USER, add_generation_prompt=True, return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=40, do_sample=False)
    ids = written[0, prompt["input_ids"].shape[1] :].tolist()
    assert ids == [*tokenizer.encode(ANSWER), end]
    chat = transformers.pipeline("text-generation", model=str(folder))
    (dialogue,) = chat(USER, max_new_tokens=40, do_sample=False)
    assert dialogue["generated_text"][-1] == {"role": "assistant", "content": ANSWER}
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["chat_template"] == tokenizer.chat_template == read_chat_template(folder)


def test_the_chat_commands_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(folder) == ANSWER
    typed = [USER[0]["content"]]

    def read(prompt: str) -> str:
        if typed:
            return typed.pop()
        raise EOFError

    monkeypatch.setattr("builtins.input", read)
    options = ["--model", str(folder), "--chat", "--temperature", "0", "--max-new-tokens", "40"]
    assert cli.run(sample_command, options) == 0
    assert capsys.readouterr().out.splitlines()[1] == ANSWER


def test_a_run_names_the_chat_command_only_for_a_chat_model(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """PPO and GRPO train models without a template, too."""
    given = ["grpo", "--model", "m", "--reward", "task:add"]
    monkeypatch.setattr("gptfast.train.run.run", lambda *_, **__: Result(3, 3, 0.5, 1.0, 1.0))
    for out, talks in ((folder, True), (tmp_path, False)):
        assert finetune([*given, "--out", str(out)]) == 0
        assert ("--chat" in capsys.readouterr().out) == talks


def test_help_describes_a_method_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        finetune(["sft", "--help"])
    printed = capsys.readouterr().out
    assert printed.splitlines()[2] == "The settings of supervised fine-tuning."


def test_smaller_folders_and_files_keep_the_template(folder: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    small, file = tmp_path / "small", tmp_path / "model.gguf"
    assert quantize_command([str(folder), "--to", "int8", "--out", str(small)]) == 0
    assert answer(small) == ANSWER
    assert export_command(["gguf", str(folder), "--out", str(file)]) == 0
    fields = GGUFReader(file).fields
    found = {
        key: fields[f"tokenizer.{key}"].contents()
        for key in ("chat_template", "ggml.eos_token_id", "ggml.eot_token_id")
    }
    ids = LLM.load(folder).tokenizer.special_tokens
    assert found == {
        "chat_template": read_chat_template(folder),
        "ggml.eos_token_id": ids["<|endoftext|>"],
        "ggml.eot_token_id": ids["<|end|>"],
    }
