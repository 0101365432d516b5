"""`gptfast sample` and `gptfast.LLM`: samples as one batch, stop strings, a conversation."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gptfast import LLM
from gptfast.cli import cli
from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig
from gptfast.model.folder import save_description, save_weights
from gptfast.sample import interactive
from gptfast.sample.__main__ import main
from gptfast.tokenizer import CharTokenizer
from terminals import until

TOKENIZER = CharTokenizer.train("abcdefghij \n")
PROMPT = "abc "


@pytest.fixture(scope="module")
def llm() -> LLM:
    torch.manual_seed(0)
    model = GPT(ModelConfig(TOKENIZER.n_vocab, "gpt", 32, 1, 2, 16)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return LLM(model, TOKENIZER)


@pytest.fixture(scope="module")
def folder(llm: LLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_description(path, llm.model.config, TOKENIZER)
    save_weights(llm.model, path / "model.safetensors")
    return path


def sample(folder: Path, *options: str) -> int:
    return cli.run(main, ["--model", str(folder), "--max-new-tokens", "20", *options])


# ---- the command ---------------------------------------------------------------------------------


def test_samples_of_a_batch_are_printed_in_order(
    folder: Path, llm: LLM, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = []
    prefill = GPT.prefill

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        prompts.append(arguments[1])
        return prefill(*arguments, **options)

    monkeypatch.setattr(GPT, "prefill", counted)
    assert sample(folder, "--prompt", PROMPT, "--n-samples", "10", "--seed", "3") == 0
    assert len(prompts) == 1
    written = capsys.readouterr().out.removesuffix("\n").split("\n\n---\n")
    alone = [llm.generate(PROMPT, max_new_tokens=20, seed=3 + i) for i in range(10)]
    assert written == [PROMPT + text for text in alone]


def test_a_stop_string_ends_a_sample(
    folder: Path, llm: LLM, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = llm.generate(PROMPT, max_new_tokens=20)
    assert sample(folder, "--prompt", PROMPT, "--stop", "§", "--stop", whole[7:9]) == 0
    first = whole.index(whole[7:9])
    assert capsys.readouterr().out == PROMPT + whole[:first] + "\n"


def test_every_option_reaches_the_sample(
    folder: Path, llm: LLM, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {
        "temperature": 0.5, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.5,
        "presence_penalty": 0.5, "frequency_penalty": 0.5,
    }  # fmt: skip
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    assert sample(folder, "--prompt", PROMPT, *flags, "--logit-bias", "2", "-100", "5", "1") == 0
    expected = llm.generate(PROMPT, max_new_tokens=20, logit_bias=((2, -100), (5, 1)), **options)
    assert capsys.readouterr().out == PROMPT + expected + "\n"
    assert TOKENIZER.decode([2]) not in expected
    assert expected != llm.generate(PROMPT, max_new_tokens=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stop", ""], "a stop string is empty"),
        (["--repetition-penalty", "0"], "repetition_penalty is 0.0"),
        (["--logit-bias", "99", "1"], "a token id is 99; expected 0 to 11"),
        (["--interactive", "--prompt", "a"], "leave out --prompt"),
        (["--interactive", "--n-samples", "2"], "leave out --prompt"),
        (["--prompt-lookup", "--n-samples", "2"], "leave out --n-samples"),
        (["--regex", "", "--json-schema", "x"], "--json-schema and --regex were given"),
        (["--json-schema", ""], "is a folder"),
    ],
)
def test_a_wrong_option_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert sample(folder, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_sample_that_ends_before_its_grammar_is_noted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("llguidance")
    assert sample(folder, "--prompt", PROMPT, "--regex", "[abc]{30}") == 0
    assert "the text was cut after 20 tokens, so its grammar may go on" in capsys.readouterr().err
    assert sample(folder, "--prompt", PROMPT, "--regex", "[abc]{19}") == 0
    assert capsys.readouterr().err == ""
    assert sample(folder, "--prompt", PROMPT, "--regex", "") == 0
    assert capsys.readouterr().out == PROMPT + "\n"


# ---- a conversation ------------------------------------------------------------------------------


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str | BaseException]:
    """What is typed. Then comes Ctrl-D."""
    typed: list[str | BaseException] = []

    def read(prompt: str) -> str:
        print(prompt, end="")
        line = typed.pop(0) if typed else EOFError()
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    return typed


def test_each_line_is_continued_and_an_empty_one_goes_on(
    folder: Path, llm: LLM, lines: list[str | BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    lines += ["abc ", "", KeyboardInterrupt(), "j"]
    assert sample(folder, "--interactive", "--seed", "5") == 0
    first = llm.generate("abc ", max_new_tokens=20, seed=5)
    second = llm.generate("abc " + first, max_new_tokens=20, seed=6)
    fourth = llm.generate("j", max_new_tokens=20, seed=8)
    out = capsys.readouterr().out.partition("> ")[2]
    assert out == f"{first}\n> {second}\n> \n> {fourth}\n> \n"


def test_ctrl_c_stops_the_text_and_not_the_program(
    folder: Path,
    lines: list[str | BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = 0
    step = GPT.step

    def interrupted(*arguments: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(GPT, "step", interrupted)
    lines += ["a", "b"]
    assert sample(folder, "--interactive") == 0
    first, second, _ = capsys.readouterr().out.split("> ")[1:]
    assert len(first) == 5 + 1  # and a line break
    assert len(second) == 20 + 1


def test_a_line_that_fails_does_not_end_the_conversation(
    folder: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = io.TextIOWrapper(io.BytesIO(b"xyz\n\xff\nabc \n\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", typed)
    assert sample(folder, "--interactive", "--seed", "5") == 0
    first = llm.generate("abc ", max_new_tokens=20, seed=7)
    second = llm.generate("abc " + first, max_new_tokens=20, seed=8)
    printed = capsys.readouterr()
    assert printed.out.partition("> ")[2] == f"> > {first}\n> {second}\n> \n"
    one, two = printed.err.splitlines()
    assert one.startswith("error: the character 'x'")
    assert two.startswith("error: the character '\\udcff'")


def test_logits_that_are_no_numbers_do_not_end_the_conversation(
    folder: Path,
    lines: list[str | BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prefill = GPT.prefill
    monkeypatch.setattr(GPT, "prefill", lambda *a, **options: prefill(*a, **options) * torch.nan)
    lines += ["abc ", "abc "]
    assert sample(folder, "--interactive") == 0
    assert capsys.readouterr().err.count("error: the model can't continue the text") == 2


def test_enter_goes_on_after_a_stop_string(
    folder: Path, llm: LLM, lines: list[str | BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    lines += ["abc ", ""]
    whole = llm.generate("abc ", max_new_tokens=20, temperature=0)
    stop = whole[5]
    first = whole[: whole.index(stop)]
    second = llm.generate("abc " + first + stop, max_new_tokens=20, temperature=0, stop=stop)
    assert sample(folder, "--interactive", "--temperature", "0", "--stop", stop) == 0
    assert capsys.readouterr().out.partition("> ")[2] == f"{first}\n> {second}\n> \n"


@pytest.mark.parametrize("where", ["encode", "print"])
def test_ctrl_c_beside_the_steps_does_not_end_the_program(
    where: str,
    folder: Path,
    llm: LLM,
    lines: list[str | BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers = [KeyboardInterrupt()]

    def interrupted(self: CharTokenizer, *arguments: Any) -> list[int]:
        if answers:
            raise answers.pop()
        return encode(self, *arguments)

    def print_or_fail(*given: str, **options: Any) -> None:
        if not given and answers:  # the line break after the text
            raise answers.pop()
        print(*given, **options)

    encode = CharTokenizer.encode
    if where == "encode":
        monkeypatch.setattr(CharTokenizer, "encode", interrupted)
    else:
        monkeypatch.setattr(interactive, "print", print_or_fail, raising=False)
    lines += ["abc ", "abc "]
    assert sample(folder, "--interactive", "--temperature", "0") == 0
    text = llm.generate("abc ", max_new_tokens=20, temperature=0)
    first = "" if where == "encode" else text
    assert capsys.readouterr().out.partition("> ")[2] == f"{first}\n> {text}\n> \n"


def test_a_conversation_has_one_engine(
    folder: Path, lines: list[str | BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = []
    new_cache = GPT.new_cache

    def counted(*arguments: Any) -> Any:
        caches.append(new_cache(*arguments))
        return caches[-1]

    monkeypatch.setattr(GPT, "new_cache", counted)
    lines += ["a", "b", ""]
    assert sample(folder, "--interactive") == 0
    assert len(caches) == 1


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_conversation_on_a_terminal(folder: Path, llm: LLM) -> None:
    import pty

    pytest.importorskip("readline")

    outside, inside = pty.openpty()
    command = ["gptfast.sample", "--model", str(folder), "--interactive", "--temperature", "0",
               "--max-new-tokens", "20000"]  # fmt: skip
    environment = {**os.environ, "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdin=inside, stdout=inside, stderr=inside,
        env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(inside)
    try:
        until(outside, "> ")
        os.write(outside, b"abc \n")
        expected = llm.generate("abc ", max_new_tokens=20, temperature=0)
        until(outside, expected.replace("\n", "\r\n"))
        process.send_signal(signal.SIGINT)
        until(outside, "\n> ")
        os.write(outside, b"\x1b[A\n")  # the line before, from the history
        until(outside, expected.replace("\n", "\r\n"))
        process.send_signal(signal.SIGINT)
        until(outside, "\n> ")
        os.write(outside, b"\x04")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(outside)


# ---- gptfast.LLM ---------------------------------------------------------------------------------


def test_a_batch_has_the_texts_that_each_prompt_gets_alone(llm: LLM) -> None:
    prompts = ["a", "abcdefg hij", "", "b" * 40]
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0, "stop": "c"}
    texts = llm.generate_batch(prompts, n=3, seed=4, **options)
    alone = [llm.generate(prompt, seed=4 + j, **options) for prompt in prompts for j in range(3)]
    assert [text.text for text in texts] == alone
    assert len(set(alone)) > 6
    assert {text.finish_reason for text in texts} == {"stop", "length"}
    assert texts[0].logprobs == []


def test_a_batch_gives_log_probabilities(llm: LLM) -> None:
    (text,) = llm.generate_batch(["abc"], max_new_tokens=5, top_logprobs=2)
    ids = TOKENIZER.encode_ordinary("abc")
    for one, token in zip(text.logprobs, text.ids, strict=True):
        logprobs = llm.model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        assert one.logprob == pytest.approx(logprobs[token].item(), abs=1e-5)
        assert one.top[0][1] == pytest.approx(logprobs.max().item(), abs=1e-5)
        ids.append(token)


def test_the_pieces_of_a_stream_are_final(llm: LLM) -> None:
    whole = llm.generate(PROMPT, max_new_tokens=30)
    stop = whole[10:13]
    pieces = list(llm.stream(PROMPT, max_new_tokens=30, stop=[stop, "zzz"]))
    assert "".join(pieces) == whole[: whole.index(stop)]
    assert llm.generate(PROMPT, max_new_tokens=30, stop=stop) == "".join(pieces)


def test_a_text_for_prompts_is_refused(llm: LLM) -> None:
    with pytest.raises(UserError, match="prompts is a text"):
        llm.generate_batch("abc")
    with pytest.raises(UserError, match="logit_bias"):
        llm.generate("a", logit_bias=((1, float("nan")),))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 3}, "no option 'temprature': .*perhaps you meant temperature"),
        ({"stop": None}, "stop is None: expected several texts"),
        ({"stop": 5}, "stop is 5"),
        ({"stop": (5,)}, "stop is "),
        ({"processors": print}, "processors is .*: expected several functions"),
        ({"draft": "model"}, r"draft is a str: expected DraftModel\(model\) or PromptLookup"),
    ],
)
def test_impossible_options_are_refused(llm: LLM, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        llm.generate("a", **options)
    with pytest.raises(UserError, match="n is -1: expected at least 1"):
        llm.generate_batch(["a"], n=-1)


def test_the_best_of_several_may_end_at_once(llm: LLM) -> None:
    """A text that ends at once has a mean, too."""
    texts = llm.generate_batch(["abc"], n=8, max_new_tokens=6, top_logprobs=0, stop="a")
    best = max(texts, key=lambda text: text.mean_logprob)
    ids = [TOKENIZER.encode_ordinary("abc") + text.ids for text in texts]
    by_hand = []
    for one in ids:
        logprobs = llm.model(torch.tensor([one]))[0].log_softmax(-1)
        values = [logprobs[t - 1, one[t]].item() for t in range(3, len(one))]
        by_hand.append(sum(values) / len(values))
    assert best is texts[by_hand.index(max(by_hand))]
