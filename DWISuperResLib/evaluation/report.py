"""The report: one HTML file that stands alone, with the verdict first, figures, tables, and what reproduces it."""

from __future__ import annotations

import base64
import datetime
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..metrics.image import SSIM_VOLUMES
from ..resources import RESOURCES
from . import figures
from .evaluate import DIRECTION_FA, Evaluation, assess

if TYPE_CHECKING:
    from ..dwi import DWI
    from .selfchecks import Check

TEMPLATES = RESOURCES / "Report"

# quantity, metric, region, heading, whether less is better, decimals
_SUMMARY = (
    ("signal", "psnr", "brain", "DWI PSNR (dB)", False, 2),
    ("signal", "ssim", "brain", "DWI SSIM", False, 4),
    ("signal", "ms_ssim", "brain", "DWI MS-SSIM", False, 4),
    ("signal", "nrmse", "brain", "DWI NRMSE", True, 4),
    ("fa", "mae", "brain", "FA MAE", True, 4),
    ("qa", "mae", "brain", "QA MAE", True, 4),
    ("gfa", "mae", "brain", "GFA MAE", True, 4),
    ("md", "mae", "brain", "MD MAE (10⁻³ mm²/s)", True, 4),
    ("direction", "mean_deg", f"FA >= {DIRECTION_FA}", "direction (°)", True, 2),
)
_VERDICT = {
    "DWI NRMSE": "signal error (NRMSE)",
    "FA MAE": "FA error",
    "QA MAE": "QA error",
    "direction (°)": "direction error",
}


def write_report(
    evaluation: Evaluation,
    path: str | os.PathLike[str],
    *,
    run: Mapping[str, Any] | None = None,
    checks: Sequence[Check] = (),
) -> Path:
    """Write the report of an evaluation.

    Parameters
    ----------
    evaluation : Evaluation
        Of `evaluation.evaluate` or `evaluation.assess`.
    path : str or path
        An existing file is replaced.
    run : mapping, optional
        What the page should say besides the evaluation's own conditions, for example the command line and the input
        files; plain values.
    checks : sequence of Check
        Self-checks to show besides the evaluation's own, see `selfchecks.self_checks`.

    Raises
    ------
    InputError
        If the folder does not exist.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    path, checks = Path(path), _all_checks(evaluation, checks)
    if not path.parent.is_dir():
        raise InputError(f"The report's folder {path.parent} does not exist; create it first.")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    comparing = evaluation.conditions["task"] == "compare"
    page = environment.get_template("report.html.j2").render(
        title=_title(evaluation),
        subtitle=_subtitle(evaluation),
        verdict=verdict(evaluation, checks, run or {}),
        facts=_facts(evaluation, run or {}),
        checks=checks,
        summary=_summary_table(evaluation),
        sections=_comparison_sections(evaluation) if comparing else _evaluation_sections(evaluation),
        scores=_score_tables(evaluation),
        reproduce=_flat({k: evaluation.conditions[k] for k in ("sha256", "versions")}),
        downloads={"scores.tsv": _data_uri(evaluation.as_tsv()), "scores.json": _data_uri(evaluation.as_json())},
        written=datetime.datetime.now().astimezone().isoformat(" ", "minutes"),
    )
    # A reader never sees half a page: write beside it, then put it in place.
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".html", delete=False) as file:
        file.write(page)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
    return path


def _all_checks(evaluation: Evaluation, checks: Sequence[Check]) -> list[Check]:
    """Those given, and those of the evaluation's checkpoints, which are named where there are several."""
    prefixes = {name: f"{name}: " if len(evaluation.checks) > 1 else "" for name in evaluation.checks}
    own = [replace(c, name=prefixes[name] + c.name) for name, found in evaluation.checks.items() for c in found]
    return [*checks, *own]


def write_comparison_report(
    reference: DWI,
    test: DWI,
    path: str | os.PathLike[str],
    *,
    names: tuple[str, str] = ("reference", "test"),
    mask: NDArray[np.bool_] | None = None,
    axis: int | str | None = None,
    fit: str = "wls",
    distances: Sequence[str] | None = None,
    run: Mapping[str, Any] | None = None,
    checks: Sequence[Check] = (),
) -> Evaluation:
    """Measure `test` against `reference`, write the report, and return the measurement (its scores can be written).

    Parameters and errors as for `evaluation.assess` and `write_report`.
    """
    evaluation = assess(reference, test, names=names, mask=mask, axis=axis, fit=fit, distances=distances)
    write_report(evaluation, path, run=run, checks=checks)
    return evaluation


def verdict(
    evaluation: Evaluation, checks: Sequence[Check] = (), run: Mapping[str, Any] = MappingProxyType({})
) -> list[str]:
    """The outcome in a few plain sentences, the most important first; `run` as for `write_report`."""
    sentences = _verdict_of_comparison(evaluation) if evaluation.conditions["task"] == "compare" else []
    networks = [c.name for c in evaluation.candidates if c.kind == "checkpoint"]
    classical = [c.name for c in evaluation.candidates if c.kind == "interpolation"]
    measures = [m for m in _SUMMARY if m[3] in _VERDICT]
    for network in networks if classical else ():
        better, parts = 0, []
        for measure in measures:
            value = summary_value(evaluation, network, measure)
            best = min(classical, key=lambda name: _or_infinite(summary_value(evaluation, name, measure)))
            rival = summary_value(evaluation, best, measure)
            if not (math.isfinite(value) and rival > 0):
                continue
            better += value < rival
            change = 100 * (value / rival - 1)
            parts.append(f"{_VERDICT[measure[3]]} {abs(change):.1f} % {'lower' if change < 0 else 'higher'} ({best})")
        lead = f"is closer to the original than every classical interpolation on {better} of {len(parts)} measures"
        if better in (0, len(parts)):
            lead = f"{'comes' if better else 'does not come'} closer to the original than every classical interpolation"
        sentences.append(f"The checkpoint {network} {lead}; against the best one for each measure: {'; '.join(parts)}.")
    if not networks and evaluation.conditions["task"] != "compare":
        closest = {m[3]: min(classical, key=lambda n: _or_infinite(summary_value(evaluation, n, m))) for m in measures}
        listed = "; ".join(f"{_VERDICT[heading]}: {name}" for heading, name in closest.items())
        sentences.append(f"No checkpoint was evaluated. Closest to the original among the interpolations: {listed}.")
    files = {Path(str(value)).name for value in run.values()}
    for network, scans in evaluation.conditions.get("trained on", {}).items():
        if known := files & set(scans.split(", ")):
            sentences.append(
                f"The checkpoint {network} was trained on {min(known)}: this says little about scans it never saw."
            )
    if fired := [c.name for c in checks if c.fired]:
        sentences.append(f"Self-checks that warn: {', '.join(fired)}; see below what to do.")
    elif checks:
        sentences.append(f"None of the {len(checks)} self-checks warns.")
    return sentences


def _verdict_of_comparison(evaluation: Evaluation) -> list[str]:
    reference, test = evaluation.reference.name, evaluation.candidates[0].name
    parts = []
    for quantity in ("fa", "qa"):
        bias, low, high, mae = (evaluation.score(test, quantity, m) for m in ("bias", "loa_lower", "loa_upper", "mae"))
        mean = float(evaluation.reference.maps[quantity][evaluation.mask].mean())
        parts.append(
            f"{quantity.upper()} differs by {mae:.3f} on average ({100 * mae / mean:.0f} % of its mean of {mean:.3f}), "
            f"with a bias of {bias:+.3f} and 95 % of voxels between {low:+.3f} and {high:+.3f}"
        )
    angle = evaluation.score(test, "direction", "mean_deg", region=f"FA >= {DIRECTION_FA}")
    return [
        f"In the brain, {test} against {reference}: {parts[0]}.",
        f"{parts[1]}. Principal directions differ by {angle:.1f}° on average where FA is at least {DIRECTION_FA}.",
    ]


def summary_value(evaluation: Evaluation, method: str, measure: tuple) -> float:
    """One cell of the summary; the signal's are means over the weighted b-values, each counted by its volumes."""
    quantity, metric, region = measure[:3]
    if quantity != "signal":
        return evaluation.score(method, quantity, metric, region=region) * (1e3 if quantity == "md" else 1)
    volumes = evaluation.conditions["volumes"]
    shells = [s for s in evaluation.shells if s != "b0"] or evaluation.shells
    values = [evaluation.score(method, quantity, metric, volumes=s) for s in shells]
    return float(np.average(values, weights=[volumes[s] for s in shells]))


def _or_infinite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _title(evaluation: Evaluation) -> str:
    if evaluation.conditions["task"] == "compare":
        return f"{evaluation.candidates[0].name} against {evaluation.reference.name}"
    return f"Super-resolution × {evaluation.conditions['scale']}: how close to the original?"


def _subtitle(evaluation: Evaluation) -> str:
    known = evaluation.conditions
    volumes = ", ".join(f"{count} × {name}" for name, count in known["volumes"].items())
    scan = f"{_plain(known['matrix'])} voxels of {_plain(known['voxel size (mm)'])} mm, volumes: {volumes}"
    if known["task"] == "compare":
        return f"Two scans of {scan}."
    noise = f" with Rician noise at SNR {known['degradation']['snr']:g}" if known["degradation"]["snr"] else ""
    return (
        f"A scan of {scan}; degraded {known['scale']} × in-plane ({known['degradation']['model']}{noise}), "
        "brought back by every method and compared with itself."
    )


def _facts(evaluation: Evaluation, run: Mapping[str, Any]) -> list[tuple[str, str]]:
    skipped = ("sha256", "versions")
    return _flat({**run, **{k: v for k, v in evaluation.conditions.items() if k not in skipped}})


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{k}: {_plain(v)}" for k, v in value.items() if v is not None)
        rows.append((key, _plain(value)))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " × ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _data_uri(text: str) -> str:
    return "data:text/plain;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()


def _summary_table(evaluation: Evaluation) -> dict[str, Any]:
    """Header and rows of cells {text, best}; the best of each column is marked where there is a choice."""
    columns = [[summary_value(evaluation, c.name, m) for c in evaluation.candidates] for m in _SUMMARY]
    shown = [(m, column) for m, column in zip(_SUMMARY, columns, strict=True) if np.isfinite(column).any()]
    rows = []
    for i, candidate in enumerate(evaluation.candidates):
        cells = []
        for measure, column in shown:
            best = (np.nanmin if measure[4] else np.nanmax)(column)
            marked = len(column) > 1 and column[i] == best
            cells.append({"text": _number(column[i], measure[5]), "best": marked})
        rows.append(
            {"name": candidate.name, "kind": candidate.kind, "cells": cells, "seconds": f"{candidate.seconds:.1f}"}
        )
    header = [measure[3] + (" ↓" if measure[4] else " ↑") for measure, _ in shown]
    return {"header": header, "rows": rows, "timed": any(c.seconds for c in evaluation.candidates)}


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "n/a"


def _score_tables(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One table for each quantity: a row for each method and region or b-value, a column for each metric."""
    tables = []
    for quantity in dict.fromkeys(row["quantity"] for row in evaluation.scores):
        selected = [row for row in evaluation.scores if row["quantity"] == quantity]
        metrics = list(dict.fromkeys(row["metric"] for row in selected))
        groups: dict[tuple, dict[str, Any]] = {}
        for row in selected:
            key = (row["volumes"] or row["region"], row["method"])
            groups.setdefault(key, row | {"values": {}})["values"][row["metric"]] = row["value"]
        order = list(dict.fromkeys(k[0] for k in groups))
        first = "volumes" if selected[0]["volumes"] else "region"
        extra = ["data range"] if selected[0]["volumes"] else []
        rows = [
            [key[0], key[1], f"{g['voxels']:,}".replace(",", " "), *([f"{g['data_range']:.4g}"] if extra else []),
             *(_significant(g["values"].get(m, math.nan)) for m in metrics)]
            for key, g in sorted(groups.items(), key=lambda item: order.index(item[0][0]))
        ]  # fmt: skip
        header = [first, "method", "voxels", *extra, *(m.replace("_", " ") for m in metrics)]
        tables.append({"caption": _CAPTIONS[quantity], "header": header, "rows": rows})
    return tables


_CAPTIONS = {
    "signal": "Signal. PSNR and SSIM use the stated data range. SSIM: 11-voxel Gaussian window, slice by slice, at "
    f"most {SSIM_VOLUMES} volumes of each b-value; MS-SSIM on the box around the region. NRMSE: RMSE / mean reference.",
    "deep distance": "Deep feature distances of a few slices of a few weighted volumes; 0 is equal. “What was run” "
    "says with which weights; untrained ones are random.",
    "fa": "Fractional anisotropy (FA)",
    "md": "Mean diffusivity (MD), mm²/s",
    "qa": "Quantitative anisotropy (QA), largest of the reference = 1",
    "gfa": "Generalised fractional anisotropy (GFA)",
    "direction": f"Angle between principal directions, where the reference's FA is at least {DIRECTION_FA}",
}


def _significant(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "n/a"


_RADIOLOGICAL = "the patient's right is on the left (radiological convention)"
_DIFFERENCE = (
    "Below each its difference from the reference inside the mask, red where too high; one symmetric scale for all."
)
_COLOURS = (
    "Colour FA: red left–right, green front–back, blue up–down. Below each the angle between its principal direction "
)
_COLOURS += f"and the reference's, where FA is at least {DIRECTION_FA}."
_GRIDS = "Dotted: frequencies of patterns that repeat every 2, 4, 8 and 16 voxels; a peak there is a grid artefact."


def _evaluation_sections(evaluation: Evaluation) -> list[dict[str, Any]]:
    view, zoom = figures.choose_views(evaluation)
    place = f"{figures.PLANES[view.plane].capitalize()} slice {view.position + 1}; {_RADIOLOGICAL}."
    captions = {
        "dwi": f"One diffusion-weighted volume. {place} {_DIFFERENCE}",
        "fa": f"FA. {_DIFFERENCE}",
        "qa": f"QA, all on the reference's scale. {_DIFFERENCE}",
    }
    pictures = [_figure(figures.picture_figure(evaluation, view, q), text) for q, text in captions.items()]
    pictures.append(_figure(figures.direction_figure(evaluation, view), _COLOURS))
    chosen = _shortlist(evaluation)
    zoom_caption = (
        f"{figures.ZOOM_MM:g} mm around the densest left–right fibres near the middle (corpus callosum-like)."
    )
    if "nearest" in chosen:
        zoom_caption += " The low-resolution voxels are those of nearest."
    agreement = [
        _figure(figures.agreement_figure(evaluation, c, quantity), _agreement_caption(quantity, f" by {c.name}"))
        for quantity in ("fa", "qa")
        for c in evaluation.candidates
        if c.name in chosen and c.name != "nearest"
    ]
    return [
        {"heading": "One slice by every method", "figures": pictures},
        {
            "heading": "Zoom on dense fibres",
            "figures": [_figure(figures.zoom_figure(evaluation, zoom, chosen), zoom_caption)],
        },
        {"heading": "Errors by frequency, tissue and b-value", "figures": _plots(evaluation)},
        {"heading": "Agreement voxel by voxel", "figures": agreement},
    ]


def _comparison_sections(evaluation: Evaluation) -> list[dict[str, Any]]:
    view, zoom = figures.choose_views(evaluation)
    test = evaluation.candidates[0]
    note = f"in three planes; {_RADIOLOGICAL}, the front on the left in sagittal pictures."
    texts = {"fa": "FA", "qa": "QA, both on the reference's scale,", "dwi": "One diffusion-weighted volume"}
    pictures = [_figure(figures.planes_figure(evaluation, test, q), f"{text} {note}") for q, text in texts.items()]
    directions = [
        _figure(figures.direction_figure(evaluation, view, per_row=2), _COLOURS),
        _figure(
            figures.zoom_figure(evaluation, zoom, [test.name]),
            f"{figures.ZOOM_MM:g} mm around the densest left–right fibres near the middle (corpus callosum-like).",
        ),
    ]
    agreement = [
        _figure(figures.agreement_figure(evaluation, test, q), _agreement_caption(q, "")) for q in ("fa", "qa")
    ]
    return [
        {"heading": "Maps and their differences", "figures": pictures},
        {"heading": "Directions and dense fibres", "figures": directions},
        {"heading": "Agreement voxel by voxel", "figures": agreement},
        {"heading": "Differences by frequency, tissue and b-value", "figures": _plots(evaluation)},
    ]


def _agreement_caption(quantity: str, by: str) -> str:
    return (
        f"{figures.LABELS[quantity]}{by}: every voxel of the mask, brighter where more. Left against the reference; "
        "right Bland-Altman, with the bias and the limits of agreement."
    )


def _plots(evaluation: Evaluation) -> list[dict[str, Any]]:
    plots = []
    for quantity in ("dwi", "fa", "qa"):
        if quantity in evaluation.candidates[0].spectra:
            caption = f"Power spectrum of the {figures.LABELS[quantity]} residual. {_GRIDS}"
            plots.append(_figure(figures.spectrum_figure(evaluation, quantity), caption, wide=False))
    errors = (("fa", "mae", "FA"), ("qa", "mae", "QA"), ("direction", "mean_deg", "direction"))
    for quantity, metric, name in errors:
        unit = "(°)" if metric == "mean_deg" else "(mean absolute)"
        svg = figures.class_figure(evaluation, quantity, metric, f"{name} error {unit}")
        plots.append(_figure(svg, f"{name[0].upper()}{name[1:]} error by class of the reference's FA.", wide=False))
    if len(evaluation.shells) > 1:
        plots.append(
            _figure(figures.shell_figure(evaluation), "Signal error by b-value (RMSE over mean reference).", wide=False)
        )
    return plots


def _shortlist(evaluation: Evaluation) -> list[str]:
    """Nearest (the low-resolution voxels themselves), the interpolation with the lowest FA error, and checkpoints."""
    classical = [c.name for c in evaluation.candidates if c.kind == "interpolation"]
    best = sorted(classical, key=lambda name: _or_infinite(evaluation.score(name, "fa", "mae")))[:1]
    low = ["nearest"] if "nearest" in classical else []
    return list(dict.fromkeys([*low, *best, *(c.name for c in evaluation.candidates if c.kind == "checkpoint")]))[:5]


def _figure(svg: str, caption: str, *, wide: bool = True) -> dict[str, Any]:
    from markupsafe import Markup

    return {"svg": Markup(svg), "caption": caption, "wide": wide}
