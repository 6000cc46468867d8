"""Degrade and compare: every classical interpolation and every chosen checkpoint against the scan they came from.

Scores are tidy rows, one value each, that name the method, the quantity, the region, the volumes, how many voxels and
which data range they rest on. Signals are measured and dropped; what the report shows (maps, two images, spectra)
stays.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..dwi import DWI, AnyScan, Volume
from ..errors import Cancelled, InputError
from ..inference.native import at_native
from ..inference.options import InferenceOptions
from ..metrics import residual_spectrum
from ..provenance import signal_hash, versions
from ..resampling.degradation import degrade
from ..resampling.grid import AXIS_NAMES, in_plane_axes, slice_axis
from ..resampling.scale import Scale, ScaleLike
from ..resampling.upsamplers import interpolate, quick_upsamplers
from . import scorer as scoring
from .compare import Comparison
from .reliability import Reliability, measure_reliability
from .scorer import Scorer, Scores, find_value, volume_groups
from .selfchecks import Check, native_checks, noise_level, self_checks

if TYPE_CHECKING:
    from ..metrics.deep import DeepDistance

MAPS = ("fa", "md", "qa", "gfa")
"""Maps that are scored and that the report shows."""
COLUMNS = ("method", "kind", *scoring.COLUMNS)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One scan on the reference's grid (the reference itself included), reduced to what the report shows.

    Attributes
    ----------
    name : str
    kind : {"reference", "interpolation", "checkpoint", "scan"}
    images : dict of array (X, Y, Z)
        "b0" (mean of the b0 volumes, where there are any) and "dwi" (one weighted volume), scanner units; of a
        structural image "image".
    maps : dict of array (X, Y, Z)
        Empty for a structural image.
    direction : array, shape (X, Y, Z, 3)
        Principal diffusion direction, RAS; empty for a structural image.
    spectra : dict of array (bins,)
        Power of the residual "dwi", "fa" and "qa", or "image", over frequency.
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
    regions : dict of array of bool (X, Y, Z)
        By name, see `regions.REGIONS`.
    qa_scale : float
        Factor that maps of QA and ISO were multiplied with: the reference's largest QA becomes 1.
    reference : Candidate
    candidates : tuple of Candidate
    scores : list of dict
        Rows with the keys `COLUMNS`.
    checks : dict of list of Check
        Self-checks of the reference that was degraded and of every checkpoint's result, by candidate.
    reliability : dict of Reliability
        Errors beside the uncertainty, by checkpoint; with `ensemble` only.
    """

    conditions: dict[str, Any]
    affine: NDArray[np.float64]
    slice_axis: int
    regions: dict[str, NDArray[np.bool_]]
    qa_scale: float
    reference: Candidate
    candidates: tuple[Candidate, ...]
    scores: list[dict[str, Any]]
    checks: dict[str, list[Check]] = field(default_factory=dict)
    reliability: dict[str, Reliability] = field(default_factory=dict)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(X, Y, Z) what was measured."""
        return self.regions["brain"]

    def score(self, method: str, quantity: str, metric: str, *, region: str = "brain", volumes: str = "") -> float:
        """The value of one row; NaN where it was not measured."""
        wanted = {"quantity": quantity, "metric": metric, "region": region, "volumes": volumes}
        return find_value(self.scores, method=method, **wanted)

    def comparison(self, maps: Sequence[str]) -> Comparison:
        """Maps of the first candidate beside the reference's, as `compare` returns them: nothing is fitted again."""
        test = self.candidates[0]
        rows = [row for row in self.scores if row["method"] == test.name]
        return Comparison.of(
            maps, self.reference.maps, test.maps, rows, self.regions, affine=self.affine, qa_scale=self.qa_scale
        )

    @property
    def structural(self) -> bool:
        """Whether it is of a structural image, which has no maps."""
        return not self.reference.maps

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
        page["reliability"] = {name: asdict(found) for name, found in self.reliability.items()}
        return json.dumps(page, indent=1, ensure_ascii=False) + "\n"


def evaluate(
    scan: AnyScan,
    scale: ScaleLike,
    checkpoints: Sequence[str | Path] = ("default",),
    *,
    methods: Sequence[str] | None = None,
    model: str = "kspace",
    snr: float | None = None,
    seed: int = 0,
    guide: Volume | None = None,
    unchecked_guide: bool = False,
    mask: NDArray[np.bool_] | None = None,
    fit: str = "wls",
    distances: Sequence[str] | None = None,
    progress: Callable[[float, str], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    keep: Callable[[str, AnyScan], None] | None = None,
    **options: Any,
) -> Evaluation:
    """Degrade a scan, super-resolve it with every method, and measure how close each comes to the original.

    Parameters
    ----------
    scan : DWI or Volume
        The reference; of a Volume only the signal is measured.
    scale : Scale, number, str or three numbers
        How much coarser: 2 (in-plane), "2.5", "1x1x3", see `Scale.parse`. Every result is on the original's grid,
        whatever its matrix.
    checkpoints : sequence of str or path
        Shipped names or files; may be empty.
    methods : sequence of str, optional
        Classical upsamplers, of `resampling.upsamplers.UPSAMPLERS`; by default all but the iterative ones.
    model, snr, seed
        Of the degradation, see `degradation.degrade`.
    guide, unchecked_guide
        For the guided ones among the checkpoints, see `inference.predict.super_resolve`.
    mask : array of bool, shape (X, Y, Z), optional
        Region that is measured; `microstructure.brain_mask` of the reference by default.
    fit : {"wls", "ols", "iwls"}
        Tensor fit.
    distances : sequence of str, optional
        Deep feature distances, see `metrics.deep.DISTANCES`; by default all that `metrics.deep.available_distances`
        names, or none where a slice is smaller than they take. On a few slices of a few weighted volumes; the
        conditions say with which weights.
    progress : callable (fraction, message), optional
    cancel : callable () -> bool, optional
    keep : callable (kind, scan), optional
        Is handed each scan on the reference's grid before it is dropped, with its kind ("interpolation", "checkpoint").
    **options
        Fields of `inference.options.InferenceOptions`; `axis` also of the degradation. With `native` the reference is
        taken down to the matrix that it holds first: a detail that it lacks is no reference.

    Raises
    ------
    InputError
        If no method or checkpoint is given, or one cannot be used, or a guide is given and none is guided.
    Cancelled
        If `cancel` returned True.

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> scan = phantom((32, 36, 3), (5, 5, 30), supersampling=1)
    >>> result = evaluate(scan, 2, checkpoints=(), methods=("nearest", "sinc"), distances=())
    >>> result.score("sinc", "fa", "mae") < result.score("nearest", "fa", "mae")
    True
    """
    methods = quick_upsamplers() if methods is None else methods
    scan, inference, mask = at_native(scan, InferenceOptions(**options), mask)
    dwi = scan.series
    axis = slice_axis(dwi, inference.axis)
    asked = Scale.parse(scale, dwi, axis, coarser=True)
    if max(asked.factors) == 1 or not (methods or checkpoints):
        raise InputError("There is nothing to evaluate; give a scale above 1 and at least one method or checkpoint.")
    # Torch and the networks load only where something is super-resolved.
    from ..checkpoints import load_checkpoint
    from ..inference.predict import super_resolve, super_resolve_with_uncertainty

    _check_guides(checkpoints, guide, None if unchecked_guide else dwi)
    scorer = _scorer(scan, mask, axis, fit, distances)
    low = degrade(dwi, asked, model=model, axis=axis, snr=snr, seed=seed)
    # Whole voxels move the factor a little; this one leads back onto the original's grid.
    back = Scale.between(low.spatial_shape, dwi.spatial_shape)
    started = time.perf_counter()
    total = len(methods) + len(checkpoints)
    found: list[tuple[Candidate, list[dict[str, Any]]]] = []
    checks = {scorer.name: native_checks(dwi)}
    reliability: dict[str, Reliability] = {}
    trained_on: dict[str, str] = {}

    def report(part: float, message: str) -> None:
        if cancel and cancel():
            raise Cancelled("The evaluation was cancelled.")
        if progress:
            progress((len(found) + part) / total, message)

    def measured(name: str, kind: str, up: DWI, start: float, sha256: str = "") -> None:
        seconds = time.perf_counter() - start
        report(0.5, f"Measuring {name}")
        if keep is not None:
            keep(kind, scan.like(up))
        found.append(_candidate(scorer, name, kind, up, seconds=seconds, sha256=sha256))

    for method in methods:
        report(0, f"Interpolating: {method}")
        start = time.perf_counter()
        measured(method, "interpolation", interpolate(low, back, method=method, axis=axis, cancel=cancel), start)
    for source in checkpoints:
        checkpoint = load_checkpoint(source)
        label = _unique(checkpoint.card.name, [candidate.name for candidate, _ in found])
        start = time.perf_counter()
        how: dict[str, Any] = {
            "guide": guide if checkpoint.card.guided else None, "unchecked_guide": True,
            "progress": lambda part, message: report(part / 2, message), "cancel": cancel, **asdict(inference),
            "axis": axis,
        }  # fmt: skip
        if inference.ensemble:
            up, spread = super_resolve_with_uncertainty(low, checkpoint, back, **how)
            noise = noise_level(dwi, scorer.mask)
            if measured_as := measure_reliability(dwi, up, spread, scorer.mask, noise, low.spatial_shape):
                reliability[label] = measured_as
        else:
            up = super_resolve(low, checkpoint, back, **how)
        measured(label, "checkpoint", up, start, checkpoint.card.sha256)
        checks[label] = self_checks(low, up, checkpoint.card, axis=axis)
        scans = checkpoint.card.training.get("scans")  # free-form
        trained_on[label] = ", ".join(map(str, scans)) if isinstance(scans, list) else "not known"
    conditions: dict[str, Any] = {
        "task": "degrade and compare",
        "scale": str(scale),
        "degradation": {"model": model, "snr": snr, "seed": seed, "low-resolution matrix": list(low.spatial_shape)},
        "factors along the voxel axes": str(asked),
        "reference at native resolution": bool(options.get("native")),
    }
    if checkpoints:
        conditions |= {name: value for name, value in asdict(inference).items() if name not in ("axis", "native")}
        conditions["trained on"] = trained_on
    if guide is not None:
        conditions["guide, sha256"] = signal_hash(guide.series)
    conditions["region"] = "brain mask of the reference" if mask is None else "given mask"
    conditions["seconds"] = round(time.perf_counter() - started, 1)
    return replace(_evaluation(scorer, conditions, found, checks), reliability=reliability)


def _check_guides(checkpoints: Sequence[str | Path], guide: Volume | None, lies_on: DWI | None) -> None:
    """InputError unless the guided among the checkpoints have a guide, others none; and it `lies_on` a scan, if any.

    Of the scan as it is: at low resolution its anatomy tells the place less well.
    """
    from ..checkpoints import read_card
    from ..inference.guides import check_place
    from ..inference.predict import check_guide

    cards = [read_card(source) for source in checkpoints]
    if guide is not None and not cards:
        raise InputError("A guide serves checkpoints alone, and none is evaluated; leave it out, or name a guided one.")
    for card in [card for card in cards if card.guided] or cards:
        check_guide(card.name, card.guided, guide is not None)
    if guide is not None and lies_on is not None:
        check_place(guide, lies_on)


def assess(
    reference: DWI,
    test: DWI,
    *,
    names: tuple[str, str] = ("reference", "test"),
    maps: Collection[str] = (),
    mask: NDArray[np.bool_] | None = None,
    axis: int | str | None = None,
    fit: str = "wls",
    distances: Sequence[str] | None = None,
) -> Evaluation:
    """Measure one given scan against another on the same grid with the same gradient table.

    `maps` are scored besides those that the report shows (`MAPS`).

    Raises
    ------
    InputError
        If grids or gradient tables differ.
    """
    started = time.perf_counter()
    scorer = _scorer(reference, mask, axis, fit, distances, name=names[0], maps=maps)
    found = [_candidate(scorer, names[1], "scan", test, sha256=signal_hash(test))]
    conditions = {
        "task": "compare",
        "region": "brain mask of the reference" if mask is None else "given mask",
        "seconds": round(time.perf_counter() - started, 1),
    }
    return _evaluation(scorer, conditions, found, {})


def _scorer(
    scan: AnyScan,
    mask: NDArray[np.bool_] | None,
    axis: int | str | None,
    fit: str,
    distances: Sequence[str] | None,
    *,
    name: str = "reference",
    maps: Collection[str] = (),
) -> Scorer:
    """One that measures all that the report shows, and `maps` besides; of a structural image the signal."""
    reference, weighted = scan.series, isinstance(scan, DWI)
    axis = slice_axis(reference, axis)
    return Scorer(
        reference, mask, maps=(*MAPS, *maps) if weighted else (), direction=weighted, axis=axis, fit=fit,
        groups=volume_groups(reference) if weighted else {"image": np.arange(1)}, name=name,
        distances=_deep_distances(distances, min(reference.spatial_shape[a] for a in in_plane_axes(axis))),
    )  # fmt: skip


def _candidate(scorer: Scorer, name: str, kind: str, test: DWI, **facts: Any) -> tuple[Candidate, list[dict[str, Any]]]:
    """A scan, measured and reduced to what the report shows, and its rows."""
    scores = scorer(test, name)
    candidate = Candidate(
        name,
        kind,
        _images(scorer, test),
        scores.maps,
        _known(scores.direction),
        _spectra(scorer, test, scores),
        **facts,
    )
    return candidate, [{"method": name, "kind": kind, **row} for row in scores.rows]


def _known(direction: NDArray | None) -> NDArray:
    return np.empty((0, 3)) if direction is None else direction


def _images(scorer: Scorer, dwi: DWI) -> dict[str, NDArray]:
    if not scorer.maps:
        return {"image": dwi.signal[..., 0].copy()}
    is_b0 = scorer.reference.is_b0
    images = {"dwi": dwi.signal[..., int(np.argmin(is_b0))].copy()}  # the first weighted one
    return images | ({"b0": dwi.mean_b0()} if is_b0.any() else {})


def _spectra(scorer: Scorer, test: DWI, scores: Scores) -> dict[str, NDArray]:
    """Power of the residuals, by frequency."""

    def spectrum(residual: NDArray) -> NDArray:
        return residual_spectrum(residual, mask=scorer.mask, slice_axis=scorer.axis)[1]

    def of_volume(n: int) -> NDArray:
        return spectrum(test.signal[..., n] - reference.signal[..., n])

    reference = scorer.reference
    spectra = {}
    shown = np.flatnonzero(~reference.is_b0) if scorer.maps else np.arange(1)
    if len(shown):
        of_volumes = scoring.concurrently([partial(of_volume, n) for n in shown.tolist()])
        spectra["dwi" if scorer.maps else "image"] = np.mean(of_volumes, axis=0)
    return spectra | {quantity: spectrum(scores.difference[quantity]) for quantity in ("fa", "qa") if scorer.maps}


def _evaluation(
    scorer: Scorer,
    conditions: dict[str, Any],
    found: Sequence[tuple[Candidate, list[dict[str, Any]]]],
    checks: dict[str, list[Check]],
) -> Evaluation:
    dwi = scorer.reference
    images = _images(scorer, dwi)
    reference = Candidate(
        scorer.name, "reference", images, scorer.fitted, _known(scorer.fitted_direction), sha256=signal_hash(dwi)
    )
    candidates = tuple(candidate for candidate, _ in found)
    conditions = {
        **conditions,
        "matrix": list(dwi.spatial_shape),
        "voxel size (mm)": [round(float(v), 4) for v in dwi.voxel_sizes],
        "volumes": {name: len(members) for name, members in scorer.groups.items()},
        "slice axis": AXIS_NAMES[scorer.axis],
        "voxels in the region": int(scorer.mask.sum()),
        "data range": "largest reference value in the region, for each b-value",
        **({"tensor fit": scorer.fit, "QA scale": "one for all: that of the reference"} if scorer.maps else {}),
        "deep distances": {d.name: d.weights for d in scorer.distances},
        "sha256": {c.name: c.sha256 for c in (reference, *candidates) if c.sha256},
        "versions": versions(),
    }
    return Evaluation(
        conditions, dwi.affine, scorer.axis, scorer.regions, scorer.qa_scale, reference, candidates,
        [row for _, rows in found for row in rows], checks,
    )  # fmt: skip


def _deep_distances(names: Sequence[str] | None, side: int) -> tuple[DeepDistance, ...]:
    if names is not None and not names:
        return ()  # spare the caller torchvision
    from ..metrics.deep import SMALLEST, DeepDistance, available_distances

    if names is None:
        names = available_distances() if side >= SMALLEST else ()
    return tuple(DeepDistance(name) for name in names)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.8g}" if math.isfinite(value) else "n/a"
    return str(value) if value != "" else "n/a"


def _unique(name: str, taken: Sequence[str]) -> str:
    return next(n for n in (name, *(f"{name} ({i})" for i in range(2, len(taken) + 3))) if n not in taken)
