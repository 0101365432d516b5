"""The front door for Python: train or load a model, let it write, measure it.

>>> from gptfast import LLM
>>> llm = LLM.train("my.txt", preset="shakespeare-20s")        # doctest: +SKIP
>>> print(llm.generate("Once upon a time"))                    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptfast.cli import cli
from gptfast.cli.printing import lossy_output
from gptfast.data.loader import EvalWindows
from gptfast.errors import UserError, check_at_least
from gptfast.model import LanguageModel
from gptfast.model.config import ModelConfig, RopeScaling
from gptfast.model.device import resolve_device
from gptfast.model.finite import check_weights
from gptfast.model.folder import load_model
from gptfast.sample.chat import template_for
from gptfast.sample.config import SamplingConfig, SamplingOptions
from gptfast.sample.generate import default_prompt, generate_batch, stream, write_sample
from gptfast.sample.processors import LogitsProcessor
from gptfast.sample.request import Generation, Request
from gptfast.sample.speculate import Draft
from gptfast.system import cpu
from gptfast.tokenizer import Tokenizer
from gptfast.tokenizer.chat import read_chat_template
from gptfast.train.__main__ import parse_config
from gptfast.train.config import TrainConfig
from gptfast.train.evaluate import bits_per_byte, evaluate
from gptfast.train.pretrain import pretrain

if TYPE_CHECKING:
    from typing_extensions import Unpack

SAMPLE_TOKENS = 150
"""Length of the samples that a run writes on a terminal."""
WINDOWS_AT_A_TIME = 8
"""Windows that `LLM.loss` evaluates at once."""


@dataclass(frozen=True)
class Loss:
    """How well a model predicts a text: lower is better."""

    nats_per_token: float
    """The mean cross entropy."""
    bits_per_byte: float
    """The same per byte of UTF-8, by which models with different tokenizers compare."""


class LLM:
    """A language model and its tokenizer. Text in, text out."""

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer, chat_template: str | None = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.chat_template = chat_template

    def __repr__(self) -> str:
        kind, n = self.model.config.architecture, self.model.n_parameters()
        return f"LLM({kind}, {n:,} parameters, {self.tokenizer!r})"

    @classmethod
    def train(
        cls,
        corpus: str | Path,
        *,
        preset: str = TrainConfig.preset,
        out: str | Path | None = None,
        init_from: str | Path | None = None,
        verbose: bool = True,
        **settings: Any,
    ) -> LLM:
        """Train a model as `gptfast train` does, and return it with its best weights.

        corpus: a text file, a folder, a glob, a prepared folder or a name such as 'shakespeare'.
        out: the model folder to write; by default the preset's. init_from: a model folder to start
        from. verbose: print progress. settings: fields of TrainConfig or ModelConfig, such as
        max_steps=50 or n_layer=2. resume=True continues a run in `out`, overwrite=True replaces it.

        Raises UserError for what can't be trained, MissingFileError, RunError if the run fails, and
        KeyboardInterrupt if a signal stopped it, after a checkpoint was saved.
        """
        given = {"corpus": str(corpus), "preset": preset, **settings}
        for name, path in (("out", out), ("init_from", init_from)):
            if path is not None:
                given[name] = str(path)
        config = parse_config(_flags(given))
        console = cli.console()
        console.quiet = not verbose
        if cpu.notice:
            console.print(f"note: {cpu.notice}")
        written = ", ".join(f"{name}={value!r}" for name, value in given.items())
        with lossy_output():
            result = pretrain(
                config,
                f"gptfast.LLM.train({written})",
                console,
                lambda model, tokenizer: write_sample(model, tokenizer, SAMPLE_TOKENS, config.seed),
            )
        if result is None:
            raise KeyboardInterrupt(f"stopped and saved in {config.out}: resume=True continues")
        bits = result.measured["val_bits_per_byte"]
        console.print(f"val loss {result.val_loss:.4f} nats/token, {bits:.3f} bits/byte")
        return cls.load(config.out, device=config.device)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "auto",
        rope_scaling: RopeScaling = "none",
        rope_factor: float = 1.0,
    ) -> LLM:
        """Load a model folder onto a device: 'auto' (CUDA if there is one), 'cpu' or 'cuda:1'.

        rope_scaling, rope_factor: as for `gptfast.load`. Raises as it does, and UserError for a
        device that this machine doesn't have.
        """
        place = resolve_device(device)
        model, tokenizer = load_model(folder, rope_scaling=rope_scaling, rope_factor=rope_factor)
        return cls(model.to(place), tokenizer, read_chat_template(Path(folder)))

    def generate(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 300,
        stop: str | Sequence[str] = (),
        seed: int = 1337,
        processors: Sequence[LogitsProcessor] = (),
        draft: Draft | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> str:
        """Return text that follows the prompt, without it. The same seed writes the same text.

        stop: a text, or several; the first to appear ends the text before it. sampling: fields of
        `SamplingConfig`, such as temperature=0.5. processors: change the logits, such as
        `Grammar(llm.tokenizer, schema, "json_schema")` (sample/grammar.py). draft: makes the text
        faster and changes nothing else, such as `PromptLookup()` or `DraftModel(small.model)`
        (sample/speculate.py). The end-of-text token ends the text, too. The model is in evaluation
        mode afterwards. Raises UserError for impossible options.
        """
        request = self._request(prompt, max_new_tokens, stop, seed, sampling, processors)
        return "".join(stream(self.model.eval(), self.tokenizer, request, draft))

    def stream(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 300,
        stop: str | Sequence[str] = (),
        seed: int = 1337,
        processors: Sequence[LogitsProcessor] = (),
        draft: Draft | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Iterator[str]:
        """Yield the text that `generate` returns, piece by piece as the model writes it."""
        request = self._request(prompt, max_new_tokens, stop, seed, sampling, processors)
        return stream(self.model.eval(), self.tokenizer, request, draft)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_new_tokens: int = 300,
        stop: str | Sequence[str] = (),
        seed: int = 1337,
        processors: Sequence[LogitsProcessor] = (),
        draft: Draft | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> str:
        """Return the assistant's next message, with the options of `generate`.

        messages: dicts with "role" and "content", both texts, such as [{"role": "user", "content":
        "Hello"}]. If they have more tokens than the model's context, the model sees the last of
        these. Raises UserError for a model without a chat template, and if the template refuses the
        messages.
        """
        request = self._request("", max_new_tokens, stop, seed, sampling, processors)
        prompt = template_for(self.chat_template, self.tokenizer).encode(messages)
        asked = replace(request, prompt=prompt)
        return "".join(stream(self.model.eval(), self.tokenizer, asked, draft))

    def generate_batch(
        self,
        prompts: Sequence[str],
        *,
        n: int = 1,
        max_new_tokens: int = 300,
        stop: str | Sequence[str] = (),
        seed: int = 1337,
        top_logprobs: int | None = None,
        processors: Sequence[LogitsProcessor] = (),
        **sampling: Unpack[SamplingOptions],
    ) -> list[Generation]:
        """Return n continuations of each prompt: continuation j of prompt i is element i * n + j.

        They are written together, up to 8 at a time. Continuation j has the seed `seed + j`, so
        each `text` is what `generate` returns. top_logprobs: how many of the likeliest tokens to
        give in `logprobs` for each token; 0 for the token alone, None for no `logprobs`.
        """
        if isinstance(prompts, str):
            raise UserError("prompts is a text: expected several, such as [text]")
        requests = [
            replace(
                self._request(prompt, max_new_tokens, stop, seed, sampling, processors),
                top_logprobs=top_logprobs,
            )
            for prompt in prompts
        ]
        written = generate_batch(self.model.eval(), self.tokenizer, requests, n=n)
        return [text for of_prompt in written for text in of_prompt]

    def _request(
        self,
        prompt: str,
        max_new_tokens: int,
        stop: str | Sequence[str],
        seed: int,
        sampling: SamplingOptions,
        processors: Sequence[LogitsProcessor],
    ) -> Request:
        check_at_least("max_new_tokens", max_new_tokens, 1)
        for name in sampling:
            if name not in SamplingOptions.__annotations__:
                raise _unknown("option", name, SamplingOptions.__annotations__, "SamplingConfig")
        return Request(
            self.tokenizer.encode_ordinary(prompt) or default_prompt(self.tokenizer),
            max_new_tokens,
            SamplingConfig(**sampling),
            seed,
            self.tokenizer.stop_tokens,
            (stop,) if isinstance(stop, str) else stop,
            processors,
        )

    def loss(self, text: str) -> Loss:
        """Return how well the model predicts a text, each token but the first once.

        A text longer than the model's context is cut into windows that don't overlap. Raises
        UserError if the text has fewer than two tokens or characters that the tokenizer lacks, and
        for a model whose weights are not finite.
        """
        check_weights(self.model)
        ids = self.tokenizer.encode_to_numpy(text)
        if len(ids) < 2:
            raise UserError(
                f"the text has {len(ids)} tokens: expected at least 2, as the first token is not "
                f"predicted"
            )
        n_predicted = len(ids) - 1
        block_size = min(self.model.config.block_size, n_predicted)
        nats = evaluate(self.model, EvalWindows(ids, block_size, WINDOWS_AT_A_TIME))
        n_bytes = len(self.tokenizer.decode_bytes(ids[1:]))
        return Loss(nats, bits_per_byte(nats, n_bytes / n_predicted))


def _flags(settings: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `gptfast train` for settings.

    Raises UserError for an unknown name.
    """
    known = {field.name for config in (TrainConfig, ModelConfig) for field in fields(config)}
    known.remove("model")  # given field by field
    flags = []
    for name, value in settings.items():
        if name not in known:
            raise _unknown("setting", name, known, "TrainConfig or ModelConfig")
        flag = name.replace("_", "-")
        if isinstance(value, (list, tuple)):
            flags += [f"--{flag}", *map(str, value)]
        elif isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags.append(f"--{flag}={value}")
    return flags


def _unknown(kind: str, name: str, known: Iterable[str], where: str) -> UserError:
    near = get_close_matches(name, known, n=1)
    meant = f"; perhaps you meant {near[0]}" if near else ""
    return UserError(f"no {kind} {name!r}: expected a field of {where}{meant}")
