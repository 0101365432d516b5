"""What users type and paste: paths, prompts, special tokens, wrong flags, bug reports."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gptfast.cli import cli
from gptfast.data.options import DataConfig
from gptfast.doctor import machine
from gptfast.doctor.__main__ import main as doctor
from gptfast.errors import UserError
from gptfast.model import ModelConfig, build_model
from gptfast.model.folder import save_description, save_weights
from gptfast.ops import backends
from gptfast.sample.__main__ import SampleConfig
from gptfast.sample.__main__ import main as sample
from gptfast.sample.request import Request
from gptfast.system.files import cache_path
from gptfast.system.threads import limit_spinning
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.__main__ import main as tokenizer_command
from gptfast.tokenizer.options import TokenizerConfig
from gptfast.train.__main__ import main as train
from gptfast.train.__main__ import parse_config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, untrained."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = BPETokenizer.train(["the crow sees the moon\n"] * 9, 270)
    config = ModelConfig(tokenizer.n_vocab, block_size=16, n_layer=1, n_head=2, n_embd=16)
    save_description(folder, config, tokenizer)
    save_weights(build_model(config), folder / "model.safetensors")
    return folder


# ---- paths -------------------------------------------------------------------------------------


def test_paths_that_no_shell_expands_are_expanded(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = str(model.parent)
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("USERPROFILE", home)
    here = f"~/{model.name}"

    config = parse_config(
        ["--out=~/x", "--corpus=~/y.txt", "--tokenizer=~", "--mix-corpora", "~/z"]
    )
    assert config.out == Path(home, "x")
    assert (config.corpus, config.tokenizer) == (f"{home}/y.txt", home)
    assert config.mix_corpora == (f"{home}/z",)
    assert parse_config([f"--init-from={here}"]).init_from == model
    assert parse_config([]).corpus == "shakespeare"
    monkeypatch.setenv("GPTFAST_CACHE", "~/cache")
    assert cache_path() == Path(home, "cache")

    data: Any = ["prepare", "~/a.txt", "b~/~c.txt", "--out=~/d", "--tokenizer=~/t"]
    prepare: Any = cli.parse(DataConfig, data, "data").command
    assert prepare.files == (f"{home}/a.txt", "b~/~c.txt")
    assert (prepare.out, prepare.tokenizer) == (Path(home, "d"), Path(home, "t"))

    encode: Any = ["encode", "~/a.txt", "--out=~/a.bin", f"--tokenizer={here}", "--separator=~/"]
    parsed: Any = cli.parse(TokenizerConfig, encode, "tokenizer").command
    assert (*parsed.files, parsed.out) == (Path(home, "a.txt"), Path(home, "a.bin"))
    assert parsed.separator == "~/"  # which is text

    spoken = cli.parse(SampleConfig, [f"--model={here}", "--prompt=~/x"], "sample")
    assert (spoken.model, spoken.prompt) == (model, "~/x")


# ---- special tokens and prompts: transformers#1244, ttok#13 --------------------------------------


def test_special_tokens_in_a_prompt_are_tokens_if_allowed(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    oracle = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    text = "the crow<|endoftext|>the moon"
    encode = ["encode", "--tokenizer", str(model), "--text", text]
    assert cli.run(tokenizer_command, [*encode, "--allow-special"]) == 0
    assert capsys.readouterr().out.split() == [str(i) for i in oracle.encode(text).ids]
    show = ["show", text, "--tokenizer", str(model), "--allow-special"]
    assert cli.run(tokenizer_command, show) == 0
    assert f"\n{len(oracle.encode(text).ids)} tokens, " in capsys.readouterr().out
    assert cli.run(tokenizer_command, [*encode, "--out", "x.bin", "--allow-special"]) == 2
    assert "--allow-special was given with --out" in capsys.readouterr().err


def test_a_sample_can_begin_after_the_end_of_a_text(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts: list[list[int]] = []

    def submit(_: object, request: Request, __: int) -> list[object]:
        prompts.append(list(request.prompt))
        return []

    monkeypatch.setattr("gptfast.sample.engine.Engine.submit", submit)
    eot = json.loads((model / "tokenizer.json").read_text())["added_tokens"][0]["id"]
    command = ["--model", str(model), "--prompt", "<|endoftext|>"]
    assert cli.run(sample, [*command, "--allow-special"]) == 0
    assert capsys.readouterr() == ("", "")
    assert cli.run(sample, command) == 0
    assert prompts[0] == [eot]
    assert eot not in prompts[1]
    assert capsys.readouterr().err == (
        "note: <|endoftext|> in the prompt is ordinary text: --allow-special makes it a token\n"
    )


@pytest.mark.parametrize("where", ["a file", "standard input"])
def test_a_prompt_can_come_from_a_file(
    where: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "the crow\nsees: é\n"
    (tmp_path / "prompt.txt").write_bytes(text.encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), "ascii"))
    file = str(tmp_path / "prompt.txt") if where == "a file" else "-"
    options = ["--model", str(model), "--max-new-tokens", "1", "--prompt-file"]
    assert cli.run(sample, [*options, file]) == 0
    assert capsys.readouterr().out.startswith(text)


def test_every_sample_begins_with_the_prompt(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model", str(model), "--prompt", "the crow", "--n-samples", "3"]
    assert cli.run(sample, [*command, "--temperature", "0", "--max-new-tokens", "9"]) == 0
    samples = capsys.readouterr().out.split("\n---\n")
    assert len(samples) == 3
    assert samples[0].startswith("the crow")
    assert {text.rstrip("\n") for text in samples} == {samples[0].rstrip("\n")}


@pytest.mark.parametrize("text", ["日本", "the crow é", "~ ☃"])
def test_a_text_is_read_as_utf8_in_every_locale(text: str) -> None:
    """Where Python reads arguments as ASCII, as with LC_ALL=C, each byte becomes a surrogate."""
    given = text.encode().decode("ascii", "surrogateescape")
    config = cli.parse(SampleConfig, [f"--model=/{given}", f"--prompt={given}"], "sample")
    assert config.prompt == text
    assert config.model == Path(f"/{given}")  # by which this Python finds the file
    tokens: Any = ["train", "a", "--out=b", f"--special-tokens={given}"]
    assert cli.parse(TokenizerConfig, tokens, "tokenizer").command.special_tokens == (text,)
    compared: Any = ["audit", "--tokenizer=t", f"--against=n={given}"]
    assert cli.parse(TokenizerConfig, compared, "tokenizer").command.against == (f"n={given}",)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("writes", "code"), [(True, 0), (False, 1)], ids=["a shard", "ids, which would be lost"]
)
def test_a_shard_that_is_written_outlasts_what_is_printed(
    writes: bool,
    code: int,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.txt").write_text("the crow\n", encoding="utf-8")
    shard = [str(tmp_path / "a.txt"), "--out", str(tmp_path / "a.bin")]
    encode = ["encode", "--tokenizer", str(model), *(shard if writes else ["--text", "crow"])]
    with monkeypatch.context() as patch, open("/dev/full", "w", encoding="utf-8") as lost:
        patch.setattr(sys, "stdout", lost)
        assert cli.run(tokenizer_command, encode) == code
    assert (tmp_path / "a.bin").exists() == writes
    error = capsys.readouterr().err
    assert error.startswith("note: output was dropped" if writes else "error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt-file", ""], "prompt_file is empty: expected a UTF-8 file, or - for"),
        (["--prompt-file", "{tmp}/none"], "there is no file {tmp}/none: expected a text"),
        (["--prompt-file", "{tmp}"], "{tmp} is a folder: expected a text file"),
        (["--prompt-file", "{tmp}/utf16"], "{tmp}/utf16 is not UTF-8 text (byte 0): convert it"),
        (["--prompt-file", "-", "--prompt", "x"], "both --prompt and --prompt-file were given"),
        (["--prompt", "caf\udce9"], "the text has the lone surrogate U+DCE9 at position 3"),
    ],
)
def test_a_prompt_that_is_no_text_is_one_line(
    arguments: list[str],
    message: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "utf16").write_text("the crow", encoding="utf-16")
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    assert cli.run(sample, ["--model", str(model), *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message.format(tmp=tmp_path)}")
    assert error.count("\n") == 1


# ---- errors: dangerzone#768, gpt-2-simple#192 ----------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_a_wrong_flag_is_one_line_in_every_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though the parser draws its boxes otherwise where standard output is not UTF-8."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
        assert cli.run(train, ["--n-layr", "3"]) == 2
        assert cli.run(sample, ["--model", "m", "--max-new-tokens", "é"]) == 2
    layers, tokens = capsys.readouterr().err.splitlines()
    assert layers == (
        "error: Unrecognized options: --n-layr, 3; perhaps you meant --n-layer INT: see "
        "python -m gptfast.train --help"
    )
    assert tokens.startswith("error: Error parsing --max-new-tokens: ")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_help_is_printed_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", printed)
    with pytest.raises(SystemExit) as end:
        cli.run(train, ["--help"])
    assert not end.value.code
    printed.flush()
    assert b"--n-layer" in printed.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "shown"),
    [("a\nb", r"a\nb"), ("caf\udce9", r"caf\udce9"), ("\x1b[2J", r"\x1b[2J"), ("é 字", "é 字")],
)
def test_an_error_is_one_line_whatever_it_names(
    given: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise UserError(f"there is no {given}")

    assert cli.run(fail, []) == 2
    assert capsys.readouterr().err == f"error: there is no {shown}\n"


def test_a_command_without_output_works(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a shell with `>&- 2>&-`."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    encode = ["encode", "--tokenizer", str(model), "--text", "the crow"]
    try:
        assert cli.run(tokenizer_command, encode) == 0
        assert cli.run(tokenizer_command, [*encode, "--ids"]) == 2
    finally:
        sys.stdout.close(), sys.stderr.close()  # type: ignore[func-returns-value]


# ---- bug reports ---------------------------------------------------------------------------------


def test_doctor_prints_what_a_bug_report_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch, tokenizers = pytest.importorskip("torch"), pytest.importorskip("tokenizers")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GPTFAST_CACHE", str(tmp_path / "cached"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for name in ("HF_TOKEN", "GPTFAST_API_KEY", "CUDA_PASSWORD", "MY_VARIABLE"):
        monkeypatch.setenv(name, "precious")
    assert cli.run(doctor, []) == 0
    out = capsys.readouterr().out
    assert "precious" not in out
    block = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    assert block["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert f"torch {torch.__version__}" in block["packages"]
    assert f"tokenizers {tokenizers.__version__}" in block["packages"]
    assert block["rust extension"].startswith("loaded, ")
    assert f"of {os.cpu_count()} may be used" in block["cores"]
    assert {"gptfast", "system", "cpu", "memory", "dtype auto", "encodings"} <= block.keys()
    assert block["cache"].startswith("~/cached, not made yet, ")
    assert block["cache"].endswith("iB free")
    environment = block["environment"].split()
    assert {"OMP_NUM_THREADS=3", "GPTFAST_CACHE=~/cached"} <= {*environment}
    assert "triton" in out  # why kernels don't run


@pytest.mark.parametrize(
    ("seconds", "build"), [(0.01, "a release build"), (10.0, "built without --release?")]
)
def test_doctor_notices_a_rust_extension_that_is_not_optimized(
    seconds: float, build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, seconds])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    assert machine._rust_state().startswith(f"loaded, {build}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/tmp/rv", "~"),
        ("/tmp/rv/x y", "~/x y"),
        ("/a:/tmp/rv/b:/tmp/rv", "/a:~/b:~"),
        ("/data/tmp/rv/x", "/data/tmp/rv/x"),
        ("/tmp/rv2/x", "/tmp/rv2/x"),
        ("https://user:pw@host/x", "https://***@host/x"),
        ("http://pw@host:80,https://host/a@b", "http://***@host:80,https://host/a@b"),
    ],
)
def test_doctor_shows_neither_the_home_folder_nor_a_password(
    text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/tmp/rv")
    monkeypatch.setenv("USERPROFILE", "/tmp/rv")
    monkeypatch.setenv("HF_HOME", text)
    assert f"HF_HOME={shown}" in machine._environment()


def test_doctor_shows_what_the_user_has_set_and_cuts_nothing_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    limit_spinning()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not any(entry.startswith("GOMP_") for entry in machine._environment())
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert "GOMP_SPINCOUNT=7" in machine._environment()
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr("gptfast.doctor.__main__.describe_machine", lambda: iter(()))
    assert cli.run(doctor, []) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    for op, backend, reason in backends():
        assert f"  {op}, {backend}: {reason or 'runs'}\n" in out
