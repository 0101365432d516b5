"""`gptfast evaluate`: the loss of a model on a corpus, without training."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from gptfast.cli import cli
from gptfast.cli.path import PATH
from gptfast.errors import UserError

if TYPE_CHECKING:
    from gptfast.data.documents import ReadOptions


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure the loss of a model on a corpus, as training does at its end.

    The corpus is encoded with the model's tokenizer. Windows of the model's context do not overlap,
    and every token but the first is predicted once.
    """

    model: Path
    """The model folder, such as runs/shakespeare."""
    corpus: Annotated[str, PATH] = "shakespeare"
    """'shakespeare', 'tinyshakespeare', a file, a folder or a glob as for `gptfast data prepare`, -
    for standard input, or a folder that `gptfast data prepare` made."""
    part: Literal["val", "train", "all"] = "val"
    """The part of the corpus to measure on."""
    val_fraction: float = 0.1
    """Share at the end of the corpus that is its val part. A prepared folder has its own split."""
    field: str | None = None
    """The key of the text in JSON. By default that of the run which trained the model."""
    column: str | None = None
    """The column of the text in CSV, TSV and Parquet files. By default that of the run."""
    document_separator: str | None = None
    """Text between the documents inside a plain text file, as for `gptfast train`. By default that
    of the run."""
    mask_documents: bool = False
    """Prevent documents in the same window from seeing each other, as for `gptfast train`."""
    batch_size: int = 8
    """Windows per forward pass."""
    device: str = "auto"
    """'auto' (CUDA if there is one), 'cpu', 'cuda' or 'cuda:1'."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}: expected at least 1")


def main(argv: Sequence[str]) -> int:
    """Print the loss. Return 0."""
    config = cli.parse(EvaluateConfig, argv, "python -m gptfast.evaluate")
    # Imported late: PyTorch takes two seconds, which `--help` and a wrong flag don't need.
    from gptfast.data.loader import EvalWindows
    from gptfast.data.prepare import prepare
    from gptfast.model.device import resolve_device
    from gptfast.model.finite import check_weights
    from gptfast.model.folder import load_model
    from gptfast.system.threads import share_cores
    from gptfast.train.evaluate import bits_per_byte, evaluate

    model, tokenizer = load_model(config.model)
    check_weights(model)
    model.to(resolve_device(config.device))
    console = cli.console()
    vocab_size = tokenizer.n_vocab
    read = _read_options(config, console.print)
    data = prepare(
        config.corpus, str(config.model), vocab_size, config.val_fraction, console.print, read
    )
    separator = tokenizer.eot_token if config.mask_documents else None
    if config.mask_documents and separator is None:
        raise UserError("mask_documents: the tokenizer has no end-of-text token that separates")
    report = data.report
    parts = {
        "train": (data.train, report.train_bytes),
        "val": (data.val, report.val_bytes),
    }
    names = ("train", "val") if config.part == "all" else (config.part,)
    nats, n_predicted, n_bytes, n_tokens = 0.0, 0, 0, 0
    with share_cores():
        for name in names:
            tokens, size = parts[name]
            block_size = max(1, min(model.config.block_size, len(tokens) - 1))
            windows = EvalWindows(tokens, block_size, config.batch_size, None, separator)
            nats += evaluate(model, windows) * (len(tokens) - 1)
            n_predicted += len(tokens) - 1
            n_bytes += size
            n_tokens += len(tokens)
    loss = nats / n_predicted
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss}, though the model's weights are finite: its logits overflow, so "
            f"the weights are too large; take those of another step or run"
        )
    bits = bits_per_byte(loss, n_bytes / n_tokens)
    part = "whole" if config.part == "all" else f"{config.part} part"
    console.print(
        f"loss {loss:.4f} nats/token = {bits:.3f} bits/byte over {n_predicted:,} tokens, the "
        f"{part} of {report.corpus}"
    )
    return 0


def _read_options(config: EvaluateConfig, say: Callable[[str], None]) -> ReadOptions | None:
    """Return how to read the corpus: as the options say, otherwise as the model's run read its own.

    None for a folder that is prepared already, if nothing was given.
    """
    from gptfast.data.dataset import is_prepared
    from gptfast.data.documents import ReadOptions
    from gptfast.train.record import read_record
    from gptfast.train.resume import READING

    asked = {name: getattr(config, name) for name in READING}
    given = {name: value for name, value in asked.items() if value is not None}
    of_run: dict[str, Any] = {}
    if (config.model / "run.json").is_file() and not is_prepared(Path(config.corpus)):
        settings = read_record(config.model)["config"]
        usual = asdict(ReadOptions())
        of_run = {
            name: settings[name]
            for name in READING
            if name not in given and settings.get(name, usual[name]) != usual[name]
        }
    for name, value in of_run.items():
        say(f"reading {config.corpus} with {name} {value!r}, as the model's run did")
    return ReadOptions(**of_run, **given) if of_run or given else None


if __name__ == "__main__":
    sys.exit(cli.run(main))
