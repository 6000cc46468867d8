"""Generalised q-sampling imaging (Yeh et al. 2010, doi:10.1109/TMI.2010.2045126): the ODF of all voxels by one matrix.

ODF(u) = sum_i S_i sinc(L sqrt(6 D b_i) g_i·u). QA = max - min and ISO = min over the directions u: the largest value is
a peak by itself, so no peaks are searched. Opposite directions have equal ODF: half a sphere is enough.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..dwi import B0_THRESHOLD, shells
from ..errors import InputError

SAMPLING_LENGTH = 1.25
"""Mean diffusion distance ratio L: DSI Studio's default."""
SIX_WATER_DIFFUSIVITY = 0.01506
"""6 D of free water in 1e-3 mm²/ms · s, as DSI Studio and DIPY have it."""


@cache
def repulsion_half_sphere() -> NDArray[np.float64]:
    """(362, 3) directions, one of each opposite pair of DIPY's `repulsion724`."""
    from dipy.data import get_sphere

    vertices = get_sphere(name="repulsion724").vertices
    return _one_of_each_pair(vertices)


@cache
def geodesic_half_sphere(fold: int) -> NDArray[np.float64]:
    """(5 fold² + 1, 3) directions: half the vertices of an icosahedron whose edges are divided into `fold` parts.

    DSI Studio's spheres are of this kind (fold 8: 321 directions for the ODF, fold 6: 181 to balance shells); the
    points inside its faces are placed slightly differently.
    """
    ring = 0.4 * np.pi * np.arange(5)
    upper = np.stack([2 * np.cos(ring), 2 * np.sin(ring), np.ones(5)], 1) / 5**0.5
    corners = np.concatenate([[[0, 0, 1.0]], upper, -upper, [[0, 0, -1.0]]])
    adjacent = np.isclose(corners @ corners.T, 5**-0.5)
    faces = [
        (i, j, k)
        for i in range(12)
        for j in range(i + 1, 12)
        for k in range(j + 1, 12)
        if adjacent[i, j] and adjacent[j, k] and adjacent[i, k]
    ]
    shares = np.array([(i, j, fold - i - j) for i in range(fold + 1) for j in range(fold + 1 - i)]) / fold
    points = np.concatenate([shares @ corners[list(face)] for face in faces])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    _, first = np.unique(points.round(9) + 0.0, axis=0, return_index=True)
    return _one_of_each_pair(points[np.sort(first)])


def _one_of_each_pair(vertices: NDArray[np.float64]) -> NDArray[np.float64]:
    nearest = np.argmin(vertices @ vertices.T, axis=1)
    return vertices[np.arange(len(vertices)) < nearest]


def kernel(bvals: ArrayLike, bvecs: ArrayLike, directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H, N) matrix from signals to the ODF along `directions` (H, 3)."""
    q = np.asarray(bvecs) * np.sqrt(np.asarray(bvals) * SIX_WATER_DIFFUSIVITY)[:, None] * SAMPLING_LENGTH
    return np.sinc(directions @ q.T / np.pi)


def balanced_kernel(bvals: ArrayLike, bvecs: ArrayLike) -> NDArray[np.float64]:
    """(321, N) matrix from signals to the ODF after balancing the shells, as DSI Studio does below five shells.

    Each shell is resampled to the same 181 directions with weights exp(-2 (angle/spacing)²) that sum to the shell's
    mean b/1000; of several b0 the first alone counts. For the spacing, the mean angle between neighbours, DSI Studio
    takes |cos(g_i·g_j)|, a cosine of a cosine, where |g_i·g_j| is meant: it comes out several times too small, and
    resampling takes the nearest direction. Kept, for its QA is the reference in the field.
    """
    bvals = np.asarray(bvals, dtype=np.float64)
    bvecs = np.asarray(bvecs, dtype=np.float64)
    grid = geodesic_half_sphere(6)
    resampling, new_bvals, new_bvecs = [], [], []
    if (bvals <= B0_THRESHOLD).any():
        resampling.append(np.eye(len(bvals))[[np.argmax(bvals <= B0_THRESHOLD)]])
        new_bvals.append(np.zeros(1))
        new_bvecs.append(np.zeros((1, 3)))
    for shell in shells(bvals):
        closeness = np.abs(np.cos(bvecs[shell] @ bvecs[shell].T))
        np.fill_diagonal(closeness, 0)
        spacing = np.arccos(np.where(closeness > 0.998, 0, closeness).max(1)).mean()
        angles = np.arccos(np.minimum(1, np.abs(grid @ bvecs[shell].T)))
        exponent = -2 * (angles / spacing) ** 2
        weights = np.exp(exponent - exponent.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        rows = np.zeros((len(grid), len(bvals)))
        rows[:, shell] = weights * bvals[shell].mean() / 1000
        resampling.append(rows)
        new_bvals.append(weights @ bvals[shell])
        new_bvecs.append(grid)
    sampled = kernel(np.concatenate(new_bvals), np.concatenate(new_bvecs), geodesic_half_sphere(8))
    return sampled @ np.concatenate(resampling)


class GQI:
    """QA, ISO and GFA of any number of voxels, prepared for one gradient table.

    Parameters
    ----------
    bvals, bvecs : arrays (N,) in s/mm² and (N, 3)
    balance_shells : bool
        False: every volume counts as it is, over DIPY's 724 directions (equals DIPY's `GeneralizedQSamplingModel` with
        method="standard", sampling_length=1.25). True: as DSI Studio computes it, see `balanced_kernel`, and
        voxels with negative ISO are zero in all maps.
    gfa : bool
        Whether to compute GFA too, which takes half as long again.
    """

    def __init__(self, bvals: ArrayLike, bvecs: ArrayLike, *, balance_shells: bool = False, gfa: bool = True):
        if not (np.asarray(bvals) > B0_THRESHOLD).any():
            raise InputError("GQI needs diffusion-weighted volumes, but every b-value is at most 50 s/mm².")
        matrix = balanced_kernel(bvals, bvecs) if balance_shells else kernel(bvals, bvecs, repulsion_half_sphere())
        mean = matrix.mean(0)
        # The isotropic part, nearly all of the ODF, is kept apart: QA then keeps float32's digits where it is small.
        self._anisotropic = torch.from_numpy((matrix - mean).astype(np.float32))
        self._isotropic = torch.from_numpy(mean.astype(np.float32))
        self._zero_negative = balance_shells
        self._gfa = gfa
        # GFA's count: the whole sphere in DIPY, the half in DSI Studio.
        self._count = len(matrix) if balance_shells else 2 * len(matrix)

    def __call__(self, signal: Tensor) -> dict[str, Tensor]:
        """Maps (V,) "qa", "iso" (in units of the signal) and "gfa" of signals (N, V) float32."""
        odf = self._anisotropic @ signal
        mean = self._isotropic @ signal
        smallest, largest = odf.amin(0), odf.amax(0)  # 15 times faster than aminmax, which is not vectorised
        maps = {"qa": largest - smallest, "iso": smallest + mean}
        if self._gfa:
            variance = (odf**2).mean(0)
            power = (variance + mean**2).clamp_min(torch.finfo(torch.float32).tiny)
            maps["gfa"] = (self._count / (self._count - 1) * variance / power).sqrt()
        if self._zero_negative:
            negative = maps["iso"] < 0
            maps = {name: values.masked_fill(negative, 0) for name, values in maps.items()}
        return maps
