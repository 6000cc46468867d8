"""How well one quantity foretells the order of another: Spearman's rank correlation with bootstrap intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError


class RankCorrelation(NamedTuple):
    """Mean of the groups' Spearman coefficients, its 95 % interval, and each group's own.

    Examples
    --------
    >>> found = rank_correlation(np.arange(8.0), -np.arange(8.0))
    >>> round(found.rho, 6)
    -1.0
    """

    rho: float
    low: float
    high: float
    by_group: NDArray[np.float64]


def rank_correlation(x: ArrayLike, y: ArrayLike, *, seed: int = 0, resamples: int = 2000) -> RankCorrelation:
    """Correlate ranks within groups, and average over groups.

    Levels that differ between groups (scans) neither help nor harm. The interval is the percentile bootstrap over
    items, the same items drawn in every group: items are what the result should carry over to.

    Parameters
    ----------
    x, y : array (groups, items)
    seed : int
    resamples : int

    Raises
    ------
    InputError
        If shapes differ, there are fewer than three items, or values are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> round(rank_correlation(np.arange(8.0), np.arange(8.0) ** 2).rho, 6)
    1.0
    """
    from scipy.stats import bootstrap

    first, second = (np.atleast_2d(np.asarray(a, np.float64)) for a in (x, y))
    if first.shape != second.shape or first.shape[1] < 3 or not np.isfinite([first, second]).all():
        raise InputError(
            f"Rank correlation got shapes {first.shape} and {second.shape}; expected the same finite (groups, items), "
            "with 3 items or more."
        )

    def mean_rho(items: NDArray[np.intp], axis: int = -1) -> NDArray[np.float64]:
        return _spearman(first[:, items], second[:, items]).mean(0)

    everything = np.arange(first.shape[1])
    interval = bootstrap(
        (everything,), mean_rho, vectorized=True, n_resamples=resamples, method="percentile", rng=seed
    ).confidence_interval
    by_group = _spearman(first, second)
    return RankCorrelation(float(by_group.mean()), float(interval.low), float(interval.high), by_group)


def reader_agreement(scores: ArrayLike) -> tuple[float, float]:
    """Inter-reader agreement of scores (readers, images), NaN where a reader skipped an image.

    Returns
    -------
    left_out : float
        Spearman coefficient of each reader with the mean of the others, averaged over readers: comparable to a
        metric's with the mean of the readers.
    pairwise : float
        Averaged over pairs of readers. NaN, like `left_out`, where no two readers share three images.
    """
    scores = np.atleast_2d(np.asarray(scores, np.float64))
    left_out, pairs = [], []
    for n, own in enumerate(scores):
        others = np.delete(scores, n, axis=0)
        counts = np.isfinite(others).sum(0)
        left_out.append(_known(own, np.where(counts, np.nansum(others, 0) / np.maximum(counts, 1), np.nan)))
        pairs += [_known(own, other) for other in scores[n + 1 :]]
    return tuple(float(np.nanmean(v)) if np.isfinite(v).any() else float("nan") for v in (left_out, pairs))  # type: ignore[return-value]


def _known(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    both = np.isfinite(x) & np.isfinite(y)
    return float(_spearman(x[both], y[both])) if both.sum() >= 3 else float("nan")


def _spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Along the last axis; 0 where either is constant, since then it tells nothing."""
    from scipy.stats import rankdata

    a, b = (rankdata(v, axis=-1) for v in (x, y))
    a, b = (v - v.mean(-1, keepdims=True) for v in (a, b))
    length = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.where(length > 0, (a * b).sum(-1) / np.where(length > 0, length, 1), 0.0)
