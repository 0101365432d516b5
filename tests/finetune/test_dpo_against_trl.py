"""The losses of TRL, on the same folder and records: template, masks, sums and losses agree."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from gptfast.data.pairs import pair_batch
from gptfast.finetune.dpo import DPO, pair_logprobs, prepare, simpo_loss
from gptfast.finetune.settings.preferences import DPOConfig
from gptfast.model.folder import load_model
from gptfast.train.distributed import SINGLE_PROCESS

trl = pytest.importorskip("trl")
# TRL uses names of transformers that are to go.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")

RECORDS = [
    {"prompt": "How are you?", "chosen": "I am fine today, thank you.", "rejected": "No"},
    {"prompt": "3 + 4?", "chosen": "7", "rejected": "The answer is eight, I think."},
    {"prompt": "What is the sum?", "chosen": "seven", "rejected": "three"},
    {"prompt": "Hello", "chosen": "Hello, how are you?", "rejected": "?"},
]


def as_messages(record: dict[str, str]) -> dict[str, Any]:
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return {name: [{"role": role, "content": record[name]}] for name, role in roles.items()}


@pytest.mark.parametrize(("loss", "theirs"), [("dpo", "sigmoid"), ("ipo", "ipo")])
def test_loss_equals_theirs(loss: Any, theirs: str, chat_base: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reference = AutoModelForCausalLM.from_pretrained(chat_base)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    reference.save_pretrained(tmp_path / "reference")
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(chat_base),
        ref_model=reference,
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "theirs"), loss_type=theirs, beta=0.3, use_cpu=True,
            per_device_train_batch_size=len(RECORDS), report_to="none", bf16=False,
            activation_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(list(map(as_messages, RECORDS))),
        processing_class=AutoTokenizer.from_pretrained(chat_base, pad_token="<|endoftext|>"),
    )  # fmt: skip
    expected = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))

    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(map(json.dumps, RECORDS)))
    config = DPOConfig(
        model=chat_base, data=data, val_data=data, out=tmp_path / "ours", loss=loss, beta=0.3
    )
    task = prepare(config, Console(quiet=True))
    objective = task.objective
    assert isinstance(objective, DPO)
    model = task.new_model(torch.device("cpu"))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "reference" / file).write_bytes((chat_base / file).read_bytes())
    other, _ = load_model(tmp_path / "reference")
    pairs = objective.train
    objective.reference = [pair_logprobs(other, pairs, range(4), 3, SINGLE_PROCESS)] * 2
    batch = objective.prepare(model, pair_batch(pairs, range(4)))
    ours = objective.loss(model, batch)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-6)
    start = {"dpo": math.log(2), "ipo": (1 / 0.6) ** 2}[loss]  # as if the reference were the model
    assert abs(ours.item() - start) > 1e-3


def test_simpo_equals_theirs() -> None:
    from trl.experimental.cpo import CPOTrainer

    logprobs, lengths = -10 * torch.rand(6, 2), torch.randint(1, 9, (6, 2))
    trainer = SimpleNamespace(
        loss_type="simpo", beta=2.5, simpo_gamma=0.7, alpha=0.0, label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    expected, *rewards = CPOTrainer.cpo_loss(trainer, *(logprobs / lengths).unbind(1))
    ours, our_rewards = simpo_loss(logprobs, lengths, beta=2.5, gamma=0.7)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(our_rewards, torch.stack(rewards, 1), atol=1e-6, rtol=0)
