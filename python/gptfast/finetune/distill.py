"""Distillation: a student learns what a teacher predicts, for every token of a corpus.

Shape suffixes: B batch, T time, V vocabulary; K teachers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.data.batch import Batch
from gptfast.data.dataset import Mixture
from gptfast.data.shuffled import fingerprint_of
from gptfast.errors import UserError
from gptfast.finetune.settings.distill import DistillConfig
from gptfast.finetune.start import start_from
from gptfast.model.adapter_folder import weights_sha256
from gptfast.model.base import LanguageModel
from gptfast.model.finite import check_weights
from gptfast.model.folder import load_float_model
from gptfast.train.objective import Task
from gptfast.train.pretrain import CorpusSource, Pretraining, prepare_pretraining

# ---- the loss ------------------------------------------------------------------------------------


def distillation_loss(student_BTV: Tensor, teacher_BTV: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of logits divided by the temperature T; the mean over positions.

    student_BTV: logits. teacher_BTV: log-probabilities, from `mean_logprobs`. Further rows of the
    student's vocabulary have the probability 0 for the teacher. Hinton et al., "Distilling the
    Knowledge in a Neural Network" (2015), section 2: T^2 keeps the size of the gradient. KL and
    their cross entropy differ by the teacher's entropy, which has no gradient.
    """
    n_vocab = teacher_BTV.shape[-1]
    student_BTV = (student_BTV.float() / temperature).log_softmax(-1)[..., :n_vocab]
    kl_BTV = F.kl_div(student_BTV, teacher_BTV, reduction="none", log_target=True)
    return temperature**2 * kl_BTV.sum(-1).mean()


def mean_logprobs(logits_KBTV: Sequence[Tensor], temperature: float) -> Tensor:
    """Return the logarithm of the mean of the teachers' probabilities, float32 (B, T, V)."""
    logprobs = [(logits.float() / temperature).log_softmax(-1) for logits in logits_KBTV]
    return torch.stack(logprobs).logsumexp(0) - math.log(len(logprobs))


# ---- the task ------------------------------------------------------------------------------------


def prepare(config: DistillConfig, console: Console) -> Task:
    """Load the teachers and prepare the data. Raises UserError or MissingFileError."""
    teachers = [load_teacher(config, folder) for folder in config.teacher]
    if config.tokenizer == "bpe":  # the default; only the teacher's is possible
        config = replace(config, tokenizer=str(config.teacher[0]))
    task = prepare_pretraining(config, console)
    assert task.tokenizer is not None
    for folder, (_, fingerprint) in zip(config.teacher, teachers, strict=True):
        if fingerprint != task.tokenizer.fingerprint:
            raise UserError(
                f"the teacher in {folder} has another tokenizer than the student: expected the "
                f"same one; give --tokenizer {folder}, with a text or a corpus that was prepared "
                f"with it"
            )
    assert isinstance(task.source, CorpusSource)
    data, models = task.source.data, [model for model, _ in teachers]
    sha256 = [weights_sha256(folder) for folder in config.teacher]
    if config.lora_rank:
        assert config.init_from is not None
        start = start_from(config, config.init_from, task.record["init_from_sha256"])
        # Windows may be shorter than the base's context, which its adapter keeps.
        trained = replace(config.model, block_size=start.config.block_size)
        task = replace(task, new_model=replace(start, config=trained).new_model())
    return replace(
        task,
        source=DistillSource(config, data, sha256),
        objective=Distillation(config, data, models),
        record=task.record | {"teacher_sha256": sha256},
    )


def load_teacher(config: DistillConfig, folder: Path) -> tuple[LanguageModel, str]:
    """Return a teacher, frozen and in evaluation mode, and the fingerprint of its tokenizer.

    Raises MissingFileError or UserError for a folder without a model, for weights that are not
    finite, and for a context that is shorter than the student's.
    """
    teacher, tokenizer = load_float_model(folder, "distillation")
    check_weights(teacher)
    if teacher.config.block_size < config.model.block_size:
        raise UserError(
            f"the teacher in {folder} has a context of {teacher.config.block_size} tokens, and the "
            f"student one of {config.model.block_size}: expected at most the teacher's; give "
            f"--block-size {teacher.config.block_size}"
        )
    return teacher.eval().requires_grad_(False), tokenizer.fingerprint


class DistillSource(CorpusSource):
    """The windows of pre-training. Their fingerprint covers the teachers."""

    def __init__(self, config: DistillConfig, data: Mixture, teacher_sha256: list[str]) -> None:
        super().__init__(config, data)
        self.teacher_sha256 = teacher_sha256

    @property
    def fingerprint(self) -> str:
        """A checksum of the corpora, the tokenizer and the teachers."""
        return fingerprint_of(super().fingerprint, *self.teacher_sha256)


class Distillation(Pretraining):
    """The distillation loss, with the val loss of pre-training: of the text, without teachers."""

    def __init__(self, config: DistillConfig, data: Mixture, teachers: list[LanguageModel]) -> None:
        super().__init__(config, data)
        self.teachers, self.n_vocab = teachers, data.tokenizer.n_vocab
        self.temperature, self.hard_weight = config.temperature, config.hard_weight

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of a micro-batch, whose logits all exist at once."""
        logits_BTV = engine(batch.ids_BT, None, batch.cu_seqlens)
        soft = distillation_loss(logits_BTV, self.teach(batch), self.temperature)
        if not self.hard_weight:
            return soft
        hard = F.cross_entropy(logits_BTV.flatten(0, 1).float(), batch.targets_BT.flatten())
        return (1 - self.hard_weight) * soft + self.hard_weight * hard

    @torch.no_grad()
    def teach(self, batch: Batch) -> Tensor:
        """Return the log-probabilities of the teachers, with the same borders of documents."""
        logits = [
            teacher.to(batch.ids_BT.device)(batch.ids_BT, None, batch.cu_seqlens)
            for teacher in self.teachers
        ]
        # Further rows of an embedding are padding, which a teacher may have and a student not.
        return mean_logprobs([x[..., : self.n_vocab] for x in logits], self.temperature)
