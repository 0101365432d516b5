"""`python -m gptfast.sample`: generate text with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gptfast.cli import cli
from gptfast.cli.path import PATH
from gptfast.errors import UserError
from gptfast.sample.config import SamplingConfig, check_seed

if TYPE_CHECKING:
    from gptfast.model import LanguageModel
    from gptfast.sample.processors import LogitsProcessor
    from gptfast.sample.request import Generation
    from gptfast.sample.speculate import Draft
    from gptfast.tokenizer import Tokenizer


GRAMMARS = ("json_schema", "grammar", "regex")
"""Options that give samples a grammar."""


@dataclass(frozen=True)
class SampleConfig:
    """What to sample, and how."""

    model: Path
    """The model folder, such as runs/shakespeare."""
    prompt: str = ""
    """Text to continue. If it is longer than the model's context, the model sees its end. Without a
    prompt, the model continues a line break; to begin a document, give --prompt '<|endoftext|>'
    --allow-special."""
    prompt_file: Annotated[str | None, PATH, tyro.conf.arg(metavar="FILE")] = None
    """A UTF-8 file with the prompt, line break at its end included; - for standard input."""
    allow_special: bool = False
    """Read special tokens such as <|endoftext|> in the prompt as tokens, not as ordinary text."""
    max_new_tokens: int = 300
    """Most tokens to write. The end-of-text token ends a sample earlier."""
    n_samples: int = 1
    """Number of continuations to write."""
    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(
        default_factory=SamplingConfig
    )
    stop: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A text that ends a sample before it, wherever it appears. May be given several times."""
    interactive: bool = False
    """Ask for a text to continue, again and again. Ctrl-C stops a text, Ctrl-D the program."""
    chat: bool = False
    """Ask for one message after another, and answer each. Needs a model with a chat template."""
    draft: Path | None = None
    """A smaller model folder with the same tokenizer. Its guesses make a single sample faster and
    leave its text as it is."""
    prompt_lookup: bool = False
    """Guess that the text repeats itself and the prompt, for the same effect without a model."""
    json_schema: Annotated[str | None, PATH, tyro.conf.arg(metavar="FILE")] = None
    """A file with a JSON schema that samples keep to. Needs the extra `grammar`."""
    grammar: Annotated[str | None, PATH, tyro.conf.arg(metavar="FILE")] = None
    """A file with a grammar in llguidance's Lark that samples keep to."""
    regex: str | None = None
    """A regular expression that a sample matches as a whole."""
    seed: int = 1337
    """The same seed gives the same text. Sample i uses seed + i."""
    device: str = "auto"
    """'auto' (CUDA if there is one), 'cpu', 'cuda' or 'cuda:1'."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in ("max_new_tokens", "n_samples"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.prompt and self.prompt_file is not None:
            raise UserError("both --prompt and --prompt-file were given: expected one of them")
        asks = self.interactive or self.chat
        if asks and (self.prompt or self.prompt_file is not None or self.n_samples > 1):
            raise UserError(
                "interactive and chat ask for one prompt after another: leave out --prompt, "
                "--prompt-file and --n-samples"
            )
        if self.chat and self.allow_special:
            raise UserError(
                "a message never becomes a special token: leave out --allow-special or --chat"
            )
        _at_most_one(self, "draft", "prompt_lookup")
        _at_most_one(self, *GRAMMARS)
        if self.n_samples > 1 and (self.draft is not None or self.prompt_lookup):
            raise UserError(
                "--draft and --prompt-lookup make a single sample faster: leave out --n-samples"
            )
        if self.prompt_file == "":
            raise UserError("prompt_file is empty: expected a UTF-8 file, or - for standard input")


def main(argv: Sequence[str]) -> int:
    """Stream the samples to standard output. Return 0."""
    config = cli.parse(SampleConfig, argv, "python -m gptfast.sample")
    # Imported late: PyTorch takes two seconds, which `--help` and a wrong flag don't need.
    from gptfast.model.device import resolve_device
    from gptfast.model.folder import load_model
    from gptfast.sample.chat import chat, template_for
    from gptfast.sample.engine import Engine
    from gptfast.sample.generate import default_prompt, pieces
    from gptfast.sample.interactive import converse
    from gptfast.sample.request import Request
    from gptfast.sample.speculate import Speculation
    from gptfast.system.threads import share_cores
    from gptfast.tokenizer.chat import read_chat_template

    text = config.prompt if config.prompt_file is None else cli.read_text(Path(config.prompt_file))
    model, tokenizer = load_model(config.model)
    model.to(resolve_device(config.device))
    allowed = frozenset(tokenizer.special_tokens) if config.allow_special else frozenset[str]()

    def encode(text: str) -> list[int]:
        spelled = [name for name in tokenizer.special_tokens if name in text]
        if spelled and not config.allow_special:
            _note(
                f"{' '.join(spelled)} in the prompt is ordinary text: --allow-special makes it a "
                f"token"
            )
        ids = tokenizer.encode(text, allowed) or default_prompt(tokenizer)
        if len(ids) > model.config.block_size:
            _note(
                f"the prompt has {len(ids)} tokens, the model sees the last "
                f"{model.config.block_size}"
            )
        return ids

    def note_if_cut(sample: Generation) -> None:
        if sample.finish_reason == "length" and sample.request.processors:
            _note(
                f"the text was cut after {len(sample.ids)} tokens, so its grammar may go on: give "
                f"a larger --max-new-tokens"
            )

    draft = _draft(config, model, tokenizer)
    request = Request(
        () if config.interactive else encode(text),
        config.max_new_tokens,
        config.sampling,
        config.seed,
        tokenizer.stop_tokens,
        config.stop,
        _processors(config, tokenizer),
    )
    if config.chat:
        template = template_for(read_chat_template(config.model), tokenizer)
        with share_cores():
            chat(model, tokenizer, template, request, draft)
        return 0
    with share_cores():
        engine = Engine(
            model,
            tokenizer,
            n_slots=min(config.n_samples, 8),
            max_waiting=config.n_samples,
            speculation=None if draft is None else Speculation(draft),
        )
        if config.interactive:
            converse(engine, request, encode, note_if_cut)
            return 0
        for i, sample in enumerate(engine.submit(request, config.n_samples)):
            if i:
                print("\n---")
            print(text, end="", flush=True)
            for piece in pieces(engine, sample):
                print(piece, end="", flush=True)
            print()
            note_if_cut(sample)
    return 0


def _is_given(config: SampleConfig, name: str) -> bool:
    return getattr(config, name) not in (None, False)


def _at_most_one(config: SampleConfig, *names: str) -> None:
    given = [f"--{name.replace('_', '-')}" for name in names if _is_given(config, name)]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} were given: expected one of them")


def _draft(config: SampleConfig, model: LanguageModel, tokenizer: Tokenizer) -> Draft | None:
    from gptfast.model.folder import load_model
    from gptfast.sample.speculate import DraftModel, PromptLookup

    if config.prompt_lookup:
        return PromptLookup()
    if config.draft is None:
        return None
    smaller, its_tokenizer = load_model(config.draft)
    if its_tokenizer != tokenizer:
        raise UserError(
            f"{config.draft} has another tokenizer than {config.model}: its guesses would be other "
            f"tokens; expected a model that was trained with the same one"
        )
    return DraftModel(smaller.to(next(model.parameters()).device), tokenizer.n_vocab)


def _processors(config: SampleConfig, tokenizer: Tokenizer) -> tuple[LogitsProcessor, ...]:
    if not any(_is_given(config, name) for name in GRAMMARS):
        return ()
    from gptfast.sample.grammar import Grammar

    if config.regex is not None:
        return (Grammar(tokenizer, config.regex, "regex"),)
    if config.json_schema is not None:
        source = cli.read_text(Path(config.json_schema))
        return (Grammar(tokenizer, source, "json_schema"),)
    return (Grammar(tokenizer, cli.read_text(Path(str(config.grammar))), "lark"),)


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(cli.run(main))
