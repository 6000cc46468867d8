"""Brain masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..resampling.grid import crop, pad_to_multiple

if TYPE_CHECKING:
    from ..dwi import DWI

CLOSING_MM = 8.0
"""Gaps up to twice this are closed: brain stem and thalamus fall below the threshold beside a bright cortex."""
COARSE_MM = 2.5
"""Finer grids are averaged to voxels of at most this size first: an outline needs no more, a median filter is slow."""


def brain_mask(dwi: DWI) -> NDArray[np.bool_]:
    """Mask of the brain: DIPY's `median_otsu` of the mean b0 (the mean DWI where there is no b0), made whole.

    Parameters
    ----------
    dwi : DWI
        Of any orientation and voxel size.

    Returns
    -------
    (X, Y, Z) bool: the largest connected component, closed by 8 mm, without holes in any plane. All voxels of a
    flat image.
    """
    # The two steps of median_otsu by name: importing it alone costs most of a second.
    from dipy.segment.threshold import otsu
    from scipy import ndimage

    volumes = np.flatnonzero(dwi.is_b0) if dwi.is_b0.any() else np.arange(dwi.n_volumes)
    mean = dwi.signal[..., volumes[0]].copy()
    for n in volumes[1:]:
        mean += dwi.signal[..., n]

    blocks = np.maximum(1, COARSE_MM // dwi.voxel_sizes).astype(int)
    for axis, block in enumerate(blocks):
        mean = pad_to_multiple(mean, [block if a == axis else 1 for a in range(3)])
        mean = np.add.reduceat(mean, np.arange(0, mean.shape[axis], block), axis=axis)

    smooth = ndimage.median_filter(mean, size=3)
    if smooth.min() == smooth.max():
        return np.ones(dwi.spatial_shape, dtype=bool)
    mask = _closed(_largest_component(smooth > otsu(smooth)), dwi.voxel_sizes * blocks)
    for axis in range(3):
        in_plane = np.zeros((3, 3, 3), dtype=bool)
        in_plane[tuple(slice(1, 2) if a == axis else slice(None) for a in range(3))] = True
        mask = ndimage.binary_fill_holes(mask, structure=in_plane & ndimage.generate_binary_structure(3, 1))
    mask = _largest_component(mask)
    for axis, block in enumerate(blocks):
        mask = mask.repeat(block, axis=axis)
    return crop(mask, dwi.spatial_shape)


def _largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import label

    labels, _ = label(mask)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def _closed(mask: NDArray[np.bool_], voxel_sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Closing by a ball of `CLOSING_MM`, whose distance transforms cost the same at any voxel size."""
    from scipy.ndimage import distance_transform_edt

    margin = np.ceil(CLOSING_MM / voxel_sizes).astype(int)
    padded = np.pad(mask, [(m, m) for m in margin])
    near = distance_transform_edt(~padded, sampling=voxel_sizes) <= CLOSING_MM
    closed = distance_transform_edt(near, sampling=voxel_sizes) > CLOSING_MM
    return closed[tuple(slice(m, -m) for m in margin)]
