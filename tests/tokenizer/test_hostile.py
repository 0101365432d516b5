"""Input made to hang, crash or inject: time stays about linear, bytes come back, nothing panics."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer
from timing import assert_is_below, assert_takes_at_most, processor_seconds

MEGABYTE = 1_000_000
# For the shorter of two inputs: below this, a busy machine decides how long something takes.
NOISE_SECONDS = 0.025
MOST_BYTES = 8 * MEGABYTE


def repeated(unit: str, n_bytes: int) -> bytes:
    data = unit.encode()
    return data * (n_bytes // len(data))


def nested_json(n_bytes: int) -> bytes:
    depth = n_bytes // 8
    return b'{"k":[' * depth + b"]}" * depth


def letters(n_bytes: int) -> bytes:
    return "".join(random.Random(0).choices("abcdefgh", k=n_bytes)).encode()


HOSTILE = {
    "one letter": lambda n: repeated("a", n),
    "carets": lambda n: repeated("^", n),
    "spaces": lambda n: repeated(" ", n),
    "newlines": lambda n: repeated("\n", n),
    "spaces, then no space": lambda n: repeated(" " * 999 + "x", n),
    "spaces and newlines": lambda n: repeated(" \n", n),
    "digits": lambda n: repeated("1", n),
    "emoji": lambda n: repeated("🙂", n),
    "apostrophes": lambda n: repeated("'", n),
    "random bytes": lambda n: random.Random(0).randbytes(n),
    "continuation bytes": lambda n: b"\x80" * n,
    "letters without a space": letters,
    "a letter before a run": lambda n: b"b" + repeated("a", n - 1),  # no block ends with a token
    "nested JSON": nested_json,
    "special tokens": lambda n: repeated("<|endoftext|>", n),
    "combining marks": lambda n: b"a" + repeated("\u0301\u0327", n),
    "upper case, then lower case": lambda n: repeated("A" * 999 + "a", n),
}
PATTERNS = ["gpt2", "cl100k", "o200k", "none"]


@pytest.fixture(scope="module")
def tokenizers(nursery_text: str) -> dict[str, BPETokenizer]:
    """Vocabularies in which long runs of the same have many merges to try."""
    runs = "".join(unit * 64 + " x" for unit in ("a", "^", " ", "\n", "🙂", "1", "\u0301\u0327"))
    sample = [nursery_text, runs, letters(20_000).decode()]
    return {pattern: BPETokenizer.train(sample, 1500, pattern) for pattern in PATTERNS}


def assert_about_linear(
    work: Callable[[bytes], object], make: Callable[[int], bytes], n_bytes: int
) -> None:
    """Eight times the input takes at most 20 times as long; if quadratic, it would take 64 times.

    What is linear was seen to take 14 times as long: the cache becomes too small, and malloc gives
    more than 32 MB back at once, to get fresh pages the next time. 2.8 times for each doubling,
    which is no longer linear, would be 22. The shorter input has at least `n_bytes`, and as many
    as it takes to be measured.
    """
    while processor_seconds(partial(work, make(n_bytes))) < NOISE_SECONDS and n_bytes < MOST_BYTES:
        n_bytes *= 2
    once, eight_times = make(n_bytes), make(8 * n_bytes)
    assert_takes_at_most(20, partial(work, once), partial(work, eight_times))


ONE_MEGABYTE = (
    [(kind, "gpt2", MEGABYTE) for kind in HOSTILE]
    + [
        (kind, "cl100k", MEGABYTE)
        for kind in ("spaces", "spaces and newlines", "apostrophes", "nested JSON")
    ]
    + [(kind, "o200k", MEGABYTE) for kind in ("combining marks", "upper case, then lower case")]
    + [(kind, "none", MEGABYTE) for kind in HOSTILE]
)
FORTY_MEGABYTES = [
    pytest.param(kind, "gpt2", 5 * MEGABYTE, marks=pytest.mark.slow)
    for kind in ("one letter", "spaces", "random bytes")
]


@pytest.mark.parametrize(("kind", "pattern", "n_bytes"), [*ONE_MEGABYTE, *FORTY_MEGABYTES])
def test_encoding_takes_about_linear_time(
    tokenizers: dict[str, BPETokenizer], kind: str, pattern: str, n_bytes: int
) -> None:
    assert_about_linear(tokenizers[pattern].encode_to_numpy, HOSTILE[kind], n_bytes)


@pytest.mark.parametrize("unit", ["<|endoftext|>", "<|endoftext", "<|"])
def test_special_tokens_that_are_allowed_are_found_in_linear_time(
    tokenizers: dict[str, BPETokenizer], unit: str
) -> None:
    def encode(data: bytes) -> list[int]:
        return tokenizers["gpt2"].encode(data.decode(), allowed_special="all")

    assert_about_linear(encode, lambda n: repeated(unit, n), MEGABYTE)


def test_ten_thousand_special_tokens_take_as_long_as_ten(nursery_text: str) -> None:
    text = nursery_text.replace(" ", " <|1|> <|") * 20

    def encode_with(n: int) -> Callable[[], list[int]]:
        names = [f"<|{i}|>" for i in range(n)]
        tokenizer = BPETokenizer.train(nursery_text, 300 + n, special_tokens=names)
        return partial(tokenizer.encode, text, allowed_special="all")

    assert_takes_at_most(2, encode_with(10), encode_with(10_000))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_round_trip(tokenizers: dict[str, BPETokenizer], kind: str, pattern: str) -> None:
    tokenizer, data = tokenizers[pattern], HOSTILE[kind](MEGABYTE // 4)
    ids = tokenizer.encode_to_numpy(data)
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.count(data) == len(ids)
    assert tokenizer.eot_token not in ids


@pytest.fixture(scope="module")
def hostile_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of five megabytes."""
    folder = tmp_path_factory.mktemp("hostile")
    for kind in ("one letter", "carets", "spaces", "newlines", "emoji", "random bytes"):
        (folder / f"{kind}.txt").write_bytes(HOSTILE[kind](5 * MEGABYTE))
    (folder / "letters.txt").write_bytes(letters(5 * MEGABYTE))
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_five_megabytes_take_little_memory(
    tmp_path: Path, hostile_files: Path, tokenizers: dict[str, BPETokenizer], pattern: str
) -> None:
    """Beside the text and its ids, at most 9 bytes for each byte and what the caches take."""
    tokenizers[pattern].save(tmp_path)
    script = """
import sys
from pathlib import Path
from gptfast.tokenizer import BPETokenizer
def kilobytes(of):
    return int(Path("/proc/self/status").read_text().split(of)[1].split()[0])
tokenizer = BPETokenizer.load(sys.argv[1])
for file in sorted(Path(sys.argv[2]).glob("*.txt")):
    data = file.read_bytes()
    ids = tokenizer.encode_to_numpy(data)
    assert tokenizer.decode_bytes(ids) == data
del data, ids
print(kilobytes("VmHWM:"), kilobytes("VmRSS:"))
"""
    arguments = [sys.executable, "-c", script, str(tmp_path), str(hostile_files)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    peak, left = (int(kilobytes) / 1000 for kilobytes in done.stdout.split())
    assert peak < 200
    assert left < 180


@pytest.mark.parametrize("kind", HOSTILE)
def test_training_takes_about_linear_time(kind: str) -> None:
    assert_about_linear(
        lambda data: BPETokenizer.train([data], 400, n_threads=1), HOSTILE[kind], 100_000
    )


def test_special_tokens_in_text_are_text(tokenizers: dict[str, BPETokenizer]) -> None:
    for tokenizer in tokenizers.values():
        assert tokenizer.eot_token == tokenizer.n_vocab - 1
        text = "<|endoftext|><|endoftext|> <|endoftext|>\n" * 100
        for ids in (
            tokenizer.encode(text),
            tokenizer.encode_ordinary(text),
            tokenizer.encode_bytes(text.encode()),
            tokenizer.encode_to_numpy(text).tolist(),
            tokenizer.encode_batch([text])[0],
            tokenizer.encode_with_offsets(text)[0],
        ):
            assert max(ids) < tokenizer.n_vocab - 1
            assert tokenizer.decode(ids) == text


VALID_BYTES = {bytes([byte]): byte for byte in range(256)}
SMALL = {
    pattern: BPETokenizer(VALID_BYTES | {b"\xff\xff": 256, b"aa": 257, b"  ": 258}, pattern)
    for pattern in (*PATTERNS, r"\w+|(?=x)|\s")
}
HARD_BYTES = st.lists(
    st.binary(max_size=6)
    | st.sampled_from([b"\xf0\x9f\x99", b"\xe2\x82", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
    | st.sampled_from(
        [b" " * 70, b"\n" * 65, b"a" * 130, b"'", b"'LL", b"\0", "ſ\u0301字".encode()]
    ),
    max_size=12,
).map(b"".join)


# A panic in Rust would come as RuntimeError or pyo3's PanicException: neither is a UserError, so it
# would fail each of these tests.
@settings(max_examples=300)
@given(HARD_BYTES, st.sampled_from(list(SMALL)))
def test_no_bytes_panic(data: bytes, pattern: str) -> None:
    tokenizer = SMALL[pattern]
    ids = tokenizer.encode_bytes(data)
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.encode_to_numpy(data).tolist() == ids
    assert tokenizer.count(data) == len(ids)
    text = data.decode(errors="replace")
    assert tokenizer.decode(tokenizer.encode_ordinary(text)) == text
    assert "".join(tokenizer.pretokenize(text)) == text
    assert tokenizer.encode_with_offsets(text)[0] == tokenizer.encode_ordinary(text)


@settings(max_examples=100)
@given(st.lists(HARD_BYTES, max_size=4), st.sampled_from(list(SMALL)), st.integers(1, 3))
def test_no_training_panics(texts: list[bytes], pattern: str, n_threads: int) -> None:
    tokenizer = BPETokenizer.train(texts, 300, pattern, n_threads=n_threads)
    for data in texts:
        assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


@given(st.text(max_size=12) | st.text(r"\\()[]{}?*+|^$.-pLsS1a ", max_size=8))
def test_no_pattern_panics(pattern: str) -> None:
    text = "it's 12 é🦀\n"
    with contextlib.suppress(UserError):
        tokenizer = BPETokenizer(VALID_BYTES, pattern)
        assert tokenizer.decode(tokenizer.encode_ordinary(text)) == text


@given(st.dictionaries(st.binary(max_size=3), st.integers(-2, 2**33), max_size=4))
def test_no_ranks_panic(ranks: dict[bytes, int]) -> None:
    with contextlib.suppress(UserError):
        tokenizer = BPETokenizer(VALID_BYTES | ranks)
        assert tokenizer.decode(tokenizer.encode_ordinary("aa")) == "aa"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_encoding_in_a_forked_child(tokenizers: dict[str, BPETokenizer]) -> None:
    """Other threads encode while the process is forked; the child has none of them."""
    tokenizer = tokenizers["gpt2"]
    texts = ["The naïve king hears the crow. " * 500] * 20
    expected = tokenizer.encode_batch(texts, 3)
    over = threading.Event()

    def encode_all_the_time() -> None:
        while not over.is_set():
            tokenizer.encode_batch(texts, 2)

    with ThreadPoolExecutor(1) as background:
        encoding = background.submit(encode_all_the_time)
        try:
            for _ in range(5):
                assert fork(lambda: encodes_equally(tokenizer, texts, expected)) == 0
        finally:
            over.set()
        encoding.result()


def encodes_equally(tokenizer: BPETokenizer, texts: list[str], expected: list[list[int]]) -> bool:
    return (
        tokenizer.encode_batch(texts, 3) == expected
        and tokenizer.encode_ordinary(texts[0]) == expected[0]
        and BPETokenizer.train(texts, 270, n_threads=2).n_vocab == 270
    )


def fork(in_child: Callable[[], bool]) -> int:
    """The exit code of a child that ends with 0 for True; fails if it hangs."""
    with warnings.catch_warnings():
        # Python 3.12 and later warn of a fork beside threads, which is what is tried here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        fine = False
        try:
            fine = in_child()
        finally:
            os._exit(0 if fine else 1)
    for _ in range(2400):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hung for two minutes")


# Another thread is making its first array, which takes a second here, when the process is forked.
FIRST_ARRAY = """
import os, sys, threading, time, types
import numpy._core.multiarray as multiarray
from gptfast.tokenizer import BPETokenizer

tokenizer = BPETokenizer({bytes([byte]): byte for byte in range(256)})
functions = multiarray._ARRAY_API

class Slow(types.ModuleType):
    @property
    def _ARRAY_API(self):
        time.sleep(1)
        return functions

multiarray.__class__ = Slow
thread = threading.Thread(target=tokenizer.encode_to_numpy, args=["a"])
thread.start()
time.sleep(0.3)
child = os.fork()
tokenizer.encode_to_numpy("a")
if child == 0:
    os._exit(0)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_during_the_first_array() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FIRST_ARRAY]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            assert process.wait(timeout=120) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a child that hangs holds no one up


def test_several_threads_share_a_tokenizer(tokenizers: dict[str, BPETokenizer]) -> None:
    tokenizer = tokenizers["gpt2"]
    rng = random.Random(0)
    words = [" king", "naïve", "🦀", "\n", " 12", "zzz"]
    texts = ["".join(rng.choices(words, k=400)) for _ in range(100)]
    expected = [tokenizer.encode_ordinary(text) for text in texts]
    start = threading.Barrier(4)

    def encode_all(_: int) -> bool:
        start.wait()
        one_by_one = [tokenizer.encode_ordinary(text) for text in texts]
        return one_by_one == tokenizer.encode_batch(texts, 2) == expected

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(encode_all, range(4)))


# Each needs more memory than there is left, which would end the process if taken for granted.
TOO_LARGE = {
    "decoding tokens of a megabyte": """
        ranks = {bytes([byte]): byte for byte in range(256)}
        ranks |= {b"a" * 2**i: 255 + i for i in range(1, 21)}
        huge = BPETokenizer(ranks, "none")
        leave(200)
        huge.decode_bytes([275] * 8000)
    """,
    "a list of ids in Rust": """
        text = "ab " * 10_000_000
        leave(100)
        tokenizer.encode_ordinary(text)
    """,
    "a list of ids in Python": """
        text = "ab " * 10_000_000
        leave(300)
        tokenizer.encode_ordinary(text)
    """,
    "an array of ids": """
        text = "ab " * 40_000_000
        leave(100)
        tokenizer.encode_to_numpy(text)
    """,
    "merging one pre-token": """
        tokenizer = BPETokenizer({bytes([byte]): byte for byte in range(256)}, "none")
        text = "ab " * 10_000_000
        leave(70)
        tokenizer.count(text)
    """,
    "training, the count of one pre-token": """
        text = "a" * 100_000_000
        leave(50)
        BPETokenizer.train(text, 300, "none", progress=False)
    """,
    "training, its tokens": """
        text = "a" * 100_000_000
        leave(300)
        BPETokenizer.train(text, 300, "none", progress=False)
    """,
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads what is in use from /proc")
@pytest.mark.parametrize("work", TOO_LARGE)
def test_want_of_memory_is_an_exception(work: str) -> None:
    head = """
        import resource
        from pathlib import Path
        from gptfast.errors import UserError
        from gptfast.tokenizer import BPETokenizer
        tokenizer = BPETokenizer({bytes([byte]): byte for byte in range(256)})
        tokenizer.encode_batch(["a"] * 2, 2)  # starts threads, which keep some memory
        def leave(megabytes):
            in_use = int(Path("/proc/self/status").read_text().split("VmSize:")[1].split()[0]) << 10
            limit = in_use + (megabytes << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
    """
    lines = [line.removeprefix("        ") for line in head.splitlines()]
    lines += [line.removeprefix("    ") for line in TOO_LARGE[work].splitlines()]
    lines += ["except (UserError, MemoryError) as error:", "    print(type(error).__name__)"]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("UserError\n", "MemoryError\n")


@pytest.mark.alone
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
def test_signals_are_heard_in_a_batch_of_many_short_texts() -> None:
    """Most of the time goes into the lists, from Python and for Python."""
    texts = ["ab " * 10] * 1_500_000

    def longest_silence() -> float:
        """As a share of the run's time."""
        heard: list[float] = []
        before = signal.signal(signal.SIGALRM, lambda *_: heard.append(time.monotonic()))
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        try:
            start = time.monotonic()
            batch = SMALL["gpt2"].encode_batch(texts, 2)
            end = time.monotonic()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert batch[-1] == list(b"ab " * 10)
        moments = itertools.pairwise([start, *heard, end])
        return max(later - earlier for earlier, later in moments) / (end - start)

    assert_is_below(1 / 3, longest_silence, tries=5)


ENDLESS = {
    "encoding one pre-token": """
        text = "abcdefghijk" * 4_000_000
        print("ready", flush=True)
        tokenizer.encode_to_numpy(text)
    """,
    "searching in vain": """
        tokenizer = BPETokenizer.train("a" * 64, 260, "(?=.*[a-z])A")
        text = "A" * 500_000
        print("ready", flush=True)
        tokenizer.encode_to_numpy(text)
    """,
    "encoding a run out of step": """
        tokenizer = BPETokenizer.train("a" * 64, 260, "none")
        text = "b" + "a" * 60_000_000
        print("ready", flush=True)
        tokenizer.encode_to_numpy(text)
    """,
    "encoding a batch": """
        texts = ["abcdefghijk" * 3_000_000] * 20
        print("ready", flush=True)
        tokenizer.encode_batch(texts, 2)
    """,
    "encoding a file": """
        import pathlib
        from gptfast.data.documents import ReadOptions
        from gptfast.data.encode import encode_files
        pathlib.Path("text.txt").write_text("abcdefghijk\\n" * 20_000_000)
        print("ready", flush=True)
        encode_files(tokenizer, "text.txt", "out.shard", ReadOptions(n_threads=1))
    """,
    "training": """
        text = "".join(random.Random(0).choices("abcdefgh ", k=3_000_000))
        print("ready", flush=True)
        BPETokenizer.train(text, 2_000_000, "none", n_threads=2)
    """,
    "training on one long pre-token": """
        letters = bytes(97 + i % 16 for i in range(256))
        text = random.Random(0).randbytes(100_000_000).translate(letters)
        print("ready", flush=True)
        BPETokenizer.train([text], 2_000, "none", n_threads=2)
    """,
    "a pattern that backtracks over few bytes": r"""
        single_bytes = {bytes([byte]): byte for byte in range(256)}
        tokenizer = BPETokenizer(single_bytes, r"(?=(?:a|aa|aaa){11}(?>b))x|a")
        print("ready", flush=True)
        tokenizer.encode_ordinary("a" * 800)
    """,
    "a pattern that looks ahead from everywhere": """
        single_bytes = {bytes([byte]): byte for byte in range(256)}
        tokenizer = BPETokenizer(single_bytes, ".*[^A-Z]|[A-Z]")
        print("ready", flush=True)
        tokenizer.encode_to_numpy("A" * 250_000)
    """,
    "cutting into pre-tokens": """
        tokenizer = BPETokenizer.train("ab", 257)
        text = "ab " * 40_000_000
        print("ready", flush=True)
        tokenizer.pretokenize(text)
    """,
}


@pytest.mark.alone
@pytest.mark.parametrize(
    ("work", "after"),
    [
        *((work, 0.4) for work in ENDLESS),
        pytest.param("training on one long pre-token", 2.0, marks=pytest.mark.slow),
        pytest.param("cutting into pre-tokens", 0.8, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c(tmp_path: Path, work: str, after: float) -> None:
    head = """
        import random
        from gptfast.tokenizer import BPETokenizer
        tokenizer = BPETokenizer.train("abcdefghijk" * 50, 280, "none")
    """
    lines = (head + ENDLESS[work]).splitlines()
    program = "\n".join(line.removeprefix("        ") for line in lines)

    def seconds_to_stop() -> float:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(after)
            assert process.poll() is None, "the work was over before it could be stopped"
            stopped_at = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
            seconds = time.monotonic() - stopped_at
        finally:
            process.kill()
            process.wait()
        assert stderr.rstrip().endswith("KeyboardInterrupt")
        assert process.returncode in (1, -signal.SIGINT)
        assert {path.name for path in tmp_path.iterdir()} <= {"text.txt", "cache"}
        return seconds

    # A second is promised; a machine with other work to do may need another one.
    assert_is_below(2, seconds_to_stop, tries=3)
