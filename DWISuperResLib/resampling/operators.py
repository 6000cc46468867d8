"""Signal from one grid to another over the same field of view: one matrix an axis.

Output sample i of n_out lies at input index (i + 1/2) n_in / n_out - 1/2, so cells of any two sizes tile the same field
of view. Beyond the border the signal continues by reflection at the outer face; "sinc" alone continues periodically, as
the discrete Fourier transform has it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..registry import Registry
from ..scratch import signal_array

Matrix = NDArray[np.float64]

KERNELS: Registry[Callable[[int, int], Matrix]] = Registry("resampling kernel")
"""Each makes the (n_out, n_in) matrix of an axis."""

_MOST_THREADS = 8  # each with a volume of its own

FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))

SLICE_EDGE = 0.49
"""Of a slice profile's width, what its edge takes from 99 % to 1 %: D_infinity / TBW of a linear-phase excitation with
ripples of 1 % (Pauly et al. 1991, doi:10.1109/42.75611) and the time-bandwidth product 4, usual in echo-planar imaging.
"""
_SIGMAS_FROM_99_TO_1_PERCENT = 4.6527


@lru_cache(maxsize=256)
def operator(n_in: int, n_out: int, kernel: str) -> Matrix:
    """Matrix (n_out, n_in) that brings one axis of n_in samples to n_out, fewer or more.

    Parameters
    ----------
    n_in, n_out : int
    kernel : str
        One of `KERNELS`: "nearest", "linear", "cubic" (Keys 1981, doi:10.1109/TASSP.1981.1163711, eq. 15: a = -1/2),
        "bspline" (interpolating cubic B-spline, Unser 1999, doi:10.1109/79.799930), "lanczos" (three lobes), "sinc"
        (zero filling in k-space; to fewer samples its left inverse, k-space truncation), "mirrored_sinc" (the same of
        the row continued by reflection, which rings little at the border of a patch), "area" (mean over the cell),
        "antialiased_lanczos" (lanczos stretched to the coarser grid), "opencv_cubic" (cv2.INTER_CUBIC: a = -3/4, the
        border sample repeated, no anti-aliasing).

    Returns
    -------
    array, shape (n_out, n_in), read-only

    Raises
    ------
    InputError
        For an unknown kernel.

    Examples
    --------
    >>> operator(2, 4, "linear")
    array([[1.  , 0.  ],
           [0.75, 0.25],
           [0.25, 0.75],
           [0.  , 1.  ]])
    """
    matrix = KERNELS.find(kernel)(n_in, n_out)
    matrix.setflags(write=False)
    return matrix


@lru_cache(maxsize=256)
def gaussian(n_in: int, n_out: int, fwhm: float) -> Matrix:
    """Matrix (n_out, n_in) that samples the axis blurred by a Gaussian of `fwhm` input samples.

    Examples
    --------
    >>> matrix = gaussian(8, 4, 2.0)
    >>> matrix.shape, np.allclose(matrix.sum(1), 1)
    ((4, 8), True)
    """
    sigma = fwhm / FWHM_PER_SIGMA
    matrix = sample_kernel(n_in, _positions(n_in, n_out), lambda x: np.exp(-0.5 * (x / sigma) ** 2), 4 * sigma + 1)
    matrix.setflags(write=False)
    return matrix


@lru_cache(maxsize=256)
def slice_profile(n_in: int, n_out: int, fwhm: float, edge: float = SLICE_EDGE) -> Matrix:
    """Matrix (n_out, n_in) of slices with the profile of a selective excitation: a box whose edges are Gaussian.

    Parameters
    ----------
    n_in, n_out : int
    fwhm : float
        Width of the profile at half of its height, in input samples: the slice thickness. With n_in / n_out the slices
        touch; what is less leaves gaps, what is more makes them overlap.
    edge : float
        Share of `fwhm` in which the profile falls from 99 % to 1 %; 0 is a box.

    Notes
    -----
    Weights are the profile's integrals over the input cells, so that a box as wide as the output cell is the mean
    over it, and slices that touch share every input sample out wholly.

    Examples
    --------
    >>> slice_profile(4, 2, 2.0, edge=0.0).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    >>> slice_profile(6, 2, 2.0, edge=0.0)[0].tolist()  # a gap of one sample
    [0.25, 0.5, 0.25, 0.0, 0.0, 0.0]
    """
    from scipy.special import ndtr

    sigma = edge * fwhm / _SIGMAS_FROM_99_TO_1_PERCENT

    def ramp(x: Matrix) -> Matrix:
        """Integral of a step at 0 blurred by the edge's Gaussian."""
        if sigma == 0:
            return np.maximum(x, 0)
        return np.asarray(x * ndtr(x / sigma) + sigma * np.exp(-0.5 * (x / sigma) ** 2) / np.sqrt(2 * np.pi))

    def up_to(x: Matrix) -> Matrix:
        return ramp(x + fwhm / 2) - ramp(x - fwhm / 2)

    def over_cell(x: Matrix) -> Matrix:
        return up_to(x + 0.5) - up_to(x - 0.5)

    matrix = sample_kernel(n_in, _positions(n_in, n_out), over_cell, fwhm / 2 + 6 * sigma + 1)
    matrix.setflags(write=False)
    return matrix


def sample_kernel(
    n: int, positions: Matrix, kernel: Callable[[Matrix], Matrix], radius: float, *, clamp: bool = False
) -> Matrix:
    """(len(positions), n) weights of a kernel centred on `positions` (in samples), rows summing to one.

    Samples beyond the border are those reflected at the outer face, or with `clamp` the border sample itself.

    Examples
    --------
    Halfway between two samples, a triangle as wide as two of them takes half of each.

    >>> sample_kernel(4, np.array([0.5]), lambda x: np.maximum(1 - np.abs(x), 0), 1).tolist()
    [[0.5, 0.5, 0.0, 0.0]]
    """
    taps = np.floor(positions)[:, None].astype(int) + np.arange(-int(np.ceil(radius)), int(np.ceil(radius)) + 1)
    weights = kernel(positions[:, None] - taps)
    weights /= weights.sum(1, keepdims=True)
    if clamp:
        index = np.clip(taps, 0, n - 1)
    else:
        folded = np.mod(taps, 2 * n)
        index = np.minimum(folded, 2 * n - 1 - folded)
    matrix = np.zeros((len(positions), n))
    np.add.at(matrix, (np.arange(len(positions))[:, None], index), weights)
    return matrix


def apply_operators(array: NDArray, operators: Mapping[int, NDArray]) -> NDArray[np.float32]:
    """Multiply each given axis by its matrix: a separable linear resampling.

    Parameters
    ----------
    array : array
        Any shape; (X, Y, Z) or (X, Y, Z, N) here.
    operators : mapping of axis to array (n_out, n_in)

    Returns
    -------
    array of float32, the axes' lengths changed from n_in to n_out.

    Examples
    --------
    >>> mean_of_pairs = np.kron(np.eye(2), [[0.5, 0.5]])
    >>> apply_operators(np.array([[1.0, 3, 5, 7]]), {1: mean_of_pairs}).tolist()
    [[2.0, 6.0]]
    """
    result = np.asarray(array, dtype=np.float32)
    if result.flags.f_contiguous:  # as a scan lies: seen from its last axis it is multiplied where it lies
        mirrored = {result.ndim - 1 - axis: matrix for axis, matrix in operators.items()}
        return _multiplied(result.T, mirrored).T
    return _multiplied(result, operators)


def _multiplied(array: NDArray[np.float32], operators: Mapping[int, NDArray]) -> NDArray[np.float32]:
    """`apply_operators` for arrays in C order."""
    for axis, matrix in operators.items():
        before, (n, *after) = array.shape[:axis], array.shape[axis:]
        matrix = matrix.astype(np.float32)
        rows = array.reshape(math.prod(before), n, math.prod(after))
        rows = matrix @ rows if after else rows[..., 0] @ matrix.T
        array = rows.reshape(*before, len(matrix), *after)
    return array


def map_volumes(
    signal: NDArray[np.float32],
    operators: Mapping[int, NDArray],
    after_volume: Callable[[int], None] = lambda n: None,
) -> NDArray[np.float32]:
    """Apply one operator per spatial axis to every volume of (X, Y, Z, N), a volume a thread to bound memory.

    `after_volume` is called with the number of each volume when it is done.

    Examples
    --------
    >>> signal = np.ones((4, 4, 2, 3), np.float32)
    >>> map_volumes(signal, {0: operator(4, 8, "linear")}).shape
    (8, 4, 2, 3)
    """
    shape = list(signal.shape)
    for axis, matrix in operators.items():
        shape[axis] = matrix.shape[0]
    result = signal_array(shape)
    from threadpoolctl import threadpool_limits  # here, for Slicer reads the registry before it is installed

    def resample(n: int) -> None:
        result[..., n] = apply_operators(signal[..., n], operators)

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as pool:
        waiting = [pool.submit(resample, n) for n in range(signal.shape[3])]
        try:
            for n, volume in enumerate(waiting):
                volume.result()
                after_volume(n)
        finally:
            for volume in waiting:
                volume.cancel()
    return result


def keys_kernel(x: Matrix, a: float) -> Matrix:
    """Keys' cubic convolution kernel with parameter `a`; doi:10.1109/TASSP.1981.1163711, eq. 15 has a = -1/2.

    Examples
    --------
    >>> keys_kernel(np.array([0.0, 0.5, 1.0, 2.0]), -0.5).tolist()
    [1.0, 0.5625, 0.0, 0.0]
    """
    x = np.abs(x)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))


def _positions(n_in: int, n_out: int) -> Matrix:
    """Where the output samples lie, in input indices."""
    return (np.arange(n_out) + 0.5) * n_in / n_out - 0.5


@KERNELS.register("nearest")
def _nearest(n_in: int, n_out: int) -> Matrix:
    matrix = np.zeros((n_out, n_in))
    samples = np.arange(n_out)
    matrix[samples, (2 * samples + 1) * n_in // (2 * n_out)] = 1
    return matrix


@KERNELS.register("linear")
def _linear(n_in: int, n_out: int) -> Matrix:
    return sample_kernel(n_in, _positions(n_in, n_out), lambda x: np.clip(1 - np.abs(x), 0, None), 1)


@KERNELS.register("cubic")
def _cubic(n_in: int, n_out: int) -> Matrix:
    return sample_kernel(n_in, _positions(n_in, n_out), lambda x: keys_kernel(x, -0.5), 2)


@KERNELS.register("bspline")
def _bspline(n_in: int, n_out: int) -> Matrix:
    def kernel(x: Matrix) -> Matrix:
        x = np.abs(x)
        return np.where(x < 1, 2 / 3 - x * x + x**3 / 2, np.where(x < 2, (2 - x) ** 3 / 6, 0))

    at_samples = sample_kernel(n_in, np.arange(n_in, dtype=np.float64), kernel, 2)
    at_positions = sample_kernel(n_in, _positions(n_in, n_out), kernel, 2)
    return np.asarray(np.linalg.solve(at_samples.T, at_positions.T).T, np.float64)


@KERNELS.register("lanczos")
def _lanczos(n_in: int, n_out: int) -> Matrix:
    return sample_kernel(n_in, _positions(n_in, n_out), lambda x: _lanczos_kernel(x, 1.0), 3)


@KERNELS.register("antialiased_lanczos")
def _antialiased_lanczos(n_in: int, n_out: int) -> Matrix:
    step = max(n_in / n_out, 1.0)
    return sample_kernel(n_in, _positions(n_in, n_out), lambda x: _lanczos_kernel(x, step), 3 * step)


def _lanczos_kernel(x: Matrix, step: float) -> Matrix:
    return np.where(np.abs(x) < 3 * step, np.sinc(x / step) * np.sinc(x / (3 * step)), 0)


@KERNELS.register("sinc")
def _sinc(n_in: int, n_out: int) -> Matrix:
    """Trigonometric interpolation; for even n_in the Nyquist sample is shared by +n/2 and -n/2, so it stays real."""
    if n_out < n_in:
        # A crop of k-space with the half-voxel shift in phase, gain corrected.
        return np.asarray(np.linalg.pinv(operator(n_out, n_in, "sinc")), np.float64)
    x = _positions(n_in, n_out)[:, None] - np.arange(n_in)
    matrix = np.sinc(x) / np.sinc(x / n_in)  # Dirichlet's kernel: the sum of all waves that n_in samples hold
    if n_in % 2 == 0:
        matrix *= np.cos(np.pi / n_in * x)
    return np.asarray(matrix, np.float64)


@KERNELS.register("mirrored_sinc")
def _mirrored_sinc(n_in: int, n_out: int) -> Matrix:
    if n_out < n_in:
        return np.asarray(np.linalg.pinv(operator(n_out, n_in, "mirrored_sinc")), np.float64)
    doubled = operator(2 * n_in, 2 * n_out, "sinc")[:n_out]
    return doubled[:, :n_in] + doubled[:, : n_in - 1 : -1]


@KERNELS.register("area")
def _area(n_in: int, n_out: int) -> Matrix:
    step = n_in / n_out
    first, last = np.arange(n_out)[:, None] * step, np.arange(1, n_out + 1)[:, None] * step
    cell = np.arange(n_in)
    return np.clip(np.minimum(last, cell + 1) - np.maximum(first, cell), 0, None) / step


@KERNELS.register("opencv_cubic")
def _opencv_cubic(n_in: int, n_out: int) -> Matrix:
    return sample_kernel(n_in, _positions(n_in, n_out), lambda x: keys_kernel(x, -0.75), 2, clamp=True)
