"""What users of tiktoken's rank files ran into: files a little off, holes, names without files."""

from __future__ import annotations

import base64
import codecs
import gzip
import hashlib
import json
import pickle
from pathlib import Path
from unittest import mock

import pytest
import tiktoken
from tiktoken.load import load_tiktoken_bpe
from tiktoken_ext import openai_public

from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer, get_encoding, load_tokenizer
from gptfast.tokenizer.known_ranks import PUBLISHED
from gptfast.tokenizer.published import open_tokenizer
from gptfast.tokenizer.spelling import spelling_of
from tricky_text import ATOMS

PUBLISHED_RANKS = Path(__file__).parents[2] / ".venv" / "vocabularies"

# 256 bytes, then "ab" and "abc".
RANKS = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"abc": 257}
LINES = [base64.b64encode(token) + b" %d" % rank for token, rank in RANKS.items()]
TEXT = "abcab <|endoftext|> " + " ".join(ATOMS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ranks.tiktoken"


@pytest.fixture(scope="module")
def p50k(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """p50k_base, which is GPT-2's ranks and runs of 2 to 25 spaces, as its checksum proves."""
    data = (shared_data / "gpt2.tiktoken").read_bytes()
    for i, n in enumerate(range(2, 26), start=50257):
        data += base64.b64encode(b" " * n) + b" %d\n" % i
    sha256 = "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"
    assert hashlib.sha256(data).hexdigest() == sha256
    path = tmp_path_factory.mktemp("p50k") / "any.name"
    path.write_bytes(data)
    return path


# tiktoken#136, tiktoken#353. tiktoken itself reads a blank line and CRLF.
@pytest.mark.parametrize(
    "data",
    [
        b"\n".join(LINES),
        b"\n".join(LINES) + b"\n\n",
        b"\n" + b"\n\n".join(LINES) + b"\n \t\n",
        b"\r\n".join(LINES) + b"\r\n",
        b"\r".join(LINES),
        b"\xef\xbb\xbf" + b"\n".join(LINES) + b"\n",
        b"\xef\xbb\xbf\r\n" + b"\r\n".join(LINES),
        b"".join(line + b"  \t\n" for line in LINES),
        b"".join(b" " + line.replace(b" ", b"\t") + b"\n" for line in LINES),
        b"\n".join(reversed(LINES)),
    ],
)
def test_a_rank_file_a_little_off_is_read(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert BPETokenizer.from_tiktoken(path, "gpt2").mergeable_ranks == RANKS
    assert open_tokenizer(path, "gpt2").encode_ordinary("abcab") == [257, 256]


SENTENCEPIECE = b"".join(
    b"\n" + bytes([len(piece) + 9]) + b"\n" + bytes([len(piece)]) + piece + b"\x15\0\0\0\0\x18\2"
    for piece in (b"<unk>", b"<s>", b"</s>", b"\xe2\x96\x81the")
)
TEKKEN = {"config": {"pattern": "."}, "vocab": [{"rank": 0, "token_bytes": "AA==", "token_str": 0}]}


# torchtune#1022
@pytest.mark.parametrize(
    ("data", "what"),
    [
        (SENTENCEPIECE, "is a SentencePiece model, which is not read: give the tokenizer.json"),
        (SENTENCEPIECE.replace(b"<unk>", b"<pad>", 1), "is a SentencePiece model"),
        (b"<unk>\t0\n<s>\t0\n\xe2\x96\x81the\t-3.2\n", "is the vocabulary of a SentencePiece"),
        (
            json.dumps(TEKKEN).encode(),
            "is a tekken.json, no rank file: give it to load_tokenizer",
        ),
        (b"\xef\xbb\xbf" + json.dumps(TEKKEN, indent=1).encode(), "is a tekken.json"),
        (b'{"model": {"type": "BPE"}}', "is a tokenizer.json, no rank file: give it to load_tok"),
        (b'\n {"model": {"type": "Unigram"}}', "is a tokenizer.json"),
        (b'{"a": 0, "b": 1}', "is a vocab.json: give the folder that has it and its merges.txt"),
        (b'{"tokenizer_class": "X"}', "is JSON that holds no ranks: give the tokenizer.json"),
        (b'{"model": {"ty', "is JSON, and damaged: fetch it again"),
        (b"#version: 0.2\n\xc4\xa0 t\n", "is a merges.txt: give the folder that has it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "`git lfs pull`"),
        (gzip.compress(b"\n".join(LINES)), "is compressed by gzip: decompress it with `gunzip`"),
        ("AA== 0\n".encode("utf-16"), "is UTF-16 text: convert it with `iconv"),
        ("AA== 0\n".encode("utf-16-be"), "is UTF-16 text"),
        ("AA== 0\n".encode("utf-16-le"), "is UTF-16 text"),
        ("AA== 0\n".encode("utf-32"), "is UTF-32 text: convert it with `iconv -f utf-32"),
        ("AA== 0\n".encode("utf-32-be"), "is UTF-32 text"),
        ("AA== 0\n".encode("utf-32-le"), "is UTF-32 text"),
        (codecs.BOM_UTF32_BE + "AA== 0\n".encode("utf-32-be"), "is UTF-32 text"),
        (b'{"text": "a"}\n{"text": "b"}\n', "is JSON lines, such as documents"),
        (b'{"text": "a"}\r\n{"text": "b"', "is JSON, and damaged"),
        (b"[1, 2]\n[3]", "is JSON lines"),
        (b"GGUF\3\0\0\0\1\0\0\0\0\0\0\0", "is a GGUF file, which holds weights: give the tok"),
        (pickle.dumps({b"a": 0}), "is a Python pickle, which may run code"),
        (pickle.dumps([1], protocol=2), "is a Python pickle"),
        (b"%PDF-1.7\n%\xe2\xe3", "is a PDF file"),
        (b"AA== 0\n" + bytes(20), "is binary data: give a tokenizer's file"),
        (b"404: Not Found", "is a server's error message: download the file again"),
        (b"Entry not found", "is a server's error message"),
        (b"Repository not found\n", "is a server's error message"),
        (b"Invalid username or password.", "is a server's error message"),
        (b'{"data":{"x":1}}', "is JSON that holds no ranks"),
        (b"\n<!DOCTYPE html><html>", "is a web page: download the file itself"),
        (b"<?xml version='1.0'?><Error><Code>BlobNotFound</Code>", "is a web page"),
        (b"[PAD]\n[UNK]\nthe\n", "is a WordPiece vocab.txt"),
        (b"\x40\0\0\0\0\0\0\0" + b'{"wte.weight"', "is a safetensors file, which holds weights"),
        (b"PK\x03\x04rest", "is a zip archive"),
        (b"", "is empty: fetch or write it again"),
        (b"\n \r\n", "is empty"),
    ],
)
def test_a_file_that_holds_no_ranks_is_named_as_what_it_is(
    path: Path, data: bytes, what: str
) -> None:
    path.write_bytes(data)
    with pytest.raises(UserError) as raised:
        BPETokenizer.from_tiktoken(path, "gpt2")
    message = str(raised.value)
    assert message.startswith(f"{path} is ")
    assert what in message
    assert "\n" not in message


def test_a_sentencepiece_model_by_its_library_is_named(path: Path) -> None:
    # Written by the protocol buffer that transformers carries, not by hand.
    name = "transformers.utils.sentencepiece_model_pb2_new"
    pb2 = pytest.importorskip(name, exc_type=ImportError)
    model = pb2.ModelProto()
    for piece in ("<unk>", "<s>", "▁the"):
        model.pieces.add(piece=piece, score=-1.5)
    model.trainer_spec.vocab_size = 3
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="is a SentencePiece model"):
        BPETokenizer.from_tiktoken(path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"YWI", "expected a token in base64, a space and its rank$"),
        (b"YWJj YWI= 258", "expected a token in base64, a space and its rank$"),
        (b"Y*I= 258", "a space and its rank; the token is no base64"),
        (b"YWI 258", "the token is no base64"),
        (b"YWJjZA== 2_58", "expected a token in base64, a space and its rank$"),
        (b"YWJjZA== -1", "expected a token in base64, a space and its rank$"),
        (b"YWJjZA== 1.0", "expected a token in base64, a space and its rank$"),
        (b"YWI= 258", "but line 259 has the same token"),
        (b"YWJjZA== 257", "but line 260 has the same rank"),
        (b"259 'abcd' 4", "expected a token in base64"),
    ],
)
def test_a_bad_line_is_named_by_its_number(path: Path, line: bytes, complaint: str) -> None:
    # The blank lines count: an editor shows the number of the bad one as 262.
    path.write_bytes(b"\n\r\n" + b"\n".join(LINES) + b"\n\n" + line + b"\n")
    with pytest.raises(UserError, match=rf"ranks\.tiktoken, line 262 is .*{complaint}"):
        BPETokenizer.from_tiktoken(path, "gpt2")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (SENTENCEPIECE, "is a SentencePiece model"),
        (json.dumps(TEKKEN).encode(), "config.default_num_special_tokens is None: expected"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b'{"a": 0, "b": 1}', "is a vocab.json"),
        (b'{"text": "a"}\n{"text": "b"}\n', "is JSON lines"),
        (b"[PAD]\n[UNK]\nthe\n", "is a WordPiece vocab.txt"),
        (b"404: Not Found", "is a server's error message"),
        (b"GGUF\3\0\0\0", "is a GGUF file"),
    ],
)
def test_the_same_files_are_named_by_whatever_opens_a_tokenizer(
    path: Path, data: bytes, what: str
) -> None:
    path.write_bytes(data)
    for load in (open_tokenizer, load_tokenizer):
        with pytest.raises(UserError, match=what):
            load(path)


def test_a_rank_file_is_no_tokenizer_json(path: Path) -> None:
    for data in (
        b"\n".join(LINES),
        b"\xef\xbb\xbf" + b"\n".join(LINES),
        b"\n".join(line.replace(b" ", b"\t") for line in LINES),
        b"\r\n \r\n" + b"\r\n".join(LINES),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match="is a tiktoken rank file: give it to BPETok"):
            load_tokenizer(path)


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("tokenizer.model", SENTENCEPIECE, "is a SentencePiece model"),
        ("spiece.model", SENTENCEPIECE, "is a SentencePiece model"),
        ("tokenizer.model", b"\n".join(LINES), "is a tiktoken rank file"),  # Llama 3's name
        ("qwen.tiktoken", b"\n".join(LINES), "is a tiktoken rank file: give it to BPETok"),
        ("vocab.txt", b"[PAD]\n[UNK]\nthe\n", "is a WordPiece vocab.txt"),
        ("vocab.json", b'{"a": 0}', "is a vocab.json"),
        ("merges.txt", b"#version: 0.2\n", "is a merges.txt"),
        ("tokenizer.json.gz", gzip.compress(b"{}", mtime=0), "is compressed by gzip"),
        ("model.gguf", b"GGUF\3\0\0\0", "is a GGUF file"),
    ],
)
def test_a_folder_is_told_as_what_lies_there(
    tmp_path: Path, name: str, data: bytes, what: str
) -> None:
    (tmp_path / "README.md").write_text("not this one")
    (tmp_path / name).write_bytes(data)
    for load in (load_tokenizer, open_tokenizer, BPETokenizer.from_hf, BPETokenizer.load):
        with pytest.raises(MissingFileError) as raised:
            load(tmp_path)
        message = str(raised.value)
        assert message.startswith(f"there is no {tmp_path / 'tokenizer.json'}; {tmp_path / name} ")
        assert what in message
        assert "\n" not in message


def test_a_folder_of_the_older_kind_is_told(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(
        MissingFileError, match=r"has a vocab\.json and a merges\.txt: give it to BPE"
    ):
        load_tokenizer(tmp_path)
    (tmp_path / "x").mkdir()
    with pytest.raises(MissingFileError, match=r"x/tokenizer\.json: expected a tok"):
        load_tokenizer(tmp_path / "x")


def test_a_folder_is_no_rank_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder: expected a tiktoken rank file"):
        BPETokenizer.from_tiktoken(tmp_path)


def theirs(name: str, ranks: Path) -> tiktoken.Encoding:
    """tiktoken's encoding, with what it publishes, on ranks that are on this machine."""
    bpe = load_tiktoken_bpe(str(ranks))
    with (
        mock.patch.object(openai_public, "load_tiktoken_bpe", return_value=bpe),
        mock.patch.object(openai_public, "data_gym_to_mergeable_bpe_ranks", return_value=bpe),
    ):
        return tiktoken.Encoding(**getattr(openai_public, name)())


def assert_equal(ours: BPETokenizer, theirs: tiktoken.Encoding) -> None:
    assert ours.n_vocab == theirs.n_vocab
    assert ours.eot_token == theirs.eot_token
    assert ours.special_tokens == theirs._special_tokens
    for text in (TEXT, "def f(x):\n" + " " * 30 + "return\t x  \n\n    1234", *ATOMS):
        ids = theirs.encode(text, allowed_special="all")
        assert ours.encode(text, "all") == ids
        assert ours.decode(ids) == theirs.decode(ids)


# LLMs-from-scratch#45
@pytest.mark.parametrize("pattern", [None, "gpt2"])
def test_published_ranks_with_holes_are_as_tiktoken_reads_them(
    p50k: Path, pattern: str | None
) -> None:
    ours = BPETokenizer.from_tiktoken(p50k, pattern)
    assert_equal(ours, theirs("p50k_base", p50k))
    assert (ours.eot_token, ours.n_vocab) == (50256, 50281)


def test_a_hole_in_ranks_is_no_token(path: Path, tmp_path: Path) -> None:
    # The id 256 is left out, as 50256 is in p50k.
    path.write_bytes(b"\n".join(LINES[:256]) + b"\nYWI= 257\nYWJj 259\n")
    ours = BPETokenizer.from_tiktoken(path, "gpt2", {"<|endoftext|>": 256})
    assert (ours.n_vocab, ours.encode("abcab<|endoftext|>", "all")) == (260, [259, 257, 256])
    assert ours.id_to_token(258) is None
    with pytest.raises(UserError, match="id 258 at position 0 stands for no token"):
        ours.decode([258])
    ours.save(tmp_path)
    assert BPETokenizer.load(tmp_path).encode("abcab<|endoftext|>", "all") == [259, 257, 256]
    # Without special tokens given, they come after all ranks.
    assert BPETokenizer.from_tiktoken(path, "gpt2").special_tokens == {"<|endoftext|>": 260}


@pytest.mark.parametrize("change", ["first two swapped", "one less", "one more"])
def test_ranks_that_are_not_the_published_ones_need_their_pattern(
    p50k: Path, path: Path, change: str
) -> None:
    lines = p50k.read_bytes().splitlines()
    match change:
        case "first two swapped":
            lines[:2] = [lines[0].split()[0] + b" 1", lines[1].split()[0] + b" 0"]
        case "one less":
            lines.pop()
        case _:
            lines.append(base64.b64encode(b" " * 26) + b" 50281")
    path.write_bytes(b"\n".join(lines))
    complaint = r"ranks\.tiktoken does not have the ranks of GPT-2.*give its pattern.*--pattern"
    load = open_tokenizer if change == "one less" else BPETokenizer.from_tiktoken
    with pytest.raises(UserError, match=complaint) as raised:
        load(path)
    assert "\n" not in str(raised.value)


def ranks_of(name: str, shared_data: Path, p50k: Path) -> Path:
    if PUBLISHED[name].file == "p50k_base.tiktoken":
        return p50k
    published = PUBLISHED_RANKS / PUBLISHED[name].file
    path = shared_data / "gpt2.tiktoken" if "r50k" in published.name else published
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    return path


@pytest.fixture
def no_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of this machine has ranks."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("name", ["gpt2", "p50k_edit", "cl100k_base"])
@pytest.mark.usefixtures("no_ranks")
def test_encodings_by_name_where_ranks_are_at_hand(
    name: str, shared_data: Path, p50k: Path, cache: Path
) -> None:
    ranks = ranks_of(name, shared_data, p50k)
    file = PUBLISHED[name].file
    with pytest.raises(MissingFileError, match=f"{file}.*SHA-256 {PUBLISHED[name].sha256}") as info:
        get_encoding(name)
    assert str(cache / "ranks") in str(info.value)
    assert "\n" not in str(info.value)
    (cache / "ranks").mkdir(parents=True)
    (cache / "ranks" / file).symlink_to(ranks)
    assert_equal(get_encoding(name), theirs(name, ranks))


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR", None])
@pytest.mark.usefixtures("no_ranks")
def test_encodings_in_tiktokens_cache(
    variable: str | None, tmp_path: Path, p50k: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary" / "data-gym-cache"
    folder.mkdir(parents=True)
    if variable is not None:
        folder = folder.rename(tmp_path / "elsewhere")
        monkeypatch.setenv(variable, str(folder))
    # The name by which tiktoken looks for it.
    with mock.patch("tiktoken.load.read_file_cached", return_value=b"") as read:
        openai_public.p50k_base()
    address = read.call_args.args[0]
    cached = folder / hashlib.sha1(address.encode()).hexdigest()
    cached.symlink_to(p50k)
    ours = get_encoding("p50k_edit")
    assert ours.encode("<|fim_suffix|>", "all") == [50283]
    cached.unlink()
    cached.write_bytes(b"\n".join(LINES))
    with pytest.raises(UserError, match="does not hold the ranks of p50k_edit: expected the file"):
        get_encoding("p50k_edit")


@pytest.mark.usefixtures("no_ranks")
def test_gpt2_in_tiktokens_cache(tmp_path: Path, shared_data: Path) -> None:
    """There tiktoken keeps vocab.bpe, as its checksum proves, and never a rank file."""
    folder = tmp_path / "temporary" / "data-gym-cache"
    folder.mkdir(parents=True)
    read = mock.patch("tiktoken.load.read_file_cached", side_effect=KeyboardInterrupt)
    with read as reading, pytest.raises(KeyboardInterrupt):
        openai_public.gpt2()
    address, checksum = reading.call_args.args
    ranks = shared_data / "gpt2.tiktoken"
    merges = BPETokenizer.from_tiktoken(ranks).merges
    lines = [f"{spelling_of(left)} {spelling_of(right)}\n" for left, right in merges]
    data = "".join(["#version: 0.2\n", *lines]).encode()
    assert hashlib.sha256(data).hexdigest() == checksum
    cached = folder / hashlib.sha1(address.encode()).hexdigest()
    cached.write_bytes(data)
    assert_equal(get_encoding("gpt2"), theirs("gpt2", ranks))
    cached.write_bytes(data[:-20])
    with pytest.raises(UserError, match="does not hold the ranks of gpt2: expected the file"):
        get_encoding("gpt2")


@pytest.mark.parametrize("name", tiktoken.list_encoding_names())
def test_every_encoding_of_tiktoken_is_known(name: str) -> None:
    with (
        mock.patch.object(openai_public, "load_tiktoken_bpe", return_value={}),
        mock.patch.object(openai_public, "data_gym_to_mergeable_bpe_ranks", return_value={}),
    ):
        published = getattr(openai_public, name)()
    special, ours = published["special_tokens"], PUBLISHED[name].special_tokens
    twice = {"<|reserved_200018|>"} if name == "o200k_harmony" else set()
    assert ours == {token: i for token, i in special.items() if token not in twice}
    assert set(ours.values()) == set(special.values())  # every id has a name
    plain = BPETokenizer(RANKS, PUBLISHED[name].pattern, ours)
    assert plain.pattern == BPETokenizer(RANKS, published["pat_str"]).pattern


@pytest.mark.parametrize("name", ["gpt4", "", None, 5, "GPT2"])
def test_an_encoding_that_is_not_published(name: str) -> None:
    with pytest.raises(UserError, match=f"name is {name!r}: expected 'gpt2' or 'r50k_base' or"):
        get_encoding(name)


# nanochat#291
def test_ranks_are_known_by_what_they_are(p50k: Path, path: Path) -> None:
    """Not by their name, nor by the order or the ends of their lines."""
    path.write_bytes(b"\r\n".join(reversed(p50k.read_bytes().splitlines())))
    ours = BPETokenizer.from_tiktoken(path.rename(path.with_name("cl100k_base.tiktoken")))
    assert (ours.pattern, ours.special_tokens) == ("gpt2", {"<|endoftext|>": 50256})
