"""`python -m gptfast.data`: describe a corpus, prepare token shards, convert those of others."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gptfast.cli import cli
from gptfast.cli.printing import lossy_output
from gptfast.data.hub import HubDataset
from gptfast.data.manifest import open_prepared
from gptfast.data.options import DataConfig, Describe, ExportBin, ImportBin, Prepare
from gptfast.data.prepare_shards import prepare_files
from gptfast.data.raw_bin import export_bin, import_bin
from gptfast.data.sources import add_local_copy, load_corpus
from gptfast.data.split import overlap, split_documents
from gptfast.errors import UserError
from gptfast.tokenizer.published import as_bpe, open_tokenizer

MODULE = "gptfast.data"


def main(argv: Sequence[str]) -> int:
    """Run the subcommand. Returns 0."""
    match cli.parse(DataConfig, argv, f"python -m {MODULE}").command:
        case Describe() as config:
            run_describe(config)
        case Prepare() as config:
            with lossy_output():
                run_prepare(config)
        case ImportBin() as config:
            run_import(config)
        case ExportBin() as config:
            run_export(config)
    return 0


def run_describe(config: Describe) -> None:
    """Print sizes, the split and the overlap of val with train."""
    if config.copy is not None:
        print(f"stored as {add_local_copy(config.corpus, config.copy)}")
    corpus = load_corpus(config.corpus, config.to_read())
    for note in corpus.notes:
        print(note)
    train, val = split_documents(corpus.documents, config.val_fraction)
    print(f"{corpus.name}: sha256 {corpus.sha256}")
    for name, part in (("train", train), ("val", val)):
        size = sum(len(document.encode()) for document in part)
        characters = len(set("".join(part)))
        print(f"{name}: {len(part)} documents, {size:,} bytes, {characters} distinct characters")
    print(f"val text found in train (windows of 50 bytes): {overlap(train, val):.2%}")


def run_prepare(config: Prepare) -> None:
    """Make the shards that are missing, and print a summary of all of them."""
    tokenizer = as_bpe(open_tokenizer(config.tokenizer, config.pattern), config.tokenizer)
    made = prepare_files(tokenizer, _source(config), config.out, config.val_fraction, config.read)
    report = made.report
    print(
        f"train: {report.train_documents:,} documents, {report.train_bytes:,} bytes, "
        f"{report.train_tokens:,} tokens, shards: {len(made.train_shards):,}\n"
        f"val: {report.val_documents:,} documents, {report.val_bytes:,} bytes, "
        f"{report.val_tokens:,} tokens, shards: {len(made.val_shards):,}\n"
        f"left out: {made.duplicates:,} duplicates, {made.skipped:,} that could not be read"
        + (f" or encoded, named in {config.out / 'skipped.jsonl'}" if made.skipped else "")
    )
    if not report.val_documents:
        print(f"saved in {config.out}, without a val part to train with")
        return
    print(
        f"val text found in train (windows of 50 bytes): {report.overlap:.2%}, comparing "
        f"{made.compared_val_bytes:,} bytes of val with {made.compared_train_bytes:,} of train\n"
        f"saved in {config.out}; train on it with:\n  "
        + cli.command_line("gptfast.train", ["--corpus", str(config.out)])
    )


def run_import(config: ImportBin) -> None:
    """Write the folder, and print what is in it."""
    tokenizer = open_tokenizer(config.tokenizer, config.pattern)
    report = import_bin(config.files, config.val, tokenizer, config.out).report
    print(
        f"train: {report.train_tokens:,} tokens, {report.train_bytes:,} bytes of text\n"
        f"val: {report.val_tokens:,} tokens, {report.val_bytes:,} bytes of text\n"
        f"saved in {config.out}"
        + ("; train on it with:\n  " if config.val else ", without a val part to train with")
        + (cli.command_line("gptfast.train", ["--corpus", str(config.out)]) if config.val else "")
    )


def run_export(config: ExportBin) -> None:
    """Write the files, and print their names and sizes."""
    for path in export_bin(open_prepared(config.folder), config.out, config.format):
        print(f"{path}: {path.stat().st_size:,} bytes")


def _source(config: Prepare) -> tuple[str, ...] | HubDataset:
    if config.dataset is None:
        if config.config is not None or config.split != HubDataset.split:
            raise UserError(
                "--config and --split need --dataset: give a data set of the Hub, or files alone"
            )
        return config.files
    if config.files:
        raise UserError("both files and --dataset were given: expected one of them")
    return HubDataset(config.dataset, config.config, config.split)


if __name__ == "__main__":
    sys.exit(cli.run(main))
