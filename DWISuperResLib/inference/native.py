"""The option `native`, carried out before anything else: torch-free, for all who take `InferenceOptions`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..resampling.grid import regridded_mask, slice_axis
from ..resampling.native import to_native
from .options import InferenceOptions

if TYPE_CHECKING:
    from ..dwi import AnyScan


def at_native(
    scan: AnyScan, options: InferenceOptions, mask: NDArray[np.bool_] | None = None
) -> tuple[AnyScan, InferenceOptions, NDArray[np.bool_] | None]:
    """Take a scan and its mask down to the matrix that the scan holds, if the options say so.

    Returns
    -------
    scan, InferenceOptions, mask
        As given where `options.native` is not set. Else the options no longer have it, and name the slice axis where
        larger voxels would hide it.

    Examples
    --------
    >>> from DWISuperResLib import interpolate, phantom
    >>> scan = phantom((48, 48, 6), (4, 4.5, 15), supersampling=1, shells=((0, 1), (1000, 12)))
    >>> filled = interpolate(scan, 2, method="sinc")
    >>> native, options, mask = at_native(filled, InferenceOptions(native=True), np.ones(filled.spatial_shape, bool))
    >>> native.spatial_shape, options.native, mask.shape
    ((48, 48, 6), False, (48, 48, 6))
    """
    if not options.native:
        return scan, options, mask
    dwi = scan.series
    axis, native = slice_axis(dwi, options.axis), to_native(dwi)
    if mask is not None and mask.shape == dwi.spatial_shape:
        mask = regridded_mask(mask, native.spatial_shape)
    hidden = slice_axis(native, options.axis) != axis
    return scan.like(native), replace(options, native=False, axis=axis if hidden else options.axis), mask
