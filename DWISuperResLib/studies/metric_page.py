"""What the metric study's page says and shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Rows = Sequence[dict[str, Any]]
SHOWN = ("PSNR", "SSIM", "ssfd")
"""Metrics whose scatter plots are drawn beside those of the three best."""


def conclusions(table: Rows) -> list[str]:
    """Best metric for each target, beside PSNR and SSIM."""
    sentences = []
    for target in dict.fromkeys(row["target"] for row in table):
        sentences.append(_best_metric(target, [r for r in table if r["target"] == target and "low" in r]))
        agreement = [f"{r['metric']} {r['rho']:.2f}" for r in table if r["target"] == target and "low" not in r]
        if agreement:
            sentences.append(f"Agreement of {', '.join(agreement)}.")
    untrained = list(dict.fromkeys(r["metric"] for r in table if "untrained" in r["weights"]))
    if untrained:
        sentences.append(f"Untrained, wholly or in their deeper layers: {', '.join(untrained)}.")
    return sentences


def _best_metric(target: str, rows: Rows) -> str:
    best = max(rows, key=lambda row: row["rho"])
    usual = ", ".join(f"{r['metric']} {r['rho']:.2f}" for r in rows if r["metric"] in SHOWN and r is not best)
    equal = [r["metric"] for r in rows if r is not best and r["high"] >= best["rho"]]
    also = f"; within its reach: {', '.join(equal)}" if equal else ""
    return (
        f"The {target} is foretold best by {best['metric']}: rank correlation {best['rho']:.2f} (95 % interval "
        f"{best['low']:.2f} to {best['high']:.2f}){also}. {usual}."
    )


def page_sections(rows: Rows, table: Rows) -> list[tuple[str, list[tuple[str, str]]]]:
    """Headings with their figures (SVG, caption)."""
    targets = [target for target in dict.fromkeys(row["target"] for row in table) if target in rows[0]]
    scatters = []
    for target in targets:
        ranked = sorted((r for r in table if r["target"] == target), key=lambda r: -r["rho"])
        names = list(dict.fromkeys([*(r["metric"] for r in ranked[:3]), *(n for n in SHOWN if n in rows[0])]))
        caption = f"{target} against the three metrics that foretell it best and the usual ones; a dot a version."
        scatters.append((_scatter(rows, target, names), caption))
    caption = (
        "Rank correlation of each metric with each error over the versions of a scan, averaged over scans, with 95 % "
        "bootstrap intervals over versions; bars: single scans' extremes. 1: orders versions as the error does."
    )
    return [("Rank correlation", [(_intervals(table), caption)]), ("Versions", scatters)]


def _intervals(table: Rows) -> str:
    from matplotlib.figure import Figure

    from ..evaluation.drawing import CHECKPOINT_COLOURS, INK, PAGE, in_page_ink, to_svg

    targets = list(dict.fromkeys(row["target"] for row in table))
    metrics = list(dict.fromkeys(row["metric"] for row in table))
    figure = Figure(figsize=(PAGE, 0.9 + 0.27 * len(metrics)), layout="constrained")
    panels = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
    for n, (axes, target) in enumerate(zip(panels, targets, strict=True)):
        colour = CHECKPOINT_COLOURS[n % len(CHECKPOINT_COLOURS)]
        for row in (r for r in table if r["target"] == target):
            y = len(metrics) - 1 - metrics.index(row["metric"])
            axes.plot(row["rho"], y, "o", ms=5, color=colour)
            if "low" in row:
                axes.plot([row["low"], row["high"]], [y, y], "-", lw=2, color=colour)
                axes.plot([row["lowest scan"], row["highest scan"]], [y, y], "|", ms=7, color=colour, alpha=0.6)
        axes.axvline(0, color=INK, lw=0.5)
        axes.set_title(target, color=INK, fontsize=10)
        axes.set_yticks(range(len(metrics)), metrics[::-1], color=INK, fontsize=8)
        axes.set_xlim(-1.05, 1.05)
        in_page_ink(axes)
    return to_svg(figure)


def _scatter(rows: Rows, target: str, names: Sequence[str]) -> str:
    from matplotlib.figure import Figure

    from ..evaluation.drawing import CHECKPOINT_COLOURS, INK, INTERPOLATION_COLOURS, PAGE, in_page_ink, to_svg

    colours = (*INTERPOLATION_COLOURS, *CHECKPOINT_COLOURS)
    scans = list(dict.fromkeys(row["scan"] for row in rows))
    height = -(-len(names) // 3)
    figure = Figure(figsize=(PAGE, 0.5 + 2.5 * height), layout="constrained")
    panels = figure.subplots(height, 3, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(panels, names, strict=False):
        for n, scan in enumerate(scans):
            points = np.array([[row[name], row[target]] for row in rows if row["scan"] == scan], float)
            axes.plot(*points.T, "o", ms=3, alpha=0.8, color=colours[n % len(colours)], label=scan)
        axes.set_xlabel(name, color=INK, fontsize=9)
        axes.set_ylabel(target, color=INK, fontsize=9)
        in_page_ink(axes)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7, frameon=False,
        labelcolor=INK,
    )  # fmt: skip
    return to_svg(figure)
