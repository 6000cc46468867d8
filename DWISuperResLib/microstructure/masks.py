"""Brain masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..dwi import DWI


def brain_mask(dwi: DWI) -> NDArray[np.bool_]:
    """Mask of the brain by DIPY's `median_otsu` on the mean b0 (the mean DWI where there is no b0).

    Returns
    -------
    (X, Y, Z) bool: the largest connected component, without holes. All voxels with signal where thresholding
    leaves nothing.
    """
    from dipy.segment.mask import median_otsu
    from scipy import ndimage

    volumes = np.flatnonzero(dwi.is_b0)
    if not volumes.size:
        volumes = np.arange(dwi.n_volumes)
    mean = dwi.signal[..., volumes[0]].copy()
    for n in volumes[1:]:
        mean += dwi.signal[..., n]
    _, mask = median_otsu(mean, median_radius=2, numpass=1)
    labels, count = ndimage.label(mask)
    if not count:
        return mean > 0
    mask = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return ndimage.binary_fill_holes(mask)
