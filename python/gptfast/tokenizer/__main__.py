"""`python -m gptfast.tokenizer`: train a tokenizer, use it, and see what it does to text."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from gptfast.audit import CHARACTERS, WORDS, audit
from gptfast.audit.compression import bytes_per_token
from gptfast.audit.probes import KINDS, probe
from gptfast.audit.report import print_audit, save
from gptfast.cli import cli
from gptfast.cli.printing import lossy_output
from gptfast.data.beginning import check_text, first_texts
from gptfast.data.documents import ReadOptions, ReadReport, find_files, read_blocks
from gptfast.data.encode import encode_files
from gptfast.data.shard import Shard
from gptfast.data.train_tokenizer import train_tokenizer
from gptfast.errors import UserError
from gptfast.system.escape import escaped
from gptfast.system.files import make_folder
from gptfast.tokenizer import BPETokenizer, Tokenizer
from gptfast.tokenizer.options import (
    Add,
    Audit,
    Decode,
    Encode,
    Extend,
    Show,
    TokenizerConfig,
    Train,
)
from gptfast.tokenizer.published import as_bpe, open_tokenizer
from gptfast.tokenizer.saving import check_out, save_tokenizer
from gptfast.tokenizer.show import show

MODULE = "gptfast.tokenizer"
SAMPLE_BYTES = 10_000_000
IDS_AT_A_TIME = 1_000_000


def main(argv: Sequence[str]) -> int:
    """Run the subcommand. Returns 0."""
    match cli.parse(TokenizerConfig, argv, f"python -m {MODULE}").command:
        case Train() as config:
            with lossy_output():
                run_train(config)
        case Add() as config:
            run_add(config)
        case Extend() as config:
            with lossy_output():
                run_extend(config)
        case Encode() as config:
            with lossy_output() if config.out else nullcontext():  # ids alone must not be lost
                run_encode(config)
        case Decode() as config:
            run_decode(config)
        case Audit() as config:
            with lossy_output() if config.out else nullcontext():
                run_audit(config)
        case Show() as config:
            run_show(config)
    return 0


def run_train(config: Train) -> None:
    """Train and save a tokenizer; print how long it took and how well it compresses."""
    files = find_files(config.files)
    check_out(config.out, config.overwrite)  # before the work, not after it
    names, roles = config.names_and_roles()
    read = config.read.separated_by(roles.eos)
    check_text(files, config.files, read)
    start = time.perf_counter()
    tokenizer = train_tokenizer(
        files,
        config.vocab_size,
        config.pattern,
        names,
        config.min_frequency,
        roles=roles,
        tie=config.tie,
        max_token_length=config.max_token_length,
        options=config.read,
        log=config.out / "tokenizer.skipped.jsonl",
    )
    seconds = time.perf_counter() - start
    save_tokenizer(tokenizer, config.out)
    sample = first_texts(files, SAMPLE_BYTES, read)
    n_read = sum(path.stat().st_size for path in files)
    eos = tokenizer.roles.eos
    print(
        f"{tokenizer.n_vocab:,} tokens learned from {_speed(n_read, seconds)}\n"
        f"{bytes_per_token(tokenizer, sample):.2f} bytes per token on the first "
        f"{sum(len(text.encode()) for text in sample) / 1e6:,.1f} MB of text\n"
        + (f"{eos} ends a document\n" if eos else "no token ends a document: give --eos-token\n")
        + f"saved in {config.out}; see what it does to a text with:\n  "
        + cli.command_line(
            "gptfast.audit", ["tokenizer", "--tokenizer", str(config.out), *config.files]
        )
    )


def _speed(n_bytes: int, seconds: float) -> str:
    megabytes = n_bytes / 1e6
    return f"{megabytes:,.1f} MB in {seconds:.1f} s ({megabytes / seconds:,.0f} MB/s)"


def run_add(config: Add) -> None:
    """Write a tokenizer with further added tokens, and print their ids."""
    tokenizer = config.open()
    if not config.token:
        raise UserError("no token was given: expected --token NAME")
    grown = tokenizer.with_added(config.token, special=config.special)
    check_out(config.out, config.overwrite)
    save_tokenizer(grown, config.out)
    for name in config.token:
        print(f"{grown.token_to_id(name)}  {escaped(name)}")
    _print_sizes(tokenizer, grown, config.out)


def run_extend(config: Extend) -> None:
    """Write a tokenizer with further merges."""
    tokenizer = as_bpe(config.open(), config.tokenizer)
    check_out(config.out, config.overwrite)
    read = config.read.separated_by(tokenizer.roles.eos)
    files = find_files(config.files)
    check_text(files, config.files, read)
    blocks = read_blocks(
        files,
        read,
        safe_cut=tokenizer.safe_cut,
        special_tokens=list(tokenizer.special_tokens),
    )
    grown = tokenizer.extend(
        (block.data for block in blocks),
        config.vocab_size,
        config.min_frequency,
        max_token_length=config.max_token_length,
        n_threads=read.n_threads,
        memory_limit=read.memory_bytes,
    )
    save_tokenizer(grown, config.out)
    _print_sizes(tokenizer, grown, config.out)


def _print_sizes(old: Tokenizer, new: Tokenizer, out: Path) -> None:
    print(f"{new.n_vocab:,} ids, {new.n_vocab - old.n_vocab:,} of them new; saved in {out}")


def run_encode(config: Encode) -> None:
    """Write a shard and describe it, or print ids."""
    tokenizer = config.open()
    if config.out is None:
        if config.files:
            raise UserError("a file was given without --out: expected --out shard.bin")
        print(*_encode(tokenizer, _text(config.text, None), config.allow_special))
        return
    if config.allow_special:
        raise UserError("--allow-special was given with --out: expected it with a text alone")
    if config.text is not None:
        raise UserError("--text was given with --out: expected a file to write a shard of")
    if len(config.files) != 1 or config.files[0].is_dir():
        given = " ".join(map(str, config.files)) or "nothing"
        raise UserError(
            f"{given} was given to encode: expected one file; `gptfast data prepare` makes shards "
            f"of folders and several files"
        )
    report = ReadReport()
    start = time.perf_counter()
    shard = encode_files(
        as_bpe(tokenizer, config.tokenizer),
        config.files[0],
        config.out,
        config.read,
        separator=config.separator,
        report=report,
    )
    seconds = time.perf_counter() - start
    print(
        f"{shard.path}: {shard.count:,} ids of {shard.dtype.itemsize} bytes; encoded "
        f"{_speed(report.bytes_read, seconds)}"
    )


def run_decode(config: Decode) -> None:
    """Write the bytes of the ids to standard output."""
    tokenizer = config.open()
    out = sys.stdout.buffer
    if config.shard is not None:
        if config.ids:
            raise UserError("both ids and --shard were given: expected one of them")
        ids = Shard.open(config.shard).tokens(tokenizer)
        for start in range(0, len(ids), IDS_AT_A_TIME):
            out.write(tokenizer.decode_bytes(ids[start : start + IDS_AT_A_TIME]))
    else:
        given = " ".join(config.ids) or _text(None, None)
        out.write(tokenizer.decode_bytes(_ids(given)))
    if sys.stdout.isatty():
        print()
    sys.stdout.flush()


def _ids(text: str) -> list[int]:
    """Return the ids in a text like `12 7` or `[12, 7]`."""
    words = re.sub(r"[\[\],]", " ", text).split()
    for word in words:
        if not word.isdecimal():
            raise UserError(
                f"{word!r} is not an id: expected integers separated by spaces or commas"
            )
    return [int(word) for word in words]


def run_audit(config: Audit) -> None:
    """Print the audit, and save it if a folder was given."""
    tokenizers: dict[str, BPETokenizer] = {}
    for name, path in [(_name(config.tokenizer), config.tokenizer), *map(_named, config.against)]:
        if name in (*tokenizers, CHARACTERS, WORDS):
            raise UserError(f"two tokenizers are named {name!r}: give --against another name")
        pattern = None if tokenizers else config.pattern
        tokenizers[name] = as_bpe(open_tokenizer(path, pattern), path)
    if config.out is not None:
        make_folder(config.out)
    read = config.to_read().separated_by(next(iter(tokenizers.values())).roles.eos)
    texts = _texts(config.files, read) if config.files else [probe(kind) for kind in KINDS]
    learned_from = _texts(config.learned_from, read) if config.learned_from else None
    result = audit(tokenizers, texts, learned_from)
    console = cli.console()
    print_audit(result, console)
    if config.out is not None:
        save(result, config.out)
        console.print(f"\nsaved in {config.out}: audit.json, audit.png")


def _name(path: Path) -> str:
    """Return the name of a tokenizer in tables: its folder's, or a rank file's without suffix."""
    path = path.resolve()
    if path.name == "tokenizer.json":
        return escaped(path.parent.name)
    return escaped(path.name if path.is_dir() else path.stem)


def _named(argument: str) -> tuple[str, Path]:
    name, equals, path = argument.partition("=")
    if not (name and equals and path):
        raise UserError(
            f"--against is {argument!r}: expected NAME=PATH, such as gpt2=gpt2.tiktoken"
        )
    return escaped(name), cli.path(path)


def _texts(files: Sequence[str], options: ReadOptions) -> list[str]:
    return [block.data.decode() for block in read_blocks(files, options)]


def run_show(config: Show) -> None:
    """Print the text with its tokens visible, then how many there are."""
    tokenizer = config.open()
    if config.text is not None and config.file is not None:
        raise UserError("both a text and --file were given: expected one of them")
    text = _text(config.text, config.file)
    ids = _encode(tokenizer, text, config.allow_special)
    console = cli.console()
    show(ids, tokenizer, console, config.ids)
    console.print(f"\n{len(ids):,} tokens, {len(text):,} characters, {len(text.encode()):,} bytes")


def _text(given: str | None, file: Path | None) -> str:
    """Return the given text, the text in the file, or standard input."""
    if given is not None:
        return given
    if file is not None:
        return cli.read_text(file)
    try:
        return _standard_input("text").decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input is not UTF-8 text (byte {error.start}): convert it"
        ) from None


def _encode(tokenizer: Tokenizer, text: str, allow_special: bool) -> list[int]:
    return tokenizer.encode(text, "all") if allow_special else tokenizer.encode_ordinary(text)


def _standard_input(wanted: str) -> bytes:
    if sys.stdin.isatty():
        raise UserError(f"no {wanted} was given: give it as an argument or on standard input")
    return sys.stdin.buffer.read()


if __name__ == "__main__":
    sys.exit(cli.run(main))
