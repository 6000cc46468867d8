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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..dwi import DWI
from ..errors import Cancelled, InputError
from ..evaluation.compare import compare
from ..io import write_dwi
from ..metrics import image_scores
from ..metrics.deep import DeepDistance, available_distances, sample_slices
from ..metrics.grid_artefacts import grid_artefact_index
from ..metrics.rank import rank_correlation, reader_agreement
from ..microstructure import angular_error, compute_maps, principal_direction
from ..resampling.degradation import degrade
from ..resampling.grid import crop, in_plane_axes
from ..resampling.upsamplers import UPSAMPLERS, interpolate
from .base import Progress, Row, remember, write_page, write_table
from .metric_page import conclusions, page_sections
from .scoring import Case, add_noise, open_case

TARGETS = ("FA error", "QA error", "direction error")
"""Mean absolute errors in the brain; of the direction in degrees where the reference's FA is at least 0.2."""
READERS = "reader score"
HIGHER_IS_BETTER = ("PSNR", "SSIM", "MS-SSIM")
IMAGE_METRICS = (*HIGHER_IS_BETTER, "NRMSE", "grid excess")
DEEP_VOLUMES = 3
"""Weighted volumes, evenly spread, whose slices the deep distances see."""

Version = Callable[[Case], DWI]


def run_metric_study(
    data: Sequence[str],
    output: str | Path,
    *,
    scales: Sequence[int] = (2, 3),
    snr: Sequence[float] = (20.0, 10.0),
    checkpoints: Sequence[str] | None = None,
    distances: Sequence[str] | None = None,
    weights: Mapping[str, str] | None = None,
    download: bool = False,
    readers: str | Path | None = None,
    slices: int = 6,
    seed: int = 42,
    keep_images: bool = False,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Path:
    """Run the study, or go on with it.

    Parameters
    ----------
    data : sequence of str
        DWI files, folders searched for them, or patterns.
    output : path
        Study folder; created.
    scales : sequence of int
        In-plane factors.
    snr : sequence of float
        Noise levels: Rician noise so that the b0 of the foreground has this SNR.
    checkpoints : sequence of str, optional
        Networks whose results are among the versions; by default every shipped one for super-resolution.
    distances : sequence of str, optional
        Of `metrics.deep.DISTANCES`; by default `available_distances()`.
    weights : mapping of str to str, optional
        Distance to the file of its weights, or "untrained".
    download : bool
        Fetch trained weights that are not at hand.
    readers : path, optional
        CSV with the columns scan, version, reader, score (higher is better); scans and versions named as in
        scores.tsv. May be given or changed when the study is run again.
    slices : int
        Adjacent slices of each scan, where the brain is largest.
    seed : int
        Of noise, untrained weights and the bootstrap.
    keep_images : bool
        Also write every version as NIfTI to `images`, for readers.
    progress, cancel
        As for `engine.super_resolve`.

    Returns
    -------
    Path of report.html; correlations.tsv and .json, and scores.tsv with every measurement, stand beside it. All are
    rewritten after every scan.

    Raises
    ------
    InputError
        If an option has no such value, `output` holds another study, or the reader scores fit no version.
    """
    from ..checkpoints import read_card, shipped_checkpoints
    from ..training.cache import find_scans

    files = find_scans(list(data))
    if checkpoints is None:
        checkpoints = [c for c in shipped_checkpoints() if read_card(c).task == "super-resolution"]
    versions = plan_versions(scales, snr, checkpoints, seed)
    chosen, given = list(distances or available_distances()), dict(weights or {})
    loaded = {name: DeepDistance(name, weights=given.get(name), seed=seed, download=download) for name in chosen}
    asked = {
        "scans": [str(path) for path in files],
        "scales": list(scales),
        "snr": list(snr),
        "checkpoints": list(checkpoints),
        "distances": {name: compared.weights for name, compared in loaded.items()},
        "slices": slices,
        "seed": seed,
    }
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    remember(output, asked, dict)
    rows: list[Row] = []
    for number, (scan, path) in enumerate(_scan_names(files).items()):
        case = replace(open_case(path, slices), name=scan)
        folder = output / "runs" / case.name
        folder.mkdir(parents=True, exist_ok=True)
        measure = _Measurement(case, loaded)
        for position, (name, make) in enumerate(versions.items()):
            if cancel is not None and cancel():
                raise Cancelled("Cancelled; the study goes on from here when started again.")
            if progress is not None:
                progress((number + position / len(versions)) / len(files), f"{case.name}: {name}")
            stored = folder / f"{_file_name(name)}.json"
            image = output / "images" / case.name / f"{_file_name(name)}.nii.gz"
            if not stored.is_file() or (keep_images and not image.is_file()):
                test = make(case)
                if keep_images:
                    image.parent.mkdir(parents=True, exist_ok=True)
                    write_dwi(test, image, overwrite=True)
                row = {"scan": case.name, "version": name, **measure(test)}
                stored.write_text(json.dumps(row) + "\n", encoding="utf-8")
            rows.append(json.loads(stored.read_text(encoding="utf-8")))
        last = number == len(files) - 1
        table = correlate(rows, seed)
        if readers is not None and last:
            table += correlate_readers(rows, read_readers(readers, rows), seed)
        for row in table:
            row["weights"] = loaded[row["metric"]].weights if row["metric"] in loaded else ""
        _publish(output, rows, table, {**asked, "versions": ", ".join(versions)})
    return output / "report.html"


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
            for method in UPSAMPLERS if level is None else ("linear", "sinc"):
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


class _Measurement:
    """A scan's own maps and slices, computed once; calling it measures a version."""

    def __init__(self, case: Case, distances: Mapping[str, DeepDistance]) -> None:
        self.case, self.distances = case, distances
        self.weighted = ~case.dwi.is_b0
        self.direction = principal_direction(case.dwi, case.mask)
        self.directed = case.mask & (compute_maps(case.dwi, ("fa",), mask=case.mask)["fa"] >= 0.2)

    def __call__(self, test: DWI) -> Row:
        case = self.case
        pair = (case.dwi.signal[..., self.weighted], test.signal[..., self.weighted])
        quality = image_scores(*pair, mask=case.mask, slice_axis=case.axis)
        names = {"PSNR": "psnr", "SSIM": "ssim", "MS-SSIM": "ms_ssim", "NRMSE": "nrmse"}
        row: Row = {name: quality[key] for name, key in names.items()}
        residual = np.moveaxis(pair[1] - pair[0], (3, case.axis), (0, 1))
        inside = np.tile(np.moveaxis(case.mask, case.axis, 0), (len(residual), 1, 1))
        row["grid excess"] = grid_artefact_index(residual.reshape(-1, *residual.shape[2:]), inside).total_db
        images, reference, mask = sample_slices(*pair, case.mask, case.axis, slices=99, volumes=DEEP_VOLUMES)
        row |= {name: compared(images, reference, mask=mask).value for name, compared in self.distances.items()}
        difference = compare(case.dwi, test, ("fa", "qa"), mask=case.mask).difference
        angle = angular_error(principal_direction(test, case.mask), self.direction)
        errors = [np.abs(difference[name][case.mask]).mean() for name in ("fa", "qa")]
        errors.append(angle[self.directed].mean() if self.directed.any() else np.nan)
        return row | {target: float(error) for target, error in zip(TARGETS, errors, strict=True)}


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
    (output / "correlations.json").write_text(text + "\n", encoding="utf-8")
    title, sections = "Which metric foretells microstructure errors?", page_sections(rows, table)
    write_page(output / "report.html", title, conclusions(table), sections, table, facts)


def _restored(
    scale: int, model: str, snr: float | None, seed: int, *, method: str = "", checkpoint: str = ""
) -> Version:
    def make(case: Case) -> DWI:
        low = degrade(add_noise(case.dwi, snr, seed), scale, model=model, axis=case.axis)
        if checkpoint:
            from ..inference.predict import super_resolve

            high = super_resolve(low, checkpoint, scale, precision="fp32", axis=case.axis)
        else:
            high = interpolate(low, scale, method=method, axis=case.axis)
        return replace(high, signal=crop(high.signal, case.dwi.spatial_shape), affine=case.dwi.affine)

    return make


def _blurred(case: Case, width: float) -> DWI:
    widths = [0.0 if a == case.axis else width * float(s) for a, s in enumerate(case.dwi.voxel_sizes)]
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
    return -row[metric] if metric in HIGHER_IS_BETTER else row[metric]


def _as_row(target: str, metric: str, found, versions: int) -> Row:
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
