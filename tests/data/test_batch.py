from __future__ import annotations

import pytest
import torch

from gptfast.data.batch import IGNORED, Batch


def batch() -> Batch:
    """Five rows of three tokens; the number of each row stands in it, and in its extra."""
    ids_BT = torch.arange(5)[:, None].repeat(1, 3)
    starts_BT = torch.zeros(5, 3, dtype=torch.bool)
    starts_BT[3, 1] = True
    return Batch(ids_BT, ids_BT + 10, starts_BT, {"reward": torch.arange(5.0)})


def rows(part: Batch) -> list[int]:
    """The numbers of a part's rows, the same in all of its tensors."""
    numbers = part.ids_BT[:, 0].tolist()
    assert (part.targets_BT[:, 0] - 10).tolist() == numbers
    assert part.extras["reward"].tolist() == numbers
    assert part.document_starts_BT is not None
    assert part.document_starts_BT.any(1).tolist() == [n == 3 for n in numbers]
    return numbers


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_are_disjoint_and_whole(size: int) -> None:
    shares = [rows(batch().share(rank, size)) for rank in range(size)]
    assert sorted(row for share in shares for row in share) == [0, 1, 2, 3, 4]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("n_rows", [1, 2, 5, 9])
def test_parts_are_in_order_and_whole(n_rows: int) -> None:
    parts = batch().split(n_rows)
    assert [row for part in parts for row in rows(part)] == [0, 1, 2, 3, 4]
    assert all(len(part) == n_rows for part in parts[:-1])


def test_documents_of_a_part_begin_where_its_own_rows_do() -> None:
    whole, part = batch().cu_seqlens, batch().share(1, 2).cu_seqlens  # rows 1 and 3
    assert whole is not None
    assert whole.tolist() == [0, 3, 6, 9, 10, 12, 15]
    assert part is not None
    assert part.tolist() == [0, 3, 4, 6]


def test_a_batch_is_shown_in_a_line() -> None:
    assert repr(batch()) == "Batch(5 x 3 ids on cpu, reward)"


def test_a_batch_moves_as_a_whole() -> None:
    moved = batch().to(torch.device("meta"))
    assert moved.ids_BT.device.type == moved.targets_BT.device.type == "meta"
    assert moved.extras["reward"].device.type == "meta"
    assert moved.document_starts_BT is not None
    assert moved.document_starts_BT.device.type == "cpu"


def test_ignored_is_pytorchs() -> None:
    logits, targets = torch.zeros(2, 4), torch.tensor([1, IGNORED])
    assert torch.nn.functional.cross_entropy(logits, targets).item() == pytest.approx(
        torch.log(torch.tensor(4.0)).item()
    )
