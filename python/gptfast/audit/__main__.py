"""`gptfast audit`: see what a model or a tokenizer learned, in numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gptfast.audit.options import Attention, AuditConfig, Repetition
from gptfast.audit.scaling_options import ScalingConfig
from gptfast.cli import cli
from gptfast.cli.printing import lossy_output
from gptfast.tokenizer.__main__ import run_audit

if TYPE_CHECKING:
    from gptfast.model import LanguageModel
    from gptfast.tokenizer import Tokenizer

MODULE = "gptfast.audit"


def main(argv: Sequence[str]) -> int:
    """Run the subcommand. Return 0, or 1 if a check of attention failed."""
    match cli.parse(AuditConfig, argv, f"python -m {MODULE}").command:
        case Attention() as config:
            with lossy_output():
                return run_attention(config)
        case Repetition() as config:
            with lossy_output():
                run_repetition(config)
        case ScalingConfig() as config:
            with lossy_output():
                run_scaling(config)
        case config:
            run_audit(config)
    return 0


def run_attention(config: Attention) -> int:
    """Print the audit, and save it if a folder was given. Return 1 if a check failed, else 0."""
    # Imported late: PyTorch takes two seconds, which `--help` and a wrong flag don't need.
    from gptfast.audit.attention import measure
    from gptfast.audit.attention_page import make_page
    from gptfast.audit.attention_report import plot, print_audit
    from gptfast.system.files import make_folder, write_atomically, write_text_atomically
    from gptfast.system.threads import share_cores

    if config.out is not None:
        make_folder(config.out)
    model, tokenizer = _load(config.folder, config.device)
    with share_cores():
        result = measure(
            model,
            tokenizer,
            config.text,
            config.layer,
            config.head,
            mask_documents=config.mask_documents,
            seed=config.seed,
        )
    console = cli.console()
    print_audit(result, console)
    if (out := config.out) is not None:
        write_text_atomically(out / "attention.json", _as_json(result))
        write_atomically(out / "attention.png", lambda path: plot(result, path))
        page = make_page(result, config.folder.resolve().name)
        write_text_atomically(out / "attention.html", page)
        console.print(f"\nsaved in {out}: attention.json, attention.png, attention.html")
    return 0 if result.is_sound else 1


def run_repetition(config: Repetition) -> None:
    """Print the audit, and save it if a folder was given."""
    from gptfast.audit.corpus import read_corpus
    from gptfast.audit.repetition import measure
    from gptfast.audit.repetition_report import print_audit
    from gptfast.system.files import make_folder, write_text_atomically
    from gptfast.system.threads import share_cores

    if config.out is not None:
        make_folder(config.out)
    model, tokenizer = _load(config.folder, config.device)
    with share_cores():
        val, train = read_corpus(config.folder, tokenizer, config.corpus, _say)
        result = measure(model, tokenizer, val, train, config.plan)
    console = cli.console()
    print_audit(result, console)
    if config.out is not None:
        write_text_atomically(config.out / "repetition.json", _as_json(result))
        console.print(f"\nsaved in {config.out}: repetition.json")


def run_scaling(config: ScalingConfig) -> None:
    """Train the sizes that are not there yet; print and save the audit."""
    from gptfast.audit.scaling import measure
    from gptfast.audit.scaling_report import print_scaling, save
    from gptfast.system.files import make_folder
    from gptfast.system.locking import folder_lock

    make_folder(config.out)
    console = cli.console()
    with folder_lock(config.out):
        result = measure(config, lambda line: console.print(line, markup=False, highlight=False))
        print_scaling(result, console)
        save(result, config.out)
    console.print(f"\nsaved in {config.out}: scaling.json, scaling.png")


def _load(folder: Path, device: str) -> tuple[LanguageModel, Tokenizer]:
    from gptfast.model.device import resolve_device
    from gptfast.model.finite import check_weights
    from gptfast.model.folder import load_model

    where = resolve_device(device)
    model, tokenizer = load_model(folder)
    check_weights(model)
    return model.to(where), tokenizer


def _as_json(result: object) -> str:
    return json.dumps(asdict(result), ensure_ascii=False, allow_nan=False) + "\n"  # type: ignore[call-overload]


def _say(message: str) -> None:
    """Print a note beside the results."""
    print(message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(cli.run(main))
