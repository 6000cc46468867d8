"""What every epoch reports of the subjects held out: the network beside every classical interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..dwi import DWI
from ..evaluation.scorer import Scorer, maps_that_fit
from ..inference.canvas import Canvas
from ..networks.views import Assembler, Tile, View
from ..resampling.scale import Scale
from ..resampling.upsamplers import interpolate
from .cache import Scan
from .configuration import Configuration, Factors
from .monitors import MAPS, monitors
from .tasks import TASKS, lowered

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
    coarse : DWI
        What interpolation starts from.
    slabs : list of array
        Of each slice (N, context, *n), as the view shows it; of a view of blocks the coarse stack (N, slices, h, w).
    guides : list of array
        Of each slice (h, w), on the grid that is shown; of a view of blocks the stack (slices, rows, columns) on the
        fine grid; empty without.
    scan : Scan
    """

    scorer: Scorer
    coarse: DWI
    slabs: list[NDArray[np.float32]]
    guides: list[NDArray[np.float32]]
    scan: Scan

    @property
    def reference(self) -> DWI:
        """The slices as they are."""
        return self.scorer.reference


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
        slabs = [shown_slab(view, slab, scan.extent[1:]) for slab in slabs]
        guides = [lowered(np.array(scan.guide[int(p)]), slabs[0].shape[2:]) for p in positions] if view.guide else []
    else:
        start = int(np.argmax(np.convolve(scan.brain_area, np.ones(count), "valid")))
        positions = np.arange(start, start + count)
        stack = np.ascontiguousarray(scan.signal[:, start : start + count], np.float32)
        slabs = [TASKS[config.task](stack, scan, factors, config, rng)]
        coarse = slabs[0].swapaxes(0, 1)
        guides = [np.array(scan.guide[start : start + count])] if view.guide else []
    signal = scan.signal[:, positions].astype(np.float32).swapaxes(0, 1)
    reference = _as_dwi(signal, scan, scan.frame_sizes)
    sizes = scan.frame_sizes * [n / m for n, m in zip(_lengths(signal), _lengths(coarse), strict=True)]
    scorer = Scorer(
        reference,
        np.ascontiguousarray(scan.mask[positions].transpose(2, 1, 0)),
        maps=maps_that_fit(reference, MAPS),
        groups={_EVERY_VOLUME: np.arange(reference.n_volumes)},
        regions=("brain",),
        axis=2,
    )
    return Case(scorer, _as_dwi(coarse, scan, sizes), slabs, guides, scan)


def shown_slab(view: View, low: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """(N, context, *n) coarse signal of a slice or a whole volume, as a view shows it; `shape` is the fine grid's."""
    if view.dimensions == 3:
        whole = Tile((0, 0, 0), (int(shape[0]), int(shape[1]), int(shape[2])))
        return view.slab(low[:, 0], whole, shape)
    middle = view.context // 2
    tile = Tile((middle, 0, 0), (middle + 1, int(shape[0]), int(shape[1])))
    return view.slab(low, tile, (view.context, *shape))


def predict(network: Callable, case: Case, view: View, device: torch.device) -> DWI:
    """The network's slices, in signal units."""
    scan = case.scan
    assembler = Assembler(view, scan.bvals, scan.bvecs, scan.normalisation)
    shape = case.reference.spatial_shape[::-1]
    result = np.zeros((case.reference.n_volumes, *shape), np.float32)
    tiles = view.tiles(shape, np.ones(shape, bool))
    canvas = Canvas(result, view, tiles)
    for number, tile in enumerate(tiles):
        if view.dimensions == 2:
            slab, guide = case.slabs[number], case.guides[number] if view.guide else None
        else:
            slab, guide = view.slab(case.slabs[0], tile, shape), case.guides[0][tile.box] if view.guide else None
        seen = None if guide is None else torch.from_numpy(np.ascontiguousarray(guide))
        for volumes in torch.arange(len(result)).split(VOLUMES_AT_A_TIME):
            shown = assembler.show(torch.from_numpy(slab), volumes, seen).to(device)
            images = assembler.restore(network(shown, tile.shape[-view.dimensions :]).float().cpu(), volumes)
            canvas.add(images.clamp_min(0).numpy(), tile, volumes.numpy())
    return _as_dwi(result.swapaxes(0, 1), scan, scan.frame_sizes)


def classical(case: Case, method: str) -> DWI:
    """The same slices, interpolated."""
    scale = Scale.between(case.coarse.spatial_shape, case.reference.spatial_shape)
    return replace(interpolate(case.coarse, scale, method=method), affine=case.reference.affine)


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


def _lengths(signal: NDArray[np.float32]) -> tuple[int, int, int]:
    """Slices, rows and columns of (slices, N, rows, columns)."""
    return signal.shape[0], signal.shape[2], signal.shape[3]


def _as_dwi(signal: NDArray[np.float32], scan: Scan, sizes: NDArray[np.float64]) -> DWI:
    """(slices, N, rows, columns) as a volume (columns, rows, slices, N) with voxels of `sizes` (slices, ...) in mm.

    The gradients stay in the scanner's frame, which no score depends on.
    """
    return DWI(signal.transpose(3, 2, 0, 1), np.diag([*sizes[::-1], 1.0]), scan.bvals, scan.bvecs, 2)
