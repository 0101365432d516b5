"""peft and transformers as oracles: they load our adapters, and we load theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapters import GPT2, IDS, LLAMA, MISTRAL, save_adapter, save_base

from gptfast.model import ModelConfig
from gptfast.model.adapter_folder import LoraSettings
from gptfast.model.folder import load_model

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
CONFIGS = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen3": replace(LLAMA, qk_norm=True, head_dim=24),
}


def their_logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(IDS).logits
    return logits


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("settings", [LoraSettings(4, 6.0), LoraSettings(3, 5.0, rslora=True)])
@torch.no_grad()
def test_peft_and_transformers_load_ours(
    tmp_path: Path, config: ModelConfig, settings: LoraSettings
) -> None:
    ours = save_adapter(tmp_path / "a", tmp_path / "base", config, settings)(IDS)
    auto = transformers.AutoModelForCausalLM
    assert (their_logits(auto.from_pretrained(tmp_path / "a")) - ours).abs().max() < 1e-6
    base = auto.from_pretrained(tmp_path / "base")
    assert (their_logits(base) - ours).abs().max() > 0.1
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "a")
    assert (their_logits(theirs) - ours).abs().max() < 1e-6


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_ours_loads_pefts(tmp_path: Path, config: ModelConfig) -> None:
    plain = save_base(tmp_path / "base", config)
    is_gpt2 = config is GPT2
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=3,
        lora_alpha=5,
        target_modules=["c_attn", "mlp.c_proj"] if is_gpt2 else ["q_proj", "v_proj", "up_proj"],
        fan_in_fan_out=is_gpt2,
        layers_to_transform=[1] if config is MISTRAL else None,
    )
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.get_peft_model(base, settings)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, _ = load_model(tmp_path / "theirs")
    assert (their_logits(theirs) - ours(IDS)).abs().max() < 1e-6
    assert (plain(IDS) - ours(IDS)).abs().max() > 0.1
