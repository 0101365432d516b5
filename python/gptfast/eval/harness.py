"""Tasks of lm-evaluation-harness (EleutherAI), with a model folder as its language model."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from torch.nn import functional as F

from gptfast.cli.printing import one_line
from gptfast.errors import MissingFileError, UserError
from gptfast.eval.report import Section
from gptfast.model import LanguageModel
from gptfast.sample.config import SamplingConfig
from gptfast.sample.generate import default_prompt, generate_batch
from gptfast.sample.request import Request
from gptfast.tokenizer import Tokenizer

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise UserError(f'--tasks needs a library ({error}): pip install "gptfast[eval]"') from error

SEED = 1234
"""The harness's own default, by which it draws examples for a prompt, and we tokens."""
BOOTSTRAP = 100
"""Draws for the standard error of a measure that is no mean, such as F1."""

Pair = tuple[Any, list[int], list[int]]
"""What a request was made of, the ids of its context, and those of its continuation."""


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A model with its tokenizer, as the harness asks it.

    How a text is split into context and continuation is the harness's own code. Special tokens in
    the text of a task are tokens, as for the harness's model `hf`.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, batch_size: int) -> None:
        super().__init__()
        self.model = model
        self._tokenizer = tokenizer
        self.batch_size = batch_size
        self._device = next(model.parameters()).device

    @property
    def eot_token_id(self) -> int:
        """The id that ends a document, or a newline's if the tokenizer has no such token."""
        eot = self._tokenizer.eot_token
        return default_prompt(self._tokenizer)[0] if eot is None else eot

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before a text without a context."""
        bos = self._tokenizer.role_id("bos")
        return self.eot_token_id if bos is None else bos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """Return the ids of a text. No token is added to it."""
        return self._tokenizer.encode(string, "all")

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], **_: object
    ) -> list[tuple[float, bool]]:
        """Return each continuation's log-probability, and whether it is the greedy one.

        Of a pair that is longer than the context, the beginning is left out.
        """
        T = self.model.config.block_size
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1] + requests[i][2]))
        results = [(0.0, True)] * len(requests)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            whole = [(requests[i][1] + requests[i][2])[-(T + 1) :] for i in rows]
            ids_BT = torch.zeros(len(rows), len(whole[0]) - 1, dtype=torch.long)
            for row, ids in enumerate(whole):
                ids_BT[row, : len(ids) - 1] = torch.tensor(ids[:-1])
            logits_BTV = self.model(ids_BT.to(self._device))
            for row, (i, ids) in enumerate(zip(rows, whole, strict=True)):
                n = len(requests[i][2])
                if n > T:
                    raise UserError(
                        f"a continuation has {n} tokens, but the model's context is {T}: expected "
                        f"a task with shorter ones"
                    )
                target = torch.tensor(ids[-n:], device=self._device)
                logits = logits_BTV[row, len(ids) - 1 - n : len(ids) - 1].float()
                nats = float(F.cross_entropy(logits, target, reduction="sum"))
                results[i] = (-nats, bool((logits.argmax(-1) == target).all()))
        return results

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-probability of each whole text, in windows of the model's context."""
        pairs: list[Pair] = []
        owners = []
        for i, request in enumerate(requests):
            cut = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.model.config.block_size,
                context_len=1,
            )
            for window in cut:
                pairs.append((None, *make_disjoint_window(window)))
                owners.append(i)
        totals = [0.0] * len(requests)
        for i, (logprob, _) in zip(owners, self._loglikelihood_tokens(pairs), strict=True):
            totals[i] += logprob
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes after each context, up to the first of the stop strings."""
        asked = [self._request(*request.args) for request in requests]
        written = generate_batch(self.model, self._tokenizer, asked, n_slots=self.batch_size)
        return [generation.text for (generation,) in written]

    def _request(self, context: str, options: dict[str, Any]) -> Request:
        """Return what to write after a context, of which the beginning may be left out for room."""
        try:
            wanted = normalize_gen_kwargs(options)
            n_new = int(wanted["max_gen_toks"])
            temperature = float(wanted["temperature"]) if wanted["do_sample"] else 0.0
            stop = tuple(text for text in wanted["until"] if text)
        except (ValueError, TypeError) as error:
            raise UserError(f"generation_kwargs is {options}: {one_line(str(error))}") from error
        room = max(1, self.model.config.block_size - n_new)
        prompt = (self.tok_encode(context) or [self.prefix_token_id])[-room:]
        sampling = SamplingConfig(
            temperature=temperature, top_k=wanted.get("top_k"), top_p=wanted.get("top_p")
        )
        return Request(
            prompt, n_new, sampling, SEED, stop_tokens=self._tokenizer.stop_tokens, stop=stop
        )


def run_tasks(
    model: LanguageModel,
    tokenizer: Tokenizer,
    files: Sequence[Path],
    batch_size: int,
    limit: int | None,
) -> Section:
    """Return the table of `--tasks`.

    files: YAML descriptions of tasks. Paths in them are relative to the current folder, as for the
    harness itself. A file may name Python functions beside it, which are run. limit: the most
    documents of each task; None for all.

    Raises MissingFileError for a missing file, and UserError for one that the harness can't use.
    """
    from lm_eval import evaluate
    from lm_eval.tasks import TaskManager

    for name in ("lm_eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    asked = HarnessModel(model, tokenizer, batch_size)
    results: dict[str, dict[str, Any]] = {}
    for file in files:
        if not file.is_file():
            raise MissingFileError(f"there is no file {file}: expected a task's YAML")
        try:
            # The tasks of a group are in files beside its own.
            beside = [file.parent] if re.search(rb"(?m)^group:", file.read_bytes()) else None
            manager = TaskManager(include_path=beside, include_defaults=False)
            loaded = manager.load([str(file)])
            for task in loaded["tasks"].values():
                if task.get_config("num_fewshot") is None:
                    task.set_config(key="num_fewshot", value=0)
                task.set_fewshot_seed(seed=SEED)
            found = evaluate(
                asked, loaded, limit=limit, bootstrap_iters=BOOTSTRAP, log_samples=False
            )
        except (UserError, MemoryError):
            raise
        except Exception as error:  # the harness and the libraries under it raise all kinds
            is_refused = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
            if is_refused or _is_ours(error):
                raise
            what = one_line(f"{type(error).__name__}: {error}")
            raise UserError(f"{file} is no task that can be evaluated: {what}") from error
        for task, values in found["results"].items():
            results[task] = {**values, "documents": found["n-samples"][task]["effective"]}
    return _section(results)


def _is_ours(error: BaseException) -> bool:
    """Return whether an error that `run_tasks` caught was raised while the model answered."""
    modules = [frame.f_globals["__name__"] for frame, _ in walk_tb(error.__traceback__)]
    return any(module.startswith("gptfast.") for module in modules[1:])  # the first is this one


def _section(results: dict[str, dict[str, Any]]) -> Section:
    rows = []
    numbers: dict[str, Any] = {}
    for task, values in results.items():
        numbers[task] = {"documents": values["documents"]}
        for key, value in values.items():
            name, _, by_filter = key.partition(",")
            if not by_filter or name.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = values.get(f"{name}_stderr,{by_filter}")
            known = isinstance(error, (int, float)) and math.isfinite(error)
            shown = name if by_filter == "none" else f"{name} ({by_filter})"
            numbers[task][shown] = {"value": value, "standard_error": error if known else None}
            spread = f" ± {error:.4f}" if known else ""
            rows.append((task, shown, f"{value:.4f}{spread}", f"{values['documents']:,}"))
    columns = ("task", "measure", "value", "documents")
    return Section("tasks", "tasks of lm-evaluation-harness", columns, tuple(rows), numbers)
