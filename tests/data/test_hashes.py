from __future__ import annotations

import gc
import hashlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gptfast.data.documents import Block, ReadReport
from gptfast.data.hashes import DUPLICATE, TRAIN, VAL, Hashes, route


def hashes_of(documents: list[bytes]) -> np.ndarray:
    return Hashes.of([Block(d, True) for d in documents], ReadReport()).hashes


def test_a_documents_hash_does_not_depend_on_its_blocks(tmp_path: Path) -> None:
    blocks = [Block(b"ab", False), Block(b"c", False), Block(b"", True), Block(b"abc", True)]
    report = ReadReport(skipped=2, complaints=["first", "second ö"])
    hashed = Hashes.of(blocks, report)
    expected = hashlib.blake2b(b"abc", digest_size=16).digest()
    assert [h.tobytes() for h in hashed.hashes] == [expected, expected]
    assert hashed.sizes.tolist() == [3, 3]
    hashed.save(tmp_path / "x.npz")
    again = Hashes.load(tmp_path / "x.npz")
    assert np.array_equal(again.hashes, hashed.hashes)
    assert again.sizes.tolist() == [3, 3]
    assert (again.report.skipped, again.report.complaints) == (2, ["first", "second ö"])


def test_threads_may_load_at_the_same_time(tmp_path: Path) -> None:
    path, threshold = tmp_path / "x.npz", gc.get_threshold()
    Hashes.of([Block(b"abc", True)], ReadReport()).save(path)

    def let_the_other_run(*_: object) -> None:
        time.sleep(1e-4)

    # Whatever is being made, garbage may be collected then, and another thread may run on.
    gc.callbacks.append(let_the_other_run)
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(2) as pool:
            loaded = list(pool.map(Hashes.load, [path] * 300))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(let_the_other_run)
    assert all(hashed.sizes.tolist() == [3] for hashed in loaded)


def test_no_documents(tmp_path: Path) -> None:
    hashed = Hashes.of([], ReadReport())
    hashed.save(tmp_path / "x.npz")
    again = Hashes.load(tmp_path / "x.npz")
    assert again.hashes.shape == (0, 16)
    assert (again.sizes.tolist(), again.report.complaints) == ([], [])
    assert route(again.hashes, 0.5).shape == (0,)


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.999])
def test_the_first_of_equals_stays_and_its_hash_says_where(fraction: float) -> None:
    rng = random.Random(0)
    documents = [str(rng.randrange(500)).encode() for _ in range(2000)]
    expected, seen = [], set()
    for document in documents:
        number = int.from_bytes(hashlib.blake2b(document, digest_size=16).digest()[:8], "big")
        side = VAL if number / 2**64 < fraction else TRAIN
        expected.append(DUPLICATE if document in seen else side)
        seen.add(document)
    assert route(hashes_of(documents), fraction).tolist() == expected


def test_hashes_that_differ_in_any_byte_are_of_different_documents() -> None:
    hashes = np.zeros((17, 16), dtype=np.uint8)
    hashes[np.arange(1, 17), np.arange(16)] = 1
    assert DUPLICATE not in route(hashes, 0.5)
    assert route(np.concatenate([hashes, hashes]), 0.5)[17:].tolist() == [DUPLICATE] * 17


def test_the_share_of_val_is_about_what_was_asked_for() -> None:
    routes = route(hashes_of([str(i).encode() for i in range(100_000)]), 0.05)
    # 5,000 expected, with a standard deviation of 69.
    assert 4_650 < (routes == VAL).sum() < 5_350
    assert (routes == DUPLICATE).sum() == 0


def test_more_documents_do_not_move_the_others() -> None:
    documents = [str(i).encode() for i in range(1000)]
    whole = route(hashes_of(documents), 0.1)
    assert np.array_equal(route(hashes_of(documents[:600]), 0.1), whole[:600])
    assert np.array_equal(route(hashes_of(documents[::-1]), 0.1), whole[::-1])
