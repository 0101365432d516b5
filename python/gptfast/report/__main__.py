"""`gptfast report RUN...`: one HTML file about a run, or one that compares several."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from gptfast.cli import cli
from gptfast.cli.printing import one_line
from gptfast.report.options import ReportConfig

# Imported late: PyTorch takes two seconds, which `--help` doesn't need.
if TYPE_CHECKING:
    from gptfast.data.dataset import Dataset
    from gptfast.model import LanguageModel
    from gptfast.quantize.corpora import Corpora
    from gptfast.report.write import Extras
    from gptfast.tokenizer import Tokenizer
    from gptfast.train.history import Run

VAL_TOKENS = 300_000
"""Val tokens that the tokenizer is audited on, from the beginning."""
ATTENTION_TOKENS = 16
"""Tokens of the attention picture: as many as can be read."""
REPETITION = {"samples": 8, "sets": 2, "prompt_tokens": 16, "sample_tokens": 100}
"""What is sampled to measure repetition: fewer and shorter texts than `gptfast audit` takes."""
PIECES = 160
"""Tokens that are shown one by one."""


def main(argv: Sequence[str]) -> int:
    """Write the report. Return 0."""
    config = cli.parse(ReportConfig, argv, "python -m gptfast.report")
    from gptfast.report.write import check_out, read_entries, write_comparison, write_report
    from gptfast.system.threads import share_cores

    entries = read_entries(config.runs)
    check_out(config.out, config.overwrite)
    if len(entries) == 1:
        with share_cores():
            extras = gather(entries[0].run, audits=config.audits, playground=config.playground)
        write_report(entries[0].run, extras, config.out)
        for note in extras.notes:
            say(note)
    else:
        title = "From bigram to GPT" if len(config.runs) == 1 else "Runs compared"
        write_comparison(title, entries, config.out)
    print(f"{config.out}: {config.out.stat().st_size / 1e3:,.0f} kB")
    return 0


def gather(run: Run, *, audits: bool, playground: bool) -> Extras:
    """Measure what a report of one run shows besides the run's own files."""
    from gptfast.errors import UserError
    from gptfast.model.folder import load_model
    from gptfast.model.vision import load_vision
    from gptfast.report.baselines import counted, uniform
    from gptfast.report.facts import is_pretraining
    from gptfast.report.write import Extras
    from gptfast.tokenizer import load_tokenizer

    extras = Extras()
    if run.reads_images:
        try:
            extras.n_parameters = load_vision(run.folder).n_parameters()
        except (UserError, OSError) as error:
            extras.notes.append(f"no number of parameters, because {error}")
        return extras
    try:
        tokenizer: Tokenizer = load_tokenizer(run.folder)
    except UserError as error:
        extras.notes.append(f"no model and no audits, because {error}")
        return extras
    corpora = find_data(run, tokenizer)
    if is_pretraining(run):
        extras.baselines.append(uniform(tokenizer.n_vocab))
        if isinstance(corpora, str):
            extras.notes.append(f"no baselines that count, because {corpora}")
        elif len(corpora.parts) == 1:
            extras.baselines += counted(corpora.parts[0])
    part = None if isinstance(corpora, str) else corpora.parts[0]
    audit_tokenizer(run, tokenizer, part, extras)
    try:
        model, _ = load_model(run.folder)
    except (UserError, OSError) as error:
        extras.notes.append(f"nothing that needs the weights, because {error}")
        return extras
    extras.n_parameters = model.n_parameters()
    if audits:
        audit_attention(run, model, tokenizer, part, extras)
        if part is None:
            extras.notes.append("no repetition, because there is no val text to compare with")
        else:
            audit_repetition(run, model, tokenizer, extras)
    if playground:
        add_playground(run, model, tokenizer, extras)
    return extras


def find_data(run: Run, tokenizer: Tokenizer) -> Corpora | str:
    """Return the corpora of a run, or a clause why there are none."""
    from gptfast.quantize.corpora import find_corpora

    return find_corpora(run.folder, tokenizer, (), say)


def say(note: str) -> None:
    """Print a note beside the result."""
    print(f"note: {one_line(note)}", file=sys.stderr)


def audit_tokenizer(run: Run, tokenizer: Tokenizer, part: Dataset | None, extras: Extras) -> None:
    """Add the tokenizer's section: on val text, or on built-in text."""
    from gptfast.audit import audit
    from gptfast.audit.probes import KINDS, probe
    from gptfast.report.audits import characters_section, tokenizer_section
    from gptfast.tokenizer import BPETokenizer
    from gptfast.tokenizer.show import visible

    if part is None:
        texts, about = [probe(kind) for kind in KINDS], "built-in text"
    else:
        texts, about = [val_text(part)], "val text"
    ids = tokenizer.encode_ordinary(texts[0][:2000]) if part is not None else []
    pieces = [visible(tokenizer.token_bytes(token_id)) for token_id in ids[:PIECES]]
    if isinstance(tokenizer, BPETokenizer):
        measured = asdict(audit({"this one": tokenizer}, texts))
        extras.audits.append(tokenizer_section("this one", measured, pieces, about))
    else:
        extras.audits.append(characters_section(tokenizer.n_vocab, pieces))


def val_text(part: Dataset) -> str:
    """Return the beginning of the val text."""
    import numpy as np

    ids = part.val[np.arange(min(len(part.val), VAL_TOKENS))].tolist()
    ended = part.tokenizer.eot_token
    return part.tokenizer.decode([i for i in ids if i != ended])


def longest_line(text: str) -> str:
    """Return the longest of the first lines of a text."""
    return max(text.strip().split("\n")[:8], key=len)


def audit_attention(
    run: Run, model: LanguageModel, tokenizer: Tokenizer, part: Dataset | None, extras: Extras
) -> None:
    """Add the section of attention: on val text, on what the model wrote, or on built-in text."""
    from gptfast.audit.attention import measure
    from gptfast.audit.probes import probe
    from gptfast.errors import UserError
    from gptfast.report.audits import attention_section

    if part is not None:
        text, about = longest_line(val_text(part)), "a line of the val text"
    elif run.samples:
        text, about = longest_line(run.samples[-1]["sample"]), "a line that the model wrote"
    else:
        text, about = longest_line(probe("latin")), "a line of built-in text"
    try:
        n = min(ATTENTION_TOKENS, model.config.block_size)
        ids = tokenizer.encode_ordinary(text.strip())[:n]
        measured = measure(model, tokenizer, tokenizer.decode(ids))
    except UserError as error:
        extras.notes.append(f"no attention, because {error}")
        return
    extras.audits.append(attention_section(asdict(measured), about))


def audit_repetition(run: Run, model: LanguageModel, tokenizer: Tokenizer, extras: Extras) -> None:
    """Add the section of repetition."""
    from gptfast.audit.config import RepetitionPlan
    from gptfast.audit.corpus import read_corpus
    from gptfast.audit.repetition import MEASURES, measure
    from gptfast.audit.repetition_report import sentences
    from gptfast.errors import UserError
    from gptfast.report.audits import repetition_section

    try:
        val, train = read_corpus(run.folder, tokenizer, None, say)
        measured = measure(model, tokenizer, val, train, RepetitionPlan(**REPETITION))
    except UserError as error:
        extras.notes.append(f"no repetition, because {error}")
        return
    section = repetition_section(asdict(measured), MEASURES, sentences(measured))
    extras.audits.append(section)


def add_playground(run: Run, model: LanguageModel, tokenizer: Tokenizer, extras: Extras) -> None:
    """Add the page of `gptfast export html`, if it can hold the model. Quantizes the model."""
    from gptfast.errors import UserError
    from gptfast.export.html import build_page, check_page
    from gptfast.model.quantized import quantize

    try:
        check_page(model, tokenizer, "")
    except UserError as error:
        extras.notes.append(f"no playground, because {error}")
        return
    if model.quantized is None:
        quantize(model.float(), "int8")
    name = run.folder.resolve().name
    extras.playground = build_page(model, tokenizer, name, record=run.record)


if __name__ == "__main__":
    sys.exit(cli.run(main))
