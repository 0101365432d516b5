"""Write the sum of an adapter and its base as one model folder."""

from __future__ import annotations

import json
from pathlib import Path

from gptfast.errors import MissingFileError, UserError
from gptfast.model.adapter_folder import find_base, is_adapter, weights_sha256
from gptfast.model.base import LanguageModel
from gptfast.model.finite import check_weights
from gptfast.model.folder import (
    describe_model,
    load_model,
    read_labels,
    read_precision,
    refuse_blocks,
    save_description,
    save_weights,
    with_adapter,
)
from gptfast.model.heads import unmerged_classifier
from gptfast.model.lora_merge import MergeReport, merge
from gptfast.system.files import write_folder_atomically
from gptfast.tokenizer.chat import read_chat_template, write_chat_template

RECORD = "merge.json"
"""The file that says what was merged, and what rounding lost."""


def merge_folder(adapter: Path, out: Path) -> MergeReport:
    """Write the folder `out`, whole or not at all; return what rounding lost.

    Raises UserError if `out` holds something, if `adapter` holds no adapter or a damaged one, or if
    its base is another model than it was trained beside; MissingFileError if the base is missing.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already holds something: choose another --out")
    if not is_adapter(adapter):
        if (adapter / RECORD).is_file():
            raise UserError(f"{adapter} was merged already: it is used as it is")
        raise MissingFileError(
            f"no adapter in {adapter}: expected adapter_config.json and adapter_model.safetensors, "
            f"as `gptfast finetune METHOD --lora-rank 8` writes"
        )
    base = find_base(adapter)
    refuse_blocks(base.folder, "merging")
    labels, precision = read_labels(adapter), None
    model: LanguageModel
    if labels is not None:
        model, tokenizer = unmerged_classifier(adapter, labels, base)
    else:
        if base.bits is None:  # another type than float32 would round what blocks stand for
            precision = read_precision(base.folder / "config.json")
        loaded, its_tokenizer = load_model(base.folder)
        model, tokenizer = with_adapter(adapter, loaded, its_tokenizer, base)
    check_weights(model)
    report = merge(model)
    record = {
        "adapter": {"folder": str(adapter), "sha256": weights_sha256(adapter)},
        "base": {"folder": str(base.folder), "sha256": base.sha256},
        "dtype": str(report.dtype).removeprefix("torch."),
        "lost": report.lost,
    }

    def write(folder: Path) -> None:
        if labels is None:
            save_description(folder, model.config, tokenizer, precision)
        else:
            describe_model(folder, model, tokenizer)
        save_weights(model, folder / "model.safetensors")
        if (template := read_chat_template(adapter)) is not None:
            write_chat_template(folder, template)
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    if out.is_dir():
        out.rmdir()
    write_folder_atomically(out, write)
    return report
