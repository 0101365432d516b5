"""Which rows n-grams are found in; tests/model/test_variants.py has the model with them."""

from __future__ import annotations

import math

import pytest
import torch

from gptfast.model import ModelConfig
from gptfast.model.ngrams import NGramEmbedding


def embedding(max_ngram: int, rows: int) -> NGramEmbedding:
    config = ModelConfig(65, n_embd=8, n_head=1, max_ngram=max_ngram, ngram_rows=rows)
    made = NGramEmbedding(config)
    torch.nn.init.normal_(made.weight)
    return made


def test_equal_ngrams_share_a_row_and_others_dont() -> None:
    a, b, c = 3, 7, 9
    rows = embedding(3, 10_000).rows(torch.tensor([[a, b, c, a, b, c]]), None, None)
    pairs, triples = rows.T.tolist()
    # Of two: (none, a), ab, bc, ca, ab, bc. Of three: (none, none, a), (none, a, b), abc, ...
    assert pairs[1] == pairs[4]
    assert pairs[2] == pairs[5]
    assert len(set(pairs)) == 4
    assert triples[2] == triples[5]
    assert len(set(triples)) == 5
    assert max(pairs) < 10_000 <= min(triples) < 20_000


def test_the_embedding_is_the_sum_of_the_rows() -> None:
    made = embedding(4, 100)
    ids = torch.randint(65, (2, 5), generator=torch.Generator().manual_seed(0))
    expected = made.weight[made.rows(ids, None, None)].sum(1).view(2, 5, 8)
    torch.testing.assert_close(made(ids), expected)


def test_dropout_leaves_out_all_of_a_tokens_ngrams_and_only_in_training() -> None:
    made = embedding(3, 100)
    made.dropout = 0.3
    ids = torch.randint(65, (8, 500), generator=torch.Generator().manual_seed(0))
    whole = made.eval()(ids)
    torch.manual_seed(0)
    dropped = made.train()(ids)
    left_out = (dropped == 0).all(-1)
    assert left_out.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(dropped[~left_out], whole[~left_out])


@pytest.mark.parametrize("n", [2, 3, 4])
def test_ngrams_are_spread_over_the_rows_as_by_chance(n: int) -> None:
    made = embedding(n, 16384)
    ids = torch.randint(65, (1, 20_000), generator=torch.Generator().manual_seed(0))
    windows = ids[0].unfold(0, n, 1)
    distinct = len(windows.unique(dim=0))
    used = len(made.rows(ids, None, None)[n - 1 :, n - 2].unique())
    by_chance = 16384 * (1 - math.exp(-distinct / 16384))
    assert used > 0.97 * by_chance


def test_no_ngram_crosses_the_border_of_a_document_or_a_row() -> None:
    made = embedding(4, 100_000)
    ids = torch.randint(65, (2, 6), generator=torch.Generator().manual_seed(0))
    borders = [0, 2, 5, 9, 12]  # the third document goes on in the second row
    rows = made.rows(ids, None, torch.tensor(borders)).view(2, 6, 3)
    alone = [(0, 0, 2), (0, 2, 5), (0, 5, 6), (1, 0, 3), (1, 3, 6)]
    for row, begin, end in alone:
        expected = made.rows(ids[row : row + 1, begin:end], None, None)
        assert rows[row, begin:end].tolist() == expected.tolist()
