"""Image quality of a signal against its reference: PSNR, SSIM, MS-SSIM, NRMSE, the residual's power spectrum.

Every score names what it rests on: the region, the data range, how many volumes, voxels and scales went in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..resampling.grid import in_plane_axes

SSIM_VOLUMES = 8
"""SSIM and MS-SSIM look at this many volumes at most, evenly spread: they cost 100 times what PSNR does."""

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales (Wang et al. 2003, doi:10.1109/ACSSC.2003.1292216, section 3.2)."""

_WINDOW = 11  # Gaussian of sigma 1.5, as in Wang et al. 2004


def image_scores(
    reference: NDArray,
    test: NDArray,
    *,
    mask: NDArray[np.bool_] | None = None,
    data_range: float | None = None,
    slice_axis: int = 2,
) -> dict[str, Any]:
    """PSNR, NRMSE, SSIM and MS-SSIM of `test` against `reference`.

    PSNR and NRMSE pool every voxel of the region. SSIM (Gaussian window of 11 voxels, sigma 1.5, k = 0.01 and
    0.03; doi:10.1109/TIP.2003.819861) is taken slice by slice and averaged over the region's voxels. MS-SSIM
    has no voxelwise map: it is the mean over the slices of the box around the region, background too, with
    as many of the five scales as that box has room for, their exponents rescaled to sum to one.

    Parameters
    ----------
    reference, test : array, shape (X, Y, Z) or (X, Y, Z, N)
        Signals on one grid, in the same units.
    mask : array of bool, shape (X, Y, Z), optional
        Region; the whole volume by default.
    data_range : float, optional
        L in PSNR and SSIM; the largest reference value inside the region by default (signals start at zero).
    slice_axis : int
        Axis perpendicular to the slices.

    Returns
    -------
    dict
        psnr (dB), nrmse (RMSE over the region's mean reference), rmse, ssim and ms_ssim (NaN where a slice is
        smaller than 11 voxels), data_range, voxels, volumes, ssim_volumes, ms_ssim_scales.

    Raises
    ------
    InputError
        If the shapes differ, the region is empty, or the data range is not positive.
    """
    import torch
    from torchmetrics.functional import normalized_root_mean_squared_error
    from torchmetrics.functional.image import peak_signal_noise_ratio

    reference, test, mask = _checked(reference, test, mask)
    target, prediction = (torch.from_numpy(np.ascontiguousarray(a[mask])).flatten() for a in (reference, test))
    if data_range is None:
        data_range = float(target.max())
    if not data_range > 0:
        raise InputError(f"The data range is {data_range:g}; expected a positive signal range, so check the region.")
    ssim, ms_ssim, volumes, scales = _structural(reference, test, mask, data_range, slice_axis)
    rmse = float((prediction - target).double().pow(2).mean().sqrt())
    return {
        "psnr": float(peak_signal_noise_ratio(prediction, target, data_range=data_range)),
        "nrmse": float(normalized_root_mean_squared_error(prediction, target, normalization="mean")),
        "rmse": rmse,
        "ssim": ssim,
        "ms_ssim": ms_ssim,
        "data_range": data_range,
        "voxels": int(mask.sum()),
        "volumes": reference.shape[3],
        "ssim_volumes": volumes,
        "ms_ssim_scales": scales,
    }


def residual_spectrum(
    residual: NDArray, *, mask: NDArray[np.bool_] | None = None, slice_axis: int = 2, bins: int = 32
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """In-plane power spectrum of a residual, averaged over slices, volumes and directions in the plane.

    Parameters
    ----------
    residual : array, shape (X, Y, Z) or (X, Y, Z, N)
        Test minus reference; outside `mask` it counts as zero.
    bins : int
        Number of frequency bins between 0 and 0.5.

    Returns
    -------
    frequency : array, shape (bins,)
        Bin centres in cycles per voxel.
    power : array, shape (bins,)
        Mean squared modulus of the unitary Fourier transform: for white noise at every frequency its variance
        times the masked fraction.
    """
    residual, _, mask = _checked(residual, residual, mask)
    images = np.moveaxis(residual * mask[..., None], slice_axis, 2)
    radius = np.hypot(np.fft.fftfreq(images.shape[0])[:, None], np.fft.fftfreq(images.shape[1])[None])
    label = np.minimum((radius * 2 * bins).astype(int), bins)  # the corners beyond 0.5 go to a bin that is dropped
    total = np.zeros(images.shape[:2])
    for n in range(images.shape[3]):
        total += (np.abs(np.fft.fft2(images[..., n], axes=(0, 1), norm="ortho")) ** 2).mean(-1)
    counts = np.bincount(label.ravel(), minlength=bins + 1)[:bins]
    sums = np.bincount(label.ravel(), weights=(total / images.shape[3]).ravel(), minlength=bins + 1)[:bins]
    power = np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0)
    return (np.arange(bins) + 0.5) / (2 * bins), power


def _checked(reference, test, mask) -> tuple[NDArray, NDArray, NDArray[np.bool_]]:
    reference, test = (np.asarray(a, dtype=np.float32) for a in (reference, test))
    if reference.shape != test.shape or reference.ndim not in (3, 4):
        raise InputError(
            f"The reference has shape {reference.shape} and the test {test.shape}; "
            "expected two volumes (X, Y, Z) or (X, Y, Z, N) on one grid."
        )
    mask = np.ones(reference.shape[:3], dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if mask.shape != reference.shape[:3]:
        raise InputError(f"The mask has shape {mask.shape}; expected the volume's {reference.shape[:3]}.")
    if not mask.any():
        raise InputError("The mask is empty; give a mask that covers the brain.")
    if reference.ndim == 3:
        reference, test = reference[..., None], test[..., None]
    return reference, test, mask


def _structural(reference, test, mask, data_range, slice_axis) -> tuple[float, float, int, int]:
    """SSIM inside the mask, MS-SSIM of the mask's box, and how many volumes and scales they rest on."""
    import torch
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure,
        structural_similarity_index_measure,
    )

    box = _box(mask, reference.shape, slice_axis)
    region = np.moveaxis(mask[box], slice_axis, 0)
    inside = torch.from_numpy(np.ascontiguousarray(region))[:, None]
    shortest = min(region.shape[1:])
    n_scales = next((n for n in (5, 4, 3, 2, 1) if shortest // max(1, n - 1) ** 2 > _WINDOW - 1), 0)
    n_volumes = reference.shape[3]
    chosen = np.unique(np.linspace(0, n_volumes - 1, min(n_volumes, SSIM_VOLUMES)).round().astype(int))
    if n_scales == 0:
        return float("nan"), float("nan"), len(chosen), 0
    weights = MS_SSIM_WEIGHTS[:n_scales]
    betas = tuple(w / sum(weights) for w in weights)
    ssim, ms_ssim = [], []
    for n in chosen:
        target, prediction = (
            torch.from_numpy(np.ascontiguousarray(np.moveaxis(a[(*box, n)], slice_axis, 0)))[:, None]
            for a in (reference, test)
        )
        image = structural_similarity_index_measure(
            prediction, target, data_range=data_range, reduction="none", return_full_image=True
        )[1]
        ssim.append(float(image[inside].double().mean()))
        ms_ssim.append(
            float(
                multiscale_structural_similarity_index_measure(
                    prediction, target, data_range=data_range, betas=betas, normalize="relu"
                )
            )
        )
    return float(np.mean(ssim)), float(np.mean(ms_ssim)), len(chosen), n_scales


def _box(mask, shape, slice_axis) -> tuple[slice, slice, slice]:
    """Box around the mask; in the plane wide enough, where it can be, for the window and two scales."""
    box = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = int(hit[0]), int(hit[-1]) + 1
        if axis in in_plane_axes(slice_axis):
            margin = max(_WINDOW // 2, -(-(4 * _WINDOW - (high - low)) // 2))
            low, high = max(0, low - margin), min(shape[axis], high + margin)
        box.append(slice(low, high))
    return box[0], box[1], box[2]
