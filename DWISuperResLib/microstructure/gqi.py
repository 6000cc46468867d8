"""Generalised q-sampling imaging (Yeh et al. 2010, doi:10.1109/TMI.2010.2045126): the ODF of all voxels by one matrix.

ODF(u) = sum_i S_i sinc(L sqrt(6 D b_i) g_i·u). QA = max - min and ISO = min over the directions u: the largest value is
a peak by itself, so no peaks are searched. Opposite directions have equal ODF: half a sphere is enough.

Written once on the array API standard, for arrays of NumPy and of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..dwi import B0_THRESHOLD, shells
from ..errors import InputError
from ..resources import RESOURCES
from .arrays import Array, constant, namespace
from .models import MapInfo, MapModel, register_map_model

SAMPLING_LENGTH = 1.25
"""Mean diffusion distance ratio L: DSI Studio's default."""
SIX_WATER_DIFFUSIVITY = 0.01506
"""6 D of free water in 1e-3 mm²/ms · s, as DSI Studio and DIPY have it."""


@cache
def repulsion_half_sphere() -> NDArray[np.float64]:
    """(362, 3) directions, one of each opposite pair of DIPY's `repulsion724`.

    Examples
    --------
    >>> repulsion_half_sphere().shape
    (362, 3)
    """
    return np.load(RESOURCES / "Microstructure" / "repulsion724_half.npy", allow_pickle=False)


@cache
def geodesic_half_sphere(fold: int) -> NDArray[np.float64]:
    """(5 fold² + 1, 3) directions: half the vertices of an icosahedron whose edges are divided into `fold` parts.

    DSI Studio's spheres are of this kind (fold 8: 321 directions for the ODF, fold 6: 181 to balance shells); the
    points inside its faces are placed slightly differently.

    Examples
    --------
    >>> geodesic_half_sphere(8).shape
    (321, 3)
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
    points = points[np.sort(first)]
    opposite = np.argmin(points @ points.T, axis=1)
    return points[np.arange(len(points)) < opposite]


def kernel(bvals: ArrayLike, bvecs: ArrayLike, directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H, N) matrix from signals to the ODF along `directions` (H, 3).

    Examples
    --------
    >>> kernel([0.0, 1000.0], [[0, 0, 0], [0, 0, 1]], np.array([[1.0, 0, 0]]))
    array([[1., 1.]])
    """
    q = np.asarray(bvecs) * np.sqrt(np.asarray(bvals) * SIX_WATER_DIFFUSIVITY)[:, None] * SAMPLING_LENGTH
    return np.sinc(directions @ q.T / np.pi)


def balanced_kernel(bvals: ArrayLike, bvecs: ArrayLike) -> NDArray[np.float64]:
    """(321, N) matrix from signals to the ODF after balancing the shells, as DSI Studio does below five shells.

    Each shell is resampled to the same 181 directions with weights exp(-2 (angle/spacing)²) that sum to the shell's
    mean b/1000; of several b0 the first alone counts. For the spacing, the mean angle between neighbours, DSI Studio
    takes |cos(g_i·g_j)|, a cosine of a cosine, where |g_i·g_j| is meant: it comes out several times too small, and
    resampling takes the nearest direction. Kept, for its QA is the reference in the field.

    Examples
    --------
    >>> balanced_kernel([0.0, 1000.0, 1000.0, 1000.0], np.vstack([np.zeros(3), np.eye(3)])).shape
    (321, 4)
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

    Raises
    ------
    InputError
        If no volume is diffusion-weighted.
    """

    def __init__(self, bvals: ArrayLike, bvecs: ArrayLike, *, balance_shells: bool = False, gfa: bool = True) -> None:
        if not (np.asarray(bvals) > B0_THRESHOLD).any():
            raise InputError("GQI needs diffusion-weighted volumes, but every b-value is at most 50 s/mm².")
        matrix = balanced_kernel(bvals, bvecs) if balance_shells else kernel(bvals, bvecs, repulsion_half_sphere())
        mean = matrix.mean(0)
        # The isotropic part, nearly all of the ODF, is kept apart: QA then keeps float32's digits where it is small.
        self._anisotropic = (matrix - mean).astype(np.float32)
        self._isotropic = mean.astype(np.float32)
        self._zero_negative = balance_shells
        self._gfa = gfa
        # GFA's count: the whole sphere in DIPY, the half in DSI Studio.
        self._count = len(matrix) if balance_shells else 2 * len(matrix)

    def __call__(self, signal: Array) -> dict[str, Array]:
        """Maps (V,) "qa", "iso" (in units of the signal) and "gfa" of signals (N, V) float32."""
        xp = namespace(signal)
        odf = constant(self._anisotropic, signal) @ signal
        mean = constant(self._isotropic, signal) @ signal
        smallest, largest = xp.min(odf, axis=0), xp.max(odf, axis=0)
        maps = {"qa": largest - smallest, "iso": smallest + mean}
        if self._gfa:
            variance = xp.mean(odf * odf, axis=0)
            power = xp.maximum(variance + mean * mean, xp.finfo(odf.dtype).smallest_normal)
            maps["gfa"] = xp.sqrt(self._count / (self._count - 1) * variance / power)
        if self._zero_negative:
            negative = maps["iso"] < 0
            maps = {name: xp.where(negative, xp.zeros_like(values), values) for name, values in maps.items()}
        return maps


@dataclass(frozen=True)
class GQIOptions:
    """How GQI's maps are computed.

    Attributes
    ----------
    balance_shells : bool
        QA, ISO and GFA as DSI Studio computes them; see `GQI`.
    qa_scale : float or {"dsi-studio", "dipy"}, optional
        Factor for QA and ISO, which by default have the signal's unit. "dsi-studio": the largest QA in the mask
        becomes 1. "dipy": the largest ODF value becomes 1 (`peaks_from_model`). A number: give two scans the same
        one to compare them, as `compare` does.
    """

    balance_shells: bool = field(default=False, metadata={"help": "QA, ISO and GFA as DSI Studio computes them"})
    qa_scale: float | Literal["dsi-studio", "dipy"] | None = field(
        default=None, metadata={"help": "factor for QA and ISO: a number, dsi-studio (largest QA 1) or dipy"}
    )

    def __post_init__(self) -> None:
        scale = self.qa_scale
        if scale is None or scale in ("dsi-studio", "dipy"):
            return
        if isinstance(scale, str) or not 0 < scale < math.inf:
            raise InputError(f"The QA scale is {scale!r}; expected 'dsi-studio', 'dipy', a number above 0 or None.")


def _fit(
    bvals: NDArray[np.float64], bvecs: NDArray[np.float64], wanted: frozenset[str], options: GQIOptions
) -> Callable[[Array], dict[str, Array]]:
    return GQI(bvals, bvecs, balance_shells=options.balance_shells, gfa="gfa" in wanted)


def _needed_to_scale(wanted: frozenset[str], options: GQIOptions) -> frozenset[str]:
    """The largest QA or ODF value of the whole scan is known from both of these maps."""
    both = frozenset({"qa", "iso"})
    return both if isinstance(options.qa_scale, str) and wanted & both else frozenset()


def _scale_qa(maps: dict[str, NDArray[np.float32]], options: GQIOptions) -> None:
    scaled = {"qa", "iso"} & set(maps)
    factor = options.qa_scale
    if factor is None or not scaled:
        return
    if isinstance(factor, str):
        largest = float((maps["qa"] if factor == "dsi-studio" else maps["qa"] + maps["iso"]).max())
        factor = 1 / largest if largest > 0 else 1.0
    for name in scaled:
        maps[name] *= np.float32(factor)


register_map_model(
    MapModel(
        "gqi",
        (
            MapInfo("qa", "QA", "quantitative anisotropy", "signal"),
            MapInfo("iso", "ISO", "isotropic part of the ODF", "signal"),
            MapInfo("gfa", "GFA", "generalised fractional anisotropy"),
        ),
        fit=_fit,
        options=GQIOptions,
        finish=_scale_qa,
        needs=_needed_to_scale,
    )
)
