"""How close one image is to another: what is compared, PSNR, SSIM, MS-SSIM, and the residual's power spectrum.

`registry` lists every metric with its unit and which way is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..dwi import signals_at
from ..errors import InputError
from ..resampling.grid import in_plane_axes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

SSIM_VOLUMES = 8
"""SSIM and MS-SSIM look at this many volumes at most, evenly spread: they cost ten times what PSNR does."""

_WINDOW = 11  # Gaussian of sigma 1.5, as in Wang et al. 2004
_SLICES = 16  # at once: as many as a vector register holds, and few enough for a core's cache


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and its reference in a region: what every metric takes.

    Parameters
    ----------
    reference, test : array, shape (X, Y, Z) or (X, Y, Z, N)
        Signals, a map or, with N = 3, directions, on one grid and in the same units.
    mask : array of bool, shape (X, Y, Z), optional
        Region; the whole volume by default.
    slice_axis : int
        Axis perpendicular to the slices.
    given_range : float, optional
        L in PSNR and SSIM, see `data_range`.

    Raises
    ------
    InputError
        If the shapes differ or the region is empty.

    Examples
    --------
    >>> pair = Pair(np.full((2, 2, 2), 4.0), np.full((2, 2, 2), 3.0))
    >>> float(pair.error.mean()), pair.data_range
    (-1.0, 4.0)
    """

    reference: NDArray
    test: NDArray
    mask: NDArray[np.bool_] = None  # type: ignore[assignment]  # the whole volume, once built
    slice_axis: int = 2
    given_range: float | None = None

    def __post_init__(self) -> None:
        reference, test, mask = _checked(self.reference, self.test, self.mask)
        for name, value in (("reference", reference), ("test", test), ("mask", mask)):
            object.__setattr__(self, name, value)

    @cached_property
    def values(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Reference and test in the region, each (voxels, N), in Fortran order."""
        inside = np.flatnonzero(self.mask.T)
        return signals_at(self.reference, inside).T, signals_at(self.test, inside).T

    @cached_property
    def error(self) -> NDArray[np.float64]:
        """(voxels * N,) test minus reference in the region."""
        reference, test = self.values
        return np.subtract(test, reference, dtype=np.float64).ravel(order="K")

    @cached_property
    def mean_squared_error(self) -> float:
        """Mean of the squared `error`."""
        return float(self.error @ self.error) / len(self.error)

    @cached_property
    def data_range(self) -> float:
        """L in PSNR and SSIM: as given, else the largest reference value in the region (signals start at zero)."""
        value = float(self.values[0].max()) if self.given_range is None else self.given_range
        if not value > 0:
            raise InputError(f"The data range is {value:g}; expected a positive signal range, so check the region.")
        return value


def psnr(pair: Pair) -> float:
    """Peak signal-to-noise ratio in dB over every voxel of the region; infinite for equal images.

    Examples
    --------
    >>> round(psnr(Pair(np.full((2, 2, 2), 10.0), np.full((2, 2, 2), 9.0))), 6)
    20.0
    """
    squared = pair.mean_squared_error
    return 10 * math.log10(pair.data_range**2 / squared) if squared > 0 else math.inf


def nrmse(pair: Pair) -> float:
    """Root mean squared error over the region's mean reference; NaN where that is zero.

    Examples
    --------
    >>> nrmse(Pair(np.full((2, 2, 2), 4.0), np.full((2, 2, 2), 3.0)))
    0.25
    """
    mean = float(pair.values[0].mean(dtype=np.float64))
    return math.sqrt(pair.mean_squared_error) / mean if mean else math.nan


def ssim(pair: Pair) -> float:
    """Structural similarity, slice by slice, averaged over the region's voxels; NaN where a slice is too small.

    Gaussian window of 11 voxels, sigma 1.5, k = 0.01 and 0.03 (Wang et al. 2004, doi:10.1109/TIP.2003.819861), of at
    most `SSIM_VOLUMES` volumes.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((16, 16, 2))
    >>> round(ssim(Pair(image, image)), 6)
    1.0
    """
    import torch

    if not ms_ssim_scales(pair):
        return math.nan
    box = _box(pair)
    inside = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pair.mask[box], pair.slice_axis, 0)))
    return float(np.mean([float(_similarity(*images)[inside].double().mean()) for images in _slices(pair, box)]))


def ms_ssim(pair: Pair) -> float:
    """Multi-scale SSIM (Wang et al. 2003, doi:10.1109/ACSSC.2003.1292216), of at most `SSIM_VOLUMES` volumes.

    It has no voxelwise map: it is the mean over the slices of the box around the region, background too, with as many
    of the five scales as that box has room for, their exponents rescaled to sum to one.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((64, 64, 1))
    >>> round(ms_ssim(Pair(image, image)), 6)
    1.0
    """
    import torch
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    from ..losses.pixel import MS_SSIM_WEIGHTS

    weights = MS_SSIM_WEIGHTS[: ms_ssim_scales(pair)]
    if not weights:
        return math.nan
    betas = tuple(w / sum(weights) for w in weights)
    found = [
        multiscale_structural_similarity_index_measure(
            first[:, None], second[:, None], data_range=1.0, betas=betas, normalize="relu", reduction="none"
        )
        for test, reference in _slices(pair, _box(pair))
        for first, second in zip(test.split(_SLICES), reference.split(_SLICES), strict=True)
    ]
    return float(torch.cat(found).double().mean())


def ms_ssim_scales(pair: Pair) -> int:
    """How many of the five scales the box around the region has room for; 0 where it is smaller than the window."""
    box = _box(pair)
    shortest = min(box[a].stop - box[a].start for a in in_plane_axes(pair.slice_axis))
    return next((n for n in (5, 4, 3, 2, 1) if shortest // max(1, n - 1) ** 2 > _WINDOW - 1), 0)


def _similarity(test: Tensor, reference: Tensor) -> Tensor:
    """torchmetrics' SSIM at every pixel of slices (S, H, W) over a data range of 1.

    Slices are its channels, which it filters each alone, as it does images of a batch: processors have fast
    convolutions for many channels of their own, and none for a single one (ten times as long).
    """
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    parts = zip(test.split(_SLICES), reference.split(_SLICES), strict=True)
    return torch.cat([
        structural_similarity_index_measure(
            first[None], second[None], data_range=1.0, reduction="none", return_full_image=True
        )[1][0]
        for first, second in parts
    ])  # fmt: skip


def _slices(pair: Pair, box: tuple[slice, slice, slice]) -> Iterator[tuple[Tensor, Tensor]]:
    """(S, H, W) of test and reference over the data range, of volumes evenly spread."""
    import torch

    count, unit = pair.reference.shape[3], np.float32(pair.data_range)
    for n in np.unique(np.linspace(0, count - 1, min(count, SSIM_VOLUMES)).round().astype(int)):
        first, second = (
            torch.from_numpy(np.ascontiguousarray(np.moveaxis(a[(*box, n)], pair.slice_axis, 0)) / unit)
            for a in (pair.test, pair.reference)
        )
        yield first, second


def _box(pair: Pair) -> tuple[slice, slice, slice]:
    """Box around the mask; in the plane wide enough, where it can be, for the window and two scales."""
    box = []
    for axis in range(3):
        hit = np.flatnonzero(pair.mask.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = int(hit[0]), int(hit[-1]) + 1
        if axis in in_plane_axes(pair.slice_axis):
            margin = max(_WINDOW // 2, -(-(4 * _WINDOW - (high - low)) // 2))
            low, high = max(0, low - margin), min(pair.reference.shape[axis], high + margin)
        box.append(slice(low, high))
    return box[0], box[1], box[2]


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

    Examples
    --------
    White noise has the same power, its variance, at every frequency.

    >>> noise = np.random.default_rng(0).normal(scale=3, size=(64, 64, 40))
    >>> frequency, power = residual_spectrum(noise, bins=4)
    >>> frequency.tolist(), bool(np.all(np.abs(power - 9) < 0.5))
    ([0.0625, 0.1875, 0.3125, 0.4375], True)
    """
    from scipy import fft

    residual, _, mask = _checked(residual, residual, mask)
    # The plane's first axis last: so a Fortran-ordered scan lies in memory.
    order = (slice_axis, *reversed(in_plane_axes(slice_axis)))
    inside = np.ascontiguousarray(mask.transpose(order))
    rows, columns = inside.shape[1:]
    total = np.zeros((rows, columns // 2 + 1))
    for n in range(residual.shape[3]):
        modes = fft.rfft2(residual[..., n].transpose(order) * inside, norm="ortho")
        total += (np.square(modes.real) + np.square(modes.imag)).mean(0)
    # Of real images half the modes tell all; each stands for its conjugate too, where that is another.
    twice = np.full(total.shape, 2.0)
    twice[:, 0] = 1
    if columns % 2 == 0:
        twice[:, -1] = 1
    radius = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None])
    label = np.minimum((radius * 2 * bins).astype(int), bins)  # the corners beyond 0.5 go to a bin that is dropped
    counts = np.bincount(label.ravel(), weights=twice.ravel(), minlength=bins + 1)[:bins]
    sums = np.bincount(label.ravel(), weights=(twice * total / residual.shape[3]).ravel(), minlength=bins + 1)[:bins]
    power = np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0)
    return (np.arange(bins) + 0.5) / (2 * bins), power


def _checked(
    reference: NDArray, test: NDArray, mask: NDArray[np.bool_] | None
) -> tuple[NDArray, NDArray, NDArray[np.bool_]]:
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
