"""ONNX graphs, run by onnxruntime: the model's logits at any batch, length and past."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptfast.cli import cli
from gptfast.export import onnx as export_onnx
from gptfast.export.__main__ import main
from gptfast.model import GPT, ModelConfig, build_model
from gptfast.model.folder import save_description, save_weights
from gptfast.model.quantized import quantize
from gptfast.tokenizer import BPETokenizer

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

SLOW = pytest.mark.slow
V = 261  # of the tokenizer; the models have 264 rows
GPT2 = ModelConfig(264, "gpt", 24, 1, 2, 8)
MODELS = {
    "gpt2": GPT2,
    "llama": replace(
        GPT2, n_head=4, n_embd=16, n_kv_head=2, norm="rmsnorm", bias=False,
        positions="rotary", activation="swiglu", n_hidden=24, tie_embeddings=False,
    ),
    "wide heads": replace(
        GPT2, n_layer=2, norm="rmsnorm", bias=False, qkv_bias=True, head_dim=12, nope_every=2,
        positions="rotary", rope_scaling="llama3", rope_factor=2.0,
    ),
    "speedrun": replace(
        GPT2, n_layer=2, norm="rmsnorm", bias=False, positions="rotary", activation="relu2",
        qk_norm=True, embedding_norm=True, logit_softcap=15.0, sliding_window=5, global_every=2,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(["the crow sees the moon"], V)


def write_folder(folder: Path, config: ModelConfig, tokenizer: BPETokenizer) -> GPT:
    torch.manual_seed(0)
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    save_description(folder, config, tokenizer)
    save_weights(model, folder / "model.safetensors")
    return model


class Session:
    """The graph in onnxruntime, with the keys and values of what it has seen."""

    def __init__(self, path: Path, batch_size: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        self.past = {
            some.name: np.zeros((batch_size, some.shape[1], 0, some.shape[3]), np.float32)
            for some in self.session.get_inputs()
            if some.name.startswith("past_key_values.")
        }
        self.mask = np.zeros((batch_size, 0), np.int64)

    def run(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits of new ids (B, T), which follow those of earlier calls."""
        new = np.ones(ids_BT.shape, np.int64) if mask_BT is None else mask_BT.numpy()
        self.mask = np.concatenate((self.mask, new), axis=1)
        positions = (self.mask.cumsum(1) - 1).clip(0)[:, -ids_BT.shape[1] :]
        names = [some.name for some in self.session.get_outputs()]
        values = self.session.run(
            names,
            {
                "input_ids": ids_BT.numpy(),
                "attention_mask": self.mask,
                "position_ids": positions,
                **self.past,
            },
        )
        found = dict(zip(names, values, strict=True))
        self.past = {
            name: found[name.replace("past_key_values.", "present.")] for name in self.past
        }
        return torch.from_numpy(found["logits"])


def some_ids(batch: int, time: int) -> torch.Tensor:
    return torch.randint(V, (batch, time), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(n, marks=SLOW) for n in MODELS if n != "llama")]
)
def test_a_graph_has_the_models_logits(
    name: str,
    tmp_path: Path,
    tokenizer: BPETokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = ["model.onnx"]
    if name == "gpt2":  # its weights count as large, and lie beside the graph
        monkeypatch.setattr(export_onnx, "DATA_BYTES", 1000)
        files.append("model.onnx.data")
    model = write_folder(tmp_path / "model", MODELS[name], tokenizer)
    out = tmp_path / "onnx" / "model.onnx"
    given = ["onnx", str(tmp_path / "model"), "--out", str(out)]
    assert cli.run(main, given) == 0
    assert sorted(file.name for file in out.parent.iterdir()) == files
    assert str(Path(export_onnx.__file__).parent).encode() not in out.read_bytes()
    for batch, lengths in ((1, [24]), (3, [7, 1, 1, 1, 5, 1]), (2, [1, 1, 20])):
        ids_BT = some_ids(batch, sum(lengths))
        session = Session(out, batch)
        actual = torch.cat([session.run(part) for part in ids_BT.split(lengths, dim=1)], dim=1)
        with torch.no_grad():
            expected = model(ids_BT)[..., :V]  # no logits of rows without an id
        assert expected.std() > 0.3
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    check_unequal_pasts(model, out)
    capsys.readouterr()
    assert cli.run(main, given) == 2
    assert f"{out} exists already: choose another --out" in capsys.readouterr().err
    out.unlink()
    data = out.with_name("model.onnx.data")
    data.write_text("mine")
    assert cli.run(main, given) == 2
    assert f"{data} exists already: choose another --out" in capsys.readouterr().err
    assert data.read_text() == "mine"


@torch.no_grad()
def check_unequal_pasts(model: GPT, out: Path) -> None:
    """Texts of 3 and 8 tokens, the shorter one padded on the left, go on together."""
    long, short = some_ids(1, 12)[0], some_ids(1, 7)[0].flip(0)
    session = Session(out, 2)
    ids_BT = torch.stack((long[:8], torch.cat((torch.zeros(5, dtype=torch.long), short[:3]))))
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, :5] = 0
    steps = [session.run(ids_BT, mask_BT)[:, -1]]
    steps += [
        session.run(torch.stack((long[8 + i], short[3 + i]))[:, None])[:, 0] for i in range(4)
    ]
    actual = torch.stack(steps, dim=1)
    for row, (text, start) in enumerate(((long, 7), (short, 2))):
        expected = model(text[None])[0, start:, :V]
        torch.testing.assert_close(actual[row], expected, atol=1e-5, rtol=0)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "experts": ({"n_expert": 4, "bias": False, "activation": "swiglu"}, "n_expert is 4"),
    "n-grams": ({"max_ngram": 3, "ngram_rows": 50}, "max_ngram is 3"),
    "a rung": ({"architecture": "bigram"}, "architecture is 'bigram'"),
}


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_graph_cannot_express_is_one_line(
    fields: dict[str, Any],
    message: str,
    tmp_path: Path,
    tokenizer: BPETokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_folder(tmp_path / "model", replace(GPT2, **fields), tokenizer)
    out = tmp_path / "model.onnx"
    assert cli.run(main, ["onnx", str(tmp_path / "model"), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'model'} can't be written as ONNX: {message}" in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_quantized_folder_is_refused(
    tmp_path: Path, tokenizer: BPETokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(GPT2, n_embd=32)
    model = quantize(write_folder(tmp_path / "float", config, tokenizer), "int8")
    save_description(tmp_path / "int8", config, tokenizer, "int8")
    save_weights(model, tmp_path / "int8" / "model.safetensors")
    out = tmp_path / "model.onnx"
    assert cli.run(main, ["onnx", str(tmp_path / "int8"), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "is in int8: an ONNX file needs float weights; give the folder that it was" in error
    assert not out.exists()
