"""Lists of ids share the int of each id, which nothing outside may notice but in memory."""

from __future__ import annotations

import gc
import signal
import sys
import tracemalloc

import pytest

from gptfast.tokenizer import BPETokenizer

TEXT = "the long words of a long text, and the words of another. " * 40


@pytest.fixture
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train([TEXT.encode()], 300)


def test_lists_share_an_int_and_keep_it(tokenizer: BPETokenizer) -> None:
    first, second = tokenizer.encode_batch([TEXT, TEXT], n_threads=2)
    at = next(i for i, id_ in enumerate(first) if id_ > 256)  # Python itself shares smaller ones
    third = tokenizer.encode(TEXT)
    assert first[at] is second[at] is third[at]
    expected = tokenizer.encode_to_numpy(TEXT).tolist()
    before = sys.getrefcount(first[at])
    tokenizer.release_memory()
    after = sys.getrefcount(first[at])  # apart, as pytest keeps the parts of an assertion
    assert after == before - 1
    assert first == second == third == expected
    again = tokenizer.encode(TEXT)
    assert again == expected
    assert again[at] is not first[at]


def test_a_list_takes_8_bytes_for_each_id(tokenizer: BPETokenizer) -> None:
    text = TEXT * 20
    n_ids = len(tokenizer.encode(text))  # makes the ints
    tracemalloc.start()
    try:
        ids = tokenizer.encode(text)
        assert tracemalloc.get_traced_memory()[0] < 9 * n_ids
    finally:
        tracemalloc.stop()
    assert len(ids) == n_ids


def test_the_highest_id_has_an_int(tokenizer: BPETokenizer) -> None:
    highest = tokenizer.n_vocab - 1
    assert tokenizer.encode(tokenizer.decode([highest]), allowed_special="all") == [highest]


@pytest.mark.parametrize("is_enabled", [True, False])
def test_garbage_collection_stays_on_or_off(tokenizer: BPETokenizer, is_enabled: bool) -> None:
    was_enabled = gc.isenabled()
    try:
        (gc.enable if is_enabled else gc.disable)()
        tokenizer.encode_batch([TEXT] * 3)
        assert gc.isenabled() == is_enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no interval timers")
def test_a_signal_handler_may_encode_while_lists_are_made(tokenizer: BPETokenizer) -> None:
    long, short = TEXT * 100, TEXT[:30]
    expected, of_short = tokenizer.encode(long), tokenizer.encode(short)
    handled: list[list[int]] = []
    earlier = signal.signal(signal.SIGVTALRM, lambda *_: handled.append(tokenizer.encode(short)))
    signal.setitimer(signal.ITIMER_VIRTUAL, 1e-3, 1e-3)  # of CPU time
    try:
        while len(handled) < 20:
            assert tokenizer.encode_batch([long, short], 2) == [expected, of_short]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, earlier)
    assert all(ids == of_short for ids in handled)
