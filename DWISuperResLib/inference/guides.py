"""Guides: registered images of another contrast or of higher resolution, brought onto the grid a network is shown.

A guide that lies elsewhere than its header says would mislead a network without a trace, so its place is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..dwi import Volume, foreground_mask
from ..errors import InputError
from ..microstructure import brain_mask
from ..resampling.grid import regridded_affine
from ..resampling.operators import apply_operators, operator
from ..resampling.reslice import field_of_view, reslice

if TYPE_CHECKING:
    from ..dwi import DWI

LEAST_COVERED = 0.9
"""Share of the brain that a guide's field of view has to hold."""

STEP_MM = 4.0
"""Voxels in which places are compared."""
HALF = 28
"""Of the cube around the brain that is compared, in these voxels."""
AROUND = (-6, -4, -2, 0, 2, 4, 6)
"""Shifts that are tried along each axis, in these voxels."""
HERE_MM = 8.5
"""Shifts up to here may fit better than none: echo-planar images are distorted by as much, and heads move."""
BINS = 32
MARGIN = 2
"""Voxels around the brain that are compared as well: the skull and what surrounds it tell the place, too."""


@dataclass(frozen=True)
class Fit:
    """Where a guide fits a scan best, by normalised mutual information less one.

    Attributes
    ----------
    here, elsewhere : float
        Best within `HERE_MM` of where the header puts it; best farther away, or turned.
    place : str
        That of `elsewhere`, for people.
    """

    here: float
    elsewhere: float
    place: str


def placed(guide: Volume, scan: DWI, shape: Sequence[int], *, unchecked: bool = False) -> NDArray[np.float32]:
    """The guide on a grid over a scan's field of view.

    Parameters
    ----------
    guide : Volume
        On any grid; its header says where it lies.
    scan : DWI
    shape : three ints
        Matrix of the grid.
    unchecked : bool
        Whether it is taken even where it does not seem to lie on the scan's anatomy.

    Returns
    -------
    array, shape `shape`
        Divided by the guide's mean in its foreground; zero outside of its field of view.

    Raises
    ------
    InputError
        If it has no positive signal, covers less than `LEAST_COVERED` of the brain, or plainly lies elsewhere.

    Examples
    --------
    >>> from DWISuperResLib import Volume, phantom
    >>> scan = phantom((24, 24, 8), (8, 8, 12), supersampling=1)
    >>> guide = Volume(scan.signal[..., 0], scan.affine)
    >>> placed(guide, scan, (48, 48, 8)).shape
    (48, 48, 8)
    """
    level = float(guide.image[foreground_mask(guide.image)].mean(dtype=np.float64))
    if not level > 0:
        raise InputError("The guide has no positive signal in its foreground; give a magnitude image.")
    if not unchecked:
        check_place(guide, scan)
    affine = regridded_affine(scan.affine, scan.spatial_shape, shape)
    return reslice(guide, affine, shape) / np.float32(level)


def check_place(guide: Volume, scan: DWI) -> None:
    """InputError unless a guide covers the scan's brain, and fits it where its header puts it.

    Parameters
    ----------
    guide : Volume
    scan : DWI
    """
    mask = brain_mask(scan)
    covered = float(field_of_view(guide, scan.affine, scan.spatial_shape)[mask].mean())
    if covered < LEAST_COVERED:
        raise InputError(
            f"The guide covers {100 * covered:.0f} % of the scan's brain; expected at least {100 * LEAST_COVERED:.0f} "
            "%: give an image of the same head in the same coordinates, registered if it is of another session."
        )
    fit = best_fit(guide, scan, mask)
    if fit.elsewhere > fit.here:
        raise InputError(
            f"The guide does not lie on the scan's anatomy: it fits better {fit.place} (mutual information "
            f"{fit.elsewhere:.3f} against {fit.here:.3f}); register it to the scan, or take it as it is "
            "(unchecked_guide=True, --unchecked-guide)."
        )


def best_fit(guide: Volume, scan: DWI, mask: NDArray[np.bool_]) -> Fit:
    """Compare a guide with the mean b0 by normalised mutual information, at its place and elsewhere.

    On cubes of `STEP_MM` around the brain, along the scan's axes: the guide is shifted by whole voxels, as far as
    `AROUND`, in each of the 48 ways in which axes can be exchanged and turned round (Studholme et al. 1999,
    doi:10.1016/S0031-3203(98)00091-0).

    Parameters
    ----------
    guide : Volume
    scan : DWI
    mask : array (X, Y, Z)
        Its brain.
    """
    from scipy.ndimage import binary_dilation

    side = 2 * HALF + 1
    grid = _cube(scan, mask)
    images = (scan.mean_b0(), np.ones(scan.spatial_shape, np.float32), mask.astype(np.float32))
    b0, known, brain = (_averaged_onto(Volume(image, scan.affine), grid, side) for image in images)
    inside = binary_dilation(brain > 0.5, iterations=MARGIN) & (known > 0.5)
    reference = BINS * _binned(b0[inside])
    image = _averaged_onto(guide, grid, side)
    binned = _binned(image)
    reach = max(AROUND)
    padded = (side + 2 * reach,) * 3
    places = np.ravel_multi_index(tuple(np.argwhere(inside).T + reach), padded)
    here, elsewhere = 0.0, (0.0, "")
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        turned = binned.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
        flat = np.pad(turned, reach).ravel()
        own = order == (0, 1, 2) and signs == (1, 1, 1)
        for shift in product(AROUND, repeat=3):
            offset = (shift[0] * padded[1] + shift[1]) * padded[2] + shift[2]
            found = _mutual_information(reference + flat[places + offset])
            if own and STEP_MM * float(np.linalg.norm(shift)) <= HERE_MM:
                here = max(here, found)
            elif found > elsewhere[0]:
                elsewhere = found, _told(own, shift)
    return Fit(here, *elsewhere)


def _cube(scan: DWI, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Affine of the cube: along the scan's axes, which are made orthogonal, its middle in that of the brain."""
    left, _, right = np.linalg.svd(scan.affine[:3, :3] / scan.voxel_sizes)
    grid = np.eye(4)
    grid[:3, :3] = STEP_MM * left @ right
    middle = scan.affine[:3, :3] @ np.argwhere(mask).mean(0) + scan.affine[:3, 3]
    grid[:3, 3] = middle - grid[:3, :3] @ np.full(3, HALF)
    return grid


def _averaged_onto(volume: Volume, grid: NDArray[np.float64], side: int) -> NDArray[np.float32]:
    """Brought to about `STEP_MM` by means over voxels, which costs little, then sampled on the cube."""
    shape = volume.spatial_shape
    coarse = [max(1, min(n, round(n * size / STEP_MM))) for n, size in zip(shape, volume.voxel_sizes, strict=True)]
    operators = {a: operator(n, m, "area") for a, (n, m) in enumerate(zip(shape, coarse, strict=True)) if n != m}
    image = apply_operators(volume.image, operators)
    return reslice(Volume(image, regridded_affine(volume.affine, shape, coarse)), grid, (side,) * 3)


def _binned(values: NDArray[np.float32]) -> NDArray[np.intp]:
    """Into `BINS` bins of equal width up to the 99th percentile of what is not background."""
    top = float(np.quantile(values[values > 0], 0.99)) if (values > 0).any() else 1.0
    return np.clip(values * (BINS / top), 0, BINS - 1).astype(np.intp)


def _mutual_information(joint: NDArray[np.intp]) -> float:
    """Normalised mutual information less one, of bins first * `BINS` + second."""
    counts = np.bincount(joint, minlength=BINS * BINS).reshape(BINS, BINS)
    entropies = [_entropy(counts.sum(1)), _entropy(counts.sum(0)), _entropy(counts.ravel())]
    return (entropies[0] + entropies[1]) / entropies[2] - 1 if entropies[2] > 0 else 0.0


def _entropy(counts: NDArray[np.intp]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _told(own: bool, shift: Sequence[int]) -> str:
    moved = f"{STEP_MM * float(np.linalg.norm(shift)):.0f} mm away" if any(shift) else ""
    return moved if own else " and ".join(part for part in ("with its axes exchanged or turned round", moved) if part)
