"""What everything passes: a diffusion-weighted scan with its grid and its gradient table, or a structural volume."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError

B0_THRESHOLD = 50.0
"""b-values up to this many s/mm² count as unweighted: scanners write b0 as 0, 1.25 or 5."""


@dataclass(frozen=True, eq=False)
class DWI:
    """A diffusion-weighted volume, checked when it is built.

    `dataclasses.replace` returns a checked copy that shares the unchanged arrays.

    Parameters
    ----------
    signal : array, shape (X, Y, Z, N)
        Signal in scanner units; held as float32, in the memory order given.
    affine : array, shape (4, 4)
        Voxel index (centre of a voxel at the integer) to RAS millimetres.
    bvals : array, shape (N,)
        b-values in s/mm².
    bvecs : array, shape (N, 3)
        Gradient directions in the scanner's RAS frame: unit vectors, zero where b = 0.
        Vectors within 1 % of unit length are normalised.
    acquisition_axis : int, optional
        Voxel axis along which slices were acquired, where the file says so.

    Raises
    ------
    InputError
        If a shape does not fit, a value is not finite, the affine cannot be inverted, or a diffusion-weighted
        volume has no direction.
    """

    signal: NDArray[np.float32]
    affine: NDArray[np.float64]
    bvals: NDArray[np.float64]
    bvecs: NDArray[np.float64]
    acquisition_axis: int | None = None

    def __post_init__(self) -> None:
        signal = np.asarray(self.signal, dtype=np.float32)
        if signal.ndim != 4 or min(signal.shape) < 1:
            raise InputError(f"The signal has shape {signal.shape}; expected four axes (X, Y, Z, volumes).")
        # A sum is finite only if every term is: one pass, without a temporary of the volume's size.
        if not np.isfinite(np.sum(signal, dtype=np.float64)):
            bad = sum(int(np.count_nonzero(~np.isfinite(signal[..., n]))) for n in range(signal.shape[3]))
            raise InputError(f"The signal holds {bad} values that are not finite; replace NaN and infinity first.")
        object.__setattr__(self, "signal", signal)
        object.__setattr__(self, "affine", _checked_affine(self.affine))
        bvals, bvecs = _checked_gradients(self.bvals, self.bvecs, signal.shape[3])
        object.__setattr__(self, "bvals", bvals)
        object.__setattr__(self, "bvecs", bvecs)
        if self.acquisition_axis not in (None, 0, 1, 2):
            raise InputError(f"acquisition_axis is {self.acquisition_axis!r}; expected 0, 1, 2 or None.")

    @property
    def series(self) -> DWI:
        """Itself: see `Volume.series`."""
        return self

    def like(self, series: DWI) -> DWI:
        """What was computed of `series`: see `Volume.like`."""
        return series

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        """Matrix size (X, Y, Z)."""
        x, y, z, _ = self.signal.shape
        return x, y, z

    @property
    def n_volumes(self) -> int:
        """Number of volumes N."""
        return self.signal.shape[3]

    @property
    def is_b0(self) -> NDArray[np.bool_]:
        """(N,) True where a volume counts as unweighted."""
        return self.bvals <= B0_THRESHOLD

    @property
    def voxel_sizes(self) -> NDArray[np.float64]:
        """(3,) voxel sizes in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def mean_b0(self) -> NDArray[np.float32]:
        """(X, Y, Z) mean of the b0 volumes, of all volumes where there is no b0.

        Examples
        --------
        >>> signal = np.stack([np.full((2, 2, 2), v) for v in (90.0, 110.0, 30.0)], axis=-1)
        >>> float(DWI(signal, np.eye(4), [0, 5, 1000], [[0, 0, 0], [0, 0, 0], [1, 0, 0]]).mean_b0().max())
        100.0
        """
        volumes = np.flatnonzero(self.is_b0) if self.is_b0.any() else np.arange(self.n_volumes)
        return _sum_of_volumes(self.signal, volumes) / np.float32(len(volumes))

    def foreground_b0(self) -> float:
        """Mean b0 signal over its foreground: the signal in the library's one definition of SNR.

        SNR = this / the standard deviation of the noise in one channel (real or imaginary).
        """
        mean = self.mean_b0()
        return float(mean[foreground_mask(mean)].mean(dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Volume:
    """A structural image (T1w, T2w, FLAIR, ...), checked when it is built as a DWI is.

    Super-resolved, degraded and evaluated it is `series`: one unweighted volume. Networks with guidance see the image
    itself for the mean b0 and, as there is none weighted, for the mean DWI.

    Parameters
    ----------
    image : array, shape (X, Y, Z)
        Held as float32, in the memory order given.
    affine, acquisition_axis
        As of a DWI.

    Raises
    ------
    InputError
        If a shape does not fit, a value is not finite, or the affine cannot be inverted.

    Examples
    --------
    >>> volume = Volume(np.ones((4, 5, 6)), np.eye(4))
    >>> volume.spatial_shape, volume.series.signal.shape, volume.like(volume.series).image.shape
    ((4, 5, 6), (4, 5, 6, 1), (4, 5, 6))
    """

    image: NDArray[np.float32]
    affine: NDArray[np.float64]
    acquisition_axis: int | None = None

    def __post_init__(self) -> None:
        image = np.asarray(self.image, dtype=np.float32)
        if image.ndim != 3:
            raise InputError(f"The image has shape {image.shape}; expected three axes (X, Y, Z).")
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "affine", self.series.affine)

    @cached_property
    def series(self) -> DWI:
        """The image as a scan of one unweighted volume, sharing its voxels."""
        return DWI(self.image[..., None], self.affine, np.zeros(1), np.zeros((1, 3)), self.acquisition_axis)

    def like(self, series: DWI) -> Volume:
        """The volume that a series computed of this one's stands for."""
        return Volume(series.signal[..., 0], series.affine, series.acquisition_axis)

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        """Matrix size (X, Y, Z)."""
        return self.series.spatial_shape

    @property
    def voxel_sizes(self) -> NDArray[np.float64]:
        """(3,) voxel sizes in mm."""
        return self.series.voxel_sizes


class _Scan(Protocol):
    """What a DWI and a Volume share."""

    @property
    def series(self) -> DWI: ...

    def like(self, series: DWI) -> Self: ...


# A DWI or a Volume; what is computed of it is of the same kind.
AnyScan = TypeVar("AnyScan", bound=_Scan)


def foreground_mask(signal: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(X, Y, Z) voxels at least as bright as the mean of the mean volume: the head, roughly, at the cost of one pass.

    Parameters
    ----------
    signal : array, shape (X, Y, Z) or (X, Y, Z, N)

    Examples
    --------
    >>> foreground_mask(np.array([[[0.0, 1.0, 9.0]]], np.float32)).tolist()
    [[[False, False, True]]]
    """
    total = _sum_of_volumes(signal, range(signal.shape[3])) if signal.ndim == 4 else signal
    # Summed in float64, so that the order in which a file stores its voxels decides about none of them.
    return total >= total.mean(dtype=np.float64)


def _sum_of_volumes(signal: NDArray[np.float32], volumes: Iterable[int]) -> NDArray[np.float32]:
    """A volume at a time: no copy of the scan."""
    total = np.zeros(signal.shape[:3], np.float32)
    for n in volumes:
        total += signal[..., n]
    return total


def shells(bvals: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Indices of the volumes of each shell above b0, by rising b; a gap of over 100 s/mm² starts a new shell.

    Examples
    --------
    >>> shells(np.array([0.0, 1000, 2000, 995, 5]))
    [array([3, 1]), array([2])]
    """
    bvals = np.asarray(bvals)
    order = np.argsort(bvals, kind="stable")
    order = order[bvals[order] > B0_THRESHOLD]
    return np.split(order, np.flatnonzero(np.diff(bvals[order]) > 100) + 1) if order.size else []


def signals_at(signal: NDArray[np.float32], voxels: NDArray[np.intp]) -> NDArray[np.float32]:
    """Signals (N, V) of rising flat (Fortran-order) indices in (X, Y, Z, N), whatever its memory order.

    Examples
    --------
    >>> signal = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2, order="F")
    >>> signals_at(signal, np.array([1, 6])).tolist()
    [[1.0, 6.0], [9.0, 14.0]]
    """
    size = signal.shape[0] * signal.shape[1]
    gathered = np.empty((signal.shape[3], len(voxels)), np.float32)
    planes, starts = np.unique(voxels // size, return_index=True)
    bounds = np.append(starts, len(voxels))
    for k, first, last in zip(planes, bounds[:-1], bounds[1:], strict=True):
        # A view for Fortran order; one plane is copied for any other.
        plane = signal[:, :, k].T.reshape(-1, size)
        within = voxels[first:last] - k * size
        # Row by row: indexed at once, the result would lie voxel by voxel, and every later step would be slower.
        for volume, values in zip(plane, gathered[:, first:last], strict=True):
            np.take(volume, within, out=values, mode="clip")
    return gathered


def _checked_affine(affine: ArrayLike) -> NDArray[np.float64]:
    affine = np.array(affine, dtype=np.float64)
    if affine.shape != (4, 4):
        raise InputError(f"The affine has shape {affine.shape}; expected (4, 4).")
    if not np.isfinite(affine).all() or not np.array_equal(affine[3], (0, 0, 0, 1)):
        raise InputError(
            "The affine is not a finite matrix with last row 0 0 0 1; repair the file's orientation header."
        )
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if sizes.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / np.where(sizes > 0, sizes, 1))) < 1e-3:
        raise InputError(
            f"The affine is singular (voxel sizes {sizes.tolist()} mm); repair the file's orientation header."
        )
    affine.setflags(write=False)
    return affine


def _checked_gradients(
    bvals: ArrayLike, bvecs: ArrayLike, n_volumes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    bvals = np.array(bvals, dtype=np.float64)
    bvecs = np.array(bvecs, dtype=np.float64)
    if bvals.shape != (n_volumes,) or bvecs.shape != (n_volumes, 3):
        raise InputError(
            f"The gradient table does not fit the image: {n_volumes} volumes, b-values of shape {bvals.shape}, "
            f"directions of shape {bvecs.shape}; expected ({n_volumes},) and ({n_volumes}, 3)."
        )
    if not (np.isfinite(bvals).all() and np.isfinite(bvecs).all()) or bvals.min() < 0:
        raise InputError("The gradient table holds a negative b-value or a value that is not finite; repair the table.")
    lengths = np.linalg.norm(bvecs, axis=1)
    absent = (bvals == 0) | (lengths < 1e-6)
    if missing := np.flatnonzero(absent & (bvals > B0_THRESHOLD)).tolist():
        raise InputError(
            f"Volumes {missing} have b > {B0_THRESHOLD:g} s/mm² but a zero gradient direction; repair the table."
        )
    if odd := np.flatnonzero(~absent & (np.abs(lengths - 1) > 1e-2)).tolist():
        raise InputError(f"Volumes {odd} have gradient directions that are not unit vectors; normalise the table.")
    bvecs = np.where(absent[:, None], 0.0, bvecs / np.where(absent, 1.0, lengths)[:, None])
    bvals.setflags(write=False)
    bvecs.setflags(write=False)
    return bvals, bvecs
