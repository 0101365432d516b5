"""`gptfast finetune audit`: what tuning a model gained, and what it lost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from gptfast.cli import cli
from gptfast.cli.path import PATH
from gptfast.cli.printing import lossy_output
from gptfast.data.verifiable.tasks import VerifiableTask, find_task
from gptfast.errors import UserError, check_at_least

if TYPE_CHECKING:
    from gptfast.audit.tuned.measures import Plan
    from gptfast.audit.tuned.prompts import Question, Subject


FILES = ("audit.json", "audit.png")
"""What an audit writes."""


@dataclass(frozen=True)
class AuditConfig:
    """Ask a base and the model that was tuned from it the same prompts, and compare the answers.

    Writes audit.json and audit.png. The same command writes the same figures again.
    """

    base: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")]
    """The model folder before tuning. If tuning added role tokens, that is OUT-base."""
    tuned: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TUNED")]
    """The model folder after tuning, which may be an adapter's."""
    out: Path
    """Folder for audit.json and audit.png."""
    overwrite: bool = False
    """Replace the audit in `out`."""
    data: Path | None = None
    """Held-out conversations to ask, in the formats of `gptfast finetune sft`. An answer is right
    if it is the known one, word for word."""
    task: str | None = None
    """A task with a verifier instead, such as make-the-number: its held-out problems."""
    train: Path | None = None
    """Conversations that the model was tuned on, to look for memorised answers and leaks."""
    old_text: Annotated[str | None, PATH] = None
    """Text of what the base knew, as a file, folder, glob or corpus: what was forgotten?"""
    prompts: int = 200
    """Most prompts to ask, spread evenly over the data."""
    samples: int = 16
    """Answers to draw for each prompt at temperature 1, besides the greedy one."""
    max_new_tokens: int = 128
    """Longest answer."""
    seed: int = 1337
    """Seed of the samples."""
    device: str = "auto"
    """'auto' (CUDA if there is one), 'cpu', 'cuda' or 'cuda:1'."""

    def __post_init__(self) -> None:
        for name in ("prompts", "samples", "max_new_tokens"):
            check_at_least(name, getattr(self, name), 1)
        if (self.data is None) == (self.task is None):
            raise UserError("what to ask is not clear: expected either --data or --task")
        if not self.overwrite and any((self.out / name).exists() for name in FILES):
            raise UserError(
                f"{self.out} already holds an audit: choose another --out, or give --overwrite"
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "the audit runs in one process: start it without torchrun, or with a single process"
            )


def main(argv: Sequence[str]) -> int:
    """Print the table and the sentences, and write the files. Return 0."""
    config = cli.parse(AuditConfig, argv, "gptfast finetune audit")
    task = None if config.task is None else find_task(config.task)
    # Imported late: PyTorch takes two seconds, which `--help` and a wrong flag don't need.
    from gptfast.audit.tuned.measures import measure
    from gptfast.audit.tuned.report import as_json, plot, sentences, table
    from gptfast.system.files import make_folder, write_atomically, write_text_atomically
    from gptfast.system.threads import share_cores

    base, tuned = (_subject(folder, config.device) for folder in (config.base, config.tuned))
    plan = _plan(config, task, base)
    make_folder(config.out)
    with share_cores(), lossy_output():
        facts = measure(base, tuned, plan)
        said = sentences(facts)
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}
        del settings["out"], settings["overwrite"]
        as_text, as_picture = (config.out / name for name in FILES)
        write_text_atomically(as_text, as_json(facts, settings, said))
        write_atomically(as_picture, lambda path: plot(facts, path))
        console = cli.console()
        console.print(table(facts))
        for note in facts.notes:
            console.print(f"note: {note}")
        for sentence in said:
            console.print(f"- {sentence}")
        console.print(f"audit.json and audit.png are in {config.out}")
    return 0


def _subject(folder: Path, device: str) -> Subject:
    from gptfast.audit.tuned.prompts import Subject
    from gptfast.model.device import resolve_device
    from gptfast.model.finite import check_weights
    from gptfast.model.folder import load_model
    from gptfast.tokenizer.chat import ChatTemplate, read_chat_template

    model, tokenizer = load_model(folder)
    check_weights(model)
    source = read_chat_template(folder)
    template = None if source is None else ChatTemplate(source, tokenizer)
    return Subject(model.to(resolve_device(device)), tokenizer, template)


def _plan(config: AuditConfig, task: VerifiableTask | None, base: Subject) -> Plan:
    from gptfast.audit.tuned.measures import Plan
    from gptfast.data.documents import ReadOptions
    from gptfast.data.sources import load_corpus
    from gptfast.train.evaluate import spread

    old_texts: Sequence[str] = ()
    if config.old_text is not None:
        options = ReadOptions().separated_by(base.tokenizer.roles.eos)
        old_texts = load_corpus(config.old_text, options).documents
    train = [] if config.train is None else _questions(config.train)
    if task is not None:
        asked = _problems(task, "test")
        train = train or _problems(task, "train")
    else:
        assert config.data is not None
        asked = _questions(config.data)
    return Plan(
        [asked[i] for i in spread(len(asked), config.prompts)],
        train,
        task,
        old_texts,
        config.samples,
        config.max_new_tokens,
        config.seed,
    )


def _problems(task: VerifiableTask, split: Literal["train", "test"]) -> list[Question]:
    from gptfast.audit.tuned.prompts import questions_of
    from gptfast.data.conversations import Conversation

    turns = [(("user", p.prompt), ("assistant", p.answer)) for p in task.problems(split)]
    return questions_of(
        Conversation(tuple({"role": role, "content": text} for role, text in turn), 0)
        for turn in turns
    )


def _questions(path: Path) -> list[Question]:
    from gptfast.audit.tuned.prompts import questions_of
    from gptfast.data.conversations import read_conversations

    conversations = read_conversations(path)
    try:
        return questions_of(conversations)
    except UserError as error:
        raise UserError(f"{path}, {error}") from None
