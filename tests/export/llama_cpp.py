"""llama.cpp as an oracle, in a separate process: a failed assertion there ends the process.

Run as a program, it loads one model after the other. Each line of standard input is a JSON object
with `model`, a GGUF file, and some of these. The answer is a line of JSON with the same keys.

- `tokenize`: texts.
- `special`: texts, in which special tokens are found.
- `logprobs`: lists of ids. Answered with the log-probability of every id after each. This needs
  `n_vocab`, and the id of some `letter`.
- `greedy`: lists of ids, and how many to add.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS = 300


def ask(folder: Path, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return llama.cpp's answers. Logs and messages go to a file in `folder`."""
    log = folder / "llama_cpp.log"
    with log.open("w", encoding="utf-8") as stderr:
        done = subprocess.run(
            [sys.executable, __file__],
            input="".join(json.dumps(question) + "\n" for question in questions),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            timeout=SECONDS,
            # Threads that wait for work otherwise spin, and slow down the ones that have some.
            env={**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"},
        )
    assert done.returncode == 0, log.read_text(encoding="utf-8", errors="replace")[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def answer(question: dict[str, Any]) -> dict[str, Any]:
    import xllamacpp as llama  # needs the package, whose wheels are for some platforms only

    params = llama.CommonParams()
    params.model.path = question["model"]
    params.n_parallel, params.warmup, params.ui, params.fit_params = 1, False, False, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = llama.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_ram_mib = 0
    server = llama.Server(params)
    address = server.listening_address.removeprefix("http://")
    with contextlib.closing(http.client.HTTPConnection(address, timeout=SECONDS)) as connection:

        def post(path: str, **body: Any) -> Any:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            content = json.loads(response.read())
            assert response.status == 200, content
            return content

        def tokenize(text: str, special: bool) -> list[int]:
            body = {"content": text, "add_special": True, "parse_special": special}
            ids: list[int] = post("/tokenize", **body)["tokens"]
            return ids

        def logprobs(ids: list[int]) -> dict[int, float]:
            settings = {"n_predict": 1, "temperature": -1, "n_probs": question["n_vocab"]}
            # The end of a text, or a part of a character, would come without probabilities. These
            # are the model's, whatever the bias makes it write.
            bias = [[question["letter"], 1000.0]]
            found = post("/completion", prompt=ids, **settings, logit_bias=bias)
            top = found["completion_probabilities"][0]["top_logprobs"]
            return {one["id"]: one["logprob"] for one in top}

        def greedy(ids: list[int], n: int) -> list[int]:
            body = {"prompt": ids, "n_predict": n, "temperature": 0, "return_tokens": True}
            found: list[int] = post("/completion", **body, ignore_eos=True)["tokens"]
            return found

        return {
            "tokenize": [tokenize(text, False) for text in question.get("tokenize", [])],
            "special": [tokenize(text, True) for text in question.get("special", [])],
            "logprobs": [logprobs(ids) for ids in question.get("logprobs", [])],
            "greedy": [greedy(ids, n) for ids, n in question.get("greedy", [])],
        }


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what llama.cpp prints is no answer
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)
    os._exit(0)  # without waiting for the threads of the servers
