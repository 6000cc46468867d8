"""What every epoch reports of the subjects held out: the network beside every classical interpolation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..dwi import DWI
from ..evaluation.scorer import Scorer, maps_that_fit
from ..networks.views import SliceAssembler, SliceInput
from ..resampling import upsamplers as interpolation
from .cache import Scan
from .configuration import Configuration
from .monitors import MAPS, monitors
from .tasks import TASKS

VOLUMES_AT_A_TIME = 64
"""That the network is given."""
_EVERY_VOLUME = "all"


@dataclass(frozen=True, eq=False)
class Case:
    """Slices of a held-out scan, as they are and as the network is shown them.

    Attributes
    ----------
    scorer : Scorer
        Of the slices as they are.
    low : array (slices, N, 1 + 2 * neighbours, h, w)
    scale : int
    scan : Scan
    """

    scorer: Scorer
    low: NDArray[np.float32]
    scale: int
    scan: Scan

    @property
    def reference(self) -> DWI:
        """The slices as they are."""
        return self.scorer.reference


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
    reference = _as_dwi(scan.signal[positions].astype(np.float32), scan)
    scorer = Scorer(
        reference,
        scan.mask[positions].transpose(2, 1, 0),
        maps=maps_that_fit(reference, MAPS),
        groups={_EVERY_VOLUME: np.arange(reference.n_volumes)},
        regions=("brain",),
        axis=2,
    )
    return Case(scorer, np.stack(low), scale, scan)


def predict(network: Callable, case: Case, slice_input: SliceInput, device: torch.device) -> DWI:
    """The network's slices, in signal units."""
    scan = case.scan
    assembler = SliceAssembler(slice_input, scan.bvals, scan.bvecs, scan.normalisation)
    width, height, slices, count = case.reference.signal.shape
    results = np.empty((count, slices, height, width), np.float32)
    for n, slab in enumerate(case.low):
        for volumes in torch.arange(count).split(VOLUMES_AT_A_TIME):
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
    """What `monitors` names, and the signed differences of the maps (W, H, slices).

    A map that the gradients do not allow is NaN, and has no difference.
    """
    found = case.scorer(test)
    scores = {
        name: found.value(quantity, metric.name, volumes=_EVERY_VOLUME if quantity == "signal" else "")
        for name, (quantity, metric) in monitors().items()
    }
    return scores, found.difference


def _as_dwi(signal: NDArray[np.float32], scan: Scan) -> DWI:
    """(slices, N, H, W) as a volume; the gradients stay in the scanner's frame, which no score depends on."""
    return DWI(signal.transpose(3, 2, 0, 1), np.diag([*scan.voxel_sizes, 1.0]), scan.bvals, scan.bvecs)
