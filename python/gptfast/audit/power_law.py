"""Fit a scaling law to the losses of several sizes, and say how far it can be trusted.

Shape suffixes: S sizes, K seeds, G candidates of the exponent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptfast.cli.units import count
from gptfast.errors import UserError

Floats = NDArray[np.float64]

MIN_SIZES = 4
"""Three parameters need more than three points, or the fit goes through all of them."""
MIN_SEEDS = 3
"""Of the noise of two, nothing can be said."""
_EXPONENTS = (0.005, 2.0)
_CANDIDATES = 400


@dataclass(frozen=True)
class PowerLaw:
    """L(C) = floor + scale C^-exponent ("Chinchilla", Hoffmann et al., 2022, along one ray)."""

    floor: float
    """The loss that no compute goes below, in the unit of the losses."""
    scale: float
    exponent: float

    def __call__(self, compute: float) -> float:
        """Return the predicted loss at a compute, in FLOPs."""
        return float(self.floor + self.scale * compute**-self.exponent)


@dataclass(frozen=True)
class Prediction:
    """The loss that the fits of resampled runs predict."""

    compute: float
    """In FLOPs."""
    loss: float
    """By the law that was fitted to all runs."""
    low: float
    high: float
    """The interval that holds `coverage` of the resampled predictions."""
    coverage: float


def fit_power_law(compute_S: Floats, loss_S: Floats) -> PowerLaw:
    """Return the law with the smallest sum of squared errors.

    For a given exponent, floor and scale are a linear least-squares problem. So the search has one
    dimension ("variable projection", Golub and Pereyra, 1973): a grid of exponents, refined around
    its best one. Floor and scale are kept at 0 or above.

    Raises UserError for fewer than 4 sizes, and for losses that do not fall with compute.
    """
    n_sizes = len(np.unique(compute_S))
    if n_sizes < MIN_SIZES:
        raise UserError(f"{n_sizes} sizes given: expected at least {MIN_SIZES} to fit a law to")
    middle = float(np.exp(np.log(compute_S).mean()))  # keeps both columns near 1
    low, high = _EXPONENTS
    for _ in range(4):
        exponents_G = np.geomspace(low, high, _CANDIDATES)
        floor_G, scale_G, error_G = _floors_and_scales(compute_S / middle, loss_S, exponents_G)
        best = int(np.argmin(error_G))
        low = float(exponents_G[max(best - 1, 0)])
        high = float(exponents_G[min(best + 1, _CANDIDATES - 1)])
    floor, scale = float(floor_G[best]), float(scale_G[best])
    if scale <= 0:
        raise UserError(
            "the losses do not fall with compute: expected larger models to be better; check that "
            "they were trained for long enough"
        )
    exponent = float(exponents_G[best])
    return PowerLaw(floor, scale * middle**exponent, exponent)


def _floors_and_scales(
    compute_S: Floats, loss_S: Floats, exponents_G: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return the best floor >= 0 and scale >= 0 for each exponent, and the squared error."""
    power_GS = compute_S ** -exponents_G[:, None]
    # Simple regression of the loss on the power.
    centred_GS = power_GS - power_GS.mean(1, keepdims=True)
    scale_G = (centred_GS @ loss_S) / (centred_GS**2).sum(1)
    floor_G = loss_S.mean() - scale_G * power_GS.mean(1)
    through_zero_G = (power_GS @ loss_S) / (power_GS**2).sum(1)
    scale_G = np.where(floor_G < 0, through_zero_G, scale_G)
    floor_G = np.where(floor_G < 0, 0.0, floor_G)
    floor_G = np.where(scale_G < 0, loss_S.mean(), floor_G)
    scale_G = np.maximum(scale_G, 0.0)
    errors_GS = floor_G[:, None] + scale_G[:, None] * power_GS - loss_S
    return floor_G, scale_G, (errors_GS**2).sum(1)


def predict(
    compute_S: Floats,
    loss_SK: Floats,
    target: float,
    target_seeds: int,
    *,
    coverage: float = 0.9,
    resamples: int = 1000,
    seed: int = 0,
) -> Prediction:
    """Predict the mean loss of `target_seeds` runs at the compute `target`, with an interval.

    compute_S: FLOPs of each size. loss_SK: losses of its seeds. The interval is a bootstrap of
    residuals ("Bootstrap Methods", Efron, 1979): each resample draws relative deviations of runs
    from the fitted law, pooled over all sizes and seeds, adds them to the law, fits again, and adds
    the deviation of the target's runs. It knows the noise of seeds and how badly the law fits. It
    does not know whether the law holds beyond the sizes that were fitted.

    Raises UserError for fewer than 4 sizes or 3 seeds.
    """
    n_sizes, n_seeds = loss_SK.shape
    if n_seeds < MIN_SEEDS:
        raise UserError(
            f"{count(n_seeds, 'seed')} given: expected at least {MIN_SEEDS}, because the interval "
            f"comes from how runs differ"
        )
    law = fit_power_law(compute_S, loss_SK.mean(1))
    fitted_S = np.array([law(compute) for compute in compute_S])
    # A law with 3 parameters is nearer to its runs than the true one: this makes up for it.
    n_runs = loss_SK.size
    deviations = (loss_SK / fitted_S[:, None] - 1).ravel() * (n_runs / (n_runs - 3)) ** 0.5
    generator = np.random.default_rng(seed)
    predictions = []
    for _ in range(resamples):
        drawn_S = generator.choice(deviations, (n_sizes, n_seeds)).mean(1)
        own = generator.choice(deviations, target_seeds).mean()
        try:
            resampled = fit_power_law(compute_S, fitted_S * (1 + drawn_S))(target)
        except UserError:  # this resample does not fall: it predicts no improvement
            resampled = float(fitted_S.min())
        predictions.append(resampled * (1 + own))
    tail = 50 * (1 - coverage)
    low, high = np.percentile(predictions, (tail, 100 - tail))
    return Prediction(target, law(target), float(low), float(high), coverage)
