"""Fits of scaling laws, on losses whose law is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from gptfast.audit.power_law import PowerLaw, fit_power_law, predict
from gptfast.errors import UserError

COMPUTE = np.geomspace(1e11, 1e13, 5)
TARGET = 4e13


def losses(floor: float, scale: float, exponent: float) -> np.ndarray:
    return floor + scale * COMPUTE**-exponent


@pytest.mark.parametrize(
    "law", [(1.7, 40.0, 0.12), (0.5, 300.0, 0.2), (3.0, 1e4, 0.3), (0.0, 20.0, 0.08)]
)
def test_known_laws_are_recovered_to_a_hundredth(law: tuple[float, float, float]) -> None:
    found = fit_power_law(COMPUTE, losses(*law))
    assert (found.floor, found.scale, found.exponent) == pytest.approx(law, rel=0.01, abs=1e-6)
    assert found(TARGET) == pytest.approx(law[0] + law[1] * TARGET ** -law[2], rel=1e-6)


def test_the_fit_is_scipys_least_squares() -> None:
    noisy = losses(1.7, 40, 0.12) * (1 + 0.01 * np.random.default_rng(3).standard_normal(5))
    found = fit_power_law(COMPUTE, noisy)
    (floor, scale, exponent), _ = curve_fit(
        lambda c, e, a, g: e + a * (c / 1e12) ** -g, COMPUTE, noisy, (1, 1, 0.2), maxfev=20000,
        bounds=(0, [10, 10, 2]), xtol=1e-12, ftol=1e-12,
    )  # fmt: skip
    expected = floor + scale * (COMPUTE / 1e12) ** -exponent
    np.testing.assert_allclose([found(c) for c in COMPUTE], expected, rtol=1e-5)


def test_nine_intervals_in_ten_hold_the_loss() -> None:
    """The seeds of the noise are fixed, so the count is, too."""
    inside = 0
    for i in range(20):
        rng = np.random.default_rng(i)
        seen = losses(1.7, 40, 0.12)[:, None] * (1 + 0.01 * rng.standard_normal((5, 3)))
        reached = (1.7 + 40 * TARGET**-0.12) * (1 + 0.01 * rng.standard_normal())
        prediction = predict(COMPUTE, seen, TARGET, 1, resamples=60)
        assert prediction.low < prediction.loss < prediction.high
        inside += prediction.low <= reached <= prediction.high
    assert 15 <= inside <= 20


def test_more_noise_gives_a_wider_interval_and_the_same_seed_the_same_one() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((5, 3))
    widths = []
    for size in (0.001, 0.01):
        seen = losses(1.7, 40, 0.12)[:, None] * (1 + size * noise)
        first, second = (predict(COMPUTE, seen, TARGET, 1, resamples=100) for _ in range(2))
        assert first == second
        widths.append(first.high - first.low)
    assert widths[1] > 3 * widths[0]


def test_what_no_law_can_be_fitted_to_is_refused() -> None:
    with pytest.raises(UserError, match="3 sizes given: expected at least 4"):
        fit_power_law(COMPUTE[:3], losses(1, 10, 0.1)[:3])
    with pytest.raises(UserError, match="do not fall with compute"):
        fit_power_law(COMPUTE, losses(1, 10, 0.1)[::-1].copy())
    with pytest.raises(UserError, match="1 seed given: expected at least 3"):
        predict(COMPUTE, losses(1, 10, 0.1)[:, None], TARGET, 1)


def test_a_law_is_its_formula() -> None:
    assert PowerLaw(1.0, 8.0, 0.5)(16.0) == 3.0
