"""High resolution to low resolution: what a scanner set to larger in-plane voxels would have measured.

As in `interpolation`, every model is one matrix per axis; low-resolution sample j is centred on its cell, at
high-resolution index (j + 1/2) * scale - 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from . import upsamplers as interpolation
from .grid import in_plane_axes, in_plane_factors, pad_to_multiple, refined_affine, slice_axis

if TYPE_CHECKING:
    from ..dwi import DWI

MODELS = ("kspace", "gaussian", "area", "paper")
FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))


def degrade(
    dwi: DWI,
    scale: int,
    *,
    model: str = "kspace",
    axis: int | str | None = None,
    fwhm: float | Sequence[float] | None = None,
    snr: float | None = None,
    seed: int = 0,
) -> DWI:
    """Lower the in-plane resolution by an integer factor.

    A matrix that is no multiple of `scale` is first extended at its far end by repeating the last voxels, so that
    every low-resolution voxel is exactly `scale` times larger; `grid.crop` undoes it after super-resolution.

    Parameters
    ----------
    dwi : DWI
    scale : int
        In-plane factor, 1 to 5.
    model : {"kspace", "gaussian", "area", "paper"}
        kspace keeps the central 1/scale of k-space (a scanner with a smaller matrix); gaussian blurs; area averages;
        paper is cubic decimation without anti-aliasing, as Lohr & Werner 2026 (arXiv:2605.15895) made their data.
    axis : optional
        Slice axis, see `grid.slice_axis`.
    fwhm : float or pair, optional
        For gaussian: full width at half maximum in mm, one value or one for each in-plane axis in ascending order;
        default the low-resolution voxel size.
    snr : float, optional
        Add Rician noise to the result: its standard deviation is the mean b0 signal of the foreground divided by
        `snr` (Gudbjartsson & Patz 1995, doi:10.1002/mrm.1910340618).
    seed : int
        Of the noise.

    Returns
    -------
    DWI on the coarser grid over the same field of view.

    Raises
    ------
    InputError
        For an unknown model, a scale outside 1 to 5, a blur or an SNR that is not positive.
    """
    interpolation.check_scale(scale)
    axis = slice_axis(dwi, axis)
    axes = in_plane_axes(axis)
    if fwhm is not None and model != "gaussian":
        raise InputError(f"fwhm belongs to the gaussian model and was given with {model!r}; leave one of them out.")
    widths = np.broadcast_to(np.asarray(fwhm if fwhm is not None else dwi.voxel_sizes[list(axes)] * scale, float), 2)
    if snr is not None and not snr > 0:
        raise InputError(f"The SNR is {snr!r}; expected a positive number.")
    factors = tuple(int(f) for f in in_plane_factors(scale, axis))
    signal = pad_to_multiple(dwi.signal, factors)
    operators = {
        a: operator(signal.shape[a], scale, model, float(w / dwi.voxel_sizes[a]) if model == "gaussian" else None)
        for a, w in zip(axes, widths, strict=True)
    }
    coarse = interpolation.map_volumes(signal, operators)
    if snr is not None:
        sigma = foreground_b0(dwi) / snr
        rng = np.random.default_rng(seed)
        for n in range(coarse.shape[3]):
            coarse[..., n] = rician(coarse[..., n], sigma, rng)
    affine = refined_affine(dwi.affine, [1 / f for f in factors])
    return replace(dwi, signal=coarse, affine=affine)


@lru_cache(maxsize=64)
def operator(n: int, scale: int, model: str, fwhm: float | None = None) -> NDArray[np.float64]:
    """(n / scale, n) matrix that lowers the resolution of one axis of n samples, n a multiple of scale.

    `fwhm` is that of the gaussian model, in high-resolution voxels.
    """
    coarse = n // scale
    centres = np.arange(coarse, dtype=np.float64) * scale + (scale - 1) / 2
    if model == "kspace":
        # The left inverse of zero filling: a crop of k-space with the half-voxel shift in phase, gain corrected.
        matrix = np.asarray(np.linalg.pinv(interpolation.operator(coarse, scale, "sinc")), np.float64)
    elif model == "area":
        matrix = np.repeat(np.eye(coarse), scale, axis=1) / scale
    elif model == "paper":
        # OpenCV's cubic has a = -0.75 and repeats the border sample.
        matrix = interpolation.sample_kernel(n, centres, lambda x: interpolation.keys_kernel(x, -0.75), 2, clamp=True)
    elif model == "gaussian":
        sigma = (scale if fwhm is None else fwhm) / FWHM_PER_SIGMA
        if not sigma > 0:
            raise InputError(f"The Gaussian's width is {fwhm!r} voxels; expected a positive number.")
        matrix = interpolation.sample_kernel(n, centres, lambda x: np.exp(-0.5 * (x / sigma) ** 2), 4 * sigma + 1)
    else:
        raise InputError(f"The degradation model is {model!r}; expected one of {', '.join(MODELS)}.")
    matrix.setflags(write=False)
    return matrix


def foreground_b0(dwi: DWI) -> float:
    """Mean b0 signal (of all volumes where there is no b0) over the voxels brighter than their overall mean."""
    volumes = np.flatnonzero(dwi.is_b0) if dwi.is_b0.any() else np.arange(dwi.n_volumes)
    mean = np.zeros(dwi.spatial_shape, np.float32)
    for n in volumes:
        mean += dwi.signal[..., n] / np.float32(len(volumes))
    return float(mean[mean >= mean.mean()].mean())


def rician(signal: NDArray[np.float32], sigma: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Magnitude of `signal` with complex Gaussian noise of standard deviation `sigma` in each channel."""
    noise = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(sigma)
    return np.hypot(signal + noise[0], noise[1])
