"""The report: one HTML file that stands alone, with the verdict first, figures, tables, and what reproduces it."""

from __future__ import annotations

import base64
import math
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..metrics.image import SSIM_VOLUMES
from ..microstructure import map_info
from . import pictures, plots
from .drawing import label_of
from .evaluate import Evaluation, assess
from .pages import render
from .regions import DIRECTION_FA
from .summary import JUDGED, summary_table, verdict

if TYPE_CHECKING:
    from ..dwi import DWI
    from .selfchecks import Check


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
    path, checks = Path(path), _all_checks(evaluation, checks)
    if not path.parent.is_dir():
        raise InputError(f"The report's folder {path.parent} does not exist; create it first.")
    comparing = evaluation.conditions["task"] == "compare"
    page = render(
        "report.html.j2",
        title=_title(evaluation),
        subtitle=_subtitle(evaluation),
        verdict=verdict(evaluation, checks, run or {}),
        facts=_facts(evaluation, run or {}),
        checks=checks,
        summary=summary_table(evaluation),
        sections=_comparison_sections(evaluation) if comparing else _evaluation_sections(evaluation),
        scores=_score_tables(evaluation),
        reproduce=_flat({k: evaluation.conditions[k] for k in ("sha256", "versions")}),
        downloads={"scores.tsv": _data_uri(evaluation.as_tsv()), "scores.json": _data_uri(evaluation.as_json())},
    )
    # A reader never sees half a page: write beside it, then put it in place.
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".html", delete=False) as file:
        file.write(page)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
    return path


def _all_checks(evaluation: Evaluation, checks: Sequence[Check]) -> list[Check]:
    """Those given, those of the reference, and those of the checkpoints, which are named where there are several."""
    networks = set(evaluation.checks) - {evaluation.reference.name}
    prefixes = {name: f"{name}: " if len(networks) > 1 and name in networks else "" for name in evaluation.checks}
    own = [replace(c, name=prefixes[name] + c.name) for name, found in evaluation.checks.items() for c in found]
    return [*checks, *own]


def write_comparison_report(
    reference: DWI,
    test: DWI,
    path: str | os.PathLike[str],
    *,
    names: tuple[str, str] = ("reference", "test"),
    maps: Collection[str] = (),
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
    evaluation = assess(reference, test, names=names, maps=maps, mask=mask, axis=axis, fit=fit, distances=distances)
    write_report(evaluation, path, run=run, checks=checks)
    return evaluation


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
    lowered = f"degraded {known['factors along the voxel axes'].replace('x', ' × ')} times along its voxel axes"
    if known["scale"].replace(".", "").isdigit():
        lowered = f"degraded {known['scale']} × in-plane"
    noise = f" with Rician noise at SNR {known['degradation']['snr']:g}" if known["degradation"]["snr"] else ""
    return (
        f"A scan of {scan}; {lowered} ({known['degradation']['model']}{noise}), "
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
        tables.append({"caption": _caption(quantity), "header": header, "rows": rows})
    return tables


def _caption(quantity: str) -> str:
    if quantity in _CAPTIONS:
        return _CAPTIONS[quantity]
    info = map_info(quantity)
    unit = {"": "", "signal": ", largest QA of the reference = 1"}.get(info.unit, f", {info.unit}")
    return f"{info.title[0].upper()}{info.title[1:]} ({info.label}){unit}"


_CAPTIONS = {
    "signal": "Signal. PSNR and SSIM use the stated data range. SSIM: 11-voxel Gaussian window, slice by slice, at "
    f"most {SSIM_VOLUMES} volumes of each b-value; MS-SSIM on the box around the region. NRMSE: RMSE / mean reference.",
    "deep distance": "Deep feature distances of a few slices of a few weighted volumes; 0 is equal. “What was run” "
    "says with which weights; untrained ones are random.",
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
    if evaluation.structural:
        return _structural_sections(evaluation)
    view, zoom = pictures.choose_views(evaluation)
    place = f"{pictures.PLANES[view.plane].capitalize()} slice {view.position + 1}; {_RADIOLOGICAL}."
    captions = {
        "dwi": f"One diffusion-weighted volume. {place} {_DIFFERENCE}",
        "fa": f"FA. {_DIFFERENCE}",
        "qa": f"QA, all on the reference's scale. {_DIFFERENCE}",
    }
    shown = [_figure(pictures.picture_figure(evaluation, view, q), text) for q, text in captions.items()]
    shown.append(_figure(pictures.direction_figure(evaluation, view), _COLOURS))
    chosen = _shortlist(evaluation)
    zoom_caption = (
        f"{pictures.ZOOM_MM:g} mm around the densest left–right fibres near the middle (corpus callosum-like)."
    )
    if "nearest" in chosen:
        zoom_caption += " The low-resolution voxels are those of nearest."
    agreement = [
        _figure(plots.agreement_figure(evaluation, c, quantity), _agreement_caption(quantity, f" by {c.name}"))
        for quantity in ("fa", "qa")
        for c in evaluation.candidates
        if c.name in chosen and c.name != "nearest"
    ]
    return [
        {"heading": "One slice by every method", "figures": shown},
        {
            "heading": "Zoom on dense fibres",
            "figures": [_figure(pictures.zoom_figure(evaluation, zoom, chosen), zoom_caption)],
        },
        {"heading": "Errors by frequency, tissue and b-value", "figures": _plots(evaluation)},
        {"heading": "Agreement voxel by voxel", "figures": agreement},
        *_reliability_section(evaluation),
    ]


def _structural_sections(evaluation: Evaluation) -> list[dict[str, Any]]:
    view = pictures.largest_slice(evaluation)
    place = f"{pictures.PLANES[view.plane].capitalize()} slice {view.position + 1}; {_RADIOLOGICAL}."
    picture = _figure(pictures.picture_figure(evaluation, view, "image"), f"{place} {_DIFFERENCE}")
    spectrum = f"Power spectrum of the residual. {_GRIDS}"
    return [
        {"heading": "One slice by every method", "figures": [picture]},
        {
            "heading": "Errors by frequency",
            "figures": [_figure(plots.spectrum_figure(evaluation, "image"), spectrum, wide=False)],
        },
    ]


def _reliability_section(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Where an ensemble gave an uncertainty."""
    caption = (
        "{}: signal errors of the weighted volumes in the brain, in groups of rising uncertainty. The reference's own "
        "noise, as far as the low resolution does not hold it, is added to what the uncertainty predicts."
    )
    figures = [
        _figure(plots.reliability_figure(found), caption.format(name)) for name, found in evaluation.reliability.items()
    ]
    return [{"heading": "Is the uncertainty as large as the errors?", "figures": figures}] if figures else []


def _comparison_sections(evaluation: Evaluation) -> list[dict[str, Any]]:
    view, zoom = pictures.choose_views(evaluation)
    test = evaluation.candidates[0]
    note = f"in three planes; {_RADIOLOGICAL}, the front on the left in sagittal pictures."
    texts = {"fa": "FA", "qa": "QA, both on the reference's scale,", "dwi": "One diffusion-weighted volume"}
    shown = [_figure(pictures.planes_figure(evaluation, test, q), f"{text} {note}") for q, text in texts.items()]
    directions = [
        _figure(pictures.direction_figure(evaluation, view, per_row=2), _COLOURS),
        _figure(
            pictures.zoom_figure(evaluation, zoom, [test.name]),
            f"{pictures.ZOOM_MM:g} mm around the densest left–right fibres near the middle (corpus callosum-like).",
        ),
    ]
    agreement = [_figure(plots.agreement_figure(evaluation, test, q), _agreement_caption(q, "")) for q in ("fa", "qa")]
    return [
        {"heading": "Maps and their differences", "figures": shown},
        {"heading": "Directions and dense fibres", "figures": directions},
        {"heading": "Agreement voxel by voxel", "figures": agreement},
        {"heading": "Differences by frequency, tissue and b-value", "figures": _plots(evaluation)},
    ]


def _agreement_caption(quantity: str, by: str) -> str:
    return (
        f"{label_of(quantity)}{by}: every voxel of the mask, brighter where more. Left against the reference; "
        "right Bland-Altman, with the bias and the limits of agreement."
    )


def _plots(evaluation: Evaluation) -> list[dict[str, Any]]:
    shown = []
    for quantity in ("dwi", "fa", "qa"):
        if quantity in evaluation.candidates[0].spectra:
            caption = f"Power spectrum of the {label_of(quantity)} residual. {_GRIDS}"
            shown.append(_figure(plots.spectrum_figure(evaluation, quantity), caption, wide=False))
    errors = (("fa", "mae", "FA"), ("qa", "mae", "QA"), ("direction", "mean_deg", "direction"))
    for quantity, metric, name in errors:
        unit = "(°)" if metric == "mean_deg" else "(mean absolute)"
        svg = plots.class_figure(evaluation, quantity, metric, f"{name} error {unit}")
        shown.append(_figure(svg, f"{name[0].upper()}{name[1:]} error by class of the reference's FA.", wide=False))
    if len(evaluation.shells) > 1:
        shown.append(
            _figure(plots.shell_figure(evaluation), "Signal error by b-value (RMSE over mean reference).", wide=False)
        )
    return shown


def _shortlist(evaluation: Evaluation) -> list[str]:
    """Nearest (the low-resolution voxels themselves), the interpolation with the lowest FA error, and checkpoints."""
    classical = [c.name for c in evaluation.candidates if c.kind == "interpolation"]
    fa_error = next(column for column in JUDGED if column.quantity == "fa")
    best = [fa_error.closest(evaluation, classical)] if classical else []
    low = ["nearest"] if "nearest" in classical else []
    return list(dict.fromkeys([*low, *best, *(c.name for c in evaluation.candidates if c.kind == "checkpoint")]))[:5]


def _figure(svg: str, caption: str, *, wide: bool = True) -> dict[str, Any]:
    from markupsafe import Markup

    return {"svg": Markup(svg), "caption": caption, "wide": wide}
