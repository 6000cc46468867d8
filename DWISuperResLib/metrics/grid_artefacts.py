"""Grid artefacts: narrow peaks of spectral power at periods 2, 4, 8 and 16 px, the strides of the networks used."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

PERIODS = (2, 4, 8, 16)

THRESHOLD_DB = 6.0
"""A grid is reported where a period's power exceeds four times its surroundings', or what chance reaches once in a
thousand clean images where that is more (few slices). Scans as acquired stay below 1.5 dB and residuals of classical
interpolation below 4.5 dB, the most where a grid's frequency is that at which the low-resolution grid ends."""

_NEAR, _FAR = 3, 6
_TAPER = 6.0
_MIN_CYCLES = 3
_MIN_AREA = 0.25
_CHUNK = 64


class NoSliceError(InputError):
    """The region covers too little of every slice, or the images are constant."""


@dataclass(frozen=True)
class GridArtefacts:
    """Excess power at each period, over all slices together.

    Attributes
    ----------
    excess_db : dict of int to float
        Period (px) to 10 log10 of mean power at the grid's frequencies / mean power around them; about 0 without a
        grid, NaN where the image is too small for the period.
    amplitude : dict of int to float
        Period to the grid's root mean square, in units of the images, 0 without a grid.
    threshold_db : dict of int to float
        Period to the excess that counts as a grid.
    total_db, total_amplitude : float
        Largest excess, and root of the summed squared amplitudes.
    slices : int
        Number of slices that entered.
    slice_excess_db : array (slices, periods)
        Each slice on its own: noisy, for finding where a grid is.
    """

    excess_db: dict[int, float]
    amplitude: dict[int, float]
    threshold_db: dict[int, float]
    total_db: float
    total_amplitude: float
    slices: int
    slice_excess_db: NDArray[np.float64]

    @property
    def periods_found(self) -> tuple[int, ...]:
        """Periods whose excess is above the threshold."""
        return tuple(p for p, excess in self.excess_db.items() if excess > self.threshold_db[p])


def grid_artefact_index(
    images: ArrayLike, mask: ArrayLike | None = None, periods: tuple[int, ...] = PERIODS
) -> GridArtefacts:
    """Measure grid artefacts in residuals (prediction - reference) or, without a reference, in images alone.

    Power is read off a windowed periodogram at the frequencies k/p, k odd, along both axes and both diagonals: a grid
    of period p has its power there and not at the frequencies of a shorter period. What is expected there without a
    grid is read off beside each frequency, beyond the window's main lobe: the median across (same distance from the
    origin, so a sloping spectrum or a band limit does not count) or along (so a bright axis does not count),
    whichever is larger. Anatomy has no narrow peaks; noise has none on average, and slices are averaged.

    Parameters
    ----------
    images : array (S, H, W) or (H, W)
        Slices on the high-resolution grid; S may run over slices and volumes.
    mask : array (S, H, W) or (H, W), optional
        Where to look; its edge is tapered over 6 px.
    periods : tuple of int
        In px of the images; 2 or more.

    Returns
    -------
    GridArtefacts

    Raises
    ------
    InputError
        If shapes do not fit or values are not finite.
    NoSliceError
        If the mask leaves no slice.
    """
    from scipy.special import gammaincinv  # scipy.stats takes half a second to load

    if not periods or min(periods) < 2:
        raise InputError(f"The periods are {periods}; expected pixels, 2 or more.")
    images, inside = _cut_to_mask(_slices(images), mask)
    measurable = [p for p in periods if min(images.shape[1:]) >= _MIN_CYCLES * p]
    chunks = _peaks_of_chunks(images, inside, periods, measurable)
    unknown = float("nan")
    excess, amplitude, threshold = (dict.fromkeys(periods, unknown) for _ in range(3))
    slices = sum(len(chunk[0][0]) for chunk in chunks) if measurable else 0
    by_slice = np.full((slices, len(periods)), unknown)
    for i, period in enumerate(measurable):
        found, expected = (np.concatenate([chunk[i][part] for chunk in chunks]) for part in (0, 1))
        pairs = chunks[0][i][2]
        # Each frequency relative to its own surroundings: a grid's weak harmonics count as much as its strong ones.
        excess[period] = float(_decibel((found.sum(0) / expected.sum(0)).mean()))
        by_slice[:, periods.index(period)] = _decibel((found / expected).mean(1))
        amplitude[period] = float(np.sqrt(max(0.0, (pairs * (found - expected)).sum(1).mean())))
        draws = slices * pairs.sum() / 2  # a frequency that is its own mirror image has half a draw's freedom
        threshold[period] = max(THRESHOLD_DB, float(_decibel(gammaincinv(draws, 0.999) / draws)))
    known = [v for v in excess.values() if np.isfinite(v)]
    return GridArtefacts(
        excess_db=excess,
        amplitude=amplitude,
        threshold_db=threshold,
        total_db=float(max(known, default=float("nan"))),
        total_amplitude=float(np.sqrt(np.nansum(np.square(list(amplitude.values()))))),
        slices=slices,
        slice_excess_db=by_slice,
    )


def _slices(images: ArrayLike) -> NDArray:
    images = np.asarray(images)
    images = images[None] if images.ndim == 2 else images
    if images.ndim != 3 or not np.isfinite(images).all():
        raise InputError(f"Images of shape {images.shape} given; expected finite values, slices (S, H, W).")
    return images


def _peaks_of_chunks(
    images: NDArray, inside: NDArray | None, periods: tuple[int, ...], measurable: list[int]
) -> list[list[tuple[NDArray, NDArray, NDArray]]]:
    """`_peaks` of every period that can be measured, a few slices at a time."""
    size = [-(-n // math.lcm(*periods)) * math.lcm(*periods) for n in images.shape[1:]]
    chunks = []
    for start in range(0, len(images), _CHUNK):
        part = np.s_[start : start + _CHUNK]
        spectra = _power(images[part], None if inside is None else inside[part], size)
        if len(spectra):
            chunks.append([_peaks(spectra, p) for p in measurable])
    if not chunks:
        raise NoSliceError("No slice is left: the mask covers too little or the images are constant.")
    return chunks


def _cut_to_mask(images: NDArray, mask: ArrayLike | None) -> tuple[NDArray, NDArray | None]:
    if mask is None:
        return images, None
    inside = np.asarray(mask, dtype=bool)
    if inside.shape not in (images.shape, images.shape[1:]):
        raise InputError(f"The mask has shape {inside.shape} and the images {images.shape}; they must fit.")
    inside = np.broadcast_to(inside, images.shape)
    rows, columns = (np.flatnonzero(inside.any(axes)) for axes in ((0, 2), (0, 1)))
    if not len(rows):
        raise NoSliceError("No slice is left: the mask is empty.")
    box = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return images[box], inside[box]


def _power(images: NDArray, inside: NDArray | None, size: list[int]) -> NDArray:
    """Windowed periodograms of the slices with contents; a sinusoid's two frequencies sum to its mean square."""
    from scipy.ndimage import distance_transform_edt

    images = images.astype(np.float64)
    full = np.multiply.outer(*(np.hanning(n + 2)[1:-1] for n in images.shape[1:]))
    window = np.broadcast_to(full, images.shape)
    if inside is not None:
        distance = np.stack([distance_transform_edt(np.pad(s, 1))[1:-1, 1:-1] for s in inside])
        window = window * np.sin(np.pi / 2 * np.clip(distance / _TAPER, 0, 1)) ** 2
    area = window.sum((1, 2))
    kept = area > _MIN_AREA * full.sum()
    images, window, area = images[kept], window[kept], area[kept, None, None]
    rounding = 1e-9 * np.abs(images).max((1, 2), initial=0)
    images = (images - (images * window).sum((1, 2), keepdims=True) / area) * window
    varied = np.abs(images).max((1, 2), initial=0) > rounding
    return np.abs(np.fft.fft2(images[varied], size)) ** 2 / area[varied] ** 2


def _peaks(power: NDArray, period: int) -> tuple[NDArray, NDArray, NDArray]:
    """Power at a period's frequencies (S, K), the power expected there (S, K), how many mirror images (K,)."""
    size = np.array(power.shape[1:])
    found, expected, pairs = [], [], []
    odd = range(1, period // 2 + 1, 2)
    for direction in ((1, 0), (0, 1), (1, 1), (1, -1)):
        along = np.array(direction)
        across = np.array((-along[1], along[0]))
        for k in odd:
            peak = k * size * along // period
            self_conjugate = not (2 * peak % size).any()
            if self_conjugate and direction == (1, -1):
                continue  # the same frequency as (1, 1)
            median = []
            for main, side in ((across, along), (along, across)):
                points = [
                    (peak + sign * t * main + s * side) % size
                    for t in range(_NEAR, _FAR + 1)
                    for sign in (-1, 1)
                    for s in (-1, 0, 1)
                ]
                i, j = np.transpose(points)
                median.append(np.median(power[:, i, j], axis=1) / np.log(2))  # of exponential values, to their mean
            i, j = peak % size
            found.append(power[:, i, j])
            expected.append(np.maximum(*median))
            pairs.append(1 if self_conjugate else 2)
    floor = 1e-12 * power.max((1, 2))[:, None]  # rounding, where a band-limited image has nothing at all
    return np.stack(found, 1) + floor, np.stack(expected, 1) + floor, np.array(pairs)


def _decibel(ratio: ArrayLike) -> NDArray[np.float64]:
    return 10 * np.log10(ratio)
