"""Packing: every example once, none cut, and rows that are full."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptfast.data.batch import IGNORED
from gptfast.data.packing import Example, PackedRows, best_fit, packed_source
from gptfast.data.shuffled import ShuffledSource
from gptfast.errors import UserError

FILL = 99


def example(ids: list[int], mask: list[bool]) -> Example:
    return Example(np.array(ids, dtype=np.int64), np.array(mask, dtype=np.bool_))


def numbered(lengths: list[int]) -> list[Example]:
    """Examples whose ids are their numbers; every second token is a target."""
    return [example([i] * n, [j % 2 == 1 for j in range(n)]) for i, n in enumerate(lengths)]


@given(st.lists(st.integers(1, 30)), st.integers(30, 50))
def test_each_sequence_is_in_one_row_that_holds_it(lengths: list[int], capacity: int) -> None:
    rows = best_fit(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in row) for row in rows]
    assert all(total <= capacity for total in sums)
    assert all(rows)
    # Two rows that are at most half full would have been one.
    assert sum(2 * total <= capacity for total in sums) <= 1


def test_the_longest_goes_first_into_the_row_that_it_fills_best() -> None:
    # By hand: 7, 6, 5 begin rows of 10; 4 fits only 6 (free 4) and 5 (free 5), and fills 6's row.
    assert best_fit([4, 5, 6, 7, 3], 10) == [[3, 4], [2, 0], [1]]
    with pytest.raises(ValueError, match="sequence 1 has 11 tokens, a row has 10"):
        best_fit([1, 11], 10)


def test_rows_of_usual_chats_are_at_least_95_percent_full() -> None:
    # Chats of two to twelve messages of log-normal length.
    rng = np.random.default_rng(0)
    lengths = [
        1 + int(sum(3 + rng.lognormal(2.3, 0.8) for _ in range(rng.integers(2, 13))))
        for _ in range(1000)
    ]
    rows = PackedRows(numbered([n for n in lengths if n <= 257]), 256, FILL)
    assert len(rows.examples) > 900
    assert rows.share_used > 0.95


def test_a_row_by_hand() -> None:
    a = example([1, 2, 3], [True, False, True])  # nothing predicts the first token
    b = example([4, 5], [False, True])
    rows = PackedRows([b, a], 6, FILL)
    assert (rows.rows, rows.n_tokens, rows.n_targets) == ([[1, 0]], 5, 2)
    assert rows.share_used == pytest.approx(5 / 7)
    batch = rows.batch([0])
    assert batch.ids_BT.tolist() == [[1, 2, 3, 4, 5, FILL]]
    assert batch.targets_BT.tolist() == [[IGNORED, 3, IGNORED, 5, IGNORED, IGNORED]]
    assert batch.cu_seqlens is not None
    assert batch.cu_seqlens.tolist() == [0, 3, 5, 6]


@given(st.lists(st.integers(2, 9), min_size=1, max_size=30))
def test_all_targets_of_all_examples_are_in_the_rows(lengths: list[int]) -> None:
    rows = PackedRows(numbered(lengths), 8, FILL)
    batch = rows.batch(range(len(rows)))
    counted = batch.targets_BT[batch.targets_BT != IGNORED]
    assert sorted(counted.tolist()) == [i for i, n in enumerate(lengths) for _ in range(n // 2)]
    assert rows.n_targets == len(counted)
    # A target follows in its own document.
    at = batch.targets_BT != IGNORED
    assert torch.equal(batch.ids_BT[at], batch.targets_BT[at])


def source(n: int = 23, batch_size: int = 4, seed: int = 1) -> ShuffledSource:
    return packed_source(PackedRows(numbered([9] * n), 8, FILL), batch_size, seed, "chats")


def drawn(source: ShuffledSource, n_batches: int) -> list[int]:
    """The rows' numbers: each row holds one example, whose ids are its number."""
    return [int(i) for _ in range(n_batches) for i in source.next_batch().ids_BT[:, 0]]


def test_each_epoch_visits_every_row_once_in_another_order() -> None:
    rows = drawn(source(), 23)  # 4 epochs of 23 rows, in batches of 4
    epochs = [rows[i : i + 23] for i in range(0, 92, 23)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert rows != drawn(source(seed=2), 23)


@pytest.mark.parametrize("n", [0, 3, 6, 11])
def test_a_saved_position_goes_on_bitwise(n: int) -> None:
    whole, first, second = source(), source(), source()
    expected = drawn(whole, n + 8)[4 * n :]
    drawn(first, n)
    first.example()  # does not advance
    second.load_state_dict(first.state_dict())
    assert drawn(second, 8) == expected


def test_nothing_to_learn_is_refused() -> None:
    rows = PackedRows([example([1, 2], [True, False])], 8, FILL)
    with pytest.raises(UserError, match="no answer to learn from"):
        packed_source(rows, 1, 0, "")
