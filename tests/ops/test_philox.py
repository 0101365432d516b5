"""The counter-based random numbers against the test vectors of the paper's own library."""

import pytest
import torch

from gptfast.ops.philox import dropout_mask, philox


@pytest.mark.parametrize(
    ("counters", "seed", "numbers"),
    [  # "philox4x32 10" in kat_vectors of Random123; the seed is the key's two words
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, -1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0x299F31D0 << 32) + 0xA4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_numbers(counters, seed, numbers):
    found = philox(torch.tensor([seed]), tuple(torch.tensor([c]) for c in counters))
    assert tuple(int(number) for number in found) == numbers


def test_the_mask_keeps_the_fraction_it_should_and_differs_between_seeds_heads_and_queries():
    one, other = (dropout_mask(torch.tensor([seed]), 2, 3, 40, 41, 0.25) for seed in (7, 7 + 2**32))
    assert one.shape == (2, 3, 40, 41)
    assert 0.73 < one.double().mean() < 0.77
    for changed in (other, one.roll(1, 0), one.roll(1, 1), one.roll(1, 2), one.roll(1, 3)):
        assert 0.6 < (one == changed).double().mean() < 0.65  # 0.75^2 + 0.25^2


def test_a_shorter_mask_is_part_of_a_longer_one():
    seed = torch.tensor([5])
    longer = dropout_mask(seed, 1, 2, 9, 11, 0.5)
    assert torch.equal(dropout_mask(seed, 1, 2, 4, 6, 0.5), longer[:, :, :4, :6])
