"""Degrade and compare: every classical interpolation and every chosen checkpoint against the scan they came from.

Scores are tidy rows, one value each, that name the method, the quantity, the region, the volumes, how many voxels and
which data range they rest on. Signals are measured and dropped; what the report shows (maps, two images, spectra)
stays.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dwi import DWI, shells
from ..errors import Cancelled, InputError
from ..metrics import image_scores, residual_spectrum
from ..microstructure import angular_error, brain_mask, compute_maps, principal_direction
from ..provenance import signal_hash, versions
from ..resampling.degradation import degrade
from ..resampling.grid import AXIS_NAMES, check_same_grid, crop, in_plane_axes, slice_axis
from ..resampling.upsamplers import UPSAMPLERS, interpolate
from .selfchecks import Check, self_checks

MAPS = ("fa", "md", "qa", "gfa")
FA_CLASSES = {
    "FA < 0.2": (0.0, 0.2),
    "FA 0.2-0.4": (0.2, 0.4),
    "FA 0.4-0.6": (0.4, 0.6),
    "FA >= 0.6": (0.6, math.inf),
}
"""Classes by the reference's FA: roughly grey matter and fluid, mixed, white matter, densest white matter."""
DIRECTION_FA = 0.2
"""Principal directions are compared where the reference's FA is at least this: below, they are mostly noise."""

DISTANCE_SLICES, DISTANCE_VOLUMES = 4, 3
"""Deep feature distances look at this many slices of this many weighted volumes."""

COLUMNS = ("method", "kind", "quantity", "metric", "value", "region", "volumes", "voxels", "data_range")


@dataclass(frozen=True, eq=False)
class Candidate:
    """One scan on the reference's grid (the reference itself included), reduced to what the report shows.

    Attributes
    ----------
    name : str
    kind : {"reference", "interpolation", "checkpoint", "scan"}
    images : dict of array (X, Y, Z)
        "b0" (mean of the b0 volumes, where there are any) and "dwi" (one weighted volume), scanner units.
    maps : dict of array (X, Y, Z)
    direction : array, shape (X, Y, Z, 3)
        Principal diffusion direction, RAS.
    spectra : dict of array (bins,)
        Power of the residual "dwi", "fa" and "qa" over frequency.
    seconds : float
        Time it took to make the scan.
    sha256 : str
        Of a checkpoint's weights, or of a scan.
    """

    name: str
    kind: str
    images: dict[str, NDArray]
    maps: dict[str, NDArray]
    direction: NDArray
    spectra: dict[str, NDArray] = field(default_factory=dict)
    seconds: float = 0.0
    sha256: str = ""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` and `assess` return: scores, and what the report needs to draw them.

    Attributes
    ----------
    conditions : dict
        What was run and on what, in plain JSON values, software versions and hashes included.
    affine : array, shape (4, 4)
    slice_axis : int
    mask : array of bool, shape (X, Y, Z)
    reference : Candidate
    candidates : tuple of Candidate
    scores : list of dict
        Rows with the keys `COLUMNS`.
    checks : dict of list of Check
        Self-checks of every checkpoint's result, by candidate.
    """

    conditions: dict[str, Any]
    affine: NDArray[np.float64]
    slice_axis: int
    mask: NDArray[np.bool_]
    reference: Candidate
    candidates: tuple[Candidate, ...]
    scores: list[dict[str, Any]]
    checks: dict[str, list[Check]] = field(default_factory=dict)

    def score(self, method: str, quantity: str, metric: str, *, region: str = "brain", volumes: str = "") -> float:
        """The value of one row; NaN where it was not measured."""
        wanted = (method, quantity, metric, region, volumes)
        for row in self.scores:
            if (row["method"], row["quantity"], row["metric"], row["region"], row["volumes"]) == wanted:
                return row["value"]
        return math.nan

    @property
    def shells(self) -> list[str]:
        """Names of the groups of volumes that were scored, weighted ones after b0."""
        return list(dict.fromkeys(row["volumes"] for row in self.scores if row["quantity"] == "signal"))

    def write_scores(self, directory: str | Path) -> tuple[Path, Path]:
        """Write scores.tsv and scores.json (the conditions with them) into an existing directory."""
        tsv, js = Path(directory) / "scores.tsv", Path(directory) / "scores.json"
        tsv.write_text(self.as_tsv(), encoding="utf-8")
        js.write_text(self.as_json(), encoding="utf-8")
        return tsv, js

    def as_tsv(self) -> str:
        """The scores as tab-separated values with a header; values that do not exist are "n/a"."""
        lines = ["\t".join(COLUMNS)]
        lines += ["\t".join(_cell(row[column]) for column in COLUMNS) for row in self.scores]
        return "\n".join(lines) + "\n"

    def as_json(self) -> str:
        """Conditions and scores as JSON; values that do not exist are null."""
        finite = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()} for r in self.scores
        ]
        checks = {name: [asdict(check) for check in found] for name, found in self.checks.items()}
        page = {"conditions": self.conditions, "scores": finite, "self-checks": checks}
        return json.dumps(page, indent=1, ensure_ascii=False) + "\n"


def evaluate(
    dwi: DWI,
    scale: int,
    checkpoints: Sequence[str | Path] = ("default",),
    *,
    methods: Sequence[str] = tuple(UPSAMPLERS),
    model: str = "kspace",
    snr: float | None = None,
    seed: int = 0,
    axis: int | str | None = None,
    mask: NDArray[np.bool_] | None = None,
    fit: str = "wls",
    distances: Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    ensemble: bool = False,
    consistent: bool = False,
    progress: Callable[[float, str], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    keep: Callable[[str, DWI], None] | None = None,
) -> Evaluation:
    """Degrade a scan, super-resolve it with every method, and measure how close each comes to the original.

    Parameters
    ----------
    dwi : DWI
        The reference.
    scale : int
        In-plane factor, 2 to 5.
    checkpoints : sequence of str or path
        Shipped names or files; may be empty.
    methods : sequence of str
        Classical interpolations.
    model, snr, seed, axis
        Of the degradation, see `degradation.degrade`.
    mask : array of bool, shape (X, Y, Z), optional
        Region that is measured; `microstructure.brain_mask` of the reference by default.
    fit : {"wls", "ols", "iwls"}
        Tensor fit.
    distances : sequence of str, optional
        Deep feature distances, see `metrics.deep.DISTANCES`; by default all that `metrics.deep.available_distances`
        names, or none where a slice is smaller than they take. On a few slices of a few weighted volumes; the
        conditions say with which weights.
    device, precision, ensemble, consistent
        See `engine.super_resolve`.
    progress : callable (fraction, message), optional
    cancel : callable () -> bool, optional
    keep : callable (kind, DWI), optional
        Is handed each scan on the reference's grid before it is dropped, with its kind ("interpolation", "checkpoint").

    Raises
    ------
    InputError
        If no method or checkpoint is given, or one cannot be used.
    Cancelled
        If `cancel` returned True.
    """
    if scale == 1 or not (methods or checkpoints):
        raise InputError("There is nothing to evaluate; give a scale of 2 to 5 and at least one method or checkpoint.")
    # Torch and the networks load only where something is super-resolved.
    from ..checkpoints import load_checkpoint
    from ..inference.predict import super_resolve

    axis = slice_axis(dwi, axis)
    low = degrade(dwi, scale, model=model, axis=axis, snr=snr, seed=seed)
    measure = _Measurement(dwi, axis, mask, fit, distances=distances)
    total = len(methods) + len(checkpoints)
    candidates: list[Candidate] = []
    checks: dict[str, list[Check]] = {}
    trained_on: dict[str, str] = {}

    def report(part: float, message: str) -> None:
        if cancel and cancel():
            raise Cancelled("The evaluation was cancelled.")
        if progress:
            progress((len(candidates) + part) / total, message)

    def measured(name: str, kind: str, up: DWI, start: float, sha256: str = "") -> None:
        seconds = time.perf_counter() - start
        report(0.5, f"Measuring {name}")
        up = replace(up, signal=crop(up.signal, dwi.spatial_shape), affine=dwi.affine)
        if keep is not None:
            keep(kind, up)
        candidates.append(measure(name, kind, up, seconds=seconds, sha256=sha256))

    for method in methods:
        report(0, f"Interpolating: {method}")
        start = time.perf_counter()
        measured(method, "interpolation", interpolate(low, scale, method=method, axis=axis), start)
    for source in checkpoints:
        checkpoint = load_checkpoint(source)
        label = _unique(checkpoint.card.name, [c.name for c in candidates])
        start = time.perf_counter()
        up = super_resolve(
            low, checkpoint, scale, device=device, precision=precision, axis=axis, ensemble=ensemble,
            consistent=consistent, progress=lambda part, message: report(part / 2, message), cancel=cancel,
        )  # fmt: skip
        measured(label, "checkpoint", up, start, checkpoint.card.sha256)
        checks[label] = self_checks(low, up, checkpoint.card, scale, axis=axis)
        scans = checkpoint.card.training.get("scans")  # free-form
        trained_on[label] = ", ".join(map(str, scans)) if isinstance(scans, list) else "not known"
    degradation = {"model": model, "snr": snr, "seed": seed, "low-resolution matrix": list(low.spatial_shape)}
    conditions = {"task": "degrade and compare", "scale": scale, "degradation": degradation}
    if checkpoints:
        conditions |= {"device": device, "precision": precision, "ensemble": ensemble, "consistent": consistent}
        conditions["trained on"] = trained_on
    return measure.result(conditions, candidates, checks)


def assess(
    reference: DWI,
    test: DWI,
    *,
    names: tuple[str, str] = ("reference", "test"),
    mask: NDArray[np.bool_] | None = None,
    axis: int | str | None = None,
    fit: str = "wls",
    distances: Sequence[str] | None = None,
) -> Evaluation:
    """Measure one given scan against another on the same grid with the same gradient table.

    Voxels of the test beyond the far end of the reference's matrix (padding) are left out.

    Raises
    ------
    InputError
        If grids or gradient tables differ.
    """
    if all(n >= m for n, m in zip(test.spatial_shape, reference.spatial_shape, strict=True)):
        test = replace(test, signal=crop(test.signal, reference.spatial_shape))
    check_same_grid(reference, test, names)
    if reference.n_volumes != test.n_volumes or np.abs(reference.bvals - test.bvals).max() > 1:
        raise InputError(
            f"The {names[0]} has {reference.n_volumes} volumes and the {names[1]} {test.n_volumes}, or their b-values "
            "differ; both must be measured with the same gradient table."
        )
    measure = _Measurement(reference, slice_axis(reference, axis), mask, fit, names[0], distances)
    return measure.result({"task": "compare"}, [measure(names[1], "scan", test, sha256=signal_hash(test))], {})


def volume_groups(dwi: DWI) -> dict[str, NDArray[np.intp]]:
    """Volumes by b-value: "b0", then "b1000", ... (mean b of each shell, to 50 s/mm²)."""
    groups = {"b0": np.flatnonzero(dwi.is_b0)} if dwi.is_b0.any() else {}
    return groups | {f"b{round(dwi.bvals[s].mean() / 50) * 50:d}": np.sort(s) for s in shells(dwi.bvals)}


class _Measurement:
    """The reference, measured once; calling it measures a candidate against it."""

    def __init__(self, dwi: DWI, axis: int, mask, fit: str, name: str = "reference", distances=None):
        self.dwi, self.axis, self.fit = dwi, axis, fit
        self.given_mask = mask is not None
        self.mask = brain_mask(dwi) if mask is None else np.asarray(mask, dtype=bool)
        if self.mask.shape != dwi.spatial_shape or not self.mask.any():
            raise InputError(
                f"The mask has shape {self.mask.shape} and {int(self.mask.sum())} voxels; expected the scan's "
                f"{dwi.spatial_shape} with the brain marked."
            )
        self.shells = volume_groups(dwi)
        self.distances = _deep_distances(distances, min(dwi.spatial_shape[a] for a in in_plane_axes(axis)))
        self.scores: list[dict[str, Any]] = []
        self.start = time.perf_counter()
        self.reference = self._reduce(name, "reference", dwi, sha256=signal_hash(dwi))
        fa = self.reference.maps["fa"]
        self.regions = {"brain": self.mask}
        for label, (low, high) in FA_CLASSES.items():
            self.regions[label] = self.mask & (fa >= low) & (fa < high)

    def __call__(self, name: str, kind: str, test: DWI, *, seconds: float = 0.0, sha256: str = "") -> Candidate:
        candidate = self._reduce(name, kind, test, seconds=seconds, sha256=sha256)
        self._score_signal(candidate, test)
        self._score_distances(candidate, test)
        for quantity, values in candidate.maps.items():
            self._score_map(candidate, quantity, values.astype(np.float64) - self.reference.maps[quantity])
        angle = angular_error(candidate.direction, self.reference.direction)
        directed = self.reference.maps["fa"] >= DIRECTION_FA
        for region, inside in self.regions.items():
            if (inside := inside & directed).any():
                values = angle[inside]
                found = {"mean_deg": values.mean(), "median_deg": np.median(values)}
                label = f"FA >= {DIRECTION_FA}" if region == "brain" else region
                self._add(candidate, "direction", found, label, len(values))
        return candidate

    def result(self, conditions: dict[str, Any], candidates: Sequence[Candidate], checks) -> Evaluation:
        dwi = self.dwi
        conditions = {
            **conditions,
            "matrix": list(dwi.spatial_shape),
            "voxel size (mm)": [round(float(v), 4) for v in dwi.voxel_sizes],
            "volumes": {name: len(members) for name, members in self.shells.items()},
            "slice axis": AXIS_NAMES[self.axis],
            "region": "given mask" if self.given_mask else "brain mask of the reference",
            "voxels in the region": int(self.mask.sum()),
            "data range": "largest reference value in the region, for each b-value",
            "tensor fit": self.fit,
            "QA scale": "one for all: that of the reference",
            "deep distances": {d.name: d.weights for d in self.distances},
            "seconds": round(time.perf_counter() - self.start, 1),
            "sha256": {c.name: c.sha256 for c in (self.reference, *candidates) if c.sha256},
            "versions": versions(),
        }
        return Evaluation(
            conditions, dwi.affine, self.axis, self.mask, self.reference, tuple(candidates), self.scores, checks
        )

    def _reduce(self, name: str, kind: str, dwi: DWI, **extra) -> Candidate:
        first_weighted = int(np.flatnonzero(~self.dwi.is_b0)[0]) if not self.dwi.is_b0.all() else 0
        images = {"dwi": dwi.signal[..., first_weighted].copy()}
        if self.dwi.is_b0.any():
            images["b0"] = dwi.signal[..., self.dwi.is_b0].mean(-1)
        maps = compute_maps(dwi, MAPS, fit=self.fit, mask=self.mask)
        if kind == "reference":
            self.qa_scale = np.float32(1 / max(float(maps["qa"].max()), 1e-30))
        maps["qa"] *= self.qa_scale
        direction = principal_direction(dwi, self.mask, fit=self.fit)
        return Candidate(name, kind, images, maps, direction, **extra)

    def _score_signal(self, candidate: Candidate, test: DWI) -> None:
        conditions = ("data_range", "voxels", "volumes", "ssim_volumes", "ms_ssim_scales")
        for shell, members in self.shells.items():
            pair = (self.dwi.signal[..., members], test.signal[..., members])
            found = image_scores(*pair, mask=self.mask, slice_axis=self.axis)
            values = {k: v for k, v in found.items() if k not in conditions}
            self._add(candidate, "signal", values, "brain", found["voxels"], shell, found["data_range"])
        spectra = []
        for n in np.flatnonzero(~self.dwi.is_b0):
            residual = test.signal[..., n] - self.dwi.signal[..., n]
            spectra.append(residual_spectrum(residual, mask=self.mask, slice_axis=self.axis)[1])
        if spectra:
            candidate.spectra["dwi"] = np.mean(spectra, axis=0)
        for quantity in ("fa", "qa"):
            residual = candidate.maps[quantity] - self.reference.maps[quantity]
            candidate.spectra[quantity] = residual_spectrum(residual, mask=self.mask, slice_axis=self.axis)[1]

    def _score_distances(self, candidate: Candidate, test: DWI) -> None:
        from ..metrics.deep import sample_slices

        weighted = np.flatnonzero(~self.dwi.is_b0)
        if not self.distances or not len(weighted):
            return
        members = weighted[np.unique(np.linspace(0, len(weighted) - 1, DISTANCE_VOLUMES).round().astype(int))]
        pair = (self.dwi.signal[..., members], test.signal[..., members])
        images, reference, inside = sample_slices(*pair, self.mask, self.axis, slices=DISTANCE_SLICES)
        data_range = float(pair[0][self.mask].max())
        for distance in self.distances:
            found = distance(images, reference, mask=inside, data_range=data_range)
            where = ("brain", inside.sum(), "weighted", found.data_range)
            self._add(candidate, "deep distance", {distance.name: found.value}, *where)

    def _score_map(self, candidate: Candidate, quantity: str, difference: NDArray) -> None:
        for region, inside in self.regions.items():
            if not inside.any():
                continue
            error = difference[inside]
            bias, spread = error.mean(), error.std(ddof=1) if len(error) > 1 else 0.0
            found = {
                "mae": np.abs(error).mean(),
                "rmse": np.sqrt((error**2).mean()),
                "bias": bias,
                "loa_lower": bias - 1.96 * spread,
                "loa_upper": bias + 1.96 * spread,
            }
            pair = (self.reference.maps[quantity][inside], candidate.maps[quantity][inside])
            if min(np.ptp(p) for p in pair) > 0:
                found["correlation"] = np.corrcoef(*pair)[0, 1]
            self._add(candidate, quantity, found, region, len(error))

    def _add(self, candidate, quantity, values, region, voxels, volumes="", data_range=math.nan) -> None:
        shared = {"region": region, "volumes": volumes, "voxels": int(voxels), "data_range": float(data_range)}
        for metric, value in values.items():
            row = {"method": candidate.name, "kind": candidate.kind, "quantity": quantity, "metric": metric}
            self.scores.append({**row, "value": float(value), **shared})


def _deep_distances(names: Sequence[str] | None, side: int) -> list:
    if names is not None and not names:
        return []  # spare the caller torchvision
    from ..metrics.deep import SMALLEST, DeepDistance, available_distances

    if names is None:
        names = available_distances() if side >= SMALLEST else ()
    return [DeepDistance(name) for name in names]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.8g}" if math.isfinite(value) else "n/a"
    return str(value) if value != "" else "n/a"


def _unique(name: str, taken: Sequence[str]) -> str:
    return next(n for n in (name, *(f"{name} ({i})" for i in range(2, len(taken) + 3))) if n not in taken)
