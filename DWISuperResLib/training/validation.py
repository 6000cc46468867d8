"""What every epoch reports of the subjects held out: the network beside every classical interpolation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..dwi import DWI
from ..errors import InputError
from ..evaluation.compare import compare
from ..inference.canvas import Canvas
from ..metrics import image_scores
from ..networks.views import Assembler, View
from ..resampling.scale import Scale
from ..resampling.upsamplers import interpolate
from .cache import Scan
from .configuration import Configuration, Factors
from .tasks import TASKS

SCORES = ("psnr", "ssim", "nrmse", "fa_error", "qa_error")
"""PSNR in dB, SSIM, RMSE over the mean signal, mean absolute errors of FA and QA; all in the brain."""

HIGHER_IS_BETTER = ("psnr", "ssim")
VOLUMES_AT_A_TIME = 64
"""That the network is given."""


class Case(NamedTuple):
    """Slices of a held-out scan, as they are and as the network is shown them."""

    reference: DWI
    mask: NDArray[np.bool_]
    coarse: DWI
    """What interpolation starts from."""
    slabs: list[NDArray[np.float32]]
    """Of each slice (N, context, h, w); of a view of blocks the whole stack (N, slices, h, w)."""
    scan: Scan


def prepare(scan: Scan, triple: Factors, config: Configuration, view: View, seed: int) -> Case:
    """Lower the resolution of slices, the same way every time: spread over the brain, or a stack for blocks."""
    factors = scan.factors(triple)
    rng = np.random.default_rng(seed)
    count = min(config.validation.slices, scan.extent[0])
    if view.dimensions == 2:
        wanted = np.linspace(0, 1, count + 2)[1:-1]
        share = np.cumsum(scan.brain_area) / scan.brain_area.sum()
        positions = np.unique(np.searchsorted(share, wanted))
        slabs = [
            TASKS[config.task](scan.slab(int(p), view.context // 2, slice(None)), scan, factors[1:], config, rng)
            for p in positions
        ]
        coarse = np.stack([slab[:, view.context // 2] for slab in slabs])
    else:
        start = int(np.argmax(np.convolve(scan.brain_area, np.ones(count), "valid")))
        positions = np.arange(start, start + count)
        stack = np.ascontiguousarray(scan.signal[:, start : start + count], np.float32)
        slabs = [TASKS[config.task](stack, scan, factors, config, rng)]
        coarse = slabs[0].swapaxes(0, 1)
    signal = scan.signal[:, positions].astype(np.float32).swapaxes(0, 1)
    reference, mask = _as_dwi(signal, scan, scan.frame_sizes), scan.mask[positions].transpose(2, 1, 0)
    sizes = scan.frame_sizes * [n / m for n, m in zip(mask.shape[::-1], _lengths(coarse), strict=True)]
    return Case(reference, np.ascontiguousarray(mask), _as_dwi(coarse, scan, sizes), slabs, scan)


def predict(network: Callable, case: Case, view: View, device: torch.device) -> DWI:
    """The network's slices, in signal units."""
    scan = case.scan
    assembler = Assembler(view, scan.bvals, scan.bvecs, scan.normalisation)
    shape = case.reference.spatial_shape[::-1]
    result = np.zeros((case.reference.n_volumes, *shape), np.float32)
    tiles = view.tiles(shape, np.ones(shape, bool))
    canvas = Canvas(result, view, tiles)
    for number, tile in enumerate(tiles):
        slab = case.slabs[number] if view.dimensions == 2 else view.slab(case.slabs[0], tile, shape)
        for volumes in torch.arange(len(result)).split(VOLUMES_AT_A_TIME):
            shown = assembler.show(torch.from_numpy(slab), volumes).to(device)
            images = assembler.restore(network(shown, tile.shape[-view.dimensions :]).float().cpu(), volumes)
            canvas.add(images.clamp_min(0).numpy(), tile, volumes.numpy())
    return _as_dwi(result.swapaxes(0, 1), scan, scan.frame_sizes)


def classical(case: Case, method: str) -> DWI:
    """The same slices, interpolated."""
    scale = Scale.between(case.coarse.spatial_shape, case.reference.spatial_shape)
    return replace(interpolate(case.coarse, scale, method=method), affine=case.reference.affine)


def score(case: Case, test: DWI) -> tuple[dict[str, float], dict[str, NDArray[np.float32]]]:
    """`SCORES`, and the signed differences of the maps (W, H, slices); a map the gradients do not allow is NaN."""
    images = image_scores(case.reference.signal, test.signal, mask=case.mask)
    scores = {name: float(images[name]) for name in ("psnr", "ssim", "nrmse")}
    differences = {}
    for name in ("fa", "qa"):
        try:
            comparison = compare(case.reference, test, maps=(name,), mask=case.mask)
        except InputError:
            scores[f"{name}_error"] = float("nan")
            continue
        differences[name] = comparison.difference[name]
        scores[f"{name}_error"] = float(np.abs(comparison.difference[name][case.mask]).mean())
    return scores, differences


def _lengths(signal: NDArray[np.float32]) -> tuple[int, int, int]:
    """Slices, rows and columns of (slices, N, rows, columns)."""
    return signal.shape[0], signal.shape[2], signal.shape[3]


def _as_dwi(signal: NDArray[np.float32], scan: Scan, sizes: NDArray[np.float64]) -> DWI:
    """(slices, N, rows, columns) as a volume (columns, rows, slices, N) with voxels of `sizes` (slices, ...) in mm.

    The gradients stay in the scanner's frame, which no score depends on.
    """
    return DWI(signal.transpose(3, 2, 0, 1), np.diag([*sizes[::-1], 1.0]), scan.bvals, scan.bvecs, 2)
