"""Two scans of one grid: their maps, the differences, and how large those are in the brain and in its tissues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..microstructure.maps import compute_maps
from ..microstructure.masks import brain_mask
from ..resampling.grid import check_same_grid, crop

if TYPE_CHECKING:
    from ..dwi import DWI

Maps = dict[str, NDArray[np.float32]]
FLUID_MD = 1.5e-3
"""Mean diffusivity (mm²/s) from which a voxel of low FA counts as fluid: tissue has 0.7e-3 to 1e-3, free water 3e-3."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Maps of a reference and of a test scan, test minus reference, and statistics of the difference.

    Maps are (X, Y, Z) float32, 0 outside `mask`. QA and ISO of both are in units of the largest QA of the reference in
    the mask, which is 1 / `qa_scale` in the signal's unit.

    Each row of `statistics` has: map, region, n (voxels), mae, rmse, bias (mean difference), correlation (Pearson),
    loa_lower and loa_upper (Bland-Altman 95 % limits of agreement, bias -+ 1.96 SD), reference_mean, test_mean.
    Regions: "brain" (the mask) and, where a tensor can be fitted to the reference, classes by its FA and MD.
    """

    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]
    maps: tuple[str, ...]
    reference: Maps
    test: Maps
    difference: Maps
    statistics: list[dict]
    qa_scale: float


def compare(
    reference: DWI, test: DWI, maps: Sequence[str] = ("fa", "qa"), *, mask: NDArray | None = None, fit: str = "wls"
) -> Comparison:
    """Compare the microstructure of two scans.

    Parameters
    ----------
    reference, test : DWI
        On one grid; voxels of the test beyond the far end of the reference's matrix (padding) are left out. Gradient
        tables may differ.
    maps, fit
        As for `compute_maps`.
    mask : array (X, Y, Z), optional
        Voxels to compare, on the reference's grid; `brain_mask(reference)` by default.

    Raises
    ------
    InputError
        If the grids differ, the mask is empty or has another matrix, or a gradient table is too small for the maps.
    """
    from ..microstructure.tensor import determines_tensor

    maps = tuple(dict.fromkeys(maps))
    if all(n >= m for n, m in zip(test.spatial_shape, reference.spatial_shape, strict=True)):
        test = replace(test, signal=crop(test.signal, reference.spatial_shape))
    check_same_grid(reference, test)
    mask = brain_mask(reference) if mask is None else np.asarray(mask) > 0
    if not mask.any():
        raise InputError("The mask is empty, so there is nothing to compare; give another mask.")
    classes = ("fa", "md") if determines_tensor(reference.bvals, reference.bvecs) else ()
    computed = compute_maps(reference, {*maps, *classes, *({"qa"} if "iso" in maps else ())}, fit=fit, mask=mask)
    first = {name: computed[name] for name in maps}
    second = compute_maps(test, maps, fit=fit, mask=mask)
    qa_scale = 1.0
    if "qa" in computed:
        largest = float(computed["qa"].max())
        qa_scale = 1 / largest if largest > 0 else 1.0
        for name in {"qa", "iso"} & set(maps):
            first[name] = first[name] * np.float32(qa_scale)
            second[name] = second[name] * np.float32(qa_scale)
    difference = {name: second[name] - first[name] for name in maps}
    regions = {"brain": mask} | (_tissue_classes(computed["fa"], computed["md"], mask) if classes else {})
    statistics = [
        {"map": name, "region": region, **_statistics(first[name][inside], second[name][inside])}
        for name in maps
        for region, inside in regions.items()
        if inside.any()
    ]
    return Comparison(reference.affine, mask, maps, first, second, difference, statistics, qa_scale)


def _tissue_classes(fa: NDArray, md: NDArray, mask: NDArray) -> dict[str, NDArray]:
    low = mask & (fa < 0.2)
    return {
        "CSF-like": low & (md >= FLUID_MD),
        "FA < 0.2": low & (md < FLUID_MD),
        "FA 0.2-0.4": mask & (fa >= 0.2) & (fa < 0.4),
        "FA >= 0.4": mask & (fa >= 0.4),
    }


def _statistics(reference: NDArray, test: NDArray) -> dict[str, float]:
    reference = reference.astype(np.float64)
    test = test.astype(np.float64)
    difference = test - reference
    bias = difference.mean()
    spread = difference.std(ddof=1) if difference.size > 1 else float("nan")
    varies = reference.size > 1 and reference.std() > 0 and test.std() > 0
    return {
        "n": reference.size,
        "mae": float(np.abs(difference).mean()),
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "bias": float(bias),
        "correlation": float(np.corrcoef(reference, test)[0, 1]) if varies else float("nan"),
        "loa_lower": float(bias - 1.96 * spread),
        "loa_upper": float(bias + 1.96 * spread),
        "reference_mean": float(reference.mean()),
        "test_mean": float(test.mean()),
    }
