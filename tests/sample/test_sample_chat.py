"""`gptfast sample --chat` and `LLM.chat`: a dialogue, by the model's own template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gptfast import LLM
from gptfast.cli import cli
from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig
from gptfast.model.folder import save_description, save_weights
from gptfast.sample.__main__ import main
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.chat import write_chat_template

SPECIAL = ("<|endoftext|>", "<|user|>", "<|im_end|>", "<|assistant|>")
USER, END, ASSISTANT = 257, 258, 259
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ m.content }}<|im_end|>{% endfor %}"
    "{% if messages[0].content == '?' %}{{ raise_exception('ask something') }}{% endif %}"
    "<|assistant|>"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of bytes that ends a turn soon: its bias for the end of one is high."""
    tokenizer = BPETokenizer.train(["a"], 256 + len(SPECIAL), "none", special_tokens=SPECIAL)
    assert tokenizer.special_tokens["<|im_end|>"] == END
    torch.manual_seed(0)
    model = GPT(ModelConfig(tokenizer.n_vocab, "gpt", 64, 1, 2, 16)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    path = tmp_path_factory.mktemp("model")
    save_description(path, model.config, tokenizer)
    save_weights(model, path / "model.safetensors")
    write_chat_template(path, TEMPLATE)
    return path


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is typed. Then comes Ctrl-D."""
    lines: list[str] = []

    def read(prompt: str) -> str:
        print(prompt, end="")
        if not lines:
            raise EOFError
        return lines.pop(0)

    monkeypatch.setattr("builtins.input", read)
    return lines


def sample(folder: Path, *options: str) -> int:
    bias = ("--logit-bias", str(END), "12")
    return cli.run(main, ["--model", str(folder), "--max-new-tokens", "9", *bias, *options])


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def written_after(llm: LLM, ids: list[int]) -> str:
    """What the model writes greedily, computed anew for every token."""
    found: list[int] = []
    with torch.no_grad():
        while len(found) < 9:
            logits = llm.model(torch.tensor([ids + found]))[0, -1]
            logits[END] += 12
            if int(logits.argmax()) in (END, 256):
                break
            found.append(int(logits.argmax()))
    return llm.tokenizer.decode(found)


@pytest.mark.parametrize("options", [["--chat"], ["--interactive", "--chat"]])
def test_an_answer_follows_the_whole_dialogue(
    folder: Path, typed: list[str], capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    typed += ["ab<|im_end|>", " ", "c"]
    assert sample(folder, *options, "--temperature", "0") == 0
    llm = LLM.load(folder, device="cpu")
    ids = [USER, *b"ab<|im_end|>", END, ASSISTANT]
    first = written_after(llm, ids)
    ids += [*llm.tokenizer.encode_ordinary(first), END, USER, *b"c", END, ASSISTANT]
    second = written_after(llm, ids)
    out = capsys.readouterr().out.partition("> ")[2]
    assert out == f"{first}\n> > {second}\n> \n"

    bias = ((END, 12.0),)
    dialogue = [turn("user", "ab<|im_end|>"), turn("assistant", first), turn("user", "c")]
    chat = llm.chat(dialogue, max_new_tokens=9, temperature=0, logit_bias=bias)
    assert chat == second


def test_a_full_context_forgets_the_oldest_turns(
    folder: Path, typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    typed += ["a" * 40, "b" * 40, "c" * 62, "?", "d"]
    assert sample(folder, "--chat", "--temperature", "0") == 0
    llm = LLM.load(folder, device="cpu")
    out, err = capsys.readouterr()
    answers = out.partition("> ")[2].split("\n> ")
    bias = ((END, 12.0),)
    asked = [turn("user", "b" * 40)]
    second = llm.chat(asked, max_new_tokens=9, temperature=0, logit_bias=bias)
    assert answers[1] == second
    notes = err.splitlines()
    assert notes[0] == "note: the context is full: the oldest turns are forgotten"
    assert notes[1] == (
        "error: the message has 65 tokens: expected at most 64, the model's context"
    )


def test_a_message_that_the_template_refuses_is_not_kept(
    folder: Path, typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    typed += ["?", "d"]
    assert sample(folder, "--chat", "--temperature", "0") == 0
    out, err = capsys.readouterr()
    assert err == "error: the chat template refuses the messages: ask something\n"
    llm = LLM.load(folder, device="cpu")
    bias = ((END, 12.0),)
    answer = llm.chat([turn("user", "d")], max_new_tokens=9, temperature=0, logit_bias=bias)
    assert out.partition("> ")[2] == f"> {answer}\n> \n"


def test_a_base_model_does_not_chat(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in folder.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert sample(tmp_path, "--chat") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the model has no chat template" in line
    with pytest.raises(UserError, match="has no chat template"):
        LLM.load(tmp_path, device="cpu").chat([turn("user", "a")])
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    assert sample(tmp_path, "--chat") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not UTF-8" in line


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--prompt", "a"], "leave out --prompt"),
        (["--n-samples", "2"], "leave out --prompt"),
        (["--allow-special"], "leave out --allow-special"),
    ],
)
def test_options_that_a_chat_has_no_use_for(
    folder: Path, capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    assert sample(folder, "--chat", *option) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
