"""What a super-resolved scan of a study is worth: errors of the DWI, of FA and QA, and grids in all three."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..checkpoints import Checkpoint, load_checkpoint
from ..dwi import DWI, Volume
from ..evaluation.scorer import Scorer, Scores, maps_that_fit
from ..io import read_scan
from ..metrics import METRICS, metrics_of
from ..metrics.grid_artefacts import PERIODS, grid_artefact_index
from ..microstructure import brain_mask
from ..resampling.degradation import add_rician, degrade
from ..resampling.grid import slice_axis
from ..resampling.scale import Scale
from .base import Row

MAPS = ("fa", "qa")
WEIGHTED, EVERY = "weighted", "every"
"""Groups of volumes whose signal is compared: those weighted, or all where none is; all of them."""
SIGNAL = {"PSNR": METRICS["psnr"], "SSIM": METRICS["ssim"]}
"""Columns of the studies that compare signals alone."""


@dataclass(frozen=True)
class Case:
    """Slices of a held-out scan as acquired, and their brain."""

    name: str
    dwi: DWI
    mask: NDArray[np.bool_]
    axis: int

    @cached_property
    def compared(self) -> NDArray[np.intp]:
        """Volumes whose signal is compared."""
        return np.flatnonzero(~self.dwi.is_b0 | self.dwi.is_b0.all())

    @cached_property
    def maps(self) -> tuple[str, ...]:
        """Maps that are compared: those of `MAPS` that the gradients allow, none of a structural image."""
        return maps_that_fit(self.dwi, MAPS)

    @cached_property
    def scorer(self) -> Scorer:
        """Of the slices as acquired: weighted volumes, FA and QA, in the brain."""
        groups = {WEIGHTED: self.compared}
        return Scorer(self.dwi, self.mask, maps=self.maps, groups=groups, regions=("brain",), axis=self.axis)

    @cached_property
    def signal_scorer(self) -> Scorer:
        """The same of the signal of every volume, and of no map."""
        groups = {EVERY: np.arange(self.dwi.n_volumes)}
        return Scorer(self.dwi, self.mask, maps=(), groups=groups, regions=("brain",), axis=self.axis)

    def of_volumes(self, count: int) -> Case:
        """Of `count` volumes, evenly spread over the b-values: the lowest and the highest among them."""
        order = np.argsort(self.dwi.bvals, kind="stable")
        chosen = order[np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))]
        dwi = replace(
            self.dwi, signal=self.dwi.signal[..., chosen], bvals=self.dwi.bvals[chosen], bvecs=self.dwi.bvecs[chosen]
        )
        return replace(self, dwi=dwi)


def keep_picture(folder: Path, name: str, case: Case, dwi: DWI) -> None:
    """Save the middle slice of the volume of highest b, as an array."""
    folder.mkdir(exist_ok=True)
    picture = np.take(dwi.signal[..., int(np.argmax(case.dwi.bvals))], case.mask.shape[case.axis] // 2, case.axis)
    np.save(folder / f"{name}.npy", picture)


def add_noise(dwi: DWI, snr: float | None, seed: int) -> DWI:
    """Rician noise at an SNR as `DWI.foreground_b0` defines it; None: the scan itself."""
    if snr is None:
        return dwi
    signal = dwi.signal.copy(order="F")
    add_rician(signal, dwi.foreground_b0() / snr, np.random.default_rng(seed))
    return replace(dwi, signal=signal)


def open_case(path: Path, count: int) -> Case:
    """The `count` adjacent slices that show most brain."""
    dwi = read_scan(path).series
    axis = slice_axis(dwi)
    mask = brain_mask(dwi)
    area = mask.sum(axis=tuple(a for a in range(3) if a != axis))
    count = min(count, len(area))
    start = int(np.argmax(np.convolve(area, np.ones(count), "valid")))
    block = tuple(slice(start, start + count) if a == axis else slice(None) for a in range(3))
    affine = dwi.affine.copy()
    affine[:3, 3] += start * affine[:3, axis]
    return Case(path.name.split(".")[0], replace(dwi, signal=dwi.signal[block], affine=affine), mask[block], axis)


def restore(
    case: Case,
    low: DWI,
    *,
    method: str = "sinc",
    checkpoint: str | Path | Checkpoint | None = None,
    guide: Volume | None = None,
) -> DWI:
    """Bring a scan of lower resolution back onto the case's grid, by a network or by interpolation.

    A guide is taken as it lies: a few slices say too little of its place.
    """
    scale = Scale.between(low.spatial_shape, case.dwi.spatial_shape)
    if checkpoint is None:
        from ..resampling.upsamplers import interpolate

        return interpolate(low, scale, method=method, axis=case.axis)
    from ..inference.predict import super_resolve

    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
    return super_resolve(low, loaded, scale, guide=guide, unchecked_guide=True, precision="fp32", axis=case.axis)


def signal_row(case: Case, test: DWI) -> Row:
    """The case's name, and PSNR and SSIM of the signal of every volume."""
    scores = case.signal_scorer(test)
    found = {label: scores.value("signal", metric.name, volumes=EVERY) for label, metric in SIGNAL.items()}
    return {"scan": case.name, **found}


def row_of(case: Case, scores: Scores) -> Row:
    """The case's name and what its scorer found."""
    row: Row = {"scan": case.name}
    for metric in metrics_of("signal"):
        row[f"DWI {metric.label}"] = scores.value("signal", metric.name, volumes=WEIGHTED)
    for name in MAPS:
        for metric in metrics_of("map", headline=True):
            row[f"{name.upper()} {metric.label}"] = scores.value(name, metric.name)
    return row


def score_case(
    case: Case, snr: float | None, scale: int, model: str, seed: int, checkpoint: Path | None, images: Path
) -> Row:
    """Lower the resolution, super-resolve (without a checkpoint: sinc), compare with the scan as acquired.

    Also keeps a slice of the DWI, and of the DWI and FA residuals, in `images`.
    """
    low = degrade(add_noise(case.dwi, snr, seed), scale, model=model, axis=case.axis)
    test = restore(case, low, checkpoint=checkpoint)
    scores = case.scorer(test)
    row = row_of(case, scores)
    signal = case.dwi.signal[..., case.compared]
    residual = test.signal[..., case.compared] - signal
    level = float(signal[case.mask].mean())
    slices = np.moveaxis(residual, (3, case.axis), (0, 1))
    masks = np.moveaxis(case.mask, case.axis, 0)
    stacks = {"DWI": (slices.reshape(-1, *slices.shape[2:]) / level, np.tile(masks, (len(slices), 1, 1)))}
    stacks |= {name.upper(): (np.moveaxis(scores.difference[name], case.axis, 0), masks) for name in case.maps}
    for quantity in ("DWI", *map(str.upper, MAPS)):
        found = grid_artefact_index(*stacks[quantity]) if quantity in stacks else None
        row[f"{quantity} grid dB"] = found.total_db if found else math.nan
        row[f"{quantity} grid rms"] = found.total_amplitude if found else math.nan
        row[f"{quantity} grid periods"] = ",".join(map(str, found.periods_found if found else ())) or "none"
        for period in PERIODS:
            row[f"{quantity} dB {period} px"] = found.excess_db[period] if found else math.nan
    middle = case.mask.shape[case.axis] // 2
    images.mkdir(exist_ok=True)
    name = checkpoint.stem if checkpoint else f"x{scale}-{label(snr)}-sinc"
    np.savez_compressed(
        images / f"{name}-{case.name}.npz",
        dwi=np.take((signal + residual)[..., 0], middle, case.axis) / level,
        residual=np.take(residual[..., 0], middle, case.axis) / level,
        **{map_name: np.take(scores.difference[map_name], middle, case.axis) for map_name in case.maps},
    )
    return row


def with_mean(rows: list[Row]) -> list[Row]:
    """The rows, and their mean where there are several; of the grid the mean excess, and all periods found."""
    if len(rows) == 1:
        return rows
    mean: Row = {"scan": "mean"}
    for key, value in rows[0].items():
        values = [row[key] for row in rows]
        if isinstance(value, float):
            known = [v for v in values if math.isfinite(v)]
            mean[key] = float(np.mean(known)) if known else math.nan
        elif key.endswith("periods"):
            found = {int(p) for v in values if v != "none" for p in v.split(",")}
            mean[key] = ",".join(map(str, sorted(found))) or "none"
    return [*rows, mean]


def label(snr: float | None) -> str:
    """Name of a noise level, for files."""
    return "acquired" if snr is None else f"snr{snr:g}"
