"""An image brought onto another grid by the headers of both, whatever their angles and voxel sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .grid import regridded_affine
from .operators import apply_operators, operator

if TYPE_CHECKING:
    from ..dwi import Volume

_NOTICEABLE = 1.01
"""Steps between samples longer than this many voxels of the image need more samples."""


def reslice(volume: Volume, affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float32]:
    """Sample an image on a grid by cubic B-spline, band-limited along the axes on which the grid is the coarser.

    Where the grid's voxels are larger than the image's, the image is sampled more densely, on a grid of whole fractions
    of these voxels, and brought down as `operator` with "antialiased_lanczos" does.

    Parameters
    ----------
    volume : Volume
    affine : array, shape (4, 4)
        Of the grid, voxel to RAS mm.
    shape : three ints
        Its matrix.

    Returns
    -------
    array, shape `shape`
        Zero where the centre of a voxel lies outside the image's field of view.

    Examples
    --------
    >>> from DWISuperResLib import Volume
    >>> fine = Volume(np.full((8, 8, 8), 3.0), np.diag([0.5, 0.5, 0.5, 1]))
    >>> reslice(fine, np.diag([1, 1, 1, 1]), (6, 2, 2))[:, 0, 0].round(4).tolist()
    [3.0, 3.0, 3.0, 3.0, 0.0, 0.0]
    """
    from scipy.ndimage import affine_transform

    steps = np.linalg.norm(_between(affine, volume.affine)[:3, :3], axis=0)
    dense = tuple(int(n) * max(1, int(np.ceil(step / _NOTICEABLE))) for n, step in zip(shape, steps, strict=True))
    where = _between(regridded_affine(affine, shape, dense), volume.affine)
    image = affine_transform(volume.image, where[:3, :3], where[:3, 3], dense, np.float32, order=3, mode="nearest")
    operators = {
        a: operator(n, int(m), "antialiased_lanczos")
        for a, (n, m) in enumerate(zip(dense, shape, strict=True))
        if n != m
    }
    return np.where(field_of_view(volume, affine, shape), apply_operators(image, operators), np.float32(0))


def field_of_view(volume: Volume, affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.bool_]:
    """Which voxels of a grid have their centre within the field of view of an image, faces included.

    Examples
    --------
    >>> from DWISuperResLib import Volume
    >>> field_of_view(Volume(np.ones((4, 4, 4)), np.eye(4)), np.diag([2, 2, 2, 1]), (3, 1, 1)).ravel().tolist()
    [True, True, False]
    """
    where = _between(affine, volume.affine)
    inside = np.ones(tuple(shape), bool)
    axes = np.ogrid[tuple(slice(int(n)) for n in shape)]
    for row, n in zip(where[:3], volume.spatial_shape, strict=True):
        index = row[0] * axes[0] + row[1] * axes[1] + row[2] * axes[2] + row[3]
        inside &= (index >= -0.5 - 1e-6) & (index <= n - 0.5 + 1e-6)
    return inside


def _between(grid: NDArray[np.float64], image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Voxel indices of a grid to those of an image."""
    return np.asarray(np.linalg.solve(image, grid), np.float64)
