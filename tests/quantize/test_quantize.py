"""`gptfast quantize`: its table, its calibration, and a folder that every command takes."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, quants
from safetensors.torch import load_file
from torch import Tensor

from gptfast.__main__ import main as gptfast
from gptfast.cli import cli
from gptfast.data.batch import Batch
from gptfast.errors import UserError
from gptfast.model import LanguageModel, ModelConfig, build_model
from gptfast.model.folder import load_model, save_description, save_weights
from gptfast.ops.quantized_blocks import dequantize_blocks, quantize_blocks
from gptfast.quantize.__main__ import main
from gptfast.quantize.calibrate import correlations, gptq_blocks
from gptfast.quantize.measure import measure_change
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.chat import read_chat_template

CONFIG = ModelConfig(320, "gpt", 32, 2, 2, 64)


@pytest.fixture
def folder(tmp_path: Path, nursery_text: str) -> Path:
    """A model folder with a run's tokenizer, but no run.json."""
    torch.manual_seed(0)
    model = build_model(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that predictions differ
    save_description(tmp_path / "float", CONFIG, BPETokenizer.train(nursery_text, 300))
    save_weights(model, tmp_path / "float" / "model.safetensors")
    return tmp_path / "float"


def table_of(out: Path) -> dict:
    return json.loads((out / "quantization.json").read_text())


# ---- the numbers of the table --------------------------------------------------------------------


class Fixed(LanguageModel):
    """Predicts the same logits everywhere."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__(ModelConfig(len(logits), "bigram", 4))
        self.logits_V = torch.tensor(logits)

    def _logits(self, idx_BT: Tensor) -> Tensor:
        return self.logits_V.expand(*idx_BT.shape, -1)

    def checked_ids(self, idx_BT: Tensor, *_: object) -> Tensor:
        return idx_BT


def test_loss_divergence_and_agreement_by_hand() -> None:
    """p is (1/2, 1/2) and q is (1/4, 3/4); the third logit is padding and counts in losses only."""
    p = Fixed([math.log(0.5) + 1e-6, math.log(0.5), -1e9])
    q = Fixed([math.log(0.25), math.log(0.75), -1e9])
    ids = torch.zeros(2, 3, dtype=torch.long)
    targets = torch.tensor([[0, 1, 1], [1, 1, 1]])
    found = measure_change(p, q, [Batch(ids, targets), Batch(ids[:1], targets[:1])], 2)
    assert found.tokens == 9
    assert found.before == pytest.approx(math.log(2), abs=1e-5)
    assert found.after == pytest.approx((2 * math.log(4) + 7 * math.log(4 / 3)) / 9)
    assert found.kl == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-5)
    assert found.agreement == 0
    assert measure_change(p, p, [Batch(ids, targets)], 2).agreement == 1


def test_a_loss_that_is_not_finite_is_refused() -> None:
    ids = torch.zeros(1, 3, dtype=torch.long)
    p = Fixed([1.0, 2.0])
    with pytest.raises(UserError, match=r"the loss is .* before and nan after"):
        measure_change(p, Fixed([math.nan, 1.0]), [Batch(ids, ids)], 2)


# ---- calibration ---------------------------------------------------------------------------------


def test_without_correlation_the_calibrated_blocks_are_those_of_gguf() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(-7, 8, (20, 96), generator=generator).float()
    steps[:, ::32] = -8  # decides the scale, which float16 holds exactly
    weight = (steps + 0.8 * torch.rand(20, 96, generator=generator) - 0.4).clamp(-8) / 4
    weight[:, ::32] = -2
    expected = quants.quantize(weight.numpy(), GGMLQuantizationType.Q4_0)
    assert torch.equal(gptq_blocks(weight, torch.eye(96)), torch.tensor(expected))


def test_calibration_changes_a_layers_outputs_less() -> None:
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(1000, 40, generator=generator) @ torch.randn(40, 128, generator=generator)
    x = few + 0.1 * torch.randn(1000, 128, generator=generator)
    weight = torch.randn(48, 128, generator=generator)

    def error(blocks: Tensor) -> float:
        return float((x @ (dequantize_blocks(blocks, "q4_0") - weight).T).square().mean())

    nearest = error(quantize_blocks(weight, "q4_0"))
    assert error(gptq_blocks(weight, x.T @ x)) < 0.5 * nearest


def test_inputs_that_never_occur_are_rounded_to_the_nearest() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    blocks = gptq_blocks(weight, torch.zeros(64, 64))
    step = weight.view(8, 2, 32).abs().amax(-1, keepdim=True) / 8
    off = (dequantize_blocks(blocks, "q4_0") - weight).view(8, 2, 32).abs()
    assert (off <= 1.01 * step).all()


def test_correlations_are_those_of_the_layers_inputs(folder: Path) -> None:
    model, _ = load_model(folder)
    ids = torch.randint(300, (3, 32), generator=torch.Generator().manual_seed(0))
    found = correlations(model, [Batch(ids[:2], ids[:2]), Batch(ids[2:], ids[2:])])
    assert len(found) == 8
    x = model.h[0].ln_1(model.wte(ids) + model.wpe.weight).flatten(0, 1)
    torch.testing.assert_close(found["h.0.attn.c_attn.weight"], x.T @ x, rtol=1e-4, atol=1e-3)
    assert not model.h[0].attn.c_attn._forward_pre_hooks


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["int8", "int4", "bf16"])
def test_the_command_writes_a_folder_and_its_table(
    folder: Path, corpus_file: Path, tmp_path: Path, precision: str, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "small"
    arguments = [str(folder), "--to", precision, "--out", str(out), "--text", str(corpus_file)]
    assert main([*arguments, "--eval-tokens", "None"]) == 0
    printed = capsys.readouterr().out
    table = table_of(out)
    weights = folder / "model.safetensors"
    assert table["made_from"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    for key, path in (("before", folder), ("after", out)):
        assert table[key]["bytes"] == (path / "model.safetensors").stat().st_size
        assert table[key]["tokens_per_second"] > 0
        assert f"{table[key]['nats_per_token']:.4f}" in printed
    assert (
        table["after"]["bytes"]
        < {"int8": 0.5, "int4": 0.4, "bf16": 0.6}[precision] * (table["before"]["bytes"])
    )
    assert 0 < table["kl_nats_per_token"] < {"int8": 0.01, "int4": 0.3, "bf16": 0.01}[precision]
    assert {"int8": 0.9, "int4": 0.6, "bf16": 0.9}[precision] < table["top_1_agreement"] <= 1
    assert ("calibrated on" in table["rounding"]) == (precision == "int4")
    loaded, _ = load_model(out)
    assert (loaded.quantized or "bf16") == precision


def test_without_text_it_says_what_was_not_measured(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "small"
    assert main([str(folder), "--to", "int4", "--out", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "losses were not measured" in printed
    assert "no run.json that names a corpus; give --text FILE" in printed
    table = table_of(out)
    assert "nats_per_token" not in table["before"]
    assert table["rounding"] == "rounded to the nearest, as GGUF's"
    weight = load_model(folder)[0].h[1].mlp.c_proj.weight.detach().numpy()
    blocks = load_file(out / "model.safetensors")["h.1.mlp.c_proj.blocks"]
    assert (blocks.numpy() == quants.quantize(weight, GGMLQuantizationType.Q4_0)).all()


def test_next_to_no_text_does_not_calibrate(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "small"
    text.write_text("The crow sees moon.")
    assert main([str(folder), "--to", "int4", "--out", str(out), "--text", str(text)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "not calibrated, because the train part of" in printed
    assert "expected at least 256, as many as the inputs of the widest layer" in printed
    assert "so few tokens say little" in printed
    assert table_of(out)["rounding"] == "rounded to the nearest, as GGUF's"


def test_the_chat_template_stays(folder: Path, tmp_path: Path) -> None:
    config = folder / "tokenizer_config.json"  # where older folders have it
    content = json.loads(config.read_text()) | {"chat_template": "{{ messages }}"}
    config.write_text(json.dumps(content))
    assert main([str(folder), "--to", "int8", "--out", str(tmp_path / "small")]) == 0
    assert read_chat_template(tmp_path / "small") == "{{ messages }}"


def test_matrices_that_stay_float_are_named(
    tmp_path: Path, nursery_text: str, capsys: pytest.CaptureFixture
) -> None:
    source = tmp_path / "float"
    config = ModelConfig(300, "gpt", 16, 1, 2, 48)
    save_description(source, config, BPETokenizer.train(nursery_text, 300))
    save_weights(build_model(config), source / "model.safetensors")
    assert main([str(source), "--to", "int8", "--out", str(tmp_path / "small")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "4 matrices stay float32, because their rows have no multiple of 32" in printed
    assert "wte.weight" in table_of(tmp_path / "small")["float32_matrices"]


def test_nothing_is_left_of_a_folder_that_failed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small"
    arguments = [str(folder), "--to", "int8", "--out", str(out)]
    with pytest.raises(UserError, match="no corpus"):
        main([*arguments, "--text", str(tmp_path / "missing.txt")])

    def fail(*_: object) -> None:  # when the weights are written already
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gptfast.quantize.write._measure", fail)
    with pytest.raises(OSError, match="No space left"):
        main(arguments)
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["float"]


def test_what_is_in_a_folder_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    out.mkdir()
    (out / "mine").write_text("mine")
    with pytest.raises(UserError, match="already holds something: choose another --out"):
        main([str(folder), "--to", "int8", "--out", str(out)])
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_damaged_or_quantized_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    assert main([str(folder), "--to", "int8", "--out", str(tmp_path / "int8")]) == 0
    with pytest.raises(UserError, match="is in int8: quantizing needs float weights"):
        main([str(tmp_path / "int8"), "--to", "int4", "--out", str(tmp_path / "int4")])
    model, _ = load_model(folder)
    with torch.no_grad():
        model.wte.weight[3, 3] = math.nan
    save_weights(model, folder / "model.safetensors")
    with pytest.raises(UserError, match="the model's weights are damaged: wte"):
        main([str(folder), "--to", "int4", "--out", str(tmp_path / "int4")])
    assert not (tmp_path / "int4").exists()


@pytest.mark.integration
def test_a_run_is_quantized_on_its_own_corpus_and_every_command_takes_it(
    corpus_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, small = tmp_path / "run", tmp_path / "small"
    settings = (
        f"train --corpus {corpus_file} --out {run} --vocab-size 300 --n-layer 1 --n-head 2 "
        f"--n-embd 32 --block-size 16 --max-steps 5 --device cpu --eval-interval 5"
    )

    def run_command(line: str) -> str:
        monkeypatch.setattr("sys.argv", ["gptfast", *line.split()])
        assert gptfast() == 0, capsys.readouterr().err
        return " ".join(capsys.readouterr().out.split())

    run_command(settings)
    result = json.loads((run / "run.json").read_text())["result"]
    run_command(f"quantize {run} --to int4 --out {small} --eval-tokens None")
    table = table_of(small)
    assert table["before"]["nats_per_token"] == pytest.approx(result["val_loss"], rel=1e-4)
    bits = result["measured"]["val_bits_per_byte"]
    assert table["before"]["bits_per_byte"] == pytest.approx(bits, rel=1e-4)
    assert run_command(f"sample --model {small} --prompt The --max-new-tokens 5").startswith("The")
    printed = run_command(f"eval {small} --corpus {corpus_file} --device cpu")
    # Its loss takes the head's weights as floats, where the table takes the logits.
    loss = float(re.search(r"loss, nats/token │ (\S+)", printed)[1])
    assert loss == pytest.approx(table["after"]["nats_per_token"], abs=0.002)
    printed = run_command(f"compare {run} {small} --sample-tokens 5")
    assert "weights │ float32 │ int4" in printed
    assert "trained already" in run_command(f"{settings} --out {small} --resume")
    # The corpus is no longer what the model was trained on.
    corpus_file.write_text(corpus_file.read_text(encoding="utf-8") + "More.\n", encoding="utf-8")
    printed = run_command(f"quantize {run} --to int8 --out {tmp_path / 'other'}")
    assert "has changed since the model was trained on it" in printed


def test_wrong_options_are_one_line(capsys: pytest.CaptureFixture) -> None:
    assert cli.run(main, ["nowhere", "--to", "int8", "--out", "x", "--threads", "0"]) == 2
    assert "threads is 0: expected at least 1" in capsys.readouterr().err
    assert cli.run(main, ["nowhere", "--to", "int8", "--out", "x"]) == 2
    assert "no model in nowhere" in capsys.readouterr().err
