"""GPTs with another head: a classifier, a reward model, and PPO's policy with its critic.

A classifier returns a number per class instead of the next token's logits. Its folder is that of
`GPT2ForSequenceClassification` or `LlamaForSequenceClassification`, so that transformers'
`AutoModelForSequenceClassification` loads it. A reward model is a classifier with one label, whose
number is the text's score.

Legend: B batch, T time, C channels, N labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gptfast import ops
from gptfast.errors import MissingFileError, UserError
from gptfast.model import formats
from gptfast.model.adapter_folder import Base, find_base, is_adapter
from gptfast.model.config import ModelConfig
from gptfast.model.folder import (
    load_float_model,
    load_weights,
    read_config,
    read_labels,
    with_adapter,
)
from gptfast.model.lora_merge import merge
from gptfast.model.transformer import GPT
from gptfast.ops.checks import can_look_at
from gptfast.system.files import is_file
from gptfast.tokenizer import Tokenizer, load_tokenizer

SCORE = ("LABEL_0",)
"""The labels of a reward model: the one name that transformers gives a single output."""
_TEXTS_AT_A_TIME = 16


class SequenceClassifier(GPT):
    """A GPT's body and a linear layer `score` without bias, read at the last token of a text.

    The same as transformers' classes for sequence classification. It has no output matrix of the
    vocabulary, so it can't continue a text.
    """

    heads = ("score",)
    peft_task = "SEQ_CLS"

    def __init__(self, config: ModelConfig, labels: Sequence[str]) -> None:
        super().__init__(replace(config, tie_embeddings=True))  # without lm_head
        self.labels = tuple(labels)
        self.score = nn.Linear(config.n_embd, len(self.labels), bias=False)
        nn.init.normal_(self.score.weight, std=0.02)

    def forward(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:  # type: ignore[override]
        """Return a logit per label, (B, N).

        Args:
            ids_BT: texts padded on the right, with any id: attention is causal, so what follows
                the last token of a text has no effect.
            lengths_B: the number of tokens of each text, int64, from 1 to T.

        Raises:
            UserError: ids or lengths that the model can't take. Lengths on a GPU are not checked.
        """
        if (
            can_look_at(lengths_B)
            and not 1 <= lengths_B.min() <= lengths_B.max() <= ids_BT.shape[1]
        ):
            raise UserError(
                f"SequenceClassifier: lengths from {int(lengths_B.min())} to "
                f"{int(lengths_B.max())}; expected 1 to {ids_BT.shape[1]}, the ids' second size"
            )
        h_BTC = self.hidden(ids_BT)
        last_BC = h_BTC[torch.arange(len(h_BTC), device=h_BTC.device), lengths_B - 1]
        logits_BN: Tensor = self.score(last_BC)
        return logits_BN

    def classify(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Return the likeliest label of each text, and its probability.

        Raises UserError for a text that is empty or longer than the context.
        """
        encoded = [tokenizer.encode_ordinary(text) for text in texts]
        if not encoded:
            return []
        probabilities_BN = logits_of(self, encoded).softmax(-1)
        best_B = probabilities_BN.max(-1)
        return [
            (self.labels[label], probability)
            for label, probability in zip(
                best_B.indices.tolist(), best_B.values.tolist(), strict=True
            )
        ]

    def description(
        self, *, bos: int | None, eos: Sequence[int], pad: int | None
    ) -> dict[str, dict[str, Any]]:
        """Return the files that describe the model in its folder, with its labels in config.json.

        pad: also the id by which transformers finds the last token of a padded text.
        """
        files = super().description(bos=bos, eos=eos, pad=pad)
        described = formats.describe_classifier(files["config.json"], self.labels, pad)
        return {**files, "config.json": described}


class ActorCritic(GPT):
    """A policy and its critic: a GPT, and a linear layer `value` that reads its last vectors.

    The value of a position is what the critic expects of the rewards from there on. The critic
    shares the policy's body: it costs one vector product per token, where a model of its own, as in
    InstructGPT, would double time and memory. `value` starts at zero. It is no part of a model
    folder, which holds a plain GPT.
    """

    heads = ("value",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.value = nn.Linear(config.n_embd, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:  # type: ignore[override]
        """Return the log-probability of each target in nats, and each position's value.

        float32 (B, T, 2). The log-probability is 0 where the target is -100. Raises UserError as
        `LanguageModel.forward` does.
        """
        h_BTC = self.hidden(ids_BT)
        losses_BT = ops.linear_cross_entropy(
            h_BTC,
            self.head_VC,
            targets_BT,
            softcap=self.config.logit_softcap,
            reduction="none",
        )
        return torch.stack([-losses_BT, self.value(h_BTC)[..., 0].float()], -1)

    def own_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the policy's tensors, without those of `value`."""
        own = super().own_state(state)
        return {name: tensor for name, tensor in own.items() if not name.startswith("value.")}


def load_classifier(folder: str | Path) -> tuple[SequenceClassifier, Tokenizer]:
    """Load the folder of a classifier or of a reward model, in evaluation mode, in float32.

    Raises UserError if it holds another model, and as `load_model` does.
    """
    folder = Path(folder)
    if not (is_adapter(folder) or is_file(folder / "config.json")):
        raise MissingFileError(f"no model in {folder}: expected a classifier's folder")
    labels = read_labels(folder)
    if labels is None:
        raise UserError(
            f"the model in {folder} is a language model: expected a classifier or a reward model, "
            f"as `gptfast finetune classify` and `gptfast finetune reward` make them"
        )
    if is_adapter(folder):
        model, tokenizer = unmerged_classifier(folder, labels, find_base(folder))
        merge(model)
        return model, tokenizer
    model = SequenceClassifier(read_config(folder / "config.json"), labels)
    load_weights(model, folder / "model.safetensors")
    return model.eval(), load_tokenizer(folder)


def unmerged_classifier(
    folder: Path, labels: Sequence[str], base: Base
) -> tuple[SequenceClassifier, Tokenizer]:
    """Load a classifier that is an adapter beside a language model, in float32."""
    body, tokenizer = load_float_model(base.folder, "an adapter")
    model = SequenceClassifier(body.config, labels)
    model.load_state_dict(body.state_dict(), strict=False)  # the adapter's file has the head
    _, tokenizer = with_adapter(folder, model, tokenizer, base)
    return model, tokenizer


def pad(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return texts as one tensor (B, T), padded on the right with 0, and their lengths (B,)."""
    lengths_B = torch.tensor([len(ids) for ids in texts])
    ids_BT = torch.zeros(len(texts), int(lengths_B.max()), dtype=torch.int64)
    for row, ids in zip(ids_BT, texts, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return ids_BT, lengths_B


@torch.no_grad()
def logits_of(model: SequenceClassifier, texts: Sequence[Sequence[int]]) -> Tensor:
    """Return the logits (B, N) of texts, given as token ids, on the CPU.

    Raises UserError for a text that is empty or longer than the context.
    """
    device = model.score.weight.device
    logits = []
    for first in range(0, len(texts), _TEXTS_AT_A_TIME):
        ids_BT, lengths_B = pad(texts[first : first + _TEXTS_AT_A_TIME])
        logits.append(model(ids_BT.to(device), lengths_B.to(device)).cpu())
    return torch.cat(logits)


def score_texts(model: SequenceClassifier, texts: Sequence[Sequence[int]]) -> Tensor:
    """Return a reward model's score of each text, (B,). Raises UserError as `logits_of` does."""
    return logits_of(model, texts)[:, 0]
