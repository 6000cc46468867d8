"""What super-resolution did to the maps of a scan that has no ground truth: its own maps before, and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..metrics import Pair, metrics_of
from ..microstructure import compute_maps
from ..resampling.grid import slice_axis
from ..resampling.operators import map_volumes, operator

if TYPE_CHECKING:
    from ..dwi import DWI

BINS = 61
HISTOGRAM_LIMITS = {"fa": 0.3, "qa": 0.3}
"""Differences of these maps are counted between minus and plus this; QA in units of the input's largest."""


def finer_mask(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask on a finer grid of the same field of view.

    Examples
    --------
    >>> finer_mask(np.array([[[True, False]]]), (1, 1, 4)).tolist()
    [[[True, True, False, False]]]
    """
    return _finer(mask.astype(np.float32), shape) > 0.5


def map_changes(
    low: DWI, high_maps: Mapping[str, NDArray[np.float32]], mask: NDArray[np.bool_], axis: int | str | None = None
) -> dict[str, dict[str, Any]]:
    """Compare the maps of a super-resolved scan with those of its input.

    The input's maps are fitted on its own grid and brought to the finer one linearly. What differs is what the
    network added and what partial volumes hid; it is not an error.

    Parameters
    ----------
    low : DWI
        The input.
    high_maps : mapping of str to array (X, Y, Z)
        Maps of the result.
    mask : array (x, y, z)
        The brain, on the input's grid.
    axis : optional
        Slice axis, see `grid.slice_axis`.

    Returns
    -------
    dict of map to dict
        "before", "after": means over the brain on the finer grid; the metrics of maps, after against before; "counts":
        histogram of the differences in `BINS` bins over `HISTOGRAM_LIMITS`, where it has some, the ends counted in.
        QA and ISO are in units of the input's largest QA in the brain.

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> scan = phantom((16, 20, 3), (10, 10, 12), supersampling=1)
    >>> brain = np.ones(scan.spatial_shape, bool)
    >>> changes = map_changes(scan, compute_maps(scan, ("fa",)), brain)
    >>> changes["fa"]["bias"], sum(changes["fa"]["counts"])
    (0.0, 960)
    """
    from scipy.ndimage import binary_dilation

    names = set(high_maps)
    wider = binary_dilation(mask, iterations=2)  # or the interpolation would mix in the zeros outside
    before = compute_maps(low, names | ({"qa"} if "iso" in names else set()), mask=wider)
    shape = next(iter(high_maps.values())).shape
    inside = finer_mask(mask, shape)
    largest = float(before["qa"][mask].max()) if "qa" in before and mask.any() else 0.0
    found = {}
    for name, after in high_maps.items():
        unit = largest if name in ("qa", "iso") and largest > 0 else 1.0
        pair = Pair(_finer(before[name], shape) / unit, after / unit, inside, slice_axis(low, axis))
        first, second = pair.reference[inside], pair.test[inside]
        row: dict[str, Any] = {"before": float(first.mean()), "after": float(second.mean())}
        row |= {metric.name: float(metric.measure(pair)) for metric in metrics_of("map")}
        if limit := HISTOGRAM_LIMITS.get(name):
            counts, _ = np.histogram(np.clip(second - first, -limit, limit), BINS, (-limit, limit))
            row["counts"] = counts.tolist()
        found[name] = row
    return found


def _finer(values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    operators = {
        a: operator(n, m, "linear") for a, (n, m) in enumerate(zip(values.shape, shape, strict=True)) if n != m
    }
    return map_volumes(values[..., None], operators)[..., 0] if operators else values
