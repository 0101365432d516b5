"""`gptfast serve`: an HTTP server with OpenAI's API, and pages to try a model and ask documents."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gptfast.cli import cli
from gptfast.errors import MissingFileError, RunError, UserError
from gptfast.rag.ask_options import WriterOptions

if TYPE_CHECKING:
    from gptfast.serve.documents import Documents
    from gptfast.serve.site import Site

MODULE = "gptfast.serve"


@dataclass(frozen=True)
class ServeConfig:
    """Serve a model folder on this machine: OpenAI's API, and a page to try it in.

    With --rag, serve a page that asks an index of documents: beside the model, or alone.

    Needs the extra `serve`: pip install "gptfast[serve]". Ctrl-C or SIGTERM stops it, after the
    requests that it has accepted.
    """

    folder: Annotated[Path | None, tyro.conf.Positional] = None
    """The model folder, such as runs/shakespeare. With --rag, it may be left out."""
    rag: Path | None = None
    """The folder of an index, which `gptfast rag index` has made. Its page is at /documents, and
    without a model at / as well."""
    port: int = 8000
    """The TCP port; 0 for a free one, which is printed."""
    host: str = "127.0.0.1"
    """The address to listen on. 0.0.0.0 lets other machines in: give an --api-key-file then."""
    api_key_file: Path | None = None
    """A file with a key on each line. Requests must name one of them, as OpenAI's clients do."""
    parallel: int = 8
    """Texts that are written at once. Each takes memory for a context of keys and values."""
    max_waiting: int = 1024
    """Texts that may wait for their turn. Further requests get 503, and may try again."""
    drain_seconds: float = 30.0
    """How long requests may go on after the signal to stop. Clients then have five more seconds to
    read their last bytes."""
    device: str = "auto"
    """'auto' (CUDA if there is one), 'cpu', 'cuda' or 'cuda:1'."""
    writer: Annotated[WriterOptions, tyro.conf.arg(name="")] = field(default_factory=WriterOptions)

    def __post_init__(self) -> None:
        if self.folder is None and self.rag is None:
            raise UserError("nothing to serve: expected a model folder, or --rag INDEX")
        if self.rag is None and self.writer.generate is not None:
            raise UserError("--generate was given without --rag: it writes from quotes of an index")
        for name in ("parallel", "max_waiting"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected at least 1")
        if not 0 <= self.port < 2**16:
            raise UserError(f"port is {self.port}: expected 0 to 65535")
        if not 0 <= self.drain_seconds <= 86_400:
            raise UserError(f"drain_seconds is {self.drain_seconds}: expected 0 to 86400")


def main(argv: Sequence[str]) -> int:
    """Serve until a signal comes. Return 0."""
    config = cli.parse(ServeConfig, argv, f"python -m {MODULE}")
    keys = [] if config.api_key_file is None else read_keys(config.api_key_file)
    # Imported late: PyTorch takes two seconds, which `--help` and a wrong flag don't need.
    try:
        from gptfast.serve.server import Server, allow_connections, listen
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UserError(
            f'serving needs a library ({error}): pip install "gptfast[serve]"'
        ) from error
    from gptfast.serve.limits import BodyLimits
    from gptfast.serve.site import Site
    from gptfast.system.threads import share_cores

    documents = None if config.rag is None else _documents(config.rag, config.writer)
    if config.folder is None:
        site = Site(BodyLimits(), documents, keys, is_loopback(config.host))
        name = f"the documents of {config.rag}"
    else:
        site = _service(config, config.folder, keys, documents)
        name = config.folder.resolve().name
    with listen(config.host, config.port) as listener, share_cores():
        allow_connections()
        server = Server(site.app(), site, config.drain_seconds)
        host = f"[{config.host}]" if ":" in config.host else config.host
        print(f"serving {name} on http://{host}:{listener.getsockname()[1]}", flush=True)
        if not keys and not is_loopback(config.host):
            print(
                "note: without --api-key-file, anyone who reaches the port may use it", flush=True
            )
        if config.folder is not None and not find_spec("llguidance"):
            _note_grammar(config.folder)
        server.run([listener])
    if site.has_failed:
        raise RunError("the thread of the engine has failed: its traceback is above")
    return 0


def _service(
    config: ServeConfig, folder: Path, keys: Sequence[str], documents: Documents | None
) -> Site:
    from gptfast.model.device import resolve_device
    from gptfast.model.folder import load_model
    from gptfast.sample.engine import Engine
    from gptfast.serve.app import Service
    from gptfast.serve.limits import Limits
    from gptfast.tokenizer.chat import ChatTemplate, read_chat_template

    model, tokenizer = load_model(folder)
    model.to(resolve_device(config.device))
    source = read_chat_template(folder)
    return Service(
        model,
        Engine(model, tokenizer, n_slots=config.parallel, max_waiting=config.parallel),
        tokenizer,
        folder.resolve().name,
        Limits(model.config.block_size, config.parallel, config.max_waiting),
        None if source is None else ChatTemplate(source, tokenizer),
        keys,
        is_loopback(config.host),
        documents,
    )


def _note_grammar(folder: Path) -> None:
    from gptfast.tokenizer.chat import read_chat_template

    if read_chat_template(folder) is not None:
        print('note: response_format needs pip install "gptfast[grammar]"', flush=True)


def _documents(index: Path, options: WriterOptions) -> Documents:
    from gptfast.rag.ask import Asker
    from gptfast.rag.library import Library
    from gptfast.rag.writers import make_writer
    from gptfast.serve.documents import Documents

    return Documents(Library(Asker(index, writer=make_writer(options)), index))


def read_keys(file: Path) -> list[str]:
    """Return the keys in a file, one on each line. Raises MissingFileError or UserError."""
    if not file.is_file():
        raise MissingFileError(f"there is no file {file}: expected a key on each line")
    keys = [line.strip() for line in cli.read_text(file).splitlines() if line.strip()]
    if not keys or not all(key.isascii() and key.isprintable() for key in keys):
        raise UserError(f"{file} has no key, or one that no header can hold: expected ASCII")
    return keys


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(cli.run(main))
