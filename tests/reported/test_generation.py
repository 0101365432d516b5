"""Sampling with extreme options, with damaged weights and with prompts of other types.

Each test's comment names the report, of another project, that it follows.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptfast import LLM
from gptfast.cli import cli
from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig
from gptfast.model.folder import save_description, save_weights
from gptfast.sample.__main__ import main
from gptfast.sample.config import SamplingConfig
from gptfast.sample.generate import generate, write_sample
from gptfast.sample.sampling import distribution, draw
from gptfast.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer.train("abcdefghijklmnopqrstuvwxyz \n")


@pytest.fixture(scope="module")
def llm() -> LLM:
    torch.manual_seed(0)
    model = GPT(ModelConfig(TOKENIZER.n_vocab, "gpt", 16, 2, 2, 16)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return LLM(model, TOKENIZER)


TINY = (0, -0.0, 1e-20, 1e-38, 1e-45, 1e-60, 5e-324)
LIKELIEST = {
    **{f"temperature={t}": {"temperature": t} for t in TINY},
    "top_k=1": {"top_k": 1},
    "top_p=1e-46": {"top_p": 1e-46},
    "top_p=1e-300": {"top_p": 1e-300},
    "min_p=1": {"min_p": 1.0},
    "all at once": {"temperature": 1e-60, "top_k": 10**30, "top_p": 1e-300, "min_p": 1},
}  # fmt: skip


@pytest.mark.parametrize("options", LIKELIEST.values(), ids=LIKELIEST)
def test_a_tiny_temperature_or_share_takes_the_likeliest_token(
    llm: LLM, options: dict[str, Any]
) -> None:
    seen = TOKENIZER.encode_ordinary("the ")
    for token in TOKENIZER.encode_ordinary(llm.generate("the ", max_new_tokens=12, **options)):
        assert token == int(llm.model(torch.tensor([seen]))[0, -1].argmax())
        seen.append(token)
    assert len(seen) == 16


@pytest.mark.parametrize("spread", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("temperature", [1e-60, 1e-38, 1e-10, 1e10, 1e300])
def test_a_draw_is_never_nan_whatever_the_logits_and_the_temperature(
    spread: float, temperature: float
) -> None:
    logits = torch.tensor([[0.0, -1.0, 1.0, -math.inf]]) * spread
    options = SamplingConfig(temperature, top_k=3, top_p=0.9, min_p=1e-9)
    generators = [torch.Generator().manual_seed(seed) for seed in range(200)]
    drawn = draw(distribution(logits, options).expand(200, -1), generators)
    assert set(drawn.flatten().tolist()) <= {0, 1, 2}
    if temperature <= 1e-10 * spread:
        assert set(drawn.flatten().tolist()) == {2}


@pytest.mark.parametrize(
    "options",
    [
        *({"temperature": value} for value in (-1, math.nan, math.inf, "1", None, True)),
        *({"top_k": value} for value in (0, -1, 2.5, "3", True, math.nan)),
        *({"top_p": value} for value in (0, -0.1, 1.1, math.nan, "a", True)),
        *({"min_p": value} for value in (-0.1, 1.1, math.nan, [0.1])),
        *({"seed": value} for value in (-1, 2**63, 1.5, "1", None)),
        *({"max_new_tokens": value} for value in (0, -1, 2.5, "9", None)),
        *({"prompt": value} for value in (None, b"abc", 3, ["a"])),
    ],
    ids=str,
)
def test_an_impossible_option_is_named_in_one_line(llm: LLM, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=" is ") as raised:
        llm.generate(**{"prompt": "abc", **options})
    assert "\n" not in str(raised.value)


def test_numbers_of_numpy_are_options(llm: LLM) -> None:
    options = {"temperature": 0.5, "top_k": 5, "top_p": 0.5}
    of_numpy = {"temperature": np.float32(0.5), "top_k": np.int64(5), "top_p": np.float64(0.5)}
    assert llm.generate("abc", **of_numpy) == llm.generate("abc", **options)


def damaged(llm: LLM, name: str, value: float) -> LLM:
    model = copy.deepcopy(llm.model)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[3] = value
    return LLM(model, TOKENIZER)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name", ["wte.weight", "h.0.attn.c_attn.weight", "h.1.mlp.c_proj.bias", "ln_f.weight"]
)
def test_weights_that_are_nan_or_infinite_are_named(llm: LLM, name: str, value: float) -> None:
    """PyTorch's attention on the CPU turns NaN queries into finite results."""
    broken = damaged(llm, name, value)
    for call in (broken.generate, broken.loss, lambda text: broken.generate(text, temperature=0)):
        with pytest.raises(UserError, match=rf"weights are damaged: {name} holds NaN or infinity"):
            call("abc")
    assert write_sample(broken.model, TOKENIZER, 5, 0).startswith("(no sample: the model's weights")


def test_logits_beyond_a_narrow_dtype_are_named(llm: LLM) -> None:
    model = copy.deepcopy(llm.model).half()
    with torch.no_grad():
        model.wte.weight.mul_(3e4).clamp_(-6e4, 6e4)
        model.ln_f.weight.fill_(100)
    with pytest.raises(UserError, match=r"logits are NaN or infinite, .* torch.float16 may be too"):
        LLM(model, TOKENIZER).generate("abc")


def test_the_command_ends_with_one_line_for_damaged_weights(
    llm: LLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = damaged(llm, "h.1.mlp.c_fc.weight", math.nan).model
    save_description(tmp_path, broken.config, TOKENIZER)
    save_weights(broken, tmp_path / "model.safetensors")
    assert cli.run(main, ["--model", str(tmp_path), "--prompt", "abc"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "h.1.mlp.c_fc.weight holds NaN" in lines[0]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        ([1.5], "the prompt is a list .*: expected token ids"),
        (["a"], "the prompt is a list"),
        ("abc", "the prompt is a str"),
        ([99], "a token id is 99; expected 0 to 27"),
        ([-1], "a token id is -1"),
    ],
)
def test_a_prompt_that_is_no_ids_is_refused(llm: LLM, prompt: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        next(generate(llm.model, prompt, 1, sampling=SamplingConfig(), seed=0))


@pytest.mark.parametrize("prompt", [(1, 2), range(1, 3), np.array([1, 2]), torch.tensor([1, 2])])
def test_ids_of_any_sequence_are_a_prompt(llm: LLM, prompt: Any) -> None:
    greedy = SamplingConfig(temperature=0)
    expected = list(generate(llm.model, [1, 2], 5, sampling=greedy, seed=0))
    assert list(generate(llm.model, prompt, 5, sampling=greedy, seed=0)) == expected
