"""llama.cpp as a peer of benchmarks: a GGUF file of a model, and a server in its own process.

A failed assertion of llama.cpp ends its process, so it never runs in ours. Run as a program, it
serves one file: each line of standard input is the JSON of a request to /completion, and each line
of standard output the JSON of the answer.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 600


def write_gguf(model: Any, path: Path, kind: str) -> None:
    """Write a GPT in float32 to a file whose matrices are `kind`, with made-up tokens.

    kind: "f32", "bf16", "q8_0" or "q4_0", of every matrix but that of positions.
    """
    import gguf

    from gptfast.model.formats.gguf import architecture_of, to_metadata
    from gptfast.model.formats.gguf_tensors import to_gguf

    config = model.config
    writer = gguf.GGUFWriter(path, architecture_of(config))
    for key, value in to_metadata(config).items():
        is_int = isinstance(value, int) and not isinstance(value, bool)
        kind_of_value = gguf.GGUFValueType.UINT32 if is_int else gguf.GGUFValueType.get_type(value)
        if key != "general.architecture":
            writer.add_key_value(key, value, kind_of_value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*_byte_alphabet(), *(f"<{i}>" for i in range(256, config.vocab_size))])
    writer.add_token_types([1] * config.vocab_size)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(config.vocab_size - 1)
    for name, tensor in to_gguf(config, model.state_dict()):
        is_narrow = tensor.ndim == 2 and name != "position_embd.weight"
        quantized = gguf.GGMLQuantizationType[(kind if is_narrow else "f32").upper()]
        values = gguf.quants.quantize(tensor.contiguous().numpy(), quantized)
        writer.add_tensor(name, values, raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _byte_alphabet() -> list[str]:
    """The letters that stand for the 256 bytes in GPT-2's vocabulary, in any order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(i) for i in printable] + [chr(256 + i) for i in range(256 - len(printable))]


class Server:
    """A model that llama.cpp serves."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def complete(self, prompt: list[int], n: int, **options: Any) -> dict[str, Any]:
        """Return the answer to a request for n tokens, the likeliest ones."""
        assert self._process.stdin
        assert self._process.stdout
        body = {"prompt": prompt, "n_predict": n, "temperature": 0, "ignore_eos": True}
        request = {**body, "cache_prompt": False, "return_tokens": True, **options}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def serve(path: Path, n_threads: int) -> Iterator[Server]:
    """Start a server, and end it with the block."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(n_threads)}
    process = subprocess.Popen(
        [sys.executable, __file__, str(path), str(n_threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    try:
        yield Server(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe
            pipe.close()


def main(path: str, n_threads: int) -> None:
    """Answer requests until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # llama.cpp prints its log there
    import xllamacpp as llama

    params = llama.CommonParams()
    params.model.path = path
    params.n_parallel, params.warmup, params.ui, params.fit_params = 1, False, False, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads
    params.cache_type_k = params.cache_type_v = llama.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_ram_mib = 0
    server = llama.Server(params)
    address = server.listening_address.removeprefix("http://")
    for line in sys.stdin:  # a connection each: the server closes those that idle
        with contextlib.closing(http.client.HTTPConnection(address, timeout=SECONDS)) as connection:
            connection.request("POST", "/completion", line)
            print(json.dumps(json.loads(connection.getresponse().read())), file=out, flush=True)
    os._exit(0)  # without waiting for the threads of the server


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
