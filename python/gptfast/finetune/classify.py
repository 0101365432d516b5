"""Classification: name the class of a text, by a linear layer at its last token.

The recipe of GPT-1 ("Improving Language Understanding by Generative Pre-Training", Radford et al.,
2018, section 3.2): all weights are tuned, and the head is new.

Legend: B batch, N labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace

from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.cli.units import count
from gptfast.data.batch import Batch
from gptfast.data.classes import (
    EncodedText,
    Labelled,
    class_batch,
    encode_labelled,
    read_labelled,
)
from gptfast.data.conversations import normalised, split_by_prompt
from gptfast.data.shuffled import ShuffledSource, fingerprint_of
from gptfast.errors import UserError
from gptfast.finetune.evaluation import loss_and_accuracy
from gptfast.finetune.settings.supervised import ClassifyConfig
from gptfast.finetune.start import open_start
from gptfast.model.base import LanguageModel
from gptfast.model.heads import SequenceClassifier
from gptfast.train.distributed import World
from gptfast.train.objective import Evaluation, Objective, Task


def prepare(config: ClassifyConfig, console: Console) -> Task:
    """Read the texts. Raises UserError or MissingFileError if they can't be learned from."""
    start = open_start(config)
    train, val = _split(config)
    labels = sorted({one.label for one in train})
    if len(labels) < 2:
        raise UserError(f"{config.data} has one class, {labels[0]!r}: expected at least two")
    for one in val:
        if one.label not in labels:
            raise UserError(
                f"{config.val_data or config.data}:{one.line}: no text to train on has the label "
                f"{one.label!r}: "
                + (
                    f"expected one of {', '.join(labels)}"
                    if config.val_data
                    else "give more texts with this label, or a file as --val-data"
                )
            )
    block_size = start.config.block_size
    (to_train, n_long), (to_val, n_long_val) = (
        encode_labelled(texts, labels, start.tokenizer, block_size) for texts in (train, val)
    )
    if not to_train or not to_val:
        raise UserError(f"all texts of {config.data} are longer than {block_size} tokens")
    objective = Classification(config, to_val)
    content = ([asdict(one) for one in part] for part in (to_train, to_val))
    notes = [
        f"train on {count(len(to_train), 'text')} of {len(labels)} classes "
        f"({', '.join(labels[:8])}{', ...' if len(labels) > 8 else ''}), validate on "
        f"{len(to_val):,}; the most frequent class is right for {objective.majority:.1%} of them"
    ]
    trained_on = {normalised(one.text) for one in train}
    if n_shared := sum(normalised(one.text) in trained_on for one in val):
        notes.append(f"note: {count(n_shared, 'val text')} also among those to train on")
    if n_long or n_long_val:
        notes.append(
            f"left out: {count(n_long + n_long_val, 'text')} longer than {block_size} tokens"
        )
    return Task(
        source=ShuffledSource(
            len(to_train),
            config.batch_size,
            config.seed,
            lambda indices, _: class_batch(to_train, indices),
            longest=max(range(len(to_train)), key=lambda i: len(to_train[i].ids)),
            fingerprint=fingerprint_of(start.sha256, start.tokenizer.fingerprint, labels, *content),
        ),
        objective=objective,
        tokenizer=start.tokenizer,
        new_model=start.new_model(build=lambda c: SequenceClassifier(c, labels)),
        record={"start_sha256": start.sha256},
        notes=notes,
    )


def _split(config: ClassifyConfig) -> tuple[list[Labelled], list[Labelled]]:
    """Return the texts to train on and to validate on."""
    texts = read_labelled(config.data)
    if config.val_data is not None:
        return texts, read_labelled(config.val_data)
    return split_by_prompt(
        texts, lambda one: normalised(one.text), config.val_fraction, config.seed
    )


class Classification(Objective):
    """The mean cross entropy of the class, in nats per text."""

    def __init__(self, config: ClassifyConfig, val: Sequence[EncodedText]) -> None:
        self.config, self.val = config, val
        ((_, most),) = Counter(one.label for one in val).most_common(1)
        self.majority = most / len(val)
        """Share of the most frequent class, which is the accuracy of always naming it."""

    def count(self, batch: Batch) -> int:
        """Return the number of texts."""
        return len(batch)

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross entropy of the texts' classes: -log softmax(logits)[label]."""
        logits_BN = engine(batch.ids_BT, batch.extras["length"])
        return F.cross_entropy(logits_BN.float(), batch.extras["label"])

    def evaluate(self, model: LanguageModel, world: World, *, whole: bool) -> Evaluation:
        """Measure the mean cross entropy and the accuracy on val texts."""
        result = loss_and_accuracy(
            model,
            len(self.val),
            lambda indices: class_batch(self.val, indices),
            _loss_and_right,
            self.config,
            world,
            whole=whole,
            unit="text",
        )
        majority = {"majority_accuracy": self.majority}
        return replace(result, measured=result.measured | majority)


def _loss_and_right(model: LanguageModel, batch: Batch) -> tuple[float, float]:
    logits_BN = model(batch.ids_BT, batch.extras["length"]).float()
    label_B = batch.extras["label"]
    loss = F.cross_entropy(logits_BN, label_B, reduction="sum")
    return loss.item(), (logits_BN.argmax(-1) == label_B).sum().item()
