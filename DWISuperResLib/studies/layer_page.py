"""What the layer study's page says and shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics.grid_artefacts import PERIODS, THRESHOLD_DB
from .scoring import label

FEATURES = ("Feat0", "Feat1", "Feat2", "Feat3", "Feat4")
QUANTITIES = ("DWI", "FA", "QA")


def conclusions(rows: Sequence[dict[str, Any]], untrained_from: str | None) -> list[str]:
    """What the rows say about grids and depth, in sentences."""
    last = rows[-1]["scan"]
    rows = [row for row in rows if row["scan"] == last and row["scale"] == 2]
    sentences = []
    for level in dict.fromkeys(row["snr"] for row in rows):
        here = {row["loss"]: row for row in rows if row["snr"] == level}
        name = _name(level)
        sentences += _of_grids(here, name)
        if known := [row for row in here.values() if math.isfinite(row["FA MAE"])]:
            best = min(known, key=lambda row: row["FA MAE"])
            sentences.append(f"Least FA error {name}: {best['loss']} ({best['FA MAE']:.4f}).")
    if untrained_from:
        sentences.append(
            f"Layers from {untrained_from} on are untrained: pretrained weights of deeper layers were not given."
        )
    return sentences


def _of_grids(here: dict[str, dict[str, Any]], name: str) -> list[str]:
    """Which losses draw grids at one noise level, and how that grows with depth."""
    gridded = [f"{loss} ({', '.join(_gridded(row))})" for loss, row in here.items() if _gridded(row)]
    clean = [loss for loss, row in here.items() if not _gridded(row)]
    found = "; ".join(gridded) or "no loss"
    sentences = [f"Scans {name}: grids with {found}; none with {', '.join(clean) or 'any'}."]
    depths = [here[f]["DWI grid dB"] for f in FEATURES if f in here]
    if len(depths) == len(FEATURES):
        trend = ", ".join(f"{f} {d:.1f}" for f, d in zip(FEATURES, depths, strict=True))
        sentences.append(
            f"Largest excess in the DWI residual by depth, in dB: L1 {here['L1']['DWI grid dB']:.1f}, {trend}."
        )
    return sentences


def _gridded(row: dict[str, Any]) -> list[str]:
    return [f"{q} {row[f'{q} grid periods']} px" for q in QUANTITIES if row[f"{q} grid periods"] != "none"]


def page_sections(rows: Sequence[dict[str, Any]], images: Path, scan: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Headings with their figures (SVG, caption): excess by period, errors by loss, pictures of one slice."""
    levels = list(dict.fromkeys(row["snr"] for row in rows))
    fine = [row for row in rows if row["scale"] == 2]
    sections = [
        (
            "Grids by loss and period, x2",
            [
                (
                    _periods([row for row in fine if row["snr"] == level]),
                    f"Scans {_name(level)}: excess power of the residual at the grid's frequencies over its "
                    f"surroundings, in dB, in DWI and in FA and QA maps; a grid is reported above {THRESHOLD_DB:g} dB.",
                )
                for level in levels
            ],
        ),
        (
            "Errors by loss, x2",
            [(_errors(fine, levels), "Errors against the scan as acquired, inside the brain; one line a noise level.")],
        ),
    ]
    pictures = [
        (svg, f"{scan}, {_name(level)}: one volume, its residual and the FA residual; a quarter of the slice.")
        for level in levels
        if (svg := _pictures([row for row in fine if row["snr"] == level], images, scan))
    ]
    coarse = [row for row in rows if row["scale"] == 3]
    if any(row["loss"] != "sinc" for row in coarse):
        sections.append(("x3, trained on from x2", [(_periods(coarse), "As above, for x3.")]))
    return [*sections, ("Pictures", pictures)]


def _periods(rows: Sequence[dict[str, Any]]) -> str:
    from matplotlib.figure import Figure

    from ..evaluation.drawing import INK, PAGE, to_svg

    figure = Figure(figsize=(PAGE, 1.0 + 0.28 * len(rows)), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 3), QUANTITIES, strict=True):
        table = np.array([[row[f"{quantity} dB {p} px"] for p in PERIODS] for row in rows], dtype=float)
        axes.imshow(table, cmap="Oranges", vmin=0, vmax=15, aspect="auto")
        axes.set_title(quantity, color=INK, fontsize=10)
        axes.set_xticks(range(len(PERIODS)), [f"{p} px" for p in PERIODS], color=INK, fontsize=8)
        first = quantity == QUANTITIES[0]
        axes.set_yticks(range(len(rows)), [row["loss"] if first else "" for row in rows], color=INK, fontsize=8)
        axes.tick_params(length=0)
        for (i, j), value in np.ndenumerate(table):
            text = "–" if np.isnan(value) else f"{value:.1f}"
            weight = "bold" if value > THRESHOLD_DB else "normal"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, weight=weight, color="#111111")
    return to_svg(figure)


def _errors(rows: Sequence[dict[str, Any]], levels: Sequence[float | None]) -> str:
    from matplotlib.figure import Figure

    from ..evaluation.drawing import CHECKPOINT_COLOURS, INK, PAGE, in_page_ink, to_svg

    losses = list(dict.fromkeys(row["loss"] for row in rows))
    figure = Figure(figsize=(PAGE, 3.0), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 3), ("DWI NRMSE", "FA MAE", "QA MAE"), strict=True):
        for n, level in enumerate(levels):
            known = {row["loss"]: row[measure] for row in rows if row["snr"] == level}
            colour = CHECKPOINT_COLOURS[n % len(CHECKPOINT_COLOURS)]
            axes.plot([known.get(loss, np.nan) for loss in losses], "o-", ms=4, lw=1, color=colour, label=_name(level))
        in_page_ink(axes)
        axes.set_title(measure, color=INK, fontsize=10)
        axes.set_xticks(range(len(losses)), losses, rotation=60, color=INK, fontsize=8)
    axes.legend(fontsize=7, frameon=False, labelcolor=INK)
    return to_svg(figure)


def _pictures(rows: Sequence[dict[str, Any]], images: Path, scan: str) -> str:
    from matplotlib.figure import Figure

    from ..evaluation.drawing import INK, PAGE, to_svg

    shown = []
    for row in rows:
        path = images / f"x2-{label(row['snr'])}-{row['loss']}-{scan}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as file:
                shown.append((row["loss"], {key: file[key] for key in ("dwi", "residual", "fa") if key in file}))
    if not shown:
        return ""
    limits = {key: max(float(np.percentile(np.abs(part[key]), 99.5)) for _, part in shown) for key in shown[0][1]}
    figure = Figure(figsize=(PAGE, PAGE / len(shown) * (len(limits) + 0.6)), layout="constrained")
    for column, (loss, parts) in zip(figure.subplots(len(limits), len(shown), squeeze=False).T, shown, strict=True):
        for axes, (key, picture) in zip(column, parts.items(), strict=True):
            quarter = tuple(slice(n // 4, n // 4 + n // 2) for n in picture.shape)
            low, colours = (0, "gray") if key == "dwi" else (-limits[key], "RdBu_r")
            axes.imshow(
                picture[quarter].T, cmap=colours, vmin=low, vmax=limits[key], origin="lower", interpolation="none"
            )
            axes.set_xticks([])
            axes.set_yticks([])
        column[0].set_title(loss, color=INK, fontsize=8)
    return to_svg(figure)


def _name(level: float | None) -> str:
    return "as acquired" if level is None else f"at SNR {level:g}"
