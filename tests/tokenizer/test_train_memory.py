"""Training within a memory limit: counts on disk, and the rarest pre-tokens left out."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gptfast.tokenizer import BPETokenizer

SMALLEST = 64_000_000


def words(n_distinct: int, n: int, seed: int) -> str:
    """`n` words of `n_distinct`, some of them far more frequent than others."""
    rng = np.random.default_rng(seed)
    letters = str.maketrans("0123456789", "ghijklmnop")  # the pattern parts digits from letters
    names = " ".join(f"{i:x}" for i in range(n_distinct)).translate(letters).split(" ")
    frequent = (n_distinct * rng.random(n) ** 4).astype(int)
    chosen = [*rng.permutation(n_distinct).tolist(), *frequent.tolist()]
    return " ".join([names[i] for i in chosen])


def test_counts_on_disk_make_no_difference() -> None:
    text = words(150_000, 300_000, seed=0)
    expected = BPETokenizer.train(text, 600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        limited = BPETokenizer.train(text, 600, memory_limit=SMALLEST)
    assert limited.fingerprint == expected.fingerprint


def test_the_rarest_are_left_out_whatever_the_order_and_the_threads() -> None:
    text = words(600_000, 600_000, seed=1)
    made = {}
    for name, texts, n_threads in [
        ("one text", [text], 1),
        ("two halves", [text[len(text) // 2 :], text[: len(text) // 2]], 2),
    ]:
        with pytest.warns(UserWarning, match="distinct pre-tokens that occur at most"):
            made[name] = BPETokenizer.train(texts, 600, memory_limit=SMALLEST, n_threads=n_threads)
    # Where the text is cut in two, one word is.
    assert made["one text"].merges == made["two halves"].merges
    assert len(made["one text"].merges) == 600 - 257


def test_what_is_frequent_is_learned() -> None:
    """Of 900,000 words that occur once nothing can be learned; the few frequent ones all are."""
    frequent = ["the", "king", "sleeps"]
    rare = words(900_000, 0, seed=2)
    with pytest.warns(UserWarning, match="left out") as warned:
        tokenizer = BPETokenizer.train(
            [rare, " ".join(frequent * 1_000_000)], 1000, memory_limit=SMALLEST
        )
    assert warned[0].filename == __file__
    tokens = Counter(tokenizer.encode_ordinary(" the king sleeps"))
    assert len(tokens) == len(frequent)


@pytest.fixture(scope="module")
def many_words() -> str:
    return words(1_000_000, 2_000_000, seed=3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("limit", "given"),
    [
        (SMALLEST, "files"),
        (3 * SMALLEST, "files"),
        (SMALLEST, "one text"),
        (SMALLEST, "one text, and a run without a place to cut"),
    ],
)
def test_the_peak_is_below_the_limit(
    tmp_path: Path, many_words: str, limit: int, given: str
) -> None:
    source, text = tmp_path / "words.txt", many_words
    if given == "one text, and a run without a place to cut":
        text = text[:400_000] + "x" * 200_000 + text[400_000:]
    source.write_text(text)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from gptfast.data.documents import ReadOptions\n"
        "from gptfast.data.train_tokenizer import train_tokenizer\n"
        "from gptfast.tokenizer import BPETokenizer\n"
        "def peak():\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    return int(status.split('VmHWM:')[1].split()[0]) * 1024\n"
        "before = peak()\n"
        "limit = int(sys.argv[2])\n"
        "if sys.argv[3] == 'files':\n"
        "    train_tokenizer(sys.argv[1], 5000, options=ReadOptions(memory_limit=limit))\n"
        "else:\n"
        "    text = Path(sys.argv[1]).read_text()\n"
        "    Path('/proc/self/clear_refs').write_text('5')\n"  # the peak so far is forgotten
        "    before = peak()\n"
        "    BPETokenizer.train(text, 5000, memory_limit=limit)\n"
        "print(peak() - before)\n"
    )
    arguments = [sys.executable, "-W", "ignore", "-c", script, str(source), str(limit), given]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert int(done.stdout) < limit
