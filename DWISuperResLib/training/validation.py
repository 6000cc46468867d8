"""What every epoch reports of the subjects held out: the network beside every classical interpolation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..dwi import DWI
from ..errors import InputError
from ..evaluation.compare import compare
from ..metrics import image_scores
from ..networks.views import SliceAssembler, SliceInput
from ..resampling import upsamplers as interpolation
from .cache import Scan
from .configuration import Configuration
from .tasks import TASKS

SCORES = ("psnr", "ssim", "nrmse", "fa_error", "qa_error")
"""PSNR in dB, SSIM, RMSE over the mean signal, mean absolute errors of FA and QA; all in the brain."""

HIGHER_IS_BETTER = ("psnr", "ssim")
AT_ONCE = 64
"""Volumes the network is given at a time."""


class Case(NamedTuple):
    """Slices of a held-out scan, as they are and as the network is shown them."""

    reference: DWI
    mask: NDArray[np.bool_]
    low: NDArray[np.float32]
    """(slices, N, 1 + 2 * neighbours, h, w)"""
    scale: int
    scan: Scan


def prepare(scan: Scan, scale: int, config: Configuration, slice_input: SliceInput, seed: int) -> Case:
    """Lower the resolution of slices spread over the brain, the same way every time."""
    wanted = np.linspace(0, 1, config.validation.slices + 2)[1:-1]
    share = np.cumsum(scan.brain_area) / scan.brain_area.sum()
    positions = np.unique(np.searchsorted(share, wanted))
    rng = np.random.default_rng(seed)
    low = []
    for position in positions:
        slab = scan.slab(int(position), slice_input.neighbours, slice(None))
        missing = [(0, -n % scale) for n in slab.shape[-2:]]
        low.append(TASKS[config.task](np.pad(slab, [(0, 0), (0, 0), *missing], "edge"), scan, scale, config, rng))
    signal = scan.signal[positions].astype(np.float32)
    return Case(_as_dwi(signal, scan), scan.mask[positions].transpose(2, 1, 0), np.stack(low), scale, scan)


def predict(network: Callable, case: Case, slice_input: SliceInput, device: torch.device) -> DWI:
    """The network's slices, in signal units."""
    scan = case.scan
    assembler = SliceAssembler(slice_input, scan.bvals, scan.bvecs, scan.normalisation)
    width, height, slices, count = case.reference.signal.shape
    results = np.empty((count, slices, height, width), np.float32)
    for n, slab in enumerate(case.low):
        for volumes in torch.arange(count).split(AT_ONCE):
            shown = assembler(torch.from_numpy(slab), volumes).to(device, memory_format=torch.channels_last)
            images = assembler.restore(network(shown, case.scale).float(), volumes)[:, 0].clamp_min(0)
            results[volumes, n] = images[:, :height, :width].cpu().numpy()
    return _as_dwi(results.swapaxes(0, 1), scan)


def classical(case: Case, method: str) -> DWI:
    """The same slices, interpolated."""
    middle = case.low.shape[2] // 2
    low = _as_dwi(case.low[:, :, middle], case.scan)
    signal = interpolation.interpolate(low, case.scale, method=method, axis=2).signal
    width, height = case.reference.spatial_shape[:2]
    return _as_dwi(signal[:width, :height].transpose(2, 3, 1, 0), case.scan)


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


def _as_dwi(signal: NDArray[np.float32], scan: Scan) -> DWI:
    """(slices, N, H, W) as a volume; the gradients stay in the scanner's frame, which no score depends on."""
    return DWI(signal.transpose(3, 2, 0, 1), np.diag([*scan.voxel_sizes, 1.0]), scan.bvals, scan.bvecs)
