"""llama.cpp computes the files that `gptfast export gguf` writes as gptfast does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from export import small_models
from export.llama_cpp import ask
from gptfast.convert.gguf import load_gguf
from gptfast.export.gguf import export_gguf
from gptfast.model import GPT, ModelConfig
from gptfast.model.folder import load_model
from gptfast.tokenizer import gguf as vocabulary

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp", reason="llama.cpp is the oracle")

GELU_TABLE, ROUNDING = 1e-2, 2e-4
"""The largest difference of log-probabilities: llama.cpp's GELU is a table in float16."""


PATTERNS = {
    "qwen2": "qwen2", "qwen3": "qwen3.5", "smollm3": "starcoder2", "llama-biases": "deepseek"
}  # fmt: skip
"""Models with these patterns; the others have gpt2 and llama3."""
NARROW = ["f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]


def prefixes(config: ModelConfig, n_vocab: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = [1, 2, 7, 31, config.block_size - 1]
    return [torch.randint(n_vocab, (n,), generator=generator).tolist() for n in lengths]


@pytest.fixture(scope="module")
def answers(
    tmp_path_factory: pytest.TempPathFactory, nursery_text: str
) -> dict[str, tuple[Path, dict[str, Any], dict[str, Any]]]:
    """The folder, the questions and llama.cpp's answers for each model, all of one process."""
    folder = tmp_path_factory.mktemp("gguf")
    tokenizers = {p: small_models.bpe(p, nursery_text) for p in vocabulary.PRE}
    folders, questions = {}, []

    def add(name: str, model: GPT, tokenizer: Any, kind: str = "f32", **question: Any) -> None:
        folders[name] = small_models.write_folder(folder / name, model, tokenizer)
        file = folder / f"{name}.gguf"
        export_gguf(folders[name], file, kind)
        n = tokenizer.n_vocab
        question |= {"model": str(file), "n_vocab": n + 1, "letter": tokenizer.token_to_id("a")}
        questions.append({"logprobs": prefixes(model.config, n), **question})

    texts, special = small_models.hostile_texts(3000), ["a<|endoftext|>b<|user|> <b> <b>c", "<|x|>"]
    for name, config in small_models.CONFIGS.items():
        pattern = PATTERNS.get(name, "gpt2" if name.startswith("gpt2") else "llama3")
        is_first = name in ("gpt2", "llama", *PATTERNS)
        tokenized = {"tokenize": texts, "special": special} if is_first else {}
        model = small_models.with_large_weights(config)
        add(name, model, tokenizers[pattern], **tokenized)
    for kind in NARROW:
        model = small_models.with_large_weights(small_models.CONFIGS["llama"])
        add(kind, model, tokenizers["gpt2"], kind)
    chars = small_models.characters()
    config = ModelConfig(chars.n_vocab, block_size=64, n_layer=2, n_head=4, n_embd=64)
    texts = ["", "abc É字🦀é\n\nEß", small_models.CHARACTERS * 3]
    add("characters", small_models.with_large_weights(config), chars, tokenize=texts)
    model = trained(tokenizers["gpt2"].encode(nursery_text))
    prompts = [tokenizers["gpt2"].encode(nursery_text[i : i + 20])[:8] for i in (0, 500)]
    add("trained", model, tokenizers["gpt2"], greedy=[(ids, 100) for ids in prompts], logprobs=[])
    found = ask(folder, questions)
    return {n: (folders[n], q, a) for n, q, a in zip(folders, questions, found, strict=True)}


def trained(ids: list[int]) -> GPT:
    """A model that has learned for some seconds, so that its likeliest token is no close call."""
    model = GPT(ModelConfig(300, block_size=128, n_layer=2, n_head=4, n_embd=64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    data = torch.tensor(ids)
    for _ in range(150):
        starts = torch.randint(len(data) - 129, (8,))
        windows = torch.stack([data[s : s + 129] for s in starts.tolist()])
        loss = model(windows[:, :-1], windows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name", [*small_models.CONFIGS, "characters"])
@torch.no_grad()
def test_every_log_probability_agrees(answers: Any, name: str) -> None:
    folder, question, answer = answers[name]
    model, tokenizer = load_model(folder)
    n = tokenizer.n_vocab
    for ids, theirs in zip(question["logprobs"], answer["logprobs"], strict=True):
        # Rows of padding are not in the file. An end token that was added is beyond our ids.
        ours = model(torch.tensor([ids]))[0, -1, :n].log_softmax(-1)
        assert ours.std() > 1  # else everything would agree
        there = torch.tensor([theirs[str(i)] for i in range(n)]).double().log_softmax(-1)
        added = {i: theirs[i] for i in theirs if int(i) >= n}
        assert len(added) == (tokenizer.eot_token is None)
        assert all(logprob < -20 for logprob in added.values())
        worst = (there - ours).abs().max()
        assert worst < (GELU_TABLE if model.config.norm == "layernorm" else ROUNDING)


@pytest.mark.parametrize("kind", NARROW)
@torch.no_grad()
def test_narrow_types_are_read_as_they_are_meant(answers: Any, kind: str) -> None:
    """Their numbers are the file's. llama.cpp also rounds what it multiplies them with."""
    folder, question, answer = answers[kind]
    loaded = load_gguf(Path(question["model"]))
    model, _ = load_model(folder)
    model.load_state_dict(loaded.state)
    for ids, theirs in zip(question["logprobs"], answer["logprobs"], strict=True):
        ours = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        there = torch.tensor([theirs[str(i)] for i in range(len(ours))])
        assert ours.std() > 1.5
        assert (there - ours).abs().mean() < 0.2


def test_greedy_tokens_of_a_trained_model_agree(answers: Any) -> None:
    folder, question, answer = answers["trained"]
    model, _ = load_model(folder)
    for (ids, n), theirs in zip(question["greedy"], answer["greedy"], strict=True):
        ours = list(ids)
        for _ in range(n):
            ours.append(int(model(torch.tensor([ours]))[0, -1].argmax()))
        assert theirs == ours[len(ids) :]
        assert len(set(theirs)) > 5


@pytest.mark.parametrize("name", ["gpt2", "llama", "characters", *PATTERNS])
def test_text_has_the_same_ids(answers: Any, name: str) -> None:
    folder, question, answer = answers[name]
    _, tokenizer = load_model(folder)
    assert len(question["tokenize"]) >= 3
    for text, theirs in zip(question["tokenize"], answer["tokenize"], strict=True):
        assert theirs == tokenizer.encode_ordinary(text), json.dumps(text)
    for text, theirs in zip(question.get("special", []), answer["special"], strict=True):
        assert theirs == tokenizer.encode(text, allowed_special="all")
