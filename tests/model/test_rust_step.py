"""The step in Rust gives the logits of the step in PyTorch, which is its definition."""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from test_variants import VARIANTS
from torch import Tensor, nn

from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig, rust_step
from gptfast.model.kv_cache import SLACK, KVCache
from gptfast.model.quantized import Precision, quantize
from gptfast.ops import use_backend

pytest.importorskip("gptfast._rust", reason="the Rust extension is not built")

GPT2 = ModelConfig(65, "gpt", 24, 2, 4, 64)
MORE = {
    "odd widths": ModelConfig(37, "gpt", 24, 2, 3, 30, n_kv_head=1, n_hidden=50),
    "wrapped rings": replace(VARIANTS["llama"], block_size=90, sliding_window=3, global_every=2),
    # Rounding may change which experts are chosen; here it can't.
    "all experts": replace(VARIANTS["experts"], n_expert_active=4),
    "large": ModelConfig(3999, "gpt", 32, 2, 6, 384, positions="rotary", activation="swiglu"),
}


def shaken(config: ModelConfig, dtype: torch.dtype = torch.float32) -> GPT:
    """A model whose logits depend on all of its weights."""
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype)


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def filled_cache(model: GPT, lengths: list[int]) -> KVCache:
    """A cache whose rows hold random texts of these lengths."""
    cache = model.new_cache(len(lengths))
    generator = torch.Generator().manual_seed(1)
    for row, length in enumerate(lengths):
        ids = torch.randint(model.config.vocab_size, (length,), generator=generator)
        model.prefill(ids.tolist(), cache, row)
    return cache


def step_in_torch(model: GPT, ids: list[int], cache: KVCache, rows: list[int]) -> Tensor:
    with use_backend("reference"):
        assert rust_step.why_not(model, cache) is not None
        return model.step(ids, cache, rows)


def step_in_rust(model: GPT, ids: list[int], cache: KVCache, rows: list[int]) -> Tensor:
    assert rust_step.why_not(model, cache) is None
    return model.step(ids, cache, rows)


@pytest.mark.parametrize("name", [*VARIANTS, *MORE])
def test_logits_equal_those_of_pytorch_to_the_end_of_the_context(name: str) -> None:
    config = (VARIANTS | MORE)[name]
    model = shaken(config)
    # What is compared with is computed in float64 from the same weights.
    wide = copy.deepcopy(model).double()
    lengths = [1, config.block_size - 2, 7]
    cache, wide_cache = filled_cache(model, lengths), filled_cache(wide, lengths)
    rows = [2, 0, 1]
    for step in range(config.block_size - 1):
        rows = [row for row in rows if cache.lengths[row] < config.block_size]
        ids = [(7 * step + row) % config.vocab_size for row in rows]
        actual = step_in_rust(model, ids, cache, rows)
        expected = step_in_torch(wide, ids, wide_cache, rows)
        assert actual.dtype == torch.float32
        scale = expected.abs().max().item()
        torch.testing.assert_close(actual.double(), expected, atol=1e-5 * scale, rtol=0)
        assert cache.lengths == wide_cache.lengths
    assert torch.equal(cache.ids_BT, wide_cache.ids_BT)
    for keys, wide_keys in zip(cache.k + cache.v, wide_cache.k + wide_cache.v, strict=True):
        torch.testing.assert_close(keys.double(), wide_keys, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "speed run", "experts", "wrapped rings"])
def test_bfloat16_logits_are_near_those_of_pytorch(name: str) -> None:
    model = shaken((VARIANTS | MORE)[name], torch.bfloat16)
    wide = copy.deepcopy(model).double()
    lengths = [9, 3]
    cache, wide_cache = filled_cache(model, lengths), filled_cache(wide, lengths)
    for step in range(5):
        actual = step_in_rust(model, [step, 9], cache, [0, 1])
        expected = step_in_torch(wide, [step, 9], wide_cache, [0, 1])
        assert actual.dtype == torch.bfloat16
        error = (actual.double() - expected).abs().max() / expected.abs().max()
        assert error < 3e-2  # as for attention in bfloat16: tests/tolerances.py


@pytest.mark.parametrize("name", ["gpt2", "speed run", "llama", "all experts", "odd widths"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_logits_are_near_those_of_pytorch(name: str, precision: Precision) -> None:
    model = quantize(shaken((VARIANTS | MORE)[name]), precision)
    lengths = [9, 3]
    cache = filled_cache(model, lengths)
    exact_cache = copy.deepcopy(cache)
    for step in range(5):
        actual = step_in_rust(model, [step, 9], cache, [0, 1])
        expected = step_in_torch(model, [step, 9], exact_cache, [0, 1])
        assert actual.dtype == torch.float32
        # The definition multiplies by float activations, Rust by activations in 8 bits.
        error = (actual - expected).square().mean().sqrt() / expected.std()
        assert error < 2e-2


@pytest.mark.parametrize("name", ["gpt2", "llama", "experts", "large"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "int4"])
def test_neither_threads_nor_neighbours_change_a_bit(name: str, precision: str) -> None:
    # Rust gives small models one thread, but "large" has 13 MB in float32.
    model = shaken((VARIANTS | MORE)[name])
    if precision == "bfloat16":
        model.bfloat16()
    elif precision != "float32":
        quantize(model, "int8" if precision == "int8" else "int4")
    lengths, ids = [5, 1, 10, 7, 3], [3, 1, 4, 1, 5]
    with threads(1):
        start = filled_cache(model, lengths)
        alone = []
        for row in range(5):
            cache = copy.deepcopy(start)
            alone.append([step_in_rust(model, [ids[row]], cache, [row]) for _ in range(3)])
    for n_threads in (1, 2, 3):
        for rows in ([0, 1, 2, 3, 4], [4, 2], [1, 3, 0]):
            cache = copy.deepcopy(start)
            with threads(n_threads):
                for step in range(3):
                    logits = step_in_rust(model, [ids[row] for row in rows], cache, rows)
                    for i, row in enumerate(rows):
                        assert torch.equal(logits[i], alone[row][step][0])


@pytest.mark.parametrize("name", ["gpt2", "experts", "wrapped rings", "n-grams", "large"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_tokens_that_are_verified_get_the_bits_of_plain_steps(
    name: str, precision: str, n_threads: int
) -> None:
    model = shaken((VARIANTS | MORE)[name])
    if precision == "bfloat16":
        model.bfloat16()
    elif precision != "float32":
        quantize(model, "int8" if precision == "int8" else "int4")
    # A ring has room for 3 + 32 tokens. All places are overwritten, some while they are seen.
    start = 50 if name == "wrapped rings" else 3
    ids = [(7 * i) % 37 for i in range(1 + SLACK if name == "wrapped rings" else 6)]
    cache = filled_cache(model, [4, start])
    plain_cache = copy.deepcopy(cache)
    with threads(1):
        plain = [step_in_rust(model, [token], plain_cache, [1])[0] for token in ids]
    with threads(n_threads):
        verified = model.verify(ids, cache, 1)
        assert torch.equal(verified, torch.stack(plain))
        assert cache.lengths == plain_cache.lengths == [4, start + len(ids)]
        assert torch.equal(cache.ids_BT, plain_cache.ids_BT)
        for keys, plain_keys in zip(cache.k + cache.v, plain_cache.k + plain_cache.v, strict=True):
            assert torch.equal(keys, plain_keys)
        # All but the first are taken back: what they overwrote is not seen again.
        cache.truncate(1, start + 1)
        assert torch.equal(model.verify(ids[1:3], cache, 1), torch.stack(plain[1:3]))


def test_ids_that_are_verified_are_checked() -> None:
    model = shaken(GPT2)
    cache = filled_cache(model, [22])
    for ids, match in (([1, 65], "token id is 65"), ([1, 2, 3], "25 tokens"), ([], "not empty")):
        with pytest.raises(UserError, match=match):
            model.verify(ids, cache, 0)
    with use_backend("reference"):  # the definition
        expected = model.verify([1, 2], copy.deepcopy(cache), 0)
    torch.testing.assert_close(model.verify([1, 2], cache, 0), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "wrapped rings"])
def test_autocast_computes_prompts_and_steps(name: str) -> None:
    model = shaken((VARIANTS | MORE)[name])
    cache = model.new_cache(1)
    exact = [step_in_rust(model, [token], cache, [0])[0] for token in range(1, 9)]
    cache = model.new_cache(1)
    with torch.autocast("cpu"):
        first = model.prefill([1, 2, 3], cache, 0, all_logits=True)
        second = model.prefill([4, 5, 6, 7], cache, 0, all_logits=True)
        third = model.step([8], cache, [0])
    actual, expected = torch.cat((first, second, third)).float(), torch.stack(exact)
    assert (actual - expected).abs().max() < 3e-2 * expected.abs().max()


def test_weights_that_change_are_seen() -> None:
    model = shaken(GPT2)

    def check() -> None:
        cache = filled_cache(model, [4])
        expected = step_in_torch(model, [1], copy.deepcopy(cache), [0])
        actual = step_in_rust(model, [1], cache, [0])
        assert actual.dtype == expected.dtype
        tolerance = 1e-4 if expected.dtype == torch.float32 else 1e-1
        torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)

    check()
    with torch.no_grad():  # in place, as in training
        model.h[1].mlp.c_fc.weight.mul_(-1)
        model.h[0].ln_1.bias.add_(1)
    check()
    model.load_state_dict({k: v * 0.9 for k, v in model.state_dict().items()})
    check()
    model.load_state_dict({k: v * 0.9 for k, v in model.state_dict().items()}, assign=True)
    check()
    model.h[0].attn.c_proj.weight = nn.Parameter(model.h[0].attn.c_proj.weight * 2)
    check()
    model.h[1].ln_2.weight.data = model.h[1].ln_2.weight.data * 3
    check()
    model.h[1].mlp.c_proj = nn.Linear(256, 64)
    check()
    model.bfloat16()
    check()
    model.float()
    check()


def test_several_models_and_caches_keep_apart() -> None:
    models = [shaken(GPT2), shaken(replace(GPT2, n_kv_head=2))]
    with torch.no_grad():
        models[0].wte.weight.add_(1)
    caches = [[filled_cache(model, [3 + i]) for i in range(2)] for model in models]
    for _ in range(3):
        for model, pair in zip(models, caches, strict=True):
            for cache in pair:
                expected = step_in_torch(model, [5], copy.deepcopy(cache), [0])
                actual = step_in_rust(model, [5], cache, [0])
                torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def _step_in_child(model: GPT, cache: KVCache, connection: object) -> None:
    with threads(2):
        connection.send(model.step([1], cache, [0]).tolist())  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(multiprocessing, "get_context"), reason="no fork here")
def test_a_forked_process_takes_steps_too() -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system has no fork")
    model = shaken(MORE["large"])
    cache = filled_cache(model, [4])
    with threads(2):
        expected = step_in_rust(model, [1], copy.deepcopy(cache), [0])
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_step_in_child, args=(model, cache, theirs))
    child.start()
    assert ours.poll(60), "the child hangs"
    assert torch.equal(torch.tensor(ours.recv()), expected)
    child.join()


def test_what_rust_cannot_serve_is_said_and_computed_by_pytorch() -> None:
    def refusal(model: GPT) -> str:
        cache = filled_cache(model, [2])
        reason = rust_step.why_not(model, cache)
        assert reason is not None
        assert model.step([1], cache, [0]).shape == (1, 65)
        return reason

    assert "float64" in refusal(shaken(GPT2).double())
    assert "training mode" in refusal(shaken(replace(GPT2, dropout=0.1)).train())
    model = shaken(GPT2)
    for name in ("torch", "reference"):
        with use_backend(name):
            assert name in refusal(model)
    with torch.autocast("cpu"):
        assert "autocast" in str(rust_step.why_not(model, model.new_cache(1)))

    called = []
    handle = model.h[0].attn.register_forward_hook(lambda *_: called.append(1))
    assert "hook" in refusal(model)
    assert called
    handle.remove()
    assert rust_step.why_not(model, model.new_cache(1)) is None

    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model.h[0].mlp.c_fc = Doubled(64, 256)
    assert "Doubled" in refusal(model)


def test_rust_refuses_what_would_read_beyond_memory() -> None:
    model = shaken(GPT2)
    cache = filled_cache(model, [3, 3])
    step_in_rust(model, [1], cache, [0])
    for ids, rows, length in (
        ([65], [0], 3),
        ([1], [2], 3),
        ([1], [0], 24),
        ([1, 2, 3], [1, 0, 1], 3),
    ):
        cache.lengths = [length] * 3
        with pytest.raises(ValueError, match=r"expected|apart|position|row"):
            rust_step.step(model, ids, cache, rows)
    tensors = {name: (p.data_ptr(), "f32", 1, p.numel()) for name, p in model.named_parameters()}
    from gptfast._rust import Decoder

    with pytest.raises(ValueError, match=r"wte.weight is 1 x 4160: expected 65 x 64"):
        Decoder(model.config, tensors)


def test_an_extension_that_is_older_than_the_source_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = shaken(GPT2)
    monkeypatch.delattr("gptfast._rust.Decoder")
    assert "older than this source" in str(rust_step.why_not(model, model.new_cache(1)))
