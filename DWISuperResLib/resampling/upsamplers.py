"""The classical upsamplers every result is compared with, all on the exact same grid.

Every method is separable and linear, so each is one matrix per axis: `operator` builds it, two products apply it.
Output sample i lies at input index (i + 1/2) / scale - 1/2: the field of view stays, cell for cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .grid import apply_operators, in_plane_axes, in_plane_factors, refined_affine, slice_axis

if TYPE_CHECKING:
    from ..dwi import DWI

MAX_SCALE = 5


def interpolate(dwi: DWI, scale: int, *, method: str = "sinc", axis: int | str | None = None) -> DWI:
    """Upsample in-plane by an integer factor with a classical method.

    Parameters
    ----------
    dwi : DWI
    scale : int
        In-plane factor, 1 to 5.
    method : {"nearest", "linear", "cubic", "bspline", "lanczos", "sinc"}
        Cubic is Keys' a = -1/2 [1]_, bspline the interpolating cubic B-spline [2]_, lanczos has three lobes, sinc is
        zero filling in k-space.
    axis : optional
        Slice axis, see `grid.slice_axis`.

    Returns
    -------
    DWI, in-plane matrix `scale` times larger over the same field of view.

    Raises
    ------
    InputError
        For an unknown method or a scale outside 1 to 5.

    References
    ----------
    .. [1] Keys 1981, doi:10.1109/TASSP.1981.1163711, eq. 15.
    .. [2] Unser 1999, doi:10.1109/79.799930.
    """
    check_scale(scale)
    axis = slice_axis(dwi, axis)
    operators = {a: operator(dwi.signal.shape[a], scale, method) for a in in_plane_axes(axis)}
    factors = in_plane_factors(scale, axis)
    return replace(dwi, signal=map_volumes(dwi.signal, operators), affine=refined_affine(dwi.affine, factors))


def map_volumes(signal: NDArray[np.float32], operators: dict[int, NDArray[np.float64]]) -> NDArray[np.float32]:
    """Apply one operator per spatial axis to every volume of (X, Y, Z, N), a volume at a time to bound memory."""
    shape = list(signal.shape)
    for axis, matrix in operators.items():
        shape[axis] = matrix.shape[0]
    result = np.empty(shape, np.float32, order="F")
    for n in range(signal.shape[3]):
        result[..., n] = apply_operators(signal[..., n], operators)
    return result


def check_scale(scale: int) -> None:
    """Raise InputError unless `scale` is an integer from 1 to 5."""
    if isinstance(scale, bool) or scale not in range(1, MAX_SCALE + 1):
        raise InputError(f"The scale is {scale!r}; expected a whole in-plane factor from 1 to {MAX_SCALE}.")


@lru_cache(maxsize=64)
def operator(n: int, scale: int, method: str) -> NDArray[np.float64]:
    """(n * scale, n) matrix that upsamples one axis of n samples.

    Beyond the border the signal continues by reflection at the outer face (for sinc: periodically, as the discrete
    Fourier transform has it).
    """
    if method not in _OPERATORS:
        raise InputError(f"The interpolation is {method!r}; expected one of {', '.join(METHODS)}.")
    matrix = _OPERATORS[method](n, scale)
    matrix.setflags(write=False)
    return matrix


def sample_kernel(
    n: int, positions: NDArray[np.float64], kernel: Callable, radius: float, *, clamp: bool = False
) -> NDArray[np.float64]:
    """(len(positions), n) weights of a kernel centred on `positions` (in samples), rows summing to one.

    Samples beyond the border are those reflected at the outer face, or with `clamp` the border sample itself.
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


def keys_kernel(x: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with parameter `a`; doi:10.1109/TASSP.1981.1163711, eq. 15 has a = -1/2."""
    x = np.abs(x)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))


def _positions(n: int, scale: int) -> NDArray[np.float64]:
    return (np.arange(n * scale) + 0.5) / scale - 0.5


def _nearest(n: int, scale: int) -> NDArray[np.float64]:
    return np.repeat(np.eye(n), scale, axis=0)


def _linear(n: int, scale: int) -> NDArray[np.float64]:
    return sample_kernel(n, _positions(n, scale), lambda x: np.clip(1 - np.abs(x), 0, None), 1)


def _cubic(n: int, scale: int) -> NDArray[np.float64]:
    return sample_kernel(n, _positions(n, scale), lambda x: keys_kernel(x, -0.5), 2)


def _lanczos(n: int, scale: int) -> NDArray[np.float64]:
    return sample_kernel(n, _positions(n, scale), lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0), 3)


def _bspline(n: int, scale: int) -> NDArray[np.float64]:
    def kernel(x):
        x = np.abs(x)
        return np.where(x < 1, 2 / 3 - x * x + x**3 / 2, np.where(x < 2, (2 - x) ** 3 / 6, 0))

    at_samples = sample_kernel(n, np.arange(n, dtype=np.float64), kernel, 2)
    at_positions = sample_kernel(n, _positions(n, scale), kernel, 2)
    return np.asarray(np.linalg.solve(at_samples.T, at_positions.T).T, np.float64)


def _sinc(n: int, scale: int) -> NDArray[np.float64]:
    """Trigonometric interpolation; for even n the Nyquist sample is shared by +n/2 and -n/2, so it stays real."""
    x = _positions(n, scale)[:, None] - np.arange(n)
    waves = 2 * np.pi / n * x
    k = np.arange(1, (n - 1) // 2 + 1)
    matrix = 1 + 2 * np.cos(waves[..., None] * k).sum(-1)
    if n % 2 == 0:
        matrix += np.cos(np.pi * x) if n > 1 else 0
    return np.asarray(matrix / n, np.float64)


@lru_cache(maxsize=64)
def mirrored_sinc(n: int, scale: int) -> NDArray[np.float64]:
    """Sinc interpolation of the row continued by reflection: no jump at the border, so a patch rings little."""
    doubled = operator(2 * n, scale, "sinc")[: n * scale]
    return doubled[:, :n] + doubled[:, : n - 1 : -1]


_OPERATORS = {
    "nearest": _nearest,
    "linear": _linear,
    "cubic": _cubic,
    "bspline": _bspline,
    "lanczos": _lanczos,
    "sinc": _sinc,
}
METHODS = tuple(_OPERATORS)
