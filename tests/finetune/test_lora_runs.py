"""Whole runs with LoRA: folders, killed and resumed runs, merging, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import cast

import pytest
import torch
from killing import check_killed_and_resumed
from safetensors.torch import load_file

from gptfast.errors import MissingFileError, UserError
from gptfast.finetune import grpo
from gptfast.finetune.__main__ import main, parse_config
from gptfast.finetune.settings.common import FinetuneConfig
from gptfast.finetune.settings.rollouts import GRPOConfig
from gptfast.finetune.start import load_reference, open_start
from gptfast.model.folder import load_float_model, load_model, load_weights
from gptfast.model.quantized import QuantizedLinear
from measured import measured

IDS = torch.arange(20)[None]


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    lines = [{"prompt": f"What is {i}?", "completion": f"It is {i * i}."} for i in range(24)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def arguments(base: Path, chats: Path, *further: str) -> list[str]:
    steps = ["--max-steps", "6", "--eval-interval", "3", "--batch-size", "4"]
    return [
        "sft", "--model", str(base), "--data", str(chats), "--lora-rank", "4", "--dtype", "float32",
        "--warmup-steps", "0", "--learning-rate", "0.01", *steps, *further,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, chat_base: Path, chats: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "adapter"
    assert main([*arguments(chat_base, chats), "--out", str(out)]) == 0
    return out


@pytest.mark.integration
@pytest.mark.parametrize(
    ("n_processes", "further"),
    [(1, ("--quantized-base", "8", "--lora-dropout", "0.1")), (2, ("--parallel", "ddp"))],
)
def test_a_killed_run_resumes_bitwise(
    tmp_path: Path, chat_base: Path, chats: Path, n_processes: int, further: tuple[str, ...]
) -> None:
    given = arguments(chat_base, chats, *further)
    check_killed_and_resumed(given, tmp_path, n_processes=n_processes, step=5)
    files = list((tmp_path / "killed").rglob("*.safetensors"))
    assert {path.name for path in files} == {"adapter_model.safetensors"}
    optimizer = torch.load(
        tmp_path / "killed" / "training" / "step-00000006" / "optimizer.pt", weights_only=True
    )["optimizer"]
    assert all(".pairs." in name for name in optimizer["state"])


@pytest.mark.integration
def test_a_run_writes_an_adapter_and_leaves_its_base(
    adapter: Path, chat_base: Path, tmp_path: Path
) -> None:
    assert not (adapter / "config.json").exists()
    assert not (adapter / "model.safetensors").exists()
    assert len(load_file(adapter / "adapter_model.safetensors")) == 16
    model, tokenizer = load_model(adapter)
    base, its_tokenizer = load_model(chat_base)
    assert tokenizer.fingerprint == its_tokenizer.fingerprint
    assert (model(IDS) - base(IDS)).abs().max() > 1e-3
    assert main(["merge", str(adapter), "--out", str(tmp_path / "merged")]) == 0
    merged, _ = load_model(tmp_path / "merged")
    assert (merged(IDS) - model(IDS)).abs().max() < 1e-6
    assert json.loads((tmp_path / "merged" / "merge.json").read_text())["lost"] < 1e-4
    assert (tmp_path / "merged" / "chat_template.jinja").is_file()
    for folder, message in ((tmp_path / "merged", "was merged already"), (chat_base, "no adapter")):
        with pytest.raises((UserError, MissingFileError), match=message):
            main(["merge", str(folder), "--out", str(tmp_path / "again")])
    assert not (tmp_path / "again").exists()


@pytest.mark.integration
def test_training_goes_on_with_an_adapter_or_from_both_merged(
    adapter: Path, chat_base: Path, chats: Path, tmp_path: Path
) -> None:
    start, _ = load_model(adapter)
    given = [*arguments(adapter, chats), "--max-steps", "1"]
    assert main([*given, "--out", str(tmp_path / "further"), "--learning-rate", "1e-9"]) == 0
    further, _ = load_model(tmp_path / "further")
    assert torch.allclose(further(IDS), start(IDS), atol=1e-5)
    described = json.loads((tmp_path / "further" / "adapter_base.json").read_text())
    assert described["folder"] == str(chat_base.resolve())
    with pytest.raises(UserError, match="holds an adapter: to go on with it, give --lora-rank 4"):
        main([*given, "--out", str(tmp_path / "other"), "--lora-rank", "8"])
    whole = [*given, "--lora-rank", "0", "--learning-rate", "1e-9", "--out", str(tmp_path / "all")]
    assert main(whole) == 0
    trained, _ = load_float_model(tmp_path / "all", "a test")
    assert torch.allclose(trained(IDS), start(IDS), atol=1e-5)


@pytest.mark.integration
def test_the_base_of_an_adapter_is_not_overwritten(
    adapter: Path, chat_base: Path, chats: Path
) -> None:
    given = [*arguments(adapter, chats)[1:], "--out", str(chat_base), "--overwrite"]
    with pytest.raises(UserError, match="which holds the base of the adapter in"):
        open_start(cast(FinetuneConfig, parse_config("sft", given)))


@pytest.mark.integration
def test_an_adapter_beside_blocks_is_merged_as_it_was_trained(
    chat_base: Path, chats: Path, tmp_path: Path
) -> None:
    given = arguments(chat_base, chats, "--quantized-base", "4")
    # Rows of 48 numbers have no whole number of blocks, those of the widest layer have.
    assert main([*given, "--out", str(tmp_path / "a")]) == 0
    assert json.loads((tmp_path / "a" / "adapter_base.json").read_text())["bits"] == 4
    start = open_start(cast(FinetuneConfig, parse_config("sft", [*given[1:], "--out", "new"])))
    blocks = start.new_model()(torch.device("cpu")).eval()
    kinds = [m.kind for m in blocks.modules() if isinstance(m, QuantizedLinear)]
    assert kinds == ["q4_0", "q4_0"]
    load_weights(blocks, tmp_path / "a" / "adapter_model.safetensors")
    assert main(["merge", str(tmp_path / "a"), "--out", str(tmp_path / "merged")]) == 0
    for folder in ("a", "merged"):
        model, _ = load_model(tmp_path / folder)
        assert (model(IDS) - blocks(IDS)).abs().max() < 1e-5


@pytest.mark.integration
def test_beside_blocks_what_is_sampled_is_what_is_trained(
    chat_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "What?"}\n{"prompt": "How?"}\n' * 2)
    given = [
        "grpo", "--model", str(chat_base), "--prompts", str(tmp_path / "prompts.jsonl"),
        "--reward", "builtins:max", "--max-new-tokens", "4", "--batch-size", "2", "--max-steps",
        "2", "--lora-rank", "2", "--quantized-base", "4", "--device", "cpu", "--out",
        str(tmp_path / "out"),
    ]  # fmt: skip
    config = cast(GRPOConfig, parse_config("grpo", given[1:]))
    start = open_start(config)
    policy = start.new_model(dropout=0.0)(torch.device("cpu")).eval()
    assert torch.allclose(load_reference(config, start)(IDS), policy(IDS), atol=1e-6)
    monkeypatch.setattr(grpo, "load_reward", lambda name: lambda prompt, text: len(text))
    assert main(given) == 0
    gaps = [m["sampler_gap"] for m in measured(tmp_path / "out") if "sampler_gap" in m]
    assert gaps
    assert max(gaps) < 1e-5


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (["--freeze", "wte.*"], "with LoRA all weights are frozen"),
        (["--optimizer", "muon"], "LoRA's matrices are trained by AdamW"),
        (["--lora-rank", "0", "--quantized-base", "8"], "blocks can't be trained"),
        (["--lora-rank", "0", "--lora-alpha", "8"], r"lora_alpha is 8\.0, but without --lora-rank"),
        (["--lora-rank", "0", "--lora-dropout", "0.1"], "lora_dropout is 0.1, but without"),
        (["--lora-rank", "0", "--lora-targets", "c_fc"], "lora_targets is c_fc, but without"),
        (["--lora-targets", "wte"], "head and the token embedding are one matrix"),
    ],
)
def test_settings_that_contradict_lora_are_refused(
    chat_base: Path, chats: Path, tmp_path: Path, further: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        main([*arguments(chat_base, chats, *further), "--out", str(tmp_path / "out")])


def test_a_method_without_dropout_refuses_the_adapters(
    chat_base: Path, chats: Path, tmp_path: Path
) -> None:
    given = [*arguments(chat_base, chats, "--lora-dropout", "0.1"), "--out", str(tmp_path / "out")]
    start = open_start(parse_config("sft", given[1:]))
    start.new_model()
    with pytest.raises(UserError, match=r"lora_dropout is 0\.1, but this method computes without"):
        start.new_model(dropout=0.0)


@pytest.mark.integration
def test_a_resumed_run_finds_its_base_by_its_checksum(
    adapter: Path, chat_base: Path, chats: Path, tmp_path: Path
) -> None:
    moved, base = tmp_path / "far" / "adapter", tmp_path / "base"
    shutil.copytree(adapter, moved)
    shutil.copytree(chat_base, base)
    described = json.loads((moved / "adapter_base.json").read_text())
    gone = {"folder": str(tmp_path / "gone"), "relative": "../gone"}
    (moved / "adapter_base.json").write_text(json.dumps(described | gone))
    path = moved / "adapter_config.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"base_model_name_or_path": str(tmp_path / "gone")}))
    # As in pre-training, a run resumes without the best weights.
    (moved / "adapter_model.safetensors").write_bytes(b"damaged")
    given = [*arguments(base, chats), "--max-steps", "7", "--resume"]
    assert main([*given, "--out", str(moved)]) == 0
    load_model(moved)
    assert json.loads(path.read_text())["base_model_name_or_path"] == str(base.resolve())
