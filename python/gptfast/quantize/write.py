"""Write a quantized folder, whole or not at all, with the table of what it costs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from gptfast.cli.units import count
from gptfast.model import LanguageModel
from gptfast.model.adapter_folder import find_base, is_adapter, weights_sha256
from gptfast.model.config import Precision
from gptfast.model.divergence import MAX_LOGITS
from gptfast.model.finite import check_weights
from gptfast.model.folder import load_float_model, load_model, save_description, save_weights
from gptfast.model.quantized import float_matrices, quantize, rounded
from gptfast.quantize.calibrate import calibrated, correlations
from gptfast.quantize.corpora import Corpora, find_corpora
from gptfast.quantize.measure import decoding_speeds, measure_change
from gptfast.system.files import write_folder_atomically
from gptfast.system.machine import hardware, versions
from gptfast.tokenizer.chat import read_chat_template, write_chat_template
from gptfast.train.evaluate import bits_per_byte

CALIBRATION_TOKENS = 32_768
WINDOWS_AT_A_TIME = 8
FEW_TOKENS = 1_000
"""With fewer, the standard error of an agreement of 95% is more than 0.7%."""


def write_quantized(
    source: Path,
    out: Path,
    precision: Precision,
    *,
    texts: Sequence[str],
    eval_tokens: int | None,
    threads: int,
    command: str,
    console: Console,
) -> None:
    """Quantize the model in `source`, write `out`, and print and save the table.

    out must not exist, or be empty. The arguments are those of the command. The model is measured
    as it is loaded from the new folder. Raises UserError or MissingFileError for a model or text
    that can't be used; then there is no new folder.
    """
    model, tokenizer = load_float_model(source, "quantizing")
    check_weights(model)
    corpora = find_corpora(source, tokenizer, texts, console.print)
    rounding = _quantize(model, precision, corpora, console)
    kept = float_matrices(model) if model.quantized else []
    if kept:
        console.print(
            f"note: {len(kept)} matrices stay float32, because their rows have no multiple of 32 "
            f"numbers: {', '.join(kept[:3])}{', ...' if len(kept) > 3 else ''}"
        )
    description = {
        "precision": precision,
        "rounding": rounding,
        "float32_matrices": kept,
        "made_from": {"folder": str(source), "sha256": weights_sha256(source)},
        "command": command,
        "versions": versions(),
        "hardware": hardware(),
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }

    def write(folder: Path) -> None:
        save_description(folder, model.config, tokenizer, precision)
        save_weights(model, folder / "model.safetensors")
        for name in ("run.json", "metrics.jsonl"):  # how the model was trained
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        if (template := read_chat_template(source)) is not None:
            write_chat_template(folder, template)
        table = _measure(source, folder, corpora, eval_tokens, threads)
        content = json.dumps(description | table, indent=2)
        (folder / "quantization.json").write_text(content + "\n", encoding="utf-8")
        console.print(_shown(table, precision))

    if out.is_dir():
        out.rmdir()
    write_folder_atomically(out, write)
    console.print(f"{out}: {precision}, {rounding}")


def _quantize(
    model: LanguageModel, precision: Precision, corpora: Corpora | str, console: Console
) -> str:
    """Quantize the model in place. Return how it was rounded, in words."""
    if precision == "int4" and isinstance(corpora, Corpora):
        windows = corpora.windows(
            "train", model.config.block_size, CALIBRATION_TOKENS, _batch_size(model)
        )
        n_tokens = sum(batch.ids_BT.numel() for batch in windows)
        widths = [m.in_features for m in model.modules() if isinstance(m, nn.Linear)]
        least = max(widths, default=1)  # with fewer tokens, most correlations would be unknown
        if n_tokens >= least:
            console.print(f"calibrating on {n_tokens:,} tokens of {corpora.names}")
            measured = correlations(model, windows)
            quantize(model, precision, calibrated(measured))
            return f"calibrated on {n_tokens:,} tokens of {corpora.names} (GPTQ)"
        console.print(
            f"note: not calibrated, because the train part of {corpora.names} has only "
            f"{count(n_tokens, 'token')}: expected at least {least:,}, as many as the inputs of "
            f"the widest layer; give more --text"
        )
    quantize(model, precision, rounded)
    return "rounded to the nearest" if precision == "bf16" else "rounded to the nearest, as GGUF's"


def _batch_size(model: LanguageModel) -> int:
    c = model.config
    return max(1, min(WINDOWS_AT_A_TIME, MAX_LOGITS // (c.block_size * c.vocab_size)))


def _measure(
    source: Path, folder: Path, corpora: Corpora | str, eval_tokens: int | None, threads: int
) -> dict[str, Any]:
    """Return the table's numbers: `before` and `after`, and what compares the two folders."""
    before, tokenizer = load_float_model(source, "quantizing")
    after, _ = load_model(folder)
    table: dict[str, Any] = {"before": {}, "after": {}}
    if isinstance(corpora, Corpora):
        block_size = before.config.block_size
        windows = corpora.windows("val", block_size, eval_tokens, _batch_size(before))
        found = measure_change(before, after, windows, tokenizer.n_vocab)
        for key, nats in (("before", found.before), ("after", found.after)):
            table[key]["nats_per_token"] = nats
            table[key]["bits_per_byte"] = bits_per_byte(nats, corpora.bytes_per_token)
        table |= {
            "text": corpora.names,
            "tokens": found.tokens,
            "kl_nats_per_token": found.kl,
            "top_1_agreement": found.agreement,
        }
    else:
        table["losses_not_measured"] = corpora
    n_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        speeds = decoding_speeds((before, after))
    finally:
        torch.set_num_threads(n_threads)
    for key, path, speed in zip(("before", "after"), (source, folder), speeds, strict=True):
        table[key]["tokens_per_second"] = speed
        parts = (path, find_base(path).folder) if is_adapter(path) else (path,)
        files = [file for part in parts for file in part.glob("*model*.safetensors")]
        table[key]["bytes"] = sum(file.stat().st_size for file in files)
    return table | {"threads": threads}


def _shown(table: dict[str, Any], precision: Precision) -> Table:
    """Return the table to print."""
    shown = Table()
    for i, column in enumerate(("measure", "before", precision, "change")):
        shown.add_column(column, justify="right" if i else "left")
    before, after = table["before"], table["after"]
    if "tokens" in table:
        shown.title = f"the val part of {table['text']}, {count(table['tokens'], 'token')}"
        if table["tokens"] < FEW_TOKENS:
            shown.caption = (
                "so few tokens say little about loss, divergence and agreement; give more --text"
            )
        for name, key in (("loss, nats/token", "nats_per_token"), ("bits/byte", "bits_per_byte")):
            difference = after[key] - before[key]
            shown.add_row(name, f"{before[key]:.4f}", f"{after[key]:.4f}", f"{difference:+.4f}")
        shown.add_row(
            "KL(before || after), nats/token", "", f"{table['kl_nats_per_token']:.6f}", ""
        )
        shown.add_row("same likeliest token", "", f"{table['top_1_agreement']:.2%}", "")
    else:
        shown.caption = (
            f"losses were not measured: {table['losses_not_measured']}; give --text FILE"
        )
    for name, key, unit, form in (
        ("weights, MB", "bytes", 1e6, ",.2f"),
        (f"tokens/s, batch 1, {count(table['threads'], 'thread')}", "tokens_per_second", 1, ",.0f"),
    ):
        ratio = after[key] / before[key]
        shown.add_row(
            name, f"{before[key] / unit:{form}}", f"{after[key] / unit:{form}}", f"x {ratio:.2f}"
        )
    return shown
