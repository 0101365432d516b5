"""One HTML file that runs a model in a browser: weights, tokenizer and program.

The program is in web/: model.js computes what model/transformer.py defines, tokenizer.js and
sampler.js do what their namesakes do, and view.js shows it.
"""

from __future__ import annotations

import base64
import html
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from gptfast.cli.printing import lossy_output
from gptfast.errors import UserError
from gptfast.export.out import check_out
from gptfast.model import LanguageModel, ModelConfig
from gptfast.model.finite import check_weights
from gptfast.model.folder import load_model
from gptfast.model.positions import rotary_settings
from gptfast.model.quantized import Blocks, QuantizedEmbedding, QuantizedLinear, quantize
from gptfast.sample.generate import default_prompt
from gptfast.system.escape import escaped
from gptfast.system.files import write_atomically
from gptfast.tokenizer import BPETokenizer, CharTokenizer, Tokenizer
from gptfast.train.record import read_record
from gptfast.web import page

PATTERNS = ("gpt2", "cl100k", "o200k", "llama3", "qwen2")
"""The split patterns that tokenizer.js has."""
LARGE = 50 * 10**6
"""Bytes from which on a page is too large for many phones."""


def export_html(folder: Path, out: Path, prompt: str = "") -> None:
    """Write a page that runs the model of `folder` to `out`, which must not exist yet.

    prompt: the text that the page's prompt begins with; without one, the page writes a sample when
    it opens. Matrices become int8, as `gptfast quantize --to int8` makes them; those of a quantized
    folder stay as they are. The rest is float32.

    Raises UserError or MissingFileError if a page can't hold the model or the prompt.
    """
    check_out(out)
    model, tokenizer = load_model(folder)
    record = read_record(folder) if (folder / "run.json").is_file() else None
    check_page(model, tokenizer, prompt)
    if model.quantized is None:
        quantize(model.float(), "int8")
    content = build_page(model, tokenizer, folder.resolve().name, prompt, record).encode()
    if len(content) > LARGE:
        print(
            f"note: the page is {len(content) / 1e6:,.0f} MB, too large for many phones; browsers "
            f"compute slowly with models of that size",
            file=sys.stderr,
        )
    write_atomically(out, lambda temporary: _write(temporary, content))
    with lossy_output():
        print(f"{out}: {len(content) / 1e6:,.1f} MB, {model.n_parameters():,} parameters")


def check_page(model: LanguageModel, tokenizer: Tokenizer, prompt: str) -> None:
    """Raise UserError if a page can't hold the model, the tokenizer or the prompt."""
    architecture = model.config.architecture
    if architecture != "gpt":
        raise UserError(f"architecture is {architecture!r}: a page can run 'gpt' only")
    check_weights(model)
    describe_tokenizer(tokenizer)
    tokenizer.encode_ordinary(prompt)


def build_page(
    model: LanguageModel,
    tokenizer: Tokenizer,
    name: str,
    prompt: str = "",
    record: dict[str, Any] | None = None,
) -> str:
    """Return the page of a quantized model. record: the content of run.json, if there is any."""
    description = {
        "config": describe_config(model.config),
        "tokenizer": describe_tokenizer(tokenizer),
        "n_vocab": tokenizer.n_vocab,
        "stop_tokens": sorted(tokenizer.stop_tokens),
        "start": default_prompt(tokenizer),
    }
    rows = facts(model, tokenizer, record)
    script, style = f"\n{page.inline('page.js')}\n", f"\n{page.read('style.css')}"
    return page.fill(
        page.read("model.html"),
        {
            "name": _text(name),
            "lead": _text(_lead(model, record)),
            "prompt": _text(prompt),
            "bits": "4" if model.quantized == "int4" else "8",
            "style": style,
            "style_hash": page.script_hash(style),
            "facts": "\n".join(
                f"      <div><dt>{_text(term)}</dt><dd>{_text(value)}</dd></div>"
                for term, value in rows.items()
            ),
            "script": script,
            "script_hash": page.script_hash(script),
            "description": page.json_for_html(json.dumps(description)),
            "weights": "\n".join(_elements(model)),
        },
    )


def _text(text: str) -> str:
    """Return text for a page. The name of a file may have bytes that are no UTF-8."""
    return html.escape(escaped(text))


def describe_config(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of the configuration, and numbers that save model.js computing them."""
    numbers = {
        "n_kv_head": config.key_value_heads,
        "head_width": config.head_width,
        "windows": [config.layer_window(layer) for layer in range(config.n_layer)],
        "rotates": [config.layer_rotates(layer) for layer in range(config.n_layer)],
    }
    if config.positions == "rotary":
        frequencies_P, scale = rotary_settings(config)
        numbers["rotary"] = {"frequencies": frequencies_P.tolist(), "scale": scale}
    return asdict(config) | numbers


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what tokenizer.js needs. Raises UserError for a tokenizer that it lacks."""
    special = tokenizer.special_tokens
    if isinstance(tokenizer, CharTokenizer):
        n_chars = tokenizer.n_vocab - len(special)
        chars = [tokenizer.token_bytes(i).decode() for i in range(n_chars)]
        return {"kind": "char", "chars": chars, "special": special, "unk": tokenizer.role_id("unk")}
    if not isinstance(tokenizer, BPETokenizer) or tokenizer.pattern not in PATTERNS:
        pattern = getattr(tokenizer, "pattern", type(tokenizer).__name__)
        raise UserError(
            f"the tokenizer's pattern is {pattern!r}: a page knows {', '.join(PATTERNS)}, and "
            f"tokenizers of characters"
        )
    if part := tokenizer.further_part():
        raise UserError(f"{part}: a page has no such part")
    if not tokenizer.merges_ascend:
        raise UserError(
            "the merges of this vocabulary are not in the order of training: a page can't apply "
            "them; train a tokenizer"
        )
    tokens: list[str | None] = [None] * tokenizer.n_vocab
    for token_bytes, token_id in tokenizer.mergeable_ranks.items():
        tokens[token_id] = token_bytes.decode("latin-1")  # a character for each byte
    return {"kind": "bpe", "pattern": tokenizer.pattern, "tokens": tokens, "special": special}


def facts(
    model: LanguageModel, tokenizer: Tokenizer, record: dict[str, Any] | None
) -> dict[str, str]:
    """Return what a reader may want to know about a model: terms and values, in order.

    Only numbers and the names of corpora are taken from the record, so no path leaves the machine.
    """
    c = model.config
    found = {"Parameters": f"{model.n_parameters():,}"}
    result = record["result"] if record else None
    if record and "further_data" in record:  # a pre-training
        data = [record["data"], *record["further_data"]]
        n_bytes = sum(part["train_bytes"] for part in data)
        found["Trained on"] = f"{_corpora(record)}, {n_bytes / 1e6:,.1f} MB of text"
    if result:
        found["Loss on text held back"] = f"{result['val_loss']:.3f} nats per token"
        if (bits := result["measured"].get("val_bits_per_byte")) is not None:
            found["Bits per byte"] = f"{bits:.3f}"
        found["Training"] = f"{result['steps']:,} steps in {_duration(result['seconds'])}"
    if record:
        written = datetime.fromisoformat(record["written"])
        found["Date"] = f"{written.day} {written:%B %Y}"
    heads = f"{c.n_layer} layers of {c.n_head} heads, {c.n_embd} channels"
    kind = "characters" if isinstance(tokenizer, CharTokenizer) else "byte-level BPE"
    return found | {
        "Shape": heads,
        "Context": f"{c.block_size:,} tokens",
        "Vocabulary": f"{tokenizer.n_vocab:,} tokens, {kind}",
    }


def _lead(model: LanguageModel, record: dict[str, Any] | None) -> str:
    trained = f", trained on {_corpora(record)}" if record and "further_data" in record else ""
    return (
        f"A language model of {model.n_parameters():,} parameters{trained}. It runs in this "
        f"page, on your device."
    )


def _corpora(record: dict[str, Any]) -> str:
    data = [record["data"], *record["further_data"]]
    return " and ".join(Path(part["corpus"]).name for part in data)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 100 else f"{minutes / 60:.0f} hours"


def _elements(model: LanguageModel) -> Iterator[str]:
    """Yield an element for each of the model's tensors: its name, type and shape, and base64."""
    for name, kind, shape, data in _tensors(model):
        dimensions = " ".join(map(str, shape))
        text = base64.b64encode(data).decode("ascii")
        yield (
            f'<script type="text/plain" data-name="{name}" data-type="{kind}" '
            f'data-shape="{dimensions}">{text}</script>'
        )


def _tensors(model: LanguageModel) -> Iterator[tuple[str, str, tuple[int, ...], bytes]]:
    """Yield (name, kind, shape, bytes) of each tensor, under its name in a model of floats."""
    for name, tensor in model.state_dict().items():
        owner = model.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, Blocks):
            is_layer = isinstance(owner, (QuantizedLinear, QuantizedEmbedding))
            if name.endswith(".bias"):
                yield name, "f32", tuple(tensor.shape), _floats(tensor)
            else:
                plain = name.removesuffix(".blocks") + (".weight" if is_layer else "")
                yield plain, owner.kind, tuple(owner.weight.shape), tensor.numpy().tobytes()
        else:
            yield name, "f32", tuple(tensor.shape), _floats(tensor)


def _floats(tensor: Tensor) -> bytes:
    return tensor.float().contiguous().numpy().astype("<f4").tobytes()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
