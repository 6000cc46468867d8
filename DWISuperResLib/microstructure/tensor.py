"""The diffusion tensor, fitted to all voxels at once: ln S = ln S0 - b g'Dg.

Tensors are (..., 6): Dxx, Dyy, Dzz, Dxy, Dxz, Dyz in mm²/s (MRtrix3's order), in the frame of the directions.
Inside, voxels stand last, (volumes, voxels), as a Fortran-ordered scan lies in memory: every step is then a matrix
product or runs along the voxels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..dwi import B0_THRESHOLD
from ..errors import InputError

FITS = ("wls", "ols", "iwls")
MIN_SIGNAL = 1e-4
"""Signals are raised to this before the logarithm (DIPY's `MIN_POSITIVE_SIGNAL`); IWLS uses 1e-6 of the voxel's
largest signal instead, as MRtrix3 does."""


def design_matrix(bvals: ArrayLike, bvecs: ArrayLike) -> NDArray[np.float64]:
    """(N, 7) design: ln S = design @ (Dxx, Dyy, Dzz, Dxy, Dxz, Dyz, ln S0); b in s/mm², directions (N, 3)."""
    b = np.asarray(bvals, dtype=np.float64)
    x, y, z = np.asarray(bvecs, dtype=np.float64).T
    return np.stack([-b * x * x, -b * y * y, -b * z * z, -2 * b * x * y, -2 * b * x * z, -2 * b * y * z, 0 * b + 1], 1)


def determines_tensor(bvals: ArrayLike, bvecs: ArrayLike) -> bool:
    """Whether the gradient table determines all six tensor elements and S0."""
    design = design_matrix(bvals, bvecs)
    scale = np.linalg.norm(design, axis=0)
    if len(design) < 7 or scale.min() == 0:
        return False
    singular = np.linalg.svd(design / scale, compute_uv=False)
    return bool(singular[-1] > 1e-3 * singular[0])


TRUSTED = 5e-3
"""Below this share float32 may be off by more than 1e-4 in FA (measured against float64 on scans of six scanners)."""


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
    dtype, device
        Of the computation.

    Raises
    ------
    InputError
        If the method is unknown or the table does not determine a tensor.
    """

    def __init__(self, bvals: ArrayLike, bvecs: ArrayLike, method: str = "wls", *, dtype=torch.float32, device="cpu"):
        if method not in FITS:
            raise InputError(f"The tensor fit is {method!r}; expected one of {', '.join(FITS)}.")
        if not determines_tensor(bvals, bvecs):
            bvals = np.asarray(bvals)
            weighted = int((bvals > B0_THRESHOLD).sum())
            raise InputError(
                f"A tensor cannot be fitted to {weighted} diffusion-weighted volumes and {len(bvals) - weighted} b0; "
                "at least six directions that are not on one cone and a b0 (or a second shell) are needed."
            )
        self.method = method
        design = design_matrix(bvals, bvecs)
        # An orthonormal basis of the tensor part, and the constant on its own: well conditioned, and the b0 weights,
        # hundreds of times the others in fluid, stay in one row of the normal equations. float32 is then enough.
        basis, triangle = np.linalg.qr(design[:, :6])
        basis = np.column_stack([np.full(len(basis), len(basis) ** -0.5), basis])
        rows, columns = np.triu_indices(7)

        def tensor(array):
            return torch.as_tensor(np.ascontiguousarray(array), dtype=dtype, device=device)

        self._basis = tensor(basis)
        self._transposed = tensor(basis.T)
        self._products = tensor((basis[:, rows] * basis[:, columns]).T)
        self._inverse = tensor(np.linalg.pinv(basis))
        self._to_tensor = tensor(np.linalg.inv(triangle))

    def __call__(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Fit (N, V) signals: the tensors (6, V), and how well determined each was (V,), from 1 down to 0.

        float32 may lose the fourth decimal of FA where the second is below `TRUSTED`: fit those in float64.
        """
        if self.method == "iwls":
            floor = (1e-6 * signal.detach().amax(0)).clamp_min(1e-30)
            log_signal = torch.maximum(signal, floor).log()
        else:
            log_signal = signal.clamp_min(MIN_SIGNAL).log()
        # Relative to the largest: only S0 changes, and equal signals give exactly no tensor.
        log_signal = log_signal - log_signal.detach().amax(0)
        parameters = self._inverse @ log_signal
        determined = torch.ones_like(log_signal[0])
        for step in range({"ols": 0, "wls": 1, "iwls": 3}[self.method]):
            predicted = self._basis @ parameters
            log_weight = log_signal if self.method == "iwls" and step == 0 else predicted
            weight = (2 * (log_weight - log_weight.detach().amax(0))).exp()
            # Solving for the change keeps rounding relative to the residuals instead of to ln S.
            change, determined = _solve_symmetric(
                self._products @ weight, self._transposed @ (weight * (log_signal - predicted))
            )
            # Where zeros in the signal leave too few volumes with weight, the unweighted estimate stands.
            usable = determined > 1e3 * torch.finfo(signal.dtype).eps
            parameters = parameters + torch.where(usable, change, 0.0)
        # Zeros raised to the floor stand so far from the others that float32 loses the residuals.
        within_range = log_signal.detach().amin(0) > -9
        return self._to_tensor @ parameters[1:], determined * within_range


def _solve_symmetric(upper: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Solve V positive definite systems by elimination, vectorised over V (many times batched LAPACK's rate).

    `upper` (n(n+1)/2, V) holds the upper triangles row by row, `right` (n, V). Returns the solutions (n, V) and the
    smallest share (V,) of a diagonal element that elimination left.
    """
    n = len(right)
    rows = list(upper.split(list(range(n, 0, -1))))
    values = list(right.unbind())
    diagonal = torch.stack([row[0] for row in rows])
    floor = torch.finfo(upper.dtype).eps * diagonal.detach() + torch.finfo(upper.dtype).tiny
    pivots: list[Tensor] = []
    for j in range(n):
        pivots.append(torch.maximum(rows[j][0], floor[j]))
        factors = rows[j][1:] / pivots[j]
        for i in range(j + 1, n):
            rows[i] = torch.addcmul(rows[i], factors[i - j - 1], rows[j][i - j :], value=-1)
            values[i] = torch.addcmul(values[i], factors[i - j - 1], values[j], value=-1)
    solution: list[Tensor] = []
    for i in reversed(range(n)):
        value = values[i]
        for k, known in enumerate(reversed(solution), start=1):
            value = torch.addcmul(value, rows[i][k], known, value=-1)
        solution.append(value / pivots[i])
    return torch.stack(solution[::-1]), (torch.stack(pivots) / diagonal).detach().amin(0)


def fit_tensor(signal: Tensor, bvals: ArrayLike, bvecs: ArrayLike, method: str = "wls") -> Tensor:
    """Fit tensors, differentiably.

    Parameters
    ----------
    signal : Tensor (..., N)
        float32 or float64; values below the floor (`MIN_SIGNAL`) get no gradient.
    bvals, bvecs : arrays (N,) in s/mm² and (N, 3)
    method : {"wls", "ols", "iwls"}
        See `TensorFit`.

    Returns
    -------
    Tensor (..., 6) in mm²/s: Dxx, Dyy, Dzz, Dxy, Dxz, Dyz.
    """
    fit = TensorFit(bvals, bvecs, method, dtype=signal.dtype, device=signal.device)
    tensors, _ = fit(signal.movedim(-1, 0).reshape(signal.shape[-1], -1))
    return tensors.T.reshape(*signal.shape[:-1], 6)


def mean_diffusivity(tensor: Tensor) -> Tensor:
    """MD (...) in mm²/s of tensors (..., 6)."""
    return tensor[..., :3].mean(-1)


def fractional_anisotropy(tensor: Tensor) -> Tensor:
    """FA (...) of tensors (..., 6) from their elements, FA² = 3/2 |D - MD|²/|D|²: no eigenvalues, finite gradients.

    Tensors that are not positive definite are taken as they are, so FA can reach sqrt(3/2); isotropic and zero
    tensors have FA and gradient 0.
    """
    mean = mean_diffusivity(tensor)
    squared = (tensor[..., :3] ** 2).sum(-1) + 2 * (tensor[..., 3:] ** 2).sum(-1)
    deviation = ((tensor[..., :3] - mean[..., None]) ** 2).sum(-1) + 2 * (tensor[..., 3:] ** 2).sum(-1)
    ratio = 1.5 * deviation / squared.clamp_min(1e-24)
    isotropic = ratio < 1e-12
    return torch.where(isotropic, 0.0, torch.where(isotropic, 1.0, ratio).sqrt())


def eigenvalues(tensor: Tensor) -> Tensor:
    """(3, V) eigenvalues, largest first, of tensors (6, V), by the trigonometric solution of the cubic; use float64."""
    xx, yy, zz, xy, xz, yz = tensor
    mean = (xx + yy + zz) / 3
    xx, yy, zz = xx - mean, yy - mean, zz - mean
    spread = ((xx * xx + yy * yy + zz * zz + 2 * (xy * xy + xz * xz + yz * yz)) / 6).sqrt()
    determinant = xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
    cosine = determinant / (2 * spread**3).clamp_min(torch.finfo(tensor.dtype).tiny)
    angle = cosine.clamp(-1, 1).acos() / 3
    first = mean + 2 * spread * angle.cos()
    third = mean + 2 * spread * (angle + 2 * math.pi / 3).cos()
    return torch.stack([first, 3 * mean - first - third, third])


def matrices(tensor: Tensor) -> Tensor:
    """(V, 3, 3) symmetric matrices of tensors (6, V)."""
    return tensor[[0, 3, 4, 3, 1, 5, 4, 5, 2]].T.reshape(-1, 3, 3)
