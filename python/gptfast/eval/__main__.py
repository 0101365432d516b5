"""`gptfast eval`: judge a model: loss, another model, tasks, images."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gptfast.cli import cli
from gptfast.cli.path import PATH
from gptfast.cli.printing import lossy_output
from gptfast.errors import UserError, check_at_least
from gptfast.eval.config import CorpusConfig

if TYPE_CHECKING:
    import torch

    from gptfast.eval.report import Section
    from gptfast.model import LanguageModel
    from gptfast.tokenizer import Tokenizer


_NEEDED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("text",): ("stride", "against"),
    ("tasks",): ("limit",),
    ("images",): ("attention",),
    ("corpus",): ("part", "val_fraction", "mask_documents"),
    ("corpus", "text"): ("field", "column", "document_separator"),
}
"""Options that only act with one of others, keyed by those others."""


@dataclass(frozen=True)
class EvalConfig:
    """Judge a model: its loss, another model beside it, and its answers to tasks.

    Give at least one of --corpus, --text and --tasks; for a vision transformer, give --images.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The model folder, such as runs/shakespeare."""
    corpus: Annotated[str | None, PATH] = None
    """Measure the loss as training does at its end, in windows that do not overlap: 'shakespeare',
    'tinyshakespeare', a file, a folder or a glob as for `gptfast data prepare`, - for standard
    input, or a folder that `gptfast data prepare` made."""
    text: Annotated[tuple[str, ...], PATH, tyro.conf.arg(metavar="FILES...")] = ()
    """Measure bits per byte, by which models with any tokenizers compare, over the documents of
    files, folders or globs. Windows overlap, so that tokens have context."""
    stride: int | None = None
    """With --text: tokens by which a window is further than the one before; half of the context by
    default. Less gives each token more context, and takes longer."""
    against: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """With --text: another model folder to compare with, by KL divergence, agreement on the
    likeliest token, and difference of losses. Models with other tokenizers compare by bits per
    byte alone."""
    tasks: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILES...")] = ()
    """YAML files of tasks for lm-evaluation-harness, which is in the extra `eval`. Paths in them
    are relative to the current folder. Python functions that they name are run."""
    limit: int | None = None
    """With --tasks: the most documents of each task, to try it out."""
    images: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILES...")] = ()
    """Show images to a vision transformer, and print the class of each: files, and folders of
    files. For a folder with a folder for each class, print how often it is right."""
    attention: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With --images and one image: a PNG file for a picture of where each head looks."""
    read: Annotated[CorpusConfig, tyro.conf.arg(name="")] = field(default_factory=CorpusConfig)
    batch_size: int = 8
    """Windows per forward pass."""
    device: str = "auto"
    """'auto' (CUDA if there is one), 'cpu', 'cuda' or 'cuda:1'."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A JSON file for the results."""
    json: bool = False
    """Print the results as JSON instead of tables."""

    def __post_init__(self) -> None:
        check_at_least("batch_size", self.batch_size, 1)
        if self.limit is not None:
            check_at_least("limit", self.limit, 1)
        of_text = self.corpus is not None or self.text or self.tasks
        if not of_text and not self.images:
            raise UserError("nothing to measure: expected --corpus, --text, --tasks or --images")
        if of_text and self.images:
            raise UserError("--images: no model reads text and images; give one of them")
        given = {
            option.name
            for part in (self, self.read)
            for option in fields(part)
            if getattr(part, option.name) != option.default
        }
        for needed, names in _NEEDED.items():
            for name in names:
                if name in given and not given & set(needed):
                    flags = " or ".join(f"--{other}" for other in needed)
                    raise UserError(
                        f"--{name.replace('_', '-')} was given without {flags}: nothing else uses "
                        f"it; leave it out"
                    )


def main(argv: Sequence[str]) -> int:
    """Print tables of the results, and save them. Return 0."""
    config = cli.parse(EvalConfig, argv, "python -m gptfast.eval")
    # Imported late: PyTorch takes two seconds, which `--help` and a wrong flag don't need.
    from gptfast.eval.report import as_json
    from gptfast.model.device import resolve_device
    from gptfast.model.finite import check_weights
    from gptfast.model.folder import load_model
    from gptfast.system.files import make_folder, write_text_atomically
    from gptfast.system.threads import share_cores

    if config.out is not None:
        make_folder(config.out.parent)
    device = resolve_device(config.device)
    models = []
    for folder in (config.model, config.against):
        if folder is not None and not config.images:
            model, tokenizer = load_model(folder)
            check_weights(model)
            models.append((model.to(device), tokenizer))
    console = cli.console()
    sections: list[Section] = []
    with lossy_output(), share_cores():
        found = _of_images(config, device) if config.images else _sections(config, models)
        for section in found:
            sections.append(section)
            if not config.json:
                section.print(console)
            if config.out is not None:  # now, because the next one may fail
                write_text_atomically(config.out, as_json(config.model, sections))
        if config.json:
            print(as_json(config.model, sections), end="")
    return 0


def _sections(
    config: EvalConfig, models: Sequence[tuple[LanguageModel, Tokenizer]]
) -> Iterator[Section]:
    """Yield the results, one evaluation after the other."""
    model, tokenizer = models[0]
    if config.corpus is not None:
        from gptfast.eval.corpus import measure_corpus

        folder, size = config.model, config.batch_size
        yield measure_corpus(model, tokenizer, folder, config.corpus, config.read, size, _say)
    if config.text:
        from gptfast.eval.documents import read_texts
        from gptfast.eval.text import measure

        texts = read_texts(config.text, config.model, tokenizer, config.read, _say)
        stride, size, compared = config.stride, config.batch_size, None
        if config.against is not None:
            from gptfast.eval.against import compare

            title = f"{config.model} (this) and {config.against} (other)"
            compared = compare(models[0], models[1], texts, title, stride, size)
        title = f"the text of {', '.join(config.text)}"
        own = None if compared is None else compared.own
        yield measure(model, tokenizer, texts, title, stride, size, own)
        if compared is not None:
            yield compared.section
    if config.tasks:
        from gptfast.eval.harness import run_tasks

        yield run_tasks(model, tokenizer, config.tasks, config.batch_size, config.limit)


def _of_images(config: EvalConfig, device: torch.device) -> Iterator[Section]:
    """Yield what a vision transformer makes of images, and draw where it looks."""
    from gptfast.eval.images import is_labelled, measure_images, name_images, read_for
    from gptfast.model.finite import check_weights
    from gptfast.model.vision import load_vision
    from gptfast.system.files import make_folder

    model = load_vision(config.model)
    check_weights(model)
    model.to(device)
    if any(map(is_labelled, config.images)):
        if len(config.images) > 1 or config.attention is not None:
            raise UserError("--images: give a folder of classes alone, without other options")
        yield measure_images(model, config.images[0])
        return
    if config.attention is not None:
        from gptfast.eval.image_attention import draw_attention

        if len(config.images) != 1 or not config.images[0].is_file():
            raise UserError("--attention: expected one image file as --images")
        pixels, _ = read_for(model, config.images)
        ((label, probability),) = model.classify(pixels)
        title = f"{config.images[0].name}: {label}, {probability:.1%}"
        make_folder(config.attention.parent)
        draw_attention(model, pixels[0], title, config.attention)
        _say(f"where each head looks is in {config.attention}")
    yield name_images(model, config.images)


def _say(message: str) -> None:
    """Print a note beside the results, which may be JSON."""
    print(message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(cli.run(main))
