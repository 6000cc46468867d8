"""Plots of the report as SVG text: spectra of residuals, errors by class and b-value, densities of voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .drawing import CHECKPOINT_COLOURS, INK, PAGE, colours, in_page_ink, label_of, to_svg
from .evaluate import Candidate, Evaluation
from .regions import REGIONS
from .reliability import MULTIPLES, NORMAL, Reliability


def spectrum_figure(evaluation: Evaluation, quantity: str) -> str:
    """Power of the residual over in-plane frequency; dotted where grids of period 2, 4, 8 and 16 voxels would stand."""
    figure, axes = _plot("in-plane frequency (cycles per voxel)", f"power of the {label_of(quantity)} residual")
    for period in (2, 4, 8, 16):
        axes.axvline(1 / period, color=INK, alpha=0.35, lw=0.8, ls=":")
        axes.annotate(f"1/{period}", (1 / period, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
                      textcoords="offset points", fontsize=8, color=INK, ha="center")  # fmt: skip
    palette = colours(evaluation.candidates)
    for candidate in evaluation.candidates:
        if quantity in candidate.spectra:
            power = candidate.spectra[quantity]
            power = np.maximum(power, 1e-12 * power.max() or 1e-12)  # identical images have none
            frequency = (np.arange(len(power)) + 0.5) / (2 * len(power))
            axes.semilogy(frequency, power, color=palette[candidate.name], label=candidate.name, **_weight(candidate))
    axes.set_xlim(0, 0.505)
    _legend(axes)
    return to_svg(figure)


def class_figure(evaluation: Evaluation, quantity: str, metric: str, label: str) -> str:
    """An error by class of the reference's FA, for every method."""
    classes = [region.name for region in REGIONS.values() if region.is_fa_class]
    figure, axes = _plot("FA of the reference", label)
    values = np.array(
        [[evaluation.score(c.name, quantity, metric, region=r) for r in classes] for c in evaluation.candidates]
    )
    known = np.isfinite(values).any(axis=0)
    _dots(axes, evaluation, [r.removeprefix("FA ") for r, k in zip(classes, known, strict=True) if k], values[:, known])
    return to_svg(figure)


def shell_figure(evaluation: Evaluation) -> str:
    """Signal error by b-value, for every method."""
    figure, axes = _plot("b-value (s/mm²)", "signal NRMSE")
    values = [
        [evaluation.score(c.name, "signal", "nrmse", volumes=s) for s in evaluation.shells]
        for c in evaluation.candidates
    ]
    _dots(axes, evaluation, [s.removeprefix("b") for s in evaluation.shells], values)
    return to_svg(figure)


def reliability_figure(found: Reliability) -> str:
    """Root mean square error over the uncertainty (left), and the share of errors within multiples of it (right)."""
    measured, scaled = CHECKPOINT_COLOURS[:2]
    figure = Figure(figsize=(PAGE, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _style(left, "uncertainty (signal)", "root mean square error (signal)")
    said = np.array(found.uncertainty)
    left.plot(said, found.error, marker="o", ms=4, lw=0, color=measured, label="measured")
    left.plot(said, np.hypot(said, found.noise), color=INK, lw=0.9, label="as the uncertainty has it")
    left.plot(said, np.hypot(found.factor * said, found.noise), color=INK, lw=0.9, ls="--",
              label=f"{found.factor:.2f} times that")  # fmt: skip
    left.axhline(found.noise, color=INK, lw=0.8, ls=":", label="noise of the reference")
    left.set_xlim(left=0)
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=8, labelcolor=INK)
    _style(right, "multiple of the predicted deviation", "share of errors within")
    right.plot(MULTIPLES, NORMAL, color=INK, lw=0.9, label="normal distribution")
    right.plot(MULTIPLES, found.coverage, marker="o", ms=4, color=measured, label="as the uncertainty has it")
    right.plot(MULTIPLES, found.calibrated, marker="o", ms=4, ls="--", color=scaled,
               label=f"{found.factor:.2f} times that")  # fmt: skip
    right.set_ylim(0, 1.02)
    right.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower right")
    return to_svg(figure)


def agreement_figure(evaluation: Evaluation, candidate: Candidate, quantity: str) -> str:
    """Scatter (left) and Bland-Altman plot (right) of a map inside the mask, as densities of voxels."""
    first = evaluation.reference.maps[quantity][evaluation.mask].astype(float)
    second = candidate.maps[quantity][evaluation.mask].astype(float)
    top = float(np.quantile(np.concatenate((first, second)), 0.999)) or 1.0
    bias, spread = (second - first).mean(), (second - first).std(ddof=1)
    bound = 4 * spread or 1e-9 * top
    figure = Figure(figsize=(PAGE, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    name = label_of(quantity)
    _style(left, f"{name}, {evaluation.reference.name}", f"{name}, {candidate.name}")
    _style(right, f"mean {name} of both", f"{candidate.name} − {evaluation.reference.name}")
    _density(left, first, second, (0, top), (0, top))
    left.plot((0, top), (0, top), color=INK, lw=0.9, ls="--")
    _density(right, (first + second) / 2, second - first, (0, top), (-bound, bound))
    for value, text in ((bias, "bias"), (bias - 1.96 * spread, "−1.96 SD"), (bias + 1.96 * spread, "+1.96 SD")):
        right.axhline(value, color=INK, lw=0.9, ls="-" if text == "bias" else "--")
        right.annotate(f"{text}\n{value:+.3f}", (1, value), xycoords=("axes fraction", "data"), xytext=(4, 0),
                       textcoords="offset points", fontsize=8, color=INK, va="center")  # fmt: skip
    return to_svg(figure)


def _plot(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(PAGE / 2, 3.4), layout="constrained")
    axes = figure.subplots()
    _style(axes, x, y)
    return figure, axes


def _style(axes: Axes, x: str, y: str) -> None:
    in_page_ink(axes)
    axes.set_xlabel(x, color=INK, fontsize=9)
    axes.set_ylabel(y, color=INK, fontsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))


def _weight(candidate: Candidate) -> dict[str, Any]:
    return {"lw": 1.2} if candidate.kind == "interpolation" else {"lw": 2.4}


def _dots(
    axes: Axes, evaluation: Evaluation, categories: Sequence[str], values: NDArray | Sequence[Sequence[float]]
) -> None:
    palette = colours(evaluation.candidates)
    for candidate, row in zip(evaluation.candidates, values, strict=True):
        axes.plot(range(len(categories)), row, marker="o", ms=4, color=palette[candidate.name], label=candidate.name,
                  **_weight(candidate))  # fmt: skip
    axes.set_xticks(range(len(categories)), categories)
    axes.set_xlim(-0.3, len(categories) - 0.7)
    axes.set_ylim(bottom=0)
    _legend(axes)


def _legend(axes: Axes) -> None:
    options = {"frameon": False, "fontsize": 8, "labelcolor": INK, "handlelength": 1.4, "columnspacing": 1.2}
    axes.figure.legend(loc="outside lower center", ncols=4, **options)


def _density(axes: Axes, x: NDArray, y: NDArray, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
    counts, _, _ = np.histogram2d(x, y, bins=120, range=(x_range, y_range))
    counts[counts == 0] = np.nan
    options: dict[str, Any] = {"origin": "lower", "aspect": "auto", "interpolation": "none", "cmap": "viridis"}
    axes.imshow(counts.T, extent=(*x_range, *y_range), norm=LogNorm(vmin=0.7), **options)
