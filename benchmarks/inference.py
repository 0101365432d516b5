"""Time text generation on a CPU beside llama.cpp, on GPT-2 124M's shape, and smaller things.

    python benchmarks/inference.py [--rounds 5] [--out benchmarks/results/inference]

The two take turns within one run, so that what else the machine does slows both down. A result is
the ratio of the medians of all rounds. Weights are random, which changes no speed. Before a speed
is reported, the greedy ids are compared with those of PyTorch's definition, and the probabilities
with llama.cpp's. It needs `pip install "gptfast[gguf]" xllamacpp`, and 3 GB of memory.
"""

from __future__ import annotations

import gptfast  # noqa: F401  # isort: skip (before PyTorch, whose threads then spin less)

import argparse
import copy
import ctypes
import datetime
import json
import mmap
import os
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import llama_cpp
from gptfast.model import GPT, ModelConfig, rust_step
from gptfast.model.quantized import quantize
from gptfast.ops import use_backend
from gptfast.sample.config import SamplingConfig
from gptfast.sample.engine import Engine
from gptfast.sample.request import Request
from gptfast.system.machine import hardware, version_of, versions

PROMPT, NEW = 128, 64
SMALL_REPEATS = 10
GPT2 = ModelConfig(50257)
SMALL = ModelConfig(1024, "gpt", 256, 4, 4, 128)
KINDS = {"f32": None, "bf16": "bf16", "q8_0": "int8", "q4_0": "int4"}
"""llama.cpp's types of weights, and what `gptfast quantize --to` calls them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/inference")
    options = parser.parse_args()
    load = os.getloadavg()
    torch.manual_seed(0)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for shape, config in (("GPT-2 124M", GPT2), ("0.94M", SMALL)):
            model = GPT(config).eval()
            for kind in options.kinds if config is GPT2 else ["f32"]:
                ours = copy.deepcopy(model)
                if KINDS[kind] is not None:
                    ours = quantize(ours, KINDS[kind])
                path = Path(folder) / "model.gguf"
                llama_cpp.write_gguf(model, path, kind)
                for n_threads in options.threads:
                    torch.set_num_threads(n_threads)
                    with llama_cpp.serve(path, n_threads) as server:
                        checked = check(ours, server)
                        row = compare(ours, server, n_threads, options.rounds)
                    label = {"shape": shape, "weights": kind, "threads": n_threads}
                    results.append({**label, **row, **checked})
                    print(json.dumps(results[-1]), flush=True)
                path.unlink()
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": hardware(),
        "load_average": [f"{before:.1f}" for before in load],
        "versions": {**versions(), "xllamacpp": version_of("xllamacpp")},
        "rounds": options.rounds,
        "results": results,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(table(report))


def check(model: GPT, server: llama_cpp.Server) -> dict[str, float]:
    """Compare with the definition and with llama.cpp. Raise AssertionError if they disagree."""
    prompt = list(range(1, 33))
    # PyTorch rounds to bfloat16 after every operation, Rust does not.
    is_bf16 = model.ln_f.weight.dtype == torch.bfloat16
    exact = copy.deepcopy(model).float() if is_bf16 else model
    cache, exact_cache = model.new_cache(1), exact.new_cache(1)
    assert rust_step.why_not(model, cache) is None
    model.prefill(prompt, cache, 0)
    exact.prefill(prompt, exact_cache, 0)
    worst, token = 0.0, 7
    for _ in range(8):
        logits = model.step([token], cache, [0])[0].float()
        with use_backend("reference"):
            expected = exact.step([token], exact_cache, [0])[0]
        worst = max(worst, ((logits - expected).abs().max() / expected.std()).item())
        prompt.append(token)
        token = int(expected.argmax())
        if not is_bf16 and model.quantized is None:
            assert token == int(logits.argmax())
    limit = 0.1 if is_bf16 or model.quantized else 1e-3
    assert worst < limit, f"logits are {worst} standard deviations from the definition"
    answer = server.complete(prompt, 1, n_probs=20)
    logprobs = logits.log_softmax(-1)
    top = answer["completion_probabilities"][0]["top_logprobs"]
    theirs = max(abs(one["logprob"] - logprobs[one["id"]].item()) for one in top)
    assert theirs < 0.2, f"llama.cpp's log-probabilities are {theirs} from ours"
    return {"error_in_std": worst, "llama.cpp_nats_apart": theirs}


def compare(model: GPT, server: llama_cpp.Server, n_threads: int, rounds: int) -> dict[str, Any]:
    """Return the medians of what both reach, in tokens/s, and of the machine's reading, in GB/s."""
    prompt = torch.randint(model.config.vocab_size, (PROMPT,)).tolist()
    found: dict[str, list[float]] = defaultdict(list)
    # A small model's texts take some milliseconds, which anything disturbs: take the best of ten.
    repeats = 1 if model.n_parameters() > 10e6 else SMALL_REPEATS
    for _ in range(rounds):
        found["read_gb_per_s"].append(read_speed(n_threads))
        timings = [server.complete(prompt, NEW)["timings"] for _ in range(repeats)]
        found["their_decode"].append(max(one["predicted_per_second"] for one in timings))
        found["their_prefill"].append(max(one["prompt_per_second"] for one in timings))
        for name, n_texts in (("", 1), ("_of_8", 8)):
            if n_texts == 1 or model.quantized == "int8" or repeats > 1:
                speeds = [generate(model, prompt, n_texts) for _ in range(repeats)]
                found["prefill" + name].append(max(prefill for prefill, _ in speeds))
                found["decode" + name].append(max(decode for _, decode in speeds))
    medians = {name: statistics.median(values) for name, values in found.items()}
    read = step_bytes(model) * medians["decode"] / 1e9
    if "decode_of_8" in medians:
        medians["gain_of_8"] = medians["decode_of_8"] / medians["decode"]
    return {
        **medians,
        "decode_ratio": medians["decode"] / medians["their_decode"],
        "prefill_ratio": medians["prefill"] / medians["their_prefill"],
        "share_of_reading": read / medians["read_gb_per_s"],
        "best_decode": max(found["decode"]),
        "their_best_decode": max(found["their_decode"]),
    }


def generate(model: GPT, prompt: list[int], n_texts: int) -> tuple[float, float]:
    """Return the tokens per second of the prompts and of what follows, of the whole engine."""
    engine = Engine(model, None, n_slots=n_texts)
    for i in range(n_texts):
        ids = [*prompt[:-1], i]
        engine.submit(Request(ids, NEW, SamplingConfig(temperature=0.0), seed=0))
    start = time.perf_counter()
    engine.step()  # reads the prompts and writes one token
    middle = time.perf_counter()
    while engine.has_work:
        engine.step()
    end = time.perf_counter()
    return n_texts * len(prompt) / (middle - start), n_texts * (NEW - 1) / (end - middle)


def step_bytes(model: GPT) -> int:
    """Return the bytes of weights that a step reads: all but the table of positions."""
    tensors = (*model.parameters(), *model.buffers())
    return sum(t.nbytes for t in tensors) - model.wpe.weight.nbytes


def read_speed(n_threads: int) -> float:
    """Return how many GB per second the C library's search for a byte reads, on some threads.

    The memory is in huge pages if the system has some, as the weights are.
    """
    size = 256 << 20
    memory = [mmap.mmap(-1, size) for _ in range(n_threads)]
    for one in memory:
        one.madvise(mmap.MADV_HUGEPAGE)
    addresses = [ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in memory]
    for address in addresses:
        ctypes.memset(address, 0, size)
    search: Callable[..., Any] = ctypes.CDLL(None).memchr  # it releases the GIL
    search.argtypes, search.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], None
    best = 0.0
    for _ in range(3):
        threads = [threading.Thread(target=search, args=(a, 1, size)) for a in addresses]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = max(best, n_threads * size / (time.perf_counter() - start) / 1e9)
    return best


def table(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [
        "# Inference on a CPU beside llama.cpp",
        "",
        f"{report['date']}, {report['machine']['cpu']}, {os.cpu_count()} cores, load average "
        f"before the run {', '.join(report['load_average'])}; "
        f"PyTorch {report['versions']['torch']}, xllamacpp {report['versions']['xllamacpp']}. "
        f"Medians of {report['rounds']} alternations, in tokens/s; "
        f"prompt {PROMPT}, {NEW} new tokens; of the small shape, which takes milliseconds, a value "
        f"is the best of {SMALL_REPEATS} in a row.",
        "",
        "llama.cpp runs with keys and values in float32 and without flash attention, so that its "
        "results are ours, and its OpenMP waits passively, its fastest setting here. The share is "
        "that of what the C library reads from memory in huge pages in the same round.",
        "",
        "| shape | weights | threads | decode | llama.cpp | ratio | prefill | llama.cpp | ratio "
        "| share of reading | 8 at once | gain |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in report["results"]:
        numbers = [r["decode"], r["their_decode"], r["prefill"], r["their_prefill"]]
        decode, theirs, prefill, their_prefill = (f"{x:,.0f}" for x in numbers)
        at_8 = f"{r['decode_of_8']:,.0f} | {r['gain_of_8']:.1f}" if "decode_of_8" in r else "|"
        # The small shape lies in the cache of the CPU.
        reading = f"{r['share_of_reading']:.0%} of {r['read_gb_per_s']:.0f} GB/s"
        reading = reading if r["shape"] == "GPT-2 124M" else ""
        lines.append(
            f"| {r['shape']} | {r['weights']} | {r['threads']} | {decode} | {theirs} | "
            f"**{r['decode_ratio']:.2f}** | {prefill} | {their_prefill} | "
            f"**{r['prefill_ratio']:.2f}** | {reading} | {at_8} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
