"""Guides: registered images of another contrast or of higher resolution, brought onto the grid a network is shown.

A guide that lies elsewhere than its header says would mislead a network without a trace, so its place is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

FOREGROUND = 0.15
"""Of a guide's brightest voxels, from which on it counts as head, where its edges are looked at."""
LEAST_COVERED = 0.9
"""Share of the brain that a guide's field of view has to hold."""

STEP_MM = 3.0
"""Voxels in which places are compared."""
HALF = 37
"""Of the cube around the brain that is compared, in these voxels."""
MARGIN = 3
"""Voxels around the brain that are compared as well: the skull tells the place, too."""
REACH_MM = 24.0
"""Shifts up to here along each axis are tried."""
HERE_MM = 8.5
"""Shifts up to here may fit better than none: echo-planar images are distorted by as much, and heads move."""
AHEAD = 1.05
"""By which factor a guide fits better at its place than farther away. Of seven real pairs of a DWI and a T1w the least
is 1.29, and 1.06 where the scan is lowered by 3 first. Of 182 wrong ones (shifted by 20 mm, mirrored, with axes
exchanged, of another head) all reach 1.04 at most but for one that was mirrored, which its mirror image tells."""


@dataclass(frozen=True)
class Fit:
    """How well a guide fits a scan: correlations of the directions of their gradients, 0 for none.

    Attributes
    ----------
    here : float
        Best within `HERE_MM` of where the header puts it.
    away : float
        Best farther away.
    mirrored : float
        Best anywhere of its three mirror images.
    shift : float
        Of `away`, in mm.
    """

    here: float
    away: float
    mirrored: float
    shift: float


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
    if fit.here < max(AHEAD * fit.away, fit.mirrored):
        mirrored = fit.mirrored > fit.away
        place, value = ("mirrored", fit.mirrored) if mirrored else (f"{fit.shift:.0f} mm away", fit.away)
        raise InputError(
            f"The guide does not seem to lie on the scan's anatomy: {place} it fits as well or better (correlation of "
            f"edges {value:.2f}, at its place {fit.here:.2f}); register it to the scan, or, where a picture shows that "
            "it does lie there, take it unchecked (unchecked_guide=True, --unchecked-guide)."
        )


def best_fit(guide: Volume, scan: DWI, mask: NDArray[np.bool_]) -> Fit:
    """Compare the edges of a guide with those of the mean b0, at its place, shifted, and mirrored.

    Edges of two contrasts run along the same directions whatever their height and sign: n nᵀ of the normalised gradient
    n (Haber & Modersitzki 2006, doi:10.1007/11866763_89), less its mean over directions, is correlated over the brain
    and its surroundings, for all shifts at once by the Fourier transform.

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
    inside = binary_dilation(brain > 0.5, iterations=MARGIN) & (known > 0.99)
    reference = _edges(b0, inside) * inside
    image = _averaged_onto(guide, grid, side)
    steps = np.arange(-int(REACH_MM // STEP_MM), int(REACH_MM // STEP_MM) + 1)
    distance = STEP_MM * np.sqrt(sum(np.square(s) for s in np.meshgrid(steps, steps, steps, indexing="ij")))

    def fits(shown: NDArray[np.float32]) -> NDArray[np.float64]:
        head = binary_dilation(shown > FOREGROUND * np.quantile(shown, 0.99))
        return _correlations(reference, inside, _edges(shown, head))[np.ix_(steps, steps, steps)]

    own = fits(image)
    away = np.where(distance > HERE_MM, own, -1.0)
    mirrored = max(float(fits(np.flip(image, axis)).max()) for axis in range(3))
    shift = float(distance.ravel()[np.argmax(away)])
    return Fit(float(own[distance <= HERE_MM].max()), float(away.max()), mirrored, shift)


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


def _edges(image: NDArray[np.float32], region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(6, X, Y, Z) the deviator of n nᵀ, off-diagonal entries times sqrt 2; slopes small beside the region's fade."""
    from scipy.ndimage import gaussian_filter

    slopes = np.stack([gaussian_filter(image, 1.0, order=[int(a == axis) for a in range(3)]) for axis in range(3)])
    squares = np.square(slopes).sum(0)
    level = 0.5 * float(np.sqrt(squares[region]).mean()) if region.any() else 0.0
    n = slopes / np.sqrt(squares + level**2 + np.finfo(np.float32).tiny)
    third = np.square(n).sum(0) / 3
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    return np.stack([n[i] * n[j] - third if i == j else np.sqrt(2) * n[i] * n[j] for i, j in pairs]).astype(np.float32)


def _correlations(
    reference: NDArray[np.float32], inside: NDArray[np.bool_], other: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Of a field that is zero outside a region, with another field shifted: at index s, by s voxels, circularly."""
    from scipy import fft

    size = (fft.next_fast_len(inside.shape[0] + int(REACH_MM // STEP_MM), real=True),) * 3

    def at_shifts(fixed: NDArray, moving: NDArray) -> NDArray[np.float64]:
        return np.asarray(fft.irfftn(np.conj(fft.rfftn(fixed, size)) * fft.rfftn(moving, size), size), np.float64)

    products = sum(at_shifts(a, b) for a, b in zip(reference, other, strict=True))
    power = at_shifts(inside.astype(np.float32), np.square(other).sum(0))
    scale = float(np.square(reference).sum()) * np.maximum(power, 0)
    # Where the other field is empty, nothing fits.
    return np.asarray(products / np.sqrt(scale + 1e-6 * scale.max() + np.finfo(float).tiny), np.float64)
