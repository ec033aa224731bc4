"""Confidence intervals: takes values with their patients, gives a cluster bootstrap over patients.

Series of one patient are correlated, so a patient is drawn with all its series. Each resample is a
vector of counts, so that all resamples are one matrix product. scipy.stats.bootstrap does not draw
clusters.
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

TAIL = 0.025
"""Share of resamples beyond each end of an interval: 95 % lie within."""


def draw_counts(rng: np.random.Generator, clusters: int, resamples: int) -> Counts:
    """(resamples, clusters): how often each cluster, a patient or a seed, is drawn."""
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)


def bound_draws(draws: npt.ArrayLike) -> tuple[float, float]:
    """95 % interval of a statistic over resamples; NaN without any."""
    values = np.asarray(draws, np.float64)
    if not values.size:
        return math.nan, math.nan
    low, high = np.quantile(values, (TAIL, 1 - TAIL))
    return float(low), float(high)
