"""How a slab becomes what the network is shown of it; the slab itself is the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from ..resampling.degradation import DEGRADATIONS, rician
from ..resampling.operators import operator
from .cache import Scan
from .configuration import Configuration

Slab = NDArray[np.float32]
Task = Callable[[Slab, Scan, Sequence[Fraction], Configuration, np.random.Generator], Slab]
"""Of a slab (..., *n) in signal units and a factor for each of the axes n."""


def reduce_resolution(
    slab: Slab, scan: Scan, factors: Sequence[Fraction], config: Configuration, rng: np.random.Generator
) -> Slab:
    """Super-resolution's input: (..., *n) lowered by a factor along each axis; model, blur and noise are drawn."""
    drawn = config.degradation
    models = list(drawn.models)
    chances = np.array([drawn.models[m] for m in models])
    model = DEGRADATIONS.find(models[rng.choice(len(models), p=chances / chances.sum())])
    width = float(rng.uniform(*drawn.fwhm)) if model.has_width else None
    if width is not None:
        share = 1 - float(rng.uniform(*drawn.gap)) if model.through_plane else 1.0
        # In steps of a fiftieth, so that the operators are shared between slabs.
        width = round(width * share * 50) / 50
    axes = scan.frame.order[-len(factors) :]
    matrices = [
        None
        if f == 1
        else model.of_axis(axis == scan.axis).matrix(n, round(n / f), None if width is None else width * float(f))
        for n, f, axis in zip(slab.shape[-len(factors) :], factors, axes, strict=True)
    ]
    return add_noise(separable(slab, matrices), scan, factors, config, rng)


def add_noise(
    slab: Slab, scan: Scan, factors: Sequence[Fraction], config: Configuration, rng: np.random.Generator
) -> Slab:
    """Denoising's input: Rician noise of a drawn percentage of the scan's b0 level."""
    sigma = float(rng.uniform(*config.degradation.noise)) / 100 * scan.level
    return rician(slab, sigma, rng) if sigma > 0 else slab


def cut_holes(
    slab: Slab, scan: Scan, factors: Sequence[Fraction], config: Configuration, rng: np.random.Generator
) -> Slab:
    """Inpainting's input (SSFD, https://openreview.net/forum?id=dgMvTzf6M_3): squares set to the background, 0."""
    shape = slab.shape[-2:]
    kept = np.stack([~holes(shape, rng) for _ in range(slab[..., 0, 0].size)])
    return slab * kept.reshape(slab.shape)


def holes(shape: Sequence[int], rng: np.random.Generator, side: int = 16, share: float = 0.5) -> NDArray[np.bool_]:
    """Squares that cover `share` of an image (H, W), their centres Poisson-disc distributed.

    Centres are drawn evenly from all pixels at least `side` from every earlier one, so squares may overlap at their
    corners and reach over the border, until enough is covered.
    """
    covered, free = np.zeros(shape, bool), np.ones(shape, bool)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    while np.count_nonzero(covered) < share * covered.size and free.any():
        row, column = np.unravel_index(rng.choice(np.flatnonzero(free)), shape)
        free &= (rows - row) ** 2 + (columns - column) ** 2 >= side**2
        first = max(0, row - side // 2), max(0, column - side // 2)
        covered[first[0] : row + side - side // 2, first[1] : column + side - side // 2] = True
    return covered


TASKS: dict[str, Task] = {"super-resolution": reduce_resolution, "denoising": add_noise, "ssfd": cut_holes}
"""By the configuration's name of the task."""


def lowered(slab: Slab, shape: Sequence[int]) -> Slab:
    """(..., *n) coarsened to `shape` along its last axes: band-limited, as if acquired with larger voxels."""
    pairs = zip(slab.shape[-len(shape) :], shape, strict=True)
    return separable(slab, [None if n == m else operator(n, m, "antialiased_lanczos") for n, m in pairs])


def separable(slab: Slab, matrices: Sequence[NDArray[np.float64] | None]) -> Slab:
    """Multiply the last axes of `slab` by a matrix each; None leaves an axis."""
    # torch's products, unlike NumPy's, keep to the one thread that a loader's worker has.
    result = torch.from_numpy(slab.astype(np.float32, copy=False))
    for axis, matrix in zip(range(-1, -len(matrices) - 1, -1), reversed(matrices), strict=True):
        if matrix is None:
            continue
        operator = torch.from_numpy(matrix.astype(np.float32))
        if axis == -1:
            result = result @ operator.T
        elif axis == -2:
            result = operator @ result
        else:
            result = torch.tensordot(operator, result, dims=([1], [result.ndim + axis])).movedim(0, axis)
    return result.contiguous().numpy()
