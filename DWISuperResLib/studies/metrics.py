"""Which metric foretells what users care about: the errors of FA, QA and fibre direction?

Real scans are degraded and restored in many ways; every metric and every error is measured on each version, and
Spearman's coefficient tells how well the metric orders the versions of a scan as the error does. With a table of
reader scores, the same for these, beside the readers' agreement among themselves (Adamson et al. 2023,
https://openreview.net/forum?id=AUiZyqYiGb).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dwi import DWI
from ..errors import InputError
from ..evaluation.regions import DIRECTED
from ..evaluation.scorer import Scorer
from ..io import write_dwi, write_text
from ..io.cohort import find_scans
from ..metrics import METRICS, metrics_of
from ..metrics.grid_artefacts import grid_artefact_index
from ..metrics.rank import RankCorrelation, rank_correlation, reader_agreement
from ..resampling.degradation import degrade
from ..resampling.grid import in_plane_axes
from ..resampling.upsamplers import quick_upsamplers
from .base import (
    STUDIES,
    Cancel,
    Progress,
    Row,
    Study,
    StudyOptions,
    option,
    remember,
    stop_if_cancelled,
    write_page,
    write_table,
)
from .metric_page import conclusions, page_sections
from .scoring import MAPS, WEIGHTED, Case, add_noise, open_case, restore

if TYPE_CHECKING:
    from ..metrics.deep import DeepDistance

TARGETS = {
    "FA error": ("fa", "mae", "brain"),
    "QA error": ("qa", "mae", "brain"),
    "direction error": ("direction", "mean_deg", DIRECTED),
}
"""Quantity, metric and region of each error that metrics are to foretell."""
READERS = "reader score"
DISTANCE_SLICES = 99
"""Deep distances see every slice of a case."""

Version = Callable[[Case], DWI]


@dataclass(frozen=True, kw_only=True)
class MetricOptions(StudyOptions):
    """Options of the metric study.

    Attributes
    ----------
    scales : sequence of int
        In-plane factors.
    snr : sequence of float
        Noise levels: Rician noise at this SNR of the foreground's b0.
    checkpoints : sequence of str, optional
        Networks whose results are among the versions; by default every shipped one for super-resolution.
    distances : sequence of str, optional
        Of `metrics.deep.DISTANCES`; by default `available_distances()`.
    weights : mapping of str to str
        Distance to the file of its weights, or "untrained".
    download : bool
        Fetch trained weights that are not at hand.
    readers : path, optional
        CSV with the columns scan, version, reader, score (higher is better); scans and versions named as in
        scores.tsv. May be given or changed when the study is run again.
    slices : int
        Adjacent slices of each scan, where the brain is largest.
    keep_images : bool
        Also write every version as NIfTI to `images`, for readers.
    """

    scales: Sequence[int] = option((2, 3), "in-plane factors")
    snr: Sequence[float] = option((20.0, 10.0), "noise levels")
    checkpoints: Sequence[str] | None = option(None, "networks (default: all that ship)", fixed=False)
    distances: Sequence[str] | None = option(None, "deep distances (default: all at hand)", fixed=False)
    weights: Mapping[str, str] = option(dict, "weights of a distance, or NAME=untrained", fixed=False)
    download: bool = option(False, "fetch trained weights that are not at hand", fixed=False)
    readers: str | None = option(None, "scores of human readers: scan, version, reader, score", fixed=False)
    slices: int = option(6, "slices of each scan")
    keep_images: bool = option(False, "write every version, for readers", fixed=False)


def run_metric_study(options: MetricOptions, *, progress: Progress | None = None, cancel: Cancel | None = None) -> Path:
    """Run the study, or go on with it.

    Returns
    -------
    Path of report.html; correlations.tsv and .json, and scores.tsv with every measurement, stand beside it. All are
    rewritten after every scan.

    Raises
    ------
    InputError
        If an option has no such value, the output holds another study, or the reader scores fit no version.
    """
    from ..metrics.deep import DeepDistance, available_distances

    files = find_scans(options.data)
    checkpoints = _super_resolving() if options.checkpoints is None else list(options.checkpoints)
    versions = plan_versions(options.scales, options.snr, checkpoints, options.seed)
    loaded = {
        name: DeepDistance(name, weights=options.weights.get(name), seed=options.seed, download=options.download)
        for name in options.distances or available_distances()
    }
    asked = {
        "scans": [str(path) for path in files],
        **options.asked(),
        "checkpoints": checkpoints,
        "distances": {name: distance.weights for name, distance in loaded.items()},
    }
    output = options.output
    output.mkdir(parents=True, exist_ok=True)
    remember(output, asked, dict)
    rows: list[Row] = []
    for number, (scan, path) in enumerate(_scan_names(files).items()):
        case = replace(open_case(path, options.slices), name=scan)
        if not case.maps:
            raise InputError(f"{path} has no gradients for maps, whose errors metrics are to foretell; leave it out.")

        def report(done: int, name: str, number: int = number, scan: str = scan) -> None:
            stop_if_cancelled(cancel)
            if progress is not None:
                progress((number + done / len(versions)) / len(files), f"{scan}: {name}")

        rows += _measured(case, versions, list(loaded.values()), output, options.keep_images, report)
        table = correlate(rows, options.seed)
        if options.readers is not None and number == len(files) - 1:
            table += correlate_readers(rows, read_readers(options.readers, rows), options.seed)
        for row in table:
            row["weights"] = loaded[row["metric"]].weights if row["metric"] in loaded else ""
        _publish(output, rows, table, {**asked, "versions": ", ".join(versions)})
    return output / "report.html"


STUDIES.register("metrics")(
    Study("rank image metrics by how well they follow the error of FA and QA", MetricOptions, run_metric_study)
)


def _super_resolving() -> list[str]:
    from ..checkpoints import read_card, shipped_checkpoints

    return [name for name in shipped_checkpoints() if read_card(name).task == "super-resolution"]


def _measured(
    case: Case,
    versions: Mapping[str, Version],
    distances: Sequence[DeepDistance],
    output: Path,
    keep_images: bool,
    report: Callable[[int, str], None],
) -> list[Row]:
    """Every version of a case, measured or, where an earlier run did, read."""
    folder = output / "runs" / case.name
    folder.mkdir(parents=True, exist_ok=True)
    scorer: Scorer | None = None
    rows = []
    for done, (name, make) in enumerate(versions.items()):
        report(done, name)
        stored = folder / f"{_file_name(name)}.json"
        image = output / "images" / case.name / f"{_file_name(name)}.nii.gz"
        if not stored.is_file() or (keep_images and not image.is_file()):
            test = make(case)
            if keep_images:
                image.parent.mkdir(parents=True, exist_ok=True)
                write_dwi(test, image, overwrite=True)
            scorer = scorer or _scorer(case, distances)
            row = {"scan": case.name, "version": name, **_row(scorer, test)}
            write_text(stored, json.dumps(row) + "\n")
        rows.append(json.loads(stored.read_text(encoding="utf-8")))
    return rows


def _scorer(case: Case, distances: Sequence[DeepDistance]) -> Scorer:
    return Scorer(
        case.dwi,
        case.mask,
        maps=MAPS,
        groups={WEIGHTED: np.flatnonzero(~case.dwi.is_b0)},
        regions=("brain", DIRECTED),
        direction=True,
        distances=distances,
        distance_slices=DISTANCE_SLICES,
        axis=case.axis,
    )


def _row(scorer: Scorer, test: DWI) -> Row:
    """Metrics of the weighted signal, deep distances, and the errors they are to foretell."""
    scores = scorer(test)
    row: Row = {m.label: scores.value("signal", m.name, volumes=WEIGHTED) for m in metrics_of("signal", headline=True)}
    weighted = ~scorer.reference.is_b0
    residual = test.signal[..., weighted] - scorer.reference.signal[..., weighted]
    residual = np.moveaxis(residual, (3, scorer.axis), (0, 1))
    inside = np.tile(np.moveaxis(scorer.mask, scorer.axis, 0), (len(residual), 1, 1))
    row["grid excess"] = grid_artefact_index(residual.reshape(-1, *residual.shape[2:]), inside).total_db
    row |= {d.name: scores.value("deep distance", d.name, volumes="weighted") for d in scorer.distances}
    targets = TARGETS.items()
    return row | {name: scores.value(what, metric, region=region) for name, (what, metric, region) in targets}


def plan_versions(
    scales: Sequence[int], snr: Sequence[float], checkpoints: Sequence[str], seed: int
) -> dict[str, Version]:
    """Every way in which a scan is degraded and restored, by name.

    All interpolations and networks after k-space truncation, and with noise before it; other blurs; and on the full
    grid noise, blur, a grid of two periods, and a gain that no map but QA depends on.
    """
    from ..checkpoints import read_card

    versions: dict[str, Version] = {}
    for scale in scales:
        served = {c: read_card(c).name for c in checkpoints if scale in read_card(c).scales}
        for level in (None, *snr):
            suffix = "" if level is None else f" SNR {level:g}"
            for method in quick_upsamplers() if level is None else ("linear", "sinc"):
                versions[f"x{scale} {method}{suffix}"] = _restored(scale, "kspace", level, seed, method=method)
            for checkpoint, name in served.items():
                versions[f"x{scale} {name}{suffix}"] = _restored(scale, "kspace", level, seed, checkpoint=checkpoint)
        for model in ("gaussian", "paper"):
            versions[f"x{scale} {model} cubic"] = _restored(scale, model, None, seed, method="cubic")
    for level in snr:
        versions[f"SNR {level:g}"] = lambda case, level=level: add_noise(case.dwi, level, seed)  # type: ignore[misc]
    for width in (1.5, 2.5):
        versions[f"blur {width:g} px"] = lambda case, width=width: _blurred(case, width)  # type: ignore[misc]
    for period in (2, 4):
        versions[f"grid {period} px"] = lambda case, period=period: _gridded(case, period, 0.05, seed)  # type: ignore[misc]
    versions["gain 1.05"] = lambda case: replace(case.dwi, signal=case.dwi.signal * np.float32(1.05))
    return versions


def correlate(rows: Sequence[Row], seed: int = 0) -> list[Row]:
    """Every metric with every error: Spearman coefficient over versions, within scans, averaged over scans.

    Metrics where higher is better enter with the opposite sign, so 1 always means that the metric orders versions as
    the error does.
    """
    scans = list(dict.fromkeys(row["scan"] for row in rows))
    by_scan = {scan: [row for row in rows if row["scan"] == scan] for scan in scans}
    table = []
    for target in TARGETS:
        errors = np.array([[row[target] for row in by_scan[scan]] for scan in scans])
        for metric in _metrics(rows):
            values = np.array([[_oriented(row, metric) for row in by_scan[scan]] for scan in scans])
            # A scan too small for a metric, or with too few directions for a map, has none of its versions measured.
            known = np.isfinite(values).all(1) & np.isfinite(errors).all(1)
            if known.any():
                found = rank_correlation(values[known], errors[known], seed=seed)
                table.append(_as_row(target, metric, found, errors.shape[1]))
    return table


def correlate_readers(
    rows: Sequence[Row], scores: Mapping[str, Mapping[tuple[str, str], float]], seed: int
) -> list[Row]:
    """Every metric with the mean of the readers over all images, and the readers' agreement.

    Parameters
    ----------
    rows : sequence of dict
    scores : mapping of reader to mapping of (scan, version) to score
    seed : int
    """
    images = sorted({key for given in scores.values() for key in given})
    matrix = np.array([[given.get(key, np.nan) for key in images] for given in scores.values()])
    by_key = {(row["scan"], row["version"]): row for row in rows}
    worse = -np.nanmean(matrix, axis=0)
    table = []
    for metric in _metrics(rows):
        values = np.array([_oriented(by_key[key], metric) for key in images])
        if (known := np.isfinite(values)).sum() >= 3:
            table.append(
                _as_row(READERS, metric, rank_correlation(values[known], worse[known], seed=seed), int(known.sum()))
            )
    left_out, pairwise = reader_agreement(matrix)
    for name, rho in (("readers: each with the others' mean", left_out), ("readers: pairs", pairwise)):
        table.append({"target": READERS, "metric": name, "rho": rho, "versions": len(images)})
    return table


def read_readers(path: str | Path, rows: Sequence[Row]) -> dict[str, dict[tuple[str, str], float]]:
    """Reader to (scan, version) to score, from a CSV.

    Raises
    ------
    InputError
        If the file cannot be read, a column is missing, a score is no number, or an image is not in the study.
    """
    known = {(row["scan"], row["version"]) for row in rows}
    scores: dict[str, dict[tuple[str, str], float]] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for line, entry in enumerate(csv.DictReader(file), 2):
                key = (entry["scan"], entry["version"])
                if key not in known:
                    raise InputError(f"Line {line} of {path} names {key}, which is not in the study; see scores.tsv.")
                scores.setdefault(entry["reader"], {})[key] = float(entry["score"])
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"The reader scores {path} cannot be used ({error!r}); expected CSV with the columns scan, version, reader "
            "and score."
        ) from error
    if not scores:
        raise InputError(f"{path} holds no scores; expected one line for each image and reader.")
    return scores


def _scan_names(files: Sequence[Path]) -> dict[str, Path]:
    """File names without suffix; with their folder's where two are alike."""
    names = [path.name.split(".")[0] for path in files]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}-{name}" for path, name in zip(files, names, strict=True)]
    if len(set(names)) < len(names):
        raise InputError(f"Several scans are called {max(names, key=names.count)!r}; rename files or their folders.")
    return dict(zip(names, files, strict=True))


def _publish(output: Path, rows: Sequence[Row], table: Sequence[Row], facts: Mapping[str, Any]) -> None:
    write_table(rows, output / "scores.tsv")
    write_table(table, output / "correlations.tsv")
    finite = [{k: v if v == v else None for k, v in row.items()} for row in table]  # JSON has no NaN
    text = json.dumps({"asked": facts, "correlations": finite}, indent=1)
    write_text(output / "correlations.json", text + "\n")
    title, sections = "Which metric foretells microstructure errors?", page_sections(rows, table)
    write_page(output / "report.html", title, conclusions(table), sections, table, facts)


def _restored(
    scale: int, model: str, snr: float | None, seed: int, *, method: str = "sinc", checkpoint: str | None = None
) -> Version:
    def make(case: Case) -> DWI:
        low = degrade(add_noise(case.dwi, snr, seed), scale, model=model, axis=case.axis)
        return restore(case, low, method=method, checkpoint=checkpoint)

    return make


def _blurred(case: Case, width: float) -> DWI:
    widths = [0.0 if a == case.axis else width * float(size) for a, size in enumerate(case.dwi.voxel_sizes)]
    return degrade(case.dwi, 1, model="gaussian", axis=case.axis, fwhm=widths)


def _gridded(case: Case, period: int, amplitude: float, seed: int) -> DWI:
    """Modulate the signal along both in-plane axes, each volume with its own phase: a common one leaves maps as are."""
    signal, rng = case.dwi.signal, np.random.default_rng(seed)
    for axis in in_plane_axes(case.axis):
        places = np.arange(signal.shape[axis]).reshape([-1 if a == axis else 1 for a in range(4)])
        phases = rng.uniform(0, 2 * np.pi, signal.shape[3])
        signal = signal * (1 + amplitude * np.cos(2 * np.pi * places / period + phases)).astype(np.float32)
    return replace(case.dwi, signal=signal)


def _metrics(rows: Sequence[Row]) -> list[str]:
    return [name for name in rows[0] if name not in ("scan", "version", *TARGETS)]


def _oriented(row: Row, metric: str) -> float:
    """Less is better: metrics of which more is better change their sign."""
    turned = {m.label for m in METRICS.values() if m.higher_is_better}
    return -row[metric] if metric in turned else row[metric]


def _as_row(target: str, metric: str, found: RankCorrelation, versions: int) -> Row:
    return {
        "target": target,
        "metric": metric,
        "rho": found.rho,
        "low": found.low,
        "high": found.high,
        "lowest scan": float(found.by_group.min()),
        "highest scan": float(found.by_group.max()),
        "scans": len(found.by_group),
        "versions": versions,
    }


def _file_name(version: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in version)
