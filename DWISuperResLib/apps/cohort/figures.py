"""Figures of the report on a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...evaluation.change import BINS, HISTOGRAM_LIMITS
from ...evaluation.drawing import INK, PAGE, to_svg
from ...microstructure import map_info

if TYPE_CHECKING:
    from .group import Result

SHADE, OUTLYING = "#0072b2", "#d55e00"


def of_changes(results: Sequence[Result], maps: Sequence[str]) -> list[tuple[Markup, str]]:
    """For each map with a histogram: an <svg> of the changes within scans and between them, and its caption."""
    figures = []
    for name in maps:
        finished = [result for result in results if result.facts.get("changes", {}).get(name, {}).get("counts")]
        if not finished:
            continue
        label = map_info(name).label
        unit = " (in units of each input's largest QA)" if name == "qa" else ""
        figure = Figure(figsize=(PAGE, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        _histogram(left, finished, name)
        left.set_xlabel(f"{label} after minus before, per voxel")
        left.set_ylabel("share of brain voxels (%)")
        _scans(right, finished, name)
        right.set_xlabel(f"mean {label} before")
        right.set_ylabel(f"mean change of {label}")
        for axes in (left, right):
            _plain(axes)
        caption = (
            f"{label}{unit} after super-resolution against before, in the brain. Left: all voxels of a scan; the line "
            "is the median scan, the band holds 90 % of the scans. Right: one dot a scan, this map's outliers ringed."
        )
        figures.append((Markup(to_svg(figure)), caption))
    return figures


def _histogram(axes: Axes, results: Sequence[Result], name: str) -> None:
    counts = np.array([result.facts["changes"][name]["counts"] for result in results], dtype=float)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    limit = HISTOGRAM_LIMITS[name]
    edges = np.linspace(-limit, limit, BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    low, median, high = np.quantile(shares, (0.05, 0.5, 0.95), axis=0)
    axes.fill_between(middles, low, high, color=SHADE, alpha=0.25, linewidth=0)
    axes.plot(middles, median, color=SHADE, linewidth=1.6)
    axes.axvline(0, color=INK, linewidth=0.8, alpha=0.5)
    axes.set_xlim(-limit, limit)
    axes.set_ylim(bottom=0)


def _scans(axes: Axes, results: Sequence[Result], name: str) -> None:
    before, bias = (np.array([result.value(name, column) for result in results]) for column in ("before", "bias"))
    stands_out = np.array([any(phrase.startswith(name.upper()) for phrase in result.outlier) for result in results])
    axes.axhline(0, color=INK, linewidth=0.8, alpha=0.5)
    axes.scatter(before, bias, s=18, color=SHADE, alpha=0.75, linewidths=0)
    axes.scatter(before[stands_out], bias[stands_out], s=70, facecolors="none", edgecolors=OUTLYING, linewidths=1.4)


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(INK)
        text.set_fontsize(9)
