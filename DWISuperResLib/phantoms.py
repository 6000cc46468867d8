"""A numerical brain phantom with known tissues and fibres, defined analytically in millimetres.

Every point of space has one tissue (white matter, grey matter, cerebrospinal fluid, air) and, in white
matter, the fibre bundles that pass through it. A voxel is the mean over a regular set of points inside it, so
the same head can be scanned at any resolution with its partial volume. The signal is a multi-tensor model in
Rician noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dwi import DWI
from .errors import InputError
from .resampling.degradation import add_rician

Array = NDArray[np.float64]

BUNDLES = ("callosum", "corticospinal", "longitudinal", "cingulum", "genu", "splenium", "corona")
"""Fibre bundles, straight (cingulum) or curved, that cross by twos and threes; the corona fills the rest."""
TISSUES = ("white matter", "grey matter", "cerebrospinal fluid")

FIBRE_DIFFUSIVITIES = (1.7e-3, 0.3e-3)
"""Along and across a fibre, in mm²/s; FA = 0.80, as in the coherent white matter of healthy adults."""
TISSUE_DIFFUSIVITIES = (0.8e-3, 0.85e-3, 3.0e-3)
"""Isotropic, in mm²/s: between the fibres of white matter, in grey matter, in fluid at 37 °C."""
TISSUE_SIGNALS = (700.0, 900.0, 1700.0)
"""T2-weighted signal without diffusion weighting, in the order of TISSUES."""
FIBRE_FRACTION = 0.9
"""Signal fraction of fibres within a bundle, shared equally where bundles cross."""
CORONA_FRACTION = (0.8, 0.35)
"""Signal fraction of fibres outside of the named bundles: in the middle of the head and at its surface."""

_SEMI_AXES = np.array([66.0, 84.0, 62.0])  # mm: left-right, back-front, down-up
_FOLDING = 17.5  # wave number of the sulci per radius of the head: about 12 mm from one to the next
_SULCAL_DEPTH = 18.0  # mm
_N_WAVES = 14


@dataclass(frozen=True, eq=False)
class PhantomTruth:
    """What the phantom is made of, on the grid of the scan.

    Attributes
    ----------
    affine : array, shape (4, 4)
        Voxel to RAS mm.
    tissues : array, shape (X, Y, Z, 3)
        Volume fraction of each of TISSUES; what is missing to 1 is air.
    fibres : array, shape (X, Y, Z, B)
        Volume fraction of the fibres of each of BUNDLES.
    directions : array, shape (X, Y, Z, B, 3)
        Mean RAS direction of each bundle, a unit vector; zero where the bundle is absent.
    fa : array, shape (X, Y, Z)
        Fractional anisotropy of the mean diffusion tensor.
    """

    affine: NDArray[np.float64]
    tissues: NDArray[np.float32]
    fibres: NDArray[np.float32]
    directions: NDArray[np.float32]
    fa: NDArray[np.float32]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(X, Y, Z) True where more than half of the voxel is head."""
        return self.tissues.sum(-1) > 0.5


@dataclass(frozen=True, eq=False)
class _Points:
    """Tissues (n, 3), fibre fractions (n, B), directions (n, B, 3) and shading (n,) of n points."""

    tissues: NDArray[np.float32]
    fibres: NDArray[np.float32]
    directions: NDArray[np.float32]
    shading: NDArray[np.float32]


def phantom(
    shape: Sequence[int] = (80, 96, 24),
    voxel_size: Sequence[float] = (2.0, 2.0, 2.5),
    *,
    snr: float | None = 40.0,
    seed: int = 0,
    supersampling: int = 3,
    shells: Sequence[tuple[float, int]] = ((0, 3), (1000, 16), (2000, 28)),
) -> DWI:
    """Scan the phantom.

    Parameters
    ----------
    shape : three ints
        Matrix size; the field of view is centred on the head, which measures 132 x 168 x 124 mm.
    voxel_size : three floats
        In mm.
    snr : float, optional
        Of the foreground's b0, see `DWI.foreground_b0`; None gives a noise-free scan.
    seed : int
        Sets the pattern of the sulci and the noise.
    supersampling : int
        Points per voxel along each axis.
    shells : pairs of b-value (s/mm²) and number of volumes
        b = 0 gives unweighted volumes.

    Returns
    -------
    DWI

    Raises
    ------
    InputError
        If a size, the SNR or the table of shells is not positive.

    Examples
    --------
    >>> scan = phantom((16, 20, 4), (10, 10, 20), snr=None, supersampling=1, shells=((0, 1), (1000, 6)))
    >>> scan.signal.shape, scan.bvals.tolist()
    ((16, 20, 4, 7), [0.0, 1000.0, 1000.0, 1000.0, 1000.0, 1000.0, 1000.0])
    """
    if snr is not None and not snr > 0:
        raise InputError(f"The SNR of the phantom is {snr}; expected a positive number, or None for no noise.")
    bvals, bvecs = _gradients(shells)
    affine = _affine(shape, voxel_size, supersampling)
    signal = np.empty((*shape, len(bvals)), dtype=np.float32, order="F")
    for z, points in _slices(shape, voxel_size, seed, supersampling):
        signal[:, :, z] = _voxel_means(_signal(points, bvals, bvecs), shape, supersampling)
    if snr is not None:
        sigma = DWI(signal, affine, bvals, bvecs).foreground_b0() / snr
        add_rician(signal, sigma, np.random.default_rng((seed, 1)))
    return DWI(signal, affine, bvals, bvecs, acquisition_axis=2)


def phantom_truth(
    shape: Sequence[int] = (80, 96, 24),
    voxel_size: Sequence[float] = (2.0, 2.0, 2.5),
    *,
    seed: int = 0,
    supersampling: int = 3,
) -> PhantomTruth:
    """Tissues, fibres and FA of the phantom; same parameters as `phantom`.

    Raises
    ------
    InputError
        If a size is not positive.

    Examples
    --------
    >>> truth = phantom_truth((16, 20, 4), (10, 10, 20), supersampling=1)
    >>> truth.fa.shape, bool(truth.fa.max() < 1), float(truth.fa[0, 0, 0])
    ((16, 20, 4), True, 0.0)
    """
    affine = _affine(shape, voxel_size, supersampling)
    tissues = np.empty((*shape, len(TISSUES)), dtype=np.float32)
    fibres = np.empty((*shape, len(BUNDLES)), dtype=np.float32)
    directions = np.empty((*shape, len(BUNDLES), 3), dtype=np.float32)
    tensors = np.empty((*shape, 3, 3), dtype=np.float32)
    for z, points in _slices(shape, voxel_size, seed, supersampling):
        weighted = points.fibres[..., None] * points.directions
        tissues[:, :, z] = _voxel_means(points.tissues, shape, supersampling)
        fibres[:, :, z] = _voxel_means(points.fibres, shape, supersampling)
        directions[:, :, z] = _voxel_means(weighted, shape, supersampling)
        tensors[:, :, z] = _voxel_means(_tensors(points, weighted), shape, supersampling)
    lengths = np.linalg.norm(directions, axis=-1, keepdims=True)
    directions /= np.where(lengths > 0, lengths, 1)
    eigenvalues = np.linalg.eigvalsh(tensors)
    spread = np.square(eigenvalues - eigenvalues.mean(-1, keepdims=True)).sum(-1)
    power = np.square(eigenvalues).sum(-1)
    fa = np.sqrt(1.5 * spread / np.where(power > 0, power, 1))
    return PhantomTruth(affine, tissues, fibres, directions, fa.astype(np.float32))


def _affine(shape: Sequence[int], voxel_size: Sequence[float], supersampling: int) -> NDArray[np.float64]:
    if len(shape) != 3 or len(voxel_size) != 3 or min(shape) < 1 or min(voxel_size) <= 0 or supersampling < 1:
        raise InputError(
            f"The phantom was asked for with shape {tuple(shape)}, voxels of {tuple(voxel_size)} mm and "
            f"supersampling {supersampling}; expected three positive sizes of each and a positive number."
        )
    affine = np.diag([*map(float, voxel_size), 1.0])
    affine[:3, 3] = [-size * (n - 1) / 2 for n, size in zip(shape, voxel_size, strict=True)]
    return affine


def _gradients(shells: Sequence[tuple[float, int]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Directions spread over the half sphere by the golden spiral, another turn in every shell."""
    if not shells or any(b < 0 or n < 1 for b, n in shells):
        raise InputError(f"The shells of the phantom are {shells}; expected pairs of b-value and number of volumes.")
    bvals, bvecs = [], []
    for turn, (b, n) in enumerate(shells):
        height = (np.arange(n) + 0.5) / n
        angle = np.pi * (1 + 5**0.5) * np.arange(n) + turn
        ring = np.sqrt(1 - height**2)
        directions = np.stack((ring * np.cos(angle), ring * np.sin(angle), height), axis=1)
        bvals.append(np.full(n, float(b)))
        bvecs.append(directions if b > 0 else np.zeros((n, 3)))
    return np.concatenate(bvals), np.concatenate(bvecs)


def _slices(
    shape: Sequence[int], voxel_size: Sequence[float], seed: int, supersampling: int
) -> Iterator[tuple[int, _Points]]:
    """Every slice's points, ordered (X, k, Y, k, k) for k points per voxel and axis."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(_N_WAVES, 3))
    waves *= _FOLDING / np.linalg.norm(waves, axis=1, keepdims=True)
    phases = rng.uniform(0, 2 * np.pi, _N_WAVES)
    offsets = [(np.arange(n * supersampling) + 0.5) / supersampling - n / 2 for n in shape]
    x, y, z = (size * steps for size, steps in zip(voxel_size, offsets, strict=True))
    for index in range(shape[2]):
        thickness = z[index * supersampling : (index + 1) * supersampling]
        points = np.stack(np.meshgrid(x, y, thickness, indexing="ij"), axis=-1).reshape(-1, 3)
        yield index, _compose(points, waves, phases)


def _voxel_means(values: NDArray, shape: Sequence[int], k: int) -> NDArray:
    return values.reshape(shape[0], k, shape[1], k, k, *values.shape[1:]).mean(axis=(1, 3, 4))


def _compose(points: NDArray[np.float64], waves: NDArray[np.float64], phases: NDArray[np.float64]) -> _Points:
    x, y, z = points.T
    unit = points / _SEMI_AXES
    radius = np.linalg.norm(unit, axis=1)
    depth = (1 - radius) * _SEMI_AXES[0]
    to_fluid = _distance_to_fluid(unit, x, depth, waves, phases)
    ventricle = _inside(np.abs(x), y, z, centre=(8, -4, 6), semi_axes=(5, 24, 7))
    nuclei = _inside(np.abs(x), y, z, centre=(11, -14, -5), semi_axes=(8, 14, 9))
    nuclei |= _inside(np.abs(x), y, z, centre=(28, 4, -3), semi_axes=(5, 17, 10))

    head = radius < 1
    fluid = head & ((to_fluid < 0) | ventricle)
    cortex = head & ~fluid & (to_fluid < 3.0)
    inside, directions = _bundles(x, y, z)
    inside &= (head & ~fluid & ~cortex)[:, None]
    named = inside[:, :-1].sum(1)
    grey = cortex | (nuclei & head & ~fluid & (named == 0))
    white = head & ~fluid & ~grey
    inside[:, -1] = white & (named == 0)
    corona = np.interp(radius, (0, 1), CORONA_FRACTION)
    fibres = inside * np.where(named > 0, FIBRE_FRACTION / np.maximum(named, 1), corona)[:, None]
    return _Points(
        tissues=np.stack((white, grey, fluid), axis=1).astype(np.float32),
        fibres=fibres.astype(np.float32),
        directions=directions.astype(np.float32),
        shading=(1.08 - 0.16 * np.minimum(radius, 1) ** 2).astype(np.float32),
    )


def _distance_to_fluid(unit: Array, x: Array, depth: Array, waves: Array, phases: Array) -> NDArray[np.float64]:
    """Approximate distance in mm to the fluid around the brain, in its sulci and between its hemispheres.

    Sulci are the zero sheets of a random wave field (unit variance, gradient of the order of its wave
    number), open to the surface.
    """
    field = np.cos(unit @ waves.T + phases).sum(1) / np.sqrt(_N_WAVES / 2)
    to_sheet = np.abs(field) * _SEMI_AXES[0] / _FOLDING
    to_sulcus = _rounded(to_sheet - 0.9, depth - _SULCAL_DEPTH)
    to_fissure = _rounded(np.abs(x) - 1.2, depth - 36)
    return np.minimum(depth - 2.0, np.minimum(to_sulcus, to_fissure))


def _rounded(across: NDArray[np.float64], along: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed distance to a slab with a rounded end, from the distances across and along it."""
    outside = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
    return outside + np.minimum(np.maximum(across, along), 0)


def _inside(x: Array, y: Array, z: Array, centre: Sequence[float], semi_axes: Sequence[float]) -> NDArray[np.bool_]:
    a, b, c = semi_axes
    return ((x - centre[0]) / a) ** 2 + ((y - centre[1]) / b) ** 2 + ((z - centre[2]) / c) ** 2 < 1


def _bundles(x: Array, y: Array, z: Array) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Membership (n, B) and unit tangent (n, B, 3) of every bundle: tubes and sheets around parabolas.

    A bundle around z = c(x) has the tangent (1, 0, dc/dx) wherever it is, and so on for the other axes.
    """
    side = np.where(x < 0, -1.0, 1.0)
    lateral = np.abs(x)
    upper = np.maximum(z, 0)
    zero, one = np.zeros_like(x), np.ones_like(x)
    shapes_and_tangents = [
        ((np.abs(z - 17 - 0.006 * x**2) < 4.5) & ((x / 46) ** 2 + (y / 34) ** 2 < 1), (one, zero, 0.012 * x)),
        (
            (((lateral - 20 - 0.015 * upper**2) / 4.5) ** 2 + ((y + 6) / 12) ** 2 < 1),
            (0.03 * side * upper, zero, one),
        ),
        (
            ((lateral - 35) ** 2 + (z - 23 + y**2 / 150) ** 2 < 6.5**2) & (np.abs(y) < 50),
            (zero, one, -y / 75),
        ),
        ((lateral - 8) ** 2 + (z - 26) ** 2 < 3.5**2, (zero, one, zero)),
        ((np.abs(y - 31 - 0.02 * x**2) < 4.5) & (np.abs(z - 9) < 8) & (lateral < 26), (one, 0.04 * x, zero)),
        ((np.abs(y + 36 + 0.02 * x**2) < 4.5) & (np.abs(z - 9) < 8) & (lateral < 26), (one, -0.04 * x, zero)),
        (np.ones_like(x, dtype=bool), (x - 14 * side, 0.4 * y, z + 12)),
    ]
    inside = np.stack([shape for shape, _ in shapes_and_tangents], axis=1)
    tangents = np.stack([np.stack(tangent, axis=1) for _, tangent in shapes_and_tangents], axis=1)
    return inside, tangents / np.maximum(np.linalg.norm(tangents, axis=-1, keepdims=True), 1e-9)


def _signal(points: _Points, bvals: NDArray[np.float64], bvecs: NDArray[np.float64]) -> NDArray[np.float32]:
    """(n, N) of S0 (f_iso exp(-b D) + sum_i f_i exp(-b (D_across + (D_along - D_across)(g.v_i)²)))."""
    along, across = FIBRE_DIFFUSIVITIES
    b = bvals.astype(np.float32)
    g = bvecs.T.astype(np.float32)
    isotropic = points.tissues * np.array(TISSUE_SIGNALS, dtype=np.float32)
    isotropic[:, 0] *= 1 - points.fibres.sum(1)
    signal = isotropic @ np.exp(-np.outer(TISSUE_DIFFUSIVITIES, bvals)).astype(np.float32)
    for bundle in range(len(BUNDLES)):
        (present,) = np.nonzero(points.fibres[:, bundle])
        cosines = points.directions[present, bundle] @ g
        decay = np.exp(-b * (np.float32(across) + np.float32(along - across) * cosines**2))
        signal[present] += TISSUE_SIGNALS[0] * points.fibres[present, bundle, None] * decay
    return signal * points.shading[:, None]


def _tensors(points: _Points, weighted: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 3, 3) volume-weighted mean tensor in mm²/s; `weighted` is fibre fraction times direction."""
    along, across = FIBRE_DIFFUSIVITIES
    total = points.fibres.sum(1)
    isotropic = (
        points.tissues @ np.array(TISSUE_DIFFUSIVITIES, dtype=np.float32)
        - total * TISSUE_DIFFUSIVITIES[0]
        + total * across
    )
    return isotropic[:, None, None] * np.eye(3, dtype=np.float32) + (along - across) * np.einsum(
        "nbi,nbj->nij", weighted, points.directions
    )
