"""`/attention` shows the weights that transformers computes."""

from __future__ import annotations

from pathlib import Path

import httpx2
import torch
from served import Serve, run

from gptfast.model import GPT, ModelConfig
from gptfast.model.folder import save_description, save_weights
from gptfast.serve.attention import attention_of_last
from gptfast.tokenizer import BPETokenizer

LLAMA = ModelConfig(
    320, "gpt", 64, 2, 4, 32, positions="rotary", norm="rmsnorm", activation="swiglu", bias=False,
    n_kv_head=2, tie_embeddings=False,
)  # fmt: skip


def their_weights(
    folder: Path, model: GPT, tokenizer: BPETokenizer, ids: list[int]
) -> torch.Tensor:
    from transformers import GPT2LMHeadModel, LlamaForCausalLM

    save_description(folder, model.config, tokenizer)
    save_weights(model, folder / "model.safetensors")
    theirs = LlamaForCausalLM if model.config.norm == "rmsnorm" else GPT2LMHeadModel
    same = theirs.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        layers = same(torch.tensor([ids]), output_attentions=True).attentions
    return torch.stack([weights[0, :, -1] for weights in layers])


def test_the_weights_are_those_of_transformers(
    model: GPT, tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    ids = tokenizer.encode_ordinary("The king sees the crow, and the crow")
    torch.manual_seed(1)
    for i, gpt in enumerate((model, GPT(LLAMA).eval())):
        expected = their_weights(tmp_path / str(i), gpt, tokenizer, ids)
        torch.testing.assert_close(attention_of_last(gpt, ids), expected, atol=1e-5, rtol=0)


def test_a_window_is_kept(tokenizer: BPETokenizer) -> None:
    gpt = GPT(ModelConfig(320, "gpt", 64, 1, 2, 32, sliding_window=3)).eval()
    weights = attention_of_last(gpt, [1, 2, 3, 4, 5])
    assert (weights > 0).tolist() == [[[False, False, True, True, True]] * 2]


def test_the_endpoint(serve: Serve, model: GPT) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        answer = await client.post("/attention", json={"tokens": [5, 6, 7]})
        found = torch.tensor(answer.json()["weights"])
        torch.testing.assert_close(found, attention_of_last(model, [5, 6, 7]), atol=1e-4, rtol=0)
        for tokens in (None, [], "a", [1.5], [320], [-1], [True], [5] * 65):
            answer = await client.post("/attention", json={"tokens": tokens})
            assert answer.status_code == 400, tokens
            assert answer.json()["error"]["param"] == "tokens"

    run(serve, work)


def test_ids_come_with_log_probabilities(serve: Serve, tokenizer: BPETokenizer) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        body = {"prompt": "The king", "echo": True, "logprobs": 0, "max_tokens": 3, "seed": 1}
        for wanted in (False, True):
            answer = await client.post("/v1/completions", json=body | {"return_token_ids": wanted})
            choice = answer.json()["choices"][0]
            assert ("token_ids" in choice["logprobs"]) == wanted
        assert tokenizer.decode(choice["logprobs"]["token_ids"]) == choice["text"]

    run(serve, work)
