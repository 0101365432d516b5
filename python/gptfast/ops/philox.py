"""Random numbers that are a function of where they are used: Philox 4x32 with 10 rounds.

"Parallel Random Numbers: As Easy as 1, 2, 3", Salmon et al. 2011. Since nothing is stored, a
backward pass computes the mask of the forward pass again, and any backend the mask of any other.
"""

import torch
from torch import Tensor

_FACTORS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def philox(seed: Tensor, counters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return four numbers of 32 bits, as int64, for four counters of 32 bits, as int64.

    `seed` is int64 and of any shape that fits the counters'.
    """
    c0, c1, c2, c3 = counters
    key_0, key_1 = seed & _LOW, seed >> 32 & _LOW
    for _ in range(10):
        # Of an int64 that overflows the bits are those of the product, as far as there are any.
        product_0, product_2 = _FACTORS[0] * c0, _FACTORS[1] * c2
        c0, c1 = product_2 >> 32 & _LOW ^ c1 ^ key_0, product_2 & _LOW
        c2, c3 = product_0 >> 32 & _LOW ^ c3 ^ key_1, product_0 & _LOW
        key_0, key_1 = key_0 + _KEY_STEPS[0] & _LOW, key_1 + _KEY_STEPS[1] & _LOW
    return c0, c1, c2, c3


def dropout_mask(seed: Tensor, B: int, H: int, T: int, S: int, dropout_p: float) -> Tensor:
    """Return which of the (B, H, T, S) attention weights dropout keeps, on the seed's device.

    The counter is (s // 4, t, b * H + h, 0), and its four numbers are for four keys s. A weight is
    kept if the number's highest 24 bits, as a fraction, are at least `dropout_p`.
    """
    device = seed.device
    quads = torch.arange((S + 3) // 4, device=device)
    rows_T = torch.arange(T, device=device)[:, None]
    heads_BH = torch.arange(B * H, device=device)[:, None, None]
    none = torch.zeros(B * H, T, len(quads), dtype=torch.int64, device=device)
    counters = (none + quads, none + rows_T, none + heads_BH, none)
    numbers = torch.stack(philox(seed, counters), -1).flatten(-2)[..., :S]
    uniform = (numbers >> 8).float() * 2.0**-24
    return (uniform >= torch.tensor(dropout_p, dtype=torch.float32)).view(B, H, T, S)
