"""Is an uncertainty as large as the errors are? Errors against a reference, whose own noise is no error of the network.

Degraded by a factor f, a scan keeps the noise of 1 / f of its samples, and a result that is true to its input has it,
too. What differs from the reference is the error of the network and the noise of the other samples:
E[error²] = (factor · uncertainty)² + noise² (1 - 1 / f).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..dwi import DWI

MULTIPLES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""Of the predicted standard deviation, within which errors are counted."""
NORMAL = (0.383, 0.683, 0.866, 0.954, 0.988, 0.997, 1.0, 1.0)
"""The share of a normal distribution within each of `MULTIPLES`."""
BINS = 20
"""Of as many voxels each, by rising uncertainty."""
_FEWEST = 1000


@dataclass(frozen=True)
class Reliability:
    """How large errors are where an uncertainty is so large.

    Attributes
    ----------
    factor : float
        By which the uncertainty is to be multiplied to be the network's error; 1 where it is calibrated.
    noise : float
        Standard deviation of the part of the reference's noise that no network can know, in signal units.
    uncertainty, error : tuple of float
        Root mean square of each in `BINS` of rising uncertainty, in signal units.
    coverage, calibrated : tuple of float
        Share of the errors within `MULTIPLES` of the predicted deviation, which is that of uncertainty and noise
        together: with the uncertainty as it is, and multiplied by `factor`.
    """

    factor: float
    noise: float
    uncertainty: tuple[float, ...]
    error: tuple[float, ...]
    coverage: tuple[float, ...]
    calibrated: tuple[float, ...]


def measure_reliability(
    reference: DWI,
    result: DWI,
    uncertainty: NDArray[np.float32],
    mask: NDArray[np.bool_],
    noise: float,
    coarse: Sequence[int],
) -> Reliability | None:
    """Compare an uncertainty with the errors of the weighted volumes.

    Parameters
    ----------
    reference, result : DWI
        On one grid; the reference was degraded and restored.
    uncertainty : array (X, Y, Z, N)
        Standard deviations of the result, see `predict.super_resolve_with_uncertainty`.
    mask : array (X, Y, Z)
        Where errors count. What the network did not touch, of uncertainty 0, does not.
    noise : float
        Standard deviation of the reference's noise, see `selfchecks.noise_level`.
    coarse : three ints
        Matrix of the degraded scan.

    Returns
    -------
    Reliability
        None where fewer than 1000 values have an uncertainty.

    Examples
    --------
    Errors three times as large as they were said to be, and noise of 5.

    >>> from DWISuperResLib import phantom
    >>> from dataclasses import replace
    >>> rng = np.random.default_rng(0)
    >>> scan = phantom((24, 24, 8), (8, 8, 16), snr=None, supersampling=1, shells=((0, 1), (1000, 6)))
    >>> said = rng.uniform(1, 10, scan.signal.shape).astype(np.float32)
    >>> off = scan.signal + 3 * said * rng.normal(size=said.shape) + 5 * np.sqrt(3 / 4) * rng.normal(size=said.shape)
    >>> found = measure_reliability(
    ...     scan, replace(scan, signal=off), said, np.ones((24, 24, 8), bool), 5.0, (12, 12, 8)
    ... )
    >>> round(found.factor, 1), [round(share, 2) for share in found.calibrated[1::2]]
    (3.0, [0.68, 0.95, 1.0, 1.0])
    """
    weighted = ~reference.is_b0 if not reference.is_b0.all() else reference.is_b0
    said = uncertainty[mask][:, weighted].ravel().astype(np.float64)
    errors = (result.signal[mask][:, weighted] - reference.signal[mask][:, weighted]).ravel().astype(np.float64)
    kept = said > 0
    said, errors = said[kept], errors[kept]
    if len(said) < _FEWEST:
        return None
    lost = 1 - np.prod(coarse) / np.prod(reference.spatial_shape)
    unknown = noise**2 * lost
    bins = np.array_split(np.argsort(said, kind="stable"), BINS)
    x, y = (np.array([np.mean(values[part] ** 2) for part in bins]) for values in (said, errors))
    # Relative to what is predicted there: else the largest uncertainties alone would decide.
    weight = 1 / np.maximum(y, np.finfo(float).tiny) ** 2
    factor = float(np.sqrt(max(0.0, np.sum(weight * x * (y - unknown)) / np.sum(weight * x**2))))

    def coverage(multiple: float) -> tuple[float, ...]:
        size = np.abs(errors) / np.sqrt((multiple * said) ** 2 + unknown)
        return tuple(float(np.mean(size <= k)) for k in MULTIPLES)

    return Reliability(
        factor=factor,
        noise=float(np.sqrt(unknown)),
        uncertainty=tuple(float(v) for v in np.sqrt(x)),
        error=tuple(float(v) for v in np.sqrt(y)),
        coverage=coverage(1.0),
        calibrated=coverage(factor),
    )
