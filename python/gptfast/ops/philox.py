"""Counter-based random numbers: Philox 4x32 with 10 rounds.

"Parallel Random Numbers: As Easy as 1, 2, 3", Salmon et al. 2011. A number depends only on the seed
and its position, so nothing is stored: the backward pass recomputes the mask of the forward pass,
and every backend computes the same mask.
"""

import torch
from torch import Tensor

_FACTORS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def philox(seed: Tensor, counters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return four 32-bit random numbers for four 32-bit counters, all stored as int64.

    `seed` is int64 and broadcasts with the counters.
    """
    c0, c1, c2, c3 = counters
    key_0, key_1 = seed & _LOW, seed >> 32 & _LOW
    for _ in range(10):
        # int64 multiplication wraps, so all 64 bits of these products are exact.
        product_0, product_2 = _FACTORS[0] * c0, _FACTORS[1] * c2
        c0, c1 = product_2 >> 32 & _LOW ^ c1 ^ key_0, product_2 & _LOW
        c2, c3 = product_0 >> 32 & _LOW ^ c3 ^ key_1, product_0 & _LOW
        key_0, key_1 = key_0 + _KEY_STEPS[0] & _LOW, key_1 + _KEY_STEPS[1] & _LOW
    return c0, c1, c2, c3


def dropout_mask(seed: Tensor, B: int, H: int, T: int, S: int, dropout_p: float) -> Tensor:
    """Return the dropout mask (B, H, T, S), True where a weight is kept, on the seed's device.

    The counter is (s // 4, t, b * H + h, 0); its four numbers serve four adjacent keys s. A weight
    is kept if the highest 24 bits of its number, as a fraction, are at least `dropout_p`.
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
