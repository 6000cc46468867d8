"""The diffusion tensor, fitted to all voxels at once: ln S = ln S0 - b g'Dg.

Tensors are (..., 6): Dxx, Dyy, Dzz, Dxy, Dxz, Dyz in mm²/s (MRtrix3's order), in the frame of the directions.
Inside, voxels stand last, (volumes, voxels), as a Fortran-ordered scan lies in memory: every step is then a matrix
product or runs along the voxels.

Written once on the array API standard: arrays of NumPy, or of torch where it is differentiated or runs on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..dwi import B0_THRESHOLD
from ..errors import InputError
from .arrays import Array, constant, detached, namespace
from .models import MapInfo, MapModel, register_map_model

Method = Literal["wls", "ols", "iwls"]
MIN_SIGNAL = 1e-4
"""Signals are raised to this before the logarithm (DIPY's `MIN_POSITIVE_SIGNAL`), so give them in a unit that makes b0
some hundreds, as `compute_maps` does; IWLS uses 1e-6 of the voxel's largest signal instead, as MRtrix3 does."""
FLOAT32_DETERMINED = 5e-3
"""Below this share float32 may be off by more than 1e-4 in FA (measured against float64 on scans of six scanners)."""


def design_matrix(bvals: ArrayLike, bvecs: ArrayLike) -> NDArray[np.float64]:
    """(N, 7) design: ln S = design @ (Dxx, Dyy, Dzz, Dxy, Dxz, Dyz, ln S0); b in s/mm², directions (N, 3).

    Examples
    --------
    >>> design_matrix([1000.0], [[1.0, 0, 0]])[:, [0, 1, 6]].tolist()
    [[-1000.0, -0.0, 1.0]]
    """
    b = np.asarray(bvals, dtype=np.float64)
    x, y, z = np.asarray(bvecs, dtype=np.float64).T
    return np.stack([-b * x * x, -b * y * y, -b * z * z, -2 * b * x * y, -2 * b * x * z, -2 * b * y * z, 0 * b + 1], 1)


def determines_tensor(bvals: ArrayLike, bvecs: ArrayLike) -> bool:
    """Whether the gradient table determines all six tensor elements and S0.

    Examples
    --------
    >>> determines_tensor(np.full(9, 1000.0), np.eye(3)[[0, 1, 2] * 3])
    False
    """
    design = design_matrix(bvals, bvecs)
    scale = np.linalg.norm(design, axis=0)
    if len(design) < 7 or scale.min() == 0:
        return False
    singular = np.linalg.svd(design / scale, compute_uv=False)
    return bool(singular[-1] > 1e-3 * singular[0])


class TensorFit:
    """A linear least-squares fit of the log-signal, prepared for one gradient table.

    Parameters
    ----------
    bvals, bvecs : arrays (N,) in s/mm² and (N, 3)
        Any number of shells; b0 written as a small b-value enters with that b-value.
    method : {"wls", "ols", "iwls"}
        "ols" weighs all volumes alike. "wls" weighs by the signal that OLS predicts (as DIPY; Chung et al. 2006,
        doi:10.1016/j.neuroimage.2006.07.001). "iwls" weighs by the measured, then twice by the predicted signal
        (MRtrix3's `dwi2tensor`; Veraart et al. 2013, doi:10.1016/j.neuroimage.2013.05.028).

    Raises
    ------
    InputError
        If the method is unknown or the table does not determine a tensor.

    Examples
    --------
    >>> directions = np.eye(3)[[0, 0, 1, 2, 0, 1, 2]] + np.eye(3)[[0, 0, 1, 2, 1, 2, 0]]
    >>> bvecs = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    >>> bvals = np.array([0.0, *[1000.0] * 6])
    >>> signal = 500 * np.exp(-bvals * 1e-3)[:, None]  # isotropic, 1e-3 mm²/s
    >>> tensors, _ = TensorFit(bvals, bvecs)(signal)
    >>> bool(np.abs(tensors[:, 0] - [1e-3, 1e-3, 1e-3, 0, 0, 0]).max() < 1e-9)
    True
    """

    def __init__(self, bvals: ArrayLike, bvecs: ArrayLike, method: str = "wls") -> None:
        if method not in get_args(Method):
            raise InputError(f"The tensor fit is {method!r}; expected one of {', '.join(get_args(Method))}.")
        if not determines_tensor(bvals, bvecs):
            bvals = np.asarray(bvals)
            weighted = int((bvals > B0_THRESHOLD).sum())
            raise InputError(
                f"A tensor cannot be fitted to {weighted} diffusion-weighted volumes and {len(bvals) - weighted} b0; "
                "at least six directions that are not on one cone and a b0 (or a second shell) are needed."
            )
        self.method = method
        # An orthonormal basis of the tensor part, and the constant on its own: well conditioned, and the b0 weights,
        # hundreds of times the others in fluid, stay in one row of the normal equations. float32 is then enough.
        basis, triangle = np.linalg.qr(design_matrix(bvals, bvecs)[:, :6])
        basis = np.column_stack([np.full(len(basis), len(basis) ** -0.5), basis])
        rows, columns = np.triu_indices(7)
        self._basis = basis
        self._products = np.ascontiguousarray((basis[:, rows] * basis[:, columns]).T)
        self._inverse = np.linalg.pinv(basis)
        self._to_tensor = np.linalg.inv(triangle)

    def __call__(self, signal: Array) -> tuple[Array, Array]:
        """Fit (N, V) signals: the tensors (6, V), and how well determined each was (V,), from 1 down to 0.

        float32 may lose the fourth decimal of FA where the second is below `FLOAT32_DETERMINED`: fit those in float64.
        """
        xp = namespace(signal)
        basis, inverse = constant(self._basis, signal), constant(self._inverse, signal)
        log_signal = self._log(signal)
        # Relative to the largest: only S0 changes, and equal signals give exactly no tensor.
        log_signal = log_signal - xp.max(detached(log_signal), axis=0)
        parameters = inverse @ log_signal
        determined = xp.ones_like(log_signal[0])
        steps = {"ols": 0, "wls": 1, "iwls": 3}[self.method]
        if steps:
            products, transposed = constant(self._products, signal), constant(self._basis.T, signal)
        for step in range(steps):
            predicted = basis @ parameters
            log_weight = log_signal if self.method == "iwls" and step == 0 else predicted
            weight = xp.exp(2 * (log_weight - xp.max(detached(log_weight), axis=0)))
            # Solving for the change keeps rounding relative to the residuals instead of to ln S.
            change, determined = _solve_symmetric(products @ weight, transposed @ (weight * (log_signal - predicted)))
            # Where zeros in the signal leave too few volumes with weight, the unweighted estimate stands.
            usable = determined > 1e3 * xp.finfo(signal.dtype).eps
            parameters = parameters + xp.where(usable, change, xp.zeros_like(change))
        # Zeros raised to the floor stand so far from the others that float32 loses the residuals.
        within_range = xp.min(detached(log_signal), axis=0) > -9
        return constant(self._to_tensor, signal) @ parameters[1:], xp.where(
            within_range, determined, xp.zeros_like(determined)
        )

    def _log(self, signal: Array) -> Array:
        """Logarithm of the signals, raised to the method's floor."""
        xp = namespace(signal)
        if self.method != "iwls":
            return xp.log(xp.maximum(signal, MIN_SIGNAL))
        floor = xp.maximum(1e-6 * xp.max(detached(signal), axis=0), 1e-30)
        return xp.log(xp.maximum(signal, floor))


def _solve_symmetric(upper: Array, right: Array) -> tuple[Array, Array]:
    """Solve V positive definite systems by elimination, vectorised over V (many times batched LAPACK's rate).

    `upper` (n(n+1)/2, V) holds the upper triangles row by row, `right` (n, V). Returns the solutions (n, V) and the
    smallest share (V,) of a diagonal element that elimination left.
    """
    xp = namespace(upper)
    n = right.shape[0]
    starts = [i * n - i * (i - 1) // 2 for i in range(n + 1)]
    # The right side stands at the end of each row, so that one product eliminates both.
    rows = [xp.concat([upper[starts[i] : starts[i + 1]], right[i : i + 1]], axis=0) for i in range(n)]
    limits = xp.finfo(upper.dtype)
    pivots: list[Array] = []
    shares: list[Array] = []
    for j in range(n):
        diagonal = detached(upper[starts[j]])
        pivots.append(xp.maximum(rows[j][0], limits.eps * diagonal + limits.smallest_normal))
        shares.append(detached(pivots[j]) / diagonal)
        factors = rows[j][1:-1] / pivots[j]
        for i in range(j + 1, n):
            rows[i] = rows[i] - factors[i - j - 1] * rows[j][i - j :]
    solution: list[Array] = []
    for i in reversed(range(n)):
        value = rows[i][-1]
        for k, known in enumerate(reversed(solution), start=1):
            value = value - rows[i][k] * known
        solution.append(value / pivots[i])
    return xp.stack(solution[::-1]), xp.min(xp.stack(shares), axis=0)


def fit_tensor(signal: Array, bvals: ArrayLike, bvecs: ArrayLike, method: str = "wls") -> Array:
    """Fit tensors, differentiably.

    Parameters
    ----------
    signal : array or tensor (..., N)
        float32 or float64; values below the floor (`MIN_SIGNAL`) get no gradient.
    bvals, bvecs : arrays (N,) in s/mm² and (N, 3)
    method : {"wls", "ols", "iwls"}
        See `TensorFit`.

    Returns
    -------
    (..., 6) in mm²/s: Dxx, Dyy, Dzz, Dxy, Dxz, Dyz.

    Examples
    --------
    >>> bvals = np.array([0.0] + [1000.0] * 6)
    >>> bvecs = np.array([[0, 0, 0], [1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]) / 2**0.5
    >>> fit_tensor(np.exp(-bvals * 1e-3), bvals, bvecs)[:3].round(6)
    array([0.001, 0.001, 0.001])
    """
    xp = namespace(signal)
    fit = TensorFit(bvals, bvecs, method)
    tensors, _ = fit(xp.reshape(xp.moveaxis(signal, -1, 0), (signal.shape[-1], -1)))
    return xp.reshape(tensors.T, (*signal.shape[:-1], 6))


def mean_diffusivity(tensor: Array) -> Array:
    """MD (...) in mm²/s of tensors (..., 6).

    Examples
    --------
    >>> float(mean_diffusivity(np.array([3e-3, 0, 0, 0, 0, 0])))
    0.001
    """
    return namespace(tensor).mean(tensor[..., :3], axis=-1)


def fractional_anisotropy(tensor: Array) -> Array:
    """FA (...) of tensors (..., 6) from their elements, FA² = 3/2 |D - MD|²/|D|²: no eigenvalues, finite gradients.

    Tensors that are not positive definite are taken as they are, so FA can reach sqrt(3/2); isotropic and zero
    tensors have FA and gradient 0.

    Examples
    --------
    >>> fractional_anisotropy(np.array([[1e-3, 0, 0, 0, 0, 0], [1e-3, 1e-3, 1e-3, 0, 0, 0]]))
    array([1., 0.])
    """
    xp = namespace(tensor)
    mean = mean_diffusivity(tensor)
    beside = 2 * xp.sum(tensor[..., 3:] ** 2, axis=-1)
    squared = xp.sum(tensor[..., :3] ** 2, axis=-1) + beside
    deviation = xp.sum((tensor[..., :3] - mean[..., None]) ** 2, axis=-1) + beside
    ratio = 1.5 * deviation / xp.maximum(squared, 1e-24)
    isotropic = ratio < 1e-12
    # The square root of what is not isotropic alone, so that its infinite slope at 0 enters no gradient.
    return xp.where(isotropic, xp.zeros_like(ratio), xp.sqrt(xp.where(isotropic, xp.ones_like(ratio), ratio)))


def eigenvalues(tensor: Array) -> Array:
    """(3, V) eigenvalues, largest first, of tensors (6, V), by the trigonometric solution of the cubic; use float64.

    Examples
    --------
    >>> eigenvalues(np.array([[1.0], [2.0], [4.0], [0.0], [0.0], [0.0]])).T.round(9)
    array([[4., 2., 1.]])
    """
    xp = namespace(tensor)
    xx, yy, zz, xy, xz, yz = (tensor[i] for i in range(6))
    mean = (xx + yy + zz) / 3
    xx, yy, zz = xx - mean, yy - mean, zz - mean
    spread = xp.sqrt((xx * xx + yy * yy + zz * zz + 2 * (xy * xy + xz * xz + yz * yz)) / 6)
    determinant = xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
    cosine = determinant / xp.maximum(2 * spread * spread * spread, xp.finfo(tensor.dtype).smallest_normal)
    angle = xp.acos(xp.minimum(xp.maximum(cosine, -1.0), 1.0)) / 3
    first = mean + 2 * spread * xp.cos(angle)
    third = mean + 2 * spread * xp.cos(angle + 2 * math.pi / 3)
    return xp.stack([first, 3 * mean - first - third, third])


def principal_direction(tensor: Array, largest: Array) -> Array:
    """(V, 3) unit eigenvectors of tensors (6, V) float64 that belong to their largest eigenvalues (V,).

    A row of the adjugate of D - largest * 1; LAPACK's eigenvector where the two largest eigenvalues nearly agree,
    which leaves the adjugate without digits.

    Examples
    --------
    >>> principal_direction(np.array([[1.0], [2.0], [4.0], [0.0], [0.0], [0.0]]), np.array([4.0]))
    array([[0., 0., 1.]])
    """
    xp = namespace(tensor)
    xx, yy, zz, xy, xz, yz = (tensor[i] for i in range(6))
    xx, yy, zz = xx - largest, yy - largest, zz - largest
    a, b, c = yy * zz - yz * yz, xx * zz - xz * xz, xx * yy - xy * xy
    d, e, f = xz * yz - xy * zz, xy * yz - xz * yy, xy * xz - yz * xx
    first, second = (a >= b) & (a >= c), b >= c
    x = xp.where(first, a, xp.where(second, d, e))
    y = xp.where(first, d, xp.where(second, b, f))
    z = xp.where(first, e, xp.where(second, f, c))
    length = xp.sqrt(x * x + y * y + z * z)
    ambiguous = ~(length > 1e-10 * (xx * xx + yy * yy + zz * zz + xy * xy + xz * xz + yz * yz))
    length = xp.where(ambiguous, xp.ones_like(length), length)
    directions = xp.stack([x / length, y / length, z / length], axis=-1)
    if bool(xp.any(ambiguous)):
        (left,) = xp.nonzero(ambiguous)
        directions[left] = xp.linalg.eigh(matrices(tensor[:, left]))[1][..., -1]
    return directions


def matrices(tensor: Array) -> Array:
    """(V, 3, 3) symmetric matrices of tensors (6, V).

    Examples
    --------
    >>> matrices(np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]]))[0]
    array([[1., 4., 5.],
           [4., 2., 6.],
           [5., 6., 3.]])
    """
    xp = namespace(tensor)
    return xp.reshape(xp.stack([tensor[i] for i in (0, 3, 4, 3, 1, 5, 4, 5, 2)], axis=-1), (-1, 3, 3))


@dataclass(frozen=True)
class TensorOptions:
    """How tensors are fitted for maps.

    Attributes
    ----------
    fit : {"wls", "ols", "iwls"}
        See `TensorFit`. "wls" and "ols" follow DIPY: eigenvalues are raised to at least 1e-6 over the largest b-matrix
        element, so FA is at most 1. "iwls" follows MRtrix3, which leaves negative eigenvalues as they are: FA reaches
        beyond 1 in some noisy voxels.
    """

    fit: Method = field(default="wls", metadata={"help": "tensor fit: wls, ols or iwls"})

    def __post_init__(self) -> None:
        if self.fit not in get_args(Method):
            raise InputError(f"The tensor fit is {self.fit!r}; expected one of {', '.join(get_args(Method))}.")


class TensorMaps:
    """FA, MD, AD, RD and the principal direction of signals (N, V): float32, and float64 where that is needed.

    Parameters
    ----------
    bvals, bvecs : arrays (N,) in s/mm² and (N, 3)
    wanted : set of str
        Of "fa", "md", "ad", "rd", "direction".
    options : TensorOptions
    """

    def __init__(
        self, bvals: NDArray[np.float64], bvecs: NDArray[np.float64], wanted: frozenset[str], options: TensorOptions
    ) -> None:
        self._fit = TensorFit(bvals, bvecs, options.fit)
        self._smallest = -math.inf if options.fit == "iwls" else 1e-6 / -design_matrix(bvals, bvecs).min()
        self._wanted = wanted

    def __call__(self, signal: Array) -> dict[str, Array]:
        """Maps (V,), and (V, 3) for the direction, of signals (N, V) float32."""
        xp = namespace(signal)
        tensors = self._tensors(signal)
        values = eigenvalues(tensors)
        maps = {}
        if "direction" in self._wanted:
            maps["direction"] = principal_direction(tensors, values[0])
        values = xp.maximum(values, self._smallest)
        first, second, third = (values[i] for i in range(3))
        if "fa" in self._wanted:
            difference = (first - second) ** 2 + (second - third) ** 2 + (third - first) ** 2
            maps["fa"] = xp.sqrt(0.5 * difference / xp.maximum(xp.sum(values * values, axis=0), 1e-300))
        return maps | {"md": xp.mean(values, axis=0), "ad": first, "rd": (second + third) / 2}

    def _tensors(self, signal: Array) -> Array:
        """(6, V) float64."""
        xp = namespace(signal)
        tensors, determined = self._fit(signal)
        tensors = xp.astype(tensors, xp.float64)
        (doubtful,) = xp.nonzero(~(determined > FLOAT32_DETERMINED))
        if doubtful.shape[0]:
            precise, _ = self._fit(xp.astype(signal[:, doubtful], xp.float64))
            tensors[:, doubtful] = xp.where(xp.isfinite(precise), precise, xp.zeros_like(precise))
        return tensors


register_map_model(
    MapModel(
        "tensor",
        (
            MapInfo("fa", "FA", "fractional anisotropy", window=(0.0, 1.0)),
            MapInfo("md", "MD", "mean diffusivity", "mm²/s"),
            MapInfo("ad", "AD", "axial diffusivity", "mm²/s"),
            MapInfo("rd", "RD", "radial diffusivity", "mm²/s"),
            MapInfo("direction", "direction", "principal direction", window=(-1.0, 1.0), components=3),
        ),
        fit=TensorMaps,
        options=TensorOptions,
    )
)
