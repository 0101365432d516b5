"""transformers' classifiers as oracles, and what padding must not change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptfast import load_classifier
from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig
from gptfast.model.folder import describe_model, load_model, load_weights, save_weights
from gptfast.model.heads import ActorCritic, SequenceClassifier, logits_of, pad, score_texts
from gptfast.tokenizer import BPETokenizer

GPT2 = ModelConfig(265, block_size=16, n_layer=2, n_head=4, n_embd=24)
LLAMA = replace(
    GPT2, n_kv_head=2, norm="rmsnorm", norm_eps=1e-6, bias=False, positions="rotary",
    activation="swiglu", n_hidden=40, tie_embeddings=False,
)  # fmt: skip
OURS = replace(GPT2, activation="relu2", qk_norm=True)
LABELS = ("praise", "blame", "neither")
TEXTS = [[5, 6, 7], [9], list(range(20, 36)), [1, 1, 1, 1, 8]]
"""Of unequal lengths, one as long as the context."""


def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(["a rose is a rose is a rose. " * 30], 265, progress=False)


def classifier(config: ModelConfig, labels: tuple[str, ...] = LABELS) -> SequenceClassifier:
    """Biases are zero, gains one and matrices small at initialisation: nothing to tell apart."""
    model = SequenceClassifier(config, labels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def saved(model: GPT, folder: Path) -> Path:
    describe_model(folder, model, tokenizer())
    save_weights(model, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("labels", [LABELS, ("LABEL_0",)], ids=["classifier", "reward model"])
def test_transformers_loads_what_we_save(
    config: ModelConfig, labels: tuple[str, ...], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    ours = classifier(config, labels)
    saved(ours, tmp_path)
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    kind = "GPT2" if config is GPT2 else "Llama"
    assert type(theirs).__name__ == f"{kind}ForSequenceClassification"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert theirs.config.id2label == dict(enumerate(labels))
    end = theirs.config.pad_token_id
    assert end == tokenizer().role_id("pad")
    rows = [ids + [end] * (16 - len(ids)) for ids in TEXTS]
    with torch.no_grad():
        expected_BN = theirs.eval()(torch.tensor(rows)).logits
    assert expected_BN.std() > 0.3
    torch.testing.assert_close(logits_of(ours, TEXTS), expected_BN, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["GPT2", "Llama"])
def test_we_load_what_transformers_saves(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = (
        {"n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 4}
        if kind == "GPT2"
        else {
            "max_position_embeddings": 16, "hidden_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40,
        }
    )  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=265, id2label=dict(enumerate(LABELS)), pad_token_id=264, bos_token_id=264,
        eos_token_id=264, **sizes,
    )  # fmt: skip
    theirs = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    torch.nn.init.normal_(theirs.score.weight)
    theirs.save_pretrained(tmp_path)
    tokenizer().save(tmp_path)
    ours, _ = load_classifier(tmp_path)
    assert ours.labels == LABELS
    for ids in TEXTS:
        with torch.no_grad():
            expected_1N = theirs(torch.tensor([ids])).logits
        torch.testing.assert_close(logits_of(ours, [ids]), expected_1N, atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", [GPT2, LLAMA, OURS], ids=["gpt2", "llama", "gptfast"])
def test_a_folder_gives_the_classifier_back(config: ModelConfig, tmp_path: Path) -> None:
    ours = classifier(config)
    again, its_tokenizer = load_classifier(saved(ours, tmp_path))
    assert again.labels == LABELS
    assert torch.equal(logits_of(again, TEXTS), logits_of(ours, TEXTS))
    text = "a rose is a rose"
    ((label, probability),) = again.classify(its_tokenizer, [text])
    probabilities_N = logits_of(ours, [its_tokenizer.encode_ordinary(text)]).softmax(-1)[0]
    assert label == LABELS[int(probabilities_N.argmax())]
    assert probability == pytest.approx(float(probabilities_N.max()))
    assert again.classify(its_tokenizer, []) == []


def test_padding_has_no_effect_whatever_its_ids() -> None:
    ours = classifier(GPT2)
    ids_BT, lengths_B = pad(TEXTS)
    other_BT = ids_BT.clone()
    for row, ids in zip(other_BT, TEXTS, strict=True):
        row[len(ids) :] = ids[-1]  # the very id that the text ends with
    assert torch.equal(ours(ids_BT, lengths_B), ours(other_BT, lengths_B))
    for i, ids in enumerate(TEXTS):
        alone_1N = ours(torch.tensor([ids]), torch.tensor([len(ids)]))
        torch.testing.assert_close(alone_1N[0], ours(ids_BT, lengths_B)[i], atol=1e-6, rtol=0)


def test_a_score_depends_on_the_whole_text_alone() -> None:
    reward_model = classifier(LLAMA, ("LABEL_0",))
    scores_B = score_texts(reward_model, TEXTS)
    assert scores_B.shape == (len(TEXTS),)
    changed = [[ids[0] + 1, *ids[1:]] for ids in TEXTS]
    assert ((score_texts(reward_model, changed) - scores_B).abs() > 1e-4).all()


@pytest.mark.parametrize("lengths", [[0, 2], [2, 4]])
def test_lengths_that_no_text_has_are_refused(lengths: list[int]) -> None:
    with pytest.raises(UserError, match=r"expected 1 to 3"):
        classifier(GPT2)(torch.ones(2, 3, dtype=torch.int64), torch.tensor(lengths))


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(UserError, match=r"lengths from 0 to 3; expected 1 to 3"):
        logits_of(classifier(GPT2), [[1, 2, 3], []])


def test_each_kind_of_folder_is_refused_by_the_others_loader(tmp_path: Path) -> None:
    saved(classifier(GPT2), tmp_path / "classifier")
    with pytest.raises(UserError, match="is a classifier or a reward model, which predicts no"):
        load_model(tmp_path / "classifier")
    saved(GPT(GPT2), tmp_path / "gpt")
    with pytest.raises(UserError, match="is a language model: expected a classifier"):
        load_classifier(tmp_path / "gpt")


def test_a_critic_gives_log_probabilities_and_values_and_is_not_stored(tmp_path: Path) -> None:
    model = ActorCritic(LLAMA)
    assert not model(torch.tensor([[1, 2]]), torch.tensor([[2, 3]]))[..., 1].any()  # from zero
    torch.nn.init.normal_(model.value.weight)
    ids_BT, targets_BT = (
        torch.tensor([[1, 2, 3], [4, 5, 6]]),
        torch.tensor([[2, 3, 4], [5, 6, -100]]),
    )
    logprobs_BT, values_BT = model(ids_BT, targets_BT).unbind(-1)
    gpt, _ = load_model(saved(model, tmp_path))
    logits_BTV = gpt(ids_BT)
    chosen_BT = logits_BTV.log_softmax(-1).gather(2, targets_BT.clamp(0)[..., None])[..., 0]
    torch.testing.assert_close(logprobs_BT, chosen_BT * (targets_BT != -100))
    torch.testing.assert_close(values_BT, (model.hidden(ids_BT) @ model.value.weight.T)[..., 0])
    value = model.value.weight.clone()
    load_weights(model, tmp_path / "model.safetensors")  # as at the end of a run
    assert torch.equal(model.value.weight, value)
