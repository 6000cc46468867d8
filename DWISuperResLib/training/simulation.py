"""Diffusion-weighted scans of random contrast made from structural volumes, which are finer than DWI ever is.

A network learns from references of the voxel sizes it will make. Those of the scans that users own are finer than any
whole-brain DWI, but not than a T1-weighted volume. Of its anatomy a diffusion tensor and an unweighted signal are made
by random curves of the intensity, so that what a network can learn of them is anatomy and resolution, not contrast
(contrast randomisation as Billot et al. 2023, doi:10.1016/j.media.2023.102789, did from labels).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from ..dwi import DWI, foreground_mask
from ..errors import InputError
from ..resampling.degradation import add_rician, degrade
from ..resampling.scale import Scale

DIRECTIONS = 12
LEVEL = 1000.0
"""Mean unweighted signal of the head, as scanners scale it."""

Volume = NDArray[np.float32]


def simulated_dwi(
    contrasts: Sequence[Volume],
    affine: NDArray[np.float64],
    seed: int,
    *,
    coarser: tuple[float, float] = (1.0, 1.4),
    thickest: int = 3,
) -> DWI:
    """One unweighted and twelve weighted volumes of a head that structural volumes show.

    Parameters
    ----------
    contrasts : sequence of arrays (X, Y, Z)
        One or more of the same head on one grid.
    affine : array (4, 4)
        Voxel to RAS mm.
    seed : int
        Sets the contrasts, the slice axis and the voxel size, the b-value, the directions and the noise.
    coarser : pair of float
        Factor by which voxels become larger within slices, by k-space truncation: curves of the intensity hold higher
        frequencies than the grid can.
    thickest : int
        Slices are means of 1 to so many of the volume's, along the axis of the largest voxel size or, where voxels are
        isotropic, a random one.

    Returns
    -------
    DWI
        Cut to the head.

    Raises
    ------
    InputError
        If the volumes differ in matrix or show nothing.

    Examples
    --------
    >>> ball = (np.indices((24, 24, 24)) - 11.5).__pow__(2).sum(0) < 100
    >>> scan = simulated_dwi([ball.astype(np.float32)], np.eye(4), seed=0)
    >>> scan.n_volumes, bool(scan.bvals[0] == 0), bool((scan.signal >= 0).all())
    (13, True, True)
    """
    rng = np.random.default_rng(seed)
    tissue, head = _tissue(contrasts, rng)
    box = ndimage.find_objects(head.astype(np.uint8))[0]
    tissue, head, affine = tissue[box], head[box], _moved(affine, [b.start for b in box])
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    thick = sizes > 1.2 * sizes.min()
    axis = int(np.argmax(sizes)) if thick.sum() == 1 else int(rng.integers(3))
    signal, bvals, directions = _weighted(tissue, head, rng)
    # Directions were drawn along the voxel axes; the scanner's frame is the rotated one.
    bvecs = directions @ (affine[:3, :3] / sizes).T
    dwi = DWI(signal, affine, bvals, bvecs / np.maximum(np.linalg.norm(bvecs, axis=1, keepdims=True), 1e-12), axis)
    thickness = int(rng.integers(1, thickest + 1)) if not thick[axis] else 1
    if thickness > 1:
        factors = [1, 1, 1]
        factors[axis] = thickness
        dwi = degrade(dwi, factors, model="area", axis=axis)
    factor = Fraction(rng.uniform(*coarser)).limit_denominator(100)
    if factor > 1:
        dwi = degrade(dwi, Scale.of_slices(factor, factor, 1, axis), model="kspace", axis=axis)
    add_rician(dwi.signal, dwi.foreground_b0() / rng.uniform(15, 60), rng)
    np.rint(dwi.signal, out=dwi.signal)
    return dwi


def _tissue(contrasts: Sequence[Volume], rng: np.random.Generator) -> tuple[Volume, NDArray[np.bool_]]:
    """A random mixture of the contrasts, each from 0 to 1, and where the head is."""
    if not contrasts or any(c.shape != contrasts[0].shape for c in contrasts):
        found = ", ".join(str(c.shape) for c in contrasts) or "none"
        raise InputError(f"The structural volumes have matrices {found}; expected one or more on the same grid.")
    stacked = np.stack([np.asarray(c, np.float32) for c in contrasts], axis=-1)
    if not stacked.any(axis=(0, 1, 2)).all():
        raise InputError("A structural volume shows nothing; choose one of a head.")
    head = ndimage.binary_fill_holes(ndimage.binary_closing(foreground_mask(stacked), iterations=2))
    scaled = [np.clip(stacked[..., n] / np.percentile(stacked[head, n], 99.5), 0, 1) for n in range(len(contrasts))]
    shares = rng.dirichlet(np.ones(len(contrasts)))
    return sum(share * volume for share, volume in zip(shares, scaled, strict=True)).astype(np.float32), head


def _weighted(
    tissue: Volume, head: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Signal (X, Y, Z, N) of one unweighted and `DIRECTIONS` weighted volumes, b-values, directions."""
    unweighted = np.exp(_curve(tissue, rng, np.log(0.2), np.log(2.0)))
    diffusivity = np.exp(_curve(tissue, rng, np.log(0.5e-3), np.log(2.0e-3)))  # mm²/s
    anisotropy = _curve(tissue, rng, -0.3, 0.5).clip(0)
    fibres = _orientation(tissue, rng)
    unweighted *= _shading(tissue.shape, rng)
    # Air keeps what little signal the structural volume has there.
    unweighted = np.where(head, unweighted, unweighted[head].mean() * tissue)
    unweighted *= LEVEL / unweighted[head].mean()
    b = float(rng.choice([700, 1000, 1000, 1500, 2000, 2500]))
    directions = _spread_directions(rng)
    signal = np.empty((*tissue.shape, DIRECTIONS + 1), np.float32, order="F")
    signal[..., 0] = unweighted
    for n, (x, y, z) in enumerate(directions, start=1):
        # g' D g of an axially symmetric tensor: mean diffusivity D, eigenvalues D (1 + 2a) and twice D (1 - a).
        along = np.tensordot(np.array([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], np.float32), fibres, 1)
        signal[..., n] = unweighted * np.exp(-b * diffusivity * (1 - anisotropy + 3 * anisotropy * along))
    return signal, np.array([0.0] + [b] * DIRECTIONS), np.vstack((np.zeros(3), directions))


def _curve(tissue: Volume, rng: np.random.Generator, low: float, high: float) -> Volume:
    """A smooth random function of the intensity, monotone or not."""
    knots = np.sort(np.concatenate(([0.0, 1.0], rng.uniform(0.1, 0.9, size=3))))
    levels = np.linspace(0, 1, 256)
    table = PchipInterpolator(knots, rng.uniform(low, high, size=len(knots)))(levels)
    return np.interp(tissue, levels, table).astype(np.float32)


def _orientation(tissue: Volume, rng: np.random.Generator) -> NDArray[np.float32]:
    """(6, X, Y, Z) mean dyadics xx, yy, zz, xy, xz, yz of fibres that run along what the anatomy draws.

    The direction in which a smoothed image changes least, from its structure tensor, at half the resolution.
    """
    smooth = ndimage.gaussian_filter(tissue, 1.0)[::2, ::2, ::2]
    gradient = np.stack([g + rng.normal(0, 1e-3, g.shape).astype(np.float32) for g in np.gradient(smooth)])
    width = rng.uniform(1.0, 3.0)
    tensor = np.empty((*smooth.shape, 3, 3), np.float32)
    for i in range(3):
        for j in range(i + 1):
            tensor[..., i, j] = tensor[..., j, i] = ndimage.gaussian_filter(gradient[i] * gradient[j], width)
    along = np.linalg.eigh(tensor)[1][..., 0]
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    zoom = [n / m for n, m in zip(tissue.shape, smooth.shape, strict=True)]
    return np.stack(
        [ndimage.zoom(ndimage.gaussian_filter(along[..., i] * along[..., j], 0.7), zoom, order=1) for i, j in pairs]
    )


def _shading(shape: Sequence[int], rng: np.random.Generator) -> Volume:
    """The coil's: a smooth factor around 1."""
    coarse = np.exp(rng.normal(0, 0.15, size=(4, 4, 4)))
    return ndimage.zoom(coarse, [n / 4 for n in shape], order=3).astype(np.float32)


def _spread_directions(rng: np.random.Generator) -> NDArray[np.float64]:
    """(DIRECTIONS, 3) unit vectors on a spiral over the half sphere, turned at random."""
    n = np.arange(DIRECTIONS) + 0.5
    height, angle = n / DIRECTIONS, np.pi * (1 + 5**0.5) * n
    ring = np.sqrt(1 - height**2)
    spiral = np.stack((ring * np.cos(angle), ring * np.sin(angle), height), axis=1)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return spiral @ turn


def _moved(affine: NDArray[np.float64], start: Sequence[int]) -> NDArray[np.float64]:
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] += moved[:3, :3] @ np.asarray(start, float)
    return moved
