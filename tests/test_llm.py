"""The front door: `gptfast.LLM`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import gptfast
from gptfast import LLM, llm
from gptfast.errors import MissingFileError, UserError
from gptfast.model import GPT, ModelConfig
from gptfast.tokenizer import BPETokenizer, CharTokenizer
from gptfast.train.__main__ import parse_config

TINY: dict[str, Any] = {
    "tokenizer": "char", "block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 16, "max_steps": 5,
    "batch_size": 4, "eval_windows": 4, "dtype": "float32", "device": "cpu", "verbose": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, nursery_text: str) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "nursery.txt"
    path.write_text(nursery_text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "tiny"


@pytest.fixture(scope="module")
def trained(corpus: Path, out: Path) -> LLM:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTFAST_CACHE", str(out.parent / "cache"))
        return LLM.train(corpus, out=out, **TINY)


# ---- train ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["shakespeare-cpu", "shakespeare-12min", "gpt2-124m"])
@pytest.mark.parametrize("value", [True, False])
def test_every_switch_can_be_given_as_it_is_and_turned_over(preset: str, value: bool) -> None:
    switches = ("resume", "overwrite", "compile", "mask_documents", "activation_checkpointing")
    of_the_model = ("bias", "tie_embeddings", "zero_init", "qk_norm")
    for name in (*switches, *of_the_model):
        config = parse_config(llm._flags({"preset": preset, name: value}))
        assert getattr(config if name in switches else config.model, name) is value


def test_a_value_that_looks_like_a_flag_is_a_value() -> None:
    assert parse_config(llm._flags({"corpus": "-x.txt"})).corpus == "-x.txt"


def test_settings_of_the_run_and_of_the_model_are_recorded(
    trained: LLM, out: Path, corpus: Path
) -> None:
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["config"]["max_steps"] == record["result"]["steps"] == 5
    assert record["config"]["model"]["n_embd"] == trained.model.config.n_embd == 16
    assert record["config"]["preset"] == "shakespeare-cpu"
    assert record["command"].startswith(f"gptfast.LLM.train(corpus={str(corpus)!r}, preset=")
    assert "max_steps=5" in record["command"]


def test_the_trained_model_is_the_one_in_the_folder(trained: LLM, out: Path) -> None:
    loaded = LLM.load(out, device="cpu")
    assert loaded.generate("BOB", max_new_tokens=30) == trained.generate("BOB", max_new_tokens=30)
    model, tokenizer = gptfast.load(out)
    assert tokenizer.fingerprint == trained.tokenizer.fingerprint
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, trained.model.state_dict()[name]), name


def test_progress_is_printed_unless_verbose_is_false(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LLM.train(corpus, out=tmp_path / "a", **TINY)
    assert capsys.readouterr().out == ""
    LLM.train(corpus, out=tmp_path / "b", **TINY | {"verbose": True, "max_steps": 1})
    printed = capsys.readouterr().out
    assert "model gpt" in printed
    assert "step 1: val loss" in printed


@pytest.mark.usefixtures("trained")
def test_a_run_that_is_there_is_not_lost_unasked(corpus: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already holds a run: give --resume"):
        LLM.train(corpus, out=out, **TINY)
    begun = (out / "run.json").read_text(encoding="utf-8")
    LLM.train(corpus, out=out, resume=True, **TINY)
    assert (out / "run.json").read_text(encoding="utf-8") == begun
    settings = {**TINY, "max_steps": 1}
    LLM.train(corpus, out=tmp_path / "run", **settings)
    again = LLM.train(corpus, out=tmp_path / "run", overwrite=True, **settings | {"n_embd": 8})
    assert again.model.config.n_embd == 8


@pytest.mark.usefixtures("trained")
def test_training_starts_from_a_folder(corpus: Path, out: Path, tmp_path: Path) -> None:
    settings = {k: v for k, v in TINY.items() if k not in ("tokenizer", "n_embd", "n_head")}
    tuned = LLM.train(corpus, out=tmp_path / "tuned", init_from=out, **settings)
    config = json.loads((tmp_path / "tuned" / "run.json").read_text(encoding="utf-8"))["config"]
    assert config["init_from"] == str(out)
    assert tuned.model.config.n_embd == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_stepz": 3}, "no setting 'max_stepz': .*perhaps you meant max_steps"),
        ({"model": ModelConfig(65)}, "no setting 'model'"),
        ({"help": True}, "no setting 'help'"),
        ({"max_steps": "many"}, "--max-steps.*'many'"),
        ({"max_steps": 0}, "max_steps is 0: expected at least 1"),
        ({"dtype": "float8"}, "'float8'.*--dtype"),
        ({"n_embd": 15}, "n_embd 15 can't be divided"),
        ({"compile": "yes"}, "yes"),
        ({"preset": "tiny"}, "unknown preset 'tiny'"),
        ({"device": "tpu"}, "no device 'tpu'"),
    ],
)
def test_a_wrong_setting_is_one_line(
    settings: dict[str, Any], message: str, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as error:
        LLM.train(corpus, **{"out": tmp_path / "run", **TINY, **settings})
    assert "\n" not in str(error.value)


def test_a_missing_corpus_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no corpus"):
        LLM.train(tmp_path / "none.txt", out=tmp_path / "run", **TINY)


def test_a_signal_is_a_keyboard_interrupt(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm, "pretrain", lambda *_: None)  # what a stopped run returns
    with pytest.raises(KeyboardInterrupt, match="resume=True continues"):
        LLM.train(corpus, out=tmp_path / "run", **TINY)


# ---- load, generate, stream ----------------------------------------------------------------------


def test_loading_can_fail(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no model in"):
        LLM.load(tmp_path)
    with pytest.raises(UserError, match="no device 'tpu'"):
        LLM.load(tmp_path, device="tpu")


def test_the_context_can_be_stretched(tmp_path: Path) -> None:
    from gptfast.model.folder import save_description, save_weights

    config = ModelConfig(5, block_size=8, n_layer=1, n_head=2, n_embd=8, positions="rotary")
    save_description(tmp_path, config, CharTokenizer.train("abc"))
    save_weights(GPT(config), tmp_path / "model.safetensors")
    stretched = LLM.load(tmp_path, rope_scaling="ntk", rope_factor=2.0)
    assert stretched.model.config.block_size == 16


@pytest.mark.parametrize("prompt", ["", "ALICE:\n", "The king " * 9])
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.0}, {"top_k": 3, "seed": 7}, {"top_p": 0.9, "min_p": 0.01}]
)
def test_stream_yields_what_generate_returns(
    trained: LLM, prompt: str, options: dict[str, Any]
) -> None:
    text = trained.generate(prompt, max_new_tokens=40, **options)
    pieces = list(trained.stream(prompt, max_new_tokens=40, **options))
    assert "".join(pieces) == text
    assert len(text) == 40  # a character per token, without the prompt
    assert len(pieces) > 20


def test_the_seed_decides(trained: LLM) -> None:
    texts = [trained.generate(max_new_tokens=40, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_it_writes_without_dropout() -> None:
    torch.manual_seed(0)
    config = ModelConfig(5, block_size=8, n_layer=1, n_head=2, n_embd=8, dropout=0.9)
    writer = LLM(GPT(config).train(), CharTokenizer.train("abcde"))
    assert len({writer.generate(max_new_tokens=30) for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0: expected at least 1"),
        ({"seed": -1}, "seed is -1"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 2.0}, "top_p"),
    ],
)
def test_impossible_options_are_refused_at_once(
    trained: LLM, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        trained.stream(**options)  # before the first piece


# ---- loss ----------------------------------------------------------------------------------------


def losses_by_hand(model: Any, ids: list[int], block_size: int) -> list[float]:
    """The cross entropy of each token but the first, window after window."""
    losses = []
    for start in range(0, len(ids) - 1, block_size):
        window = torch.tensor([ids[start : start + block_size + 1]])
        with torch.no_grad():
            logits_TV = model.eval()(window[:, :-1])[0]
        losses += F.cross_entropy(logits_TV, window[0, 1:], reduction="none").tolist()
    return losses


@pytest.mark.parametrize("n", [2, 3, 16, 17, 18, 33, 500])
def test_the_loss_is_the_mean_over_all_tokens_but_the_first(
    trained: LLM, nursery_text: str, n: int
) -> None:
    ids = trained.tokenizer.encode_ordinary(nursery_text[:n])
    expected = losses_by_hand(trained.model, ids, block_size=16)
    assert len(expected) == n - 1
    loss = trained.loss(nursery_text[:n])
    assert loss.nats_per_token == pytest.approx(sum(expected) / (n - 1), rel=1e-5)
    n_bytes = len(nursery_text[1:n].encode())
    assert loss.bits_per_byte == pytest.approx(sum(expected) / math.log(2) / n_bytes, rel=1e-5)


def test_the_bytes_are_those_of_the_predicted_tokens() -> None:
    tokenizer = BPETokenizer.train("the cat sees the other cat, naïvely " * 20, 270)
    torch.manual_seed(0)
    config = ModelConfig(tokenizer.n_vocab, block_size=8, n_layer=1, n_head=2, n_embd=8)
    measured = LLM(GPT(config), tokenizer)
    text = "the naïve cat, the other"
    ids = tokenizer.encode_ordinary(text)
    expected = sum(losses_by_hand(measured.model, ids, block_size=8)) / math.log(2)
    n_bytes = len(text.encode()) - len(tokenizer.decode_bytes(ids[:1]))
    assert measured.loss(text).bits_per_byte == pytest.approx(expected / n_bytes, rel=1e-5)


def test_measuring_leaves_the_mode_of_the_model() -> None:
    config = ModelConfig(5, block_size=8, n_layer=1, n_head=2, n_embd=8, dropout=0.5)
    measured = LLM(GPT(config).train(), CharTokenizer.train("abcde"))
    assert measured.loss("abcabc") == measured.loss("abcabc")
    assert measured.model.training


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_of_fewer_than_two_tokens_has_no_loss(trained: LLM, text: str) -> None:
    with pytest.raises(UserError, match=f"has {len(text)} tokens: expected at least 2"):
        trained.loss(text)


# ---- the door itself -----------------------------------------------------------------------------


def test_it_prints_as_one_line(trained: LLM) -> None:
    n = trained.model.n_parameters()
    assert repr(trained) == f"LLM(gpt, {n:,} parameters, {trained.tokenizer!r})"
    assert "CharTokenizer" in repr(trained)


def test_only_using_it_imports_pytorch() -> None:
    """In a fresh interpreter."""
    code = (
        "import sys, gptfast\n"
        "print('torch' in sys.modules, 'gptfast.train' in sys.modules)\n"
        "from gptfast import LLM\n"
        "print('torch' in sys.modules, LLM is gptfast.LLM, LLM.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\nTrue True LLM\n"


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'gptfast' has no attribute 'llama'"):
        _ = gptfast.llama
