"""How a slab of slices becomes what the network is shown of it; the slab itself is the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..resampling import degradation
from .cache import Scan
from .configuration import Configuration

Slab = NDArray[np.float32]
Task = Callable[[Slab, Scan, int, Configuration, np.random.Generator], Slab]


def reduce_resolution(slab: Slab, scan: Scan, scale: int, config: Configuration, rng: np.random.Generator) -> Slab:
    """Super-resolution's input: (..., H, W) lowered by `scale`; model, blur and noise drawn from the ranges."""
    drawn = config.degradation
    models = list(drawn.models)
    chances = np.array([drawn.models[m] for m in models])
    model = models[rng.choice(len(models), p=chances / chances.sum())]
    # In steps of a fiftieth, so that the operators are shared between slabs.
    width = round(float(rng.uniform(*drawn.fwhm)) * 50) / 50 * scale if model == "gaussian" else None
    rows, columns = (degradation.operator(n, scale, model, width) for n in slab.shape[-2:])
    return add_noise(separable(slab, rows, columns), scan, scale, config, rng)


def add_noise(slab: Slab, scan: Scan, scale: int, config: Configuration, rng: np.random.Generator) -> Slab:
    """Denoising's input: Rician noise of a drawn percentage of the scan's b0 level."""
    sigma = float(rng.uniform(*config.degradation.noise)) / 100 * scan.level
    return degradation.rician(slab, sigma, rng) if sigma > 0 else slab


def cut_holes(slab: Slab, scan: Scan, scale: int, config: Configuration, rng: np.random.Generator) -> Slab:
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
"""Each makes (..., H / scale, W / scale) from (..., H, W), in signal units."""


def separable(slab: Slab, rows: NDArray, columns: NDArray) -> Slab:
    """Multiply the last two axes of `slab` by a matrix each."""
    # torch's products, unlike NumPy's, keep to the one thread that a loader's worker has.
    left, right = (torch.from_numpy(operator.astype(np.float32)) for operator in (rows, columns.T))
    return (left @ (torch.from_numpy(slab.astype(np.float32, copy=False)) @ right)).numpy()
