"""Is an untrained perceptual loss better than L1 and SSIM for denoising? The comparison of arXiv 2411.05884 on DWI.

Every run trains one kind of network (DnCNN, a residual network, a Swin transformer) at one level of Rician noise, on
the same patches in the same order for as many steps; only the loss differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..dwi import DWI
from ..errors import InputError
from ..metrics import METRICS
from ..resampling.degradation import rician
from .base import (
    STUDIES,
    Cancel,
    Progress,
    Row,
    Run,
    Study,
    TrainingOptions,
    execute,
    option,
    remember,
    step_seconds,
    write_page,
    write_table,
)
from .scoring import Case, keep_picture, open_case, row_of, with_mean

LOSSES: dict[str, dict[str, Any]] = {
    "L1": {"name": "l1"},
    "SSIM": {"name": "ssim"},
    "uPL": {"name": "untrained"},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "dncnn": {"layers": 12, "width": 32},
    "residual": {"blocks": 5, "width": 32},
    "swin_unetr": {"features": 12},
}
"""Small enough that every run of a comparison fits into minutes; the published DnCNN has 17 layers of 64."""

MEASURES = {
    "DWI PSNR": METRICS["psnr"],
    "DWI SSIM": METRICS["ssim"],
    "FA MAE": METRICS["mae"],
    "QA MAE": METRICS["mae"],
}
"""Columns that the conclusions and curves are about."""
_SECONDS_PER_RUN = 10.0


@dataclass(frozen=True, kw_only=True)
class UntrainedOptions(TrainingOptions):
    """Options of the study of untrained losses.

    Attributes
    ----------
    noise : sequence of float
        Standard deviations of the Rician noise added, in percent of the brain's mean b0 signal.
    upl : mapping
        Options of the untrained loss: depth, kernel, pooling, initialisation, seed; see `losses.untrained`.
    networks : mapping of architecture to its arguments

    Raises
    ------
    InputError
        If an option has no such value.
    """

    noise: Sequence[float] = option((1.0, 5.0, 10.0, 20.0), "Rician noise in percent of the mean b0 signal")
    upl: Mapping[str, Any] = option(dict)
    networks: Mapping[str, Mapping[str, Any]] = option(lambda: dict(NETWORKS))

    def __post_init__(self) -> None:
        if not self.noise or min(self.noise) <= 0:
            raise InputError(f"The noise levels are {list(self.noise)}; expected percentages above 0.")
        object.__setattr__(self, "upl", {"seed": self.seed, **self.upl})


def run_untrained_study(
    options: UntrainedOptions, *, progress: Progress | None = None, cancel: Cancel | None = None
) -> Path:
    """Run the study, or go on with it.

    Returns
    -------
    Path of report.html; scores.tsv stands beside it.

    Raises
    ------
    InputError
        If an option has no such value, or the output holds another study.
    """
    output, images = options.output, options.output / "images"
    files, tests = options.divided()
    output.mkdir(parents=True, exist_ok=True)
    asked = {"scans": list(map(str, files)), "held_out": list(map(str, tests)), **options.asked()}
    combinations = [(percent, name, loss) for percent in options.noise for name in options.networks for loss in LOSSES]

    def cost() -> float:
        first = options.noise[0]
        trees = [_configuration(options, files, first, name, loss, 1) for name in options.networks for loss in LOSSES]
        return len(options.noise) * sum(map(step_seconds, trees))

    def plan() -> dict[str, int]:
        return options.plan(cost, len(combinations), _SECONDS_PER_RUN, progress, "measuring the losses")

    planned = remember(output, asked, plan)
    cases = [open_case(path, options.test_slices) for path in tests]
    runs = [
        Run(
            f"noise{percent:g}-{name}-{loss}",
            {"noise %": percent, "network": name, "loss": loss},
            _configuration(options, files, percent, name, loss, planned["steps"]),
        )
        for percent, name, loss in combinations
    ]
    # Numbers of the scans, in order, are the noise's seeds: every network is shown the same noise.
    shown = {(p, n): _noisy(case, p, options.seed + n) for p in options.noise for n, case in enumerate(cases)}
    baseline = _baseline(options, cases, shown)

    def score(run: Run, checkpoint: Path) -> list[Row]:
        from ..inference.predict import super_resolve

        rows = []
        for n, case in enumerate(cases):
            noisy = shown[run.facts["noise %"], n]
            denoised = super_resolve(noisy, str(checkpoint), 1, precision="fp32", axis=case.axis)
            rows.append(row_of(case, case.scorer(denoised)))
            if n == 0:
                keep_picture(images, run.name, case, denoised)
        return with_mean(rows)

    keep_picture(images, "acquired", cases[0], cases[0].dwi)
    for percent in options.noise:
        keep_picture(images, f"noise{percent:g}-noisy", cases[0], shown[percent, 0])
    report = output / "report.html"
    each = len(cases) + (len(cases) > 1)
    for rows in execute(runs, output, score, progress=progress, cancel=cancel):
        facts = {**asked, **planned, "runs done": f"{len(rows) // each} of {len(runs)}"}
        _publish(options, report, [*baseline, *rows], cases[0].name, facts)
    return report


def _baseline(options: UntrainedOptions, cases: Sequence[Case], shown: Mapping[tuple[float, int], DWI]) -> list[Row]:
    """Of the noisy scans as they are."""
    rows: list[Row] = []
    for percent in options.noise:
        found = [row_of(case, case.scorer(shown[percent, n])) for n, case in enumerate(cases)]
        rows += [{"noise %": percent, "network": "none", "loss": "noisy", **row} for row in with_mean(found)]
    return rows


def _publish(
    options: UntrainedOptions, report: Path, rows: Sequence[Row], pictured: str, facts: Mapping[str, Any]
) -> None:
    """Table and page; `pictured` is the name of the scan in the pictures."""
    folder = options.output / "images"
    write_table(rows, options.output / "scores.tsv")
    averaged = [row for row in rows if row["scan"] == rows[-1]["scan"]]
    pictures = [(_pictures(folder, p, options.networks), f"{pictured}, {p:g} % noise") for p in options.noise]
    sections = [
        ("Scores by noise", [(_curves(averaged, network), network) for network in options.networks]),
        ("Pictures", pictures),
    ]
    write_page(report, "Untrained perceptual loss for denoising", conclusions(averaged), sections, rows, facts)


STUDIES.register("untrained")(
    Study("denoise with untrained feature losses beside the usual ones", UntrainedOptions, run_untrained_study)
)


def _configuration(
    options: UntrainedOptions, files: Sequence[Path], percent: float, network: str, loss: str, steps: int
) -> dict[str, Any]:
    return options.configuration(
        files,
        steps,
        task="denoising",
        scales=[1],
        network={"architecture": network, "arguments": dict(options.networks[network])},
        degradation={"noise": [percent, percent]},
        loss=[{**LOSSES[loss], **(options.upl if loss == "uPL" else {})}],
    )


def conclusions(rows: Sequence[Row]) -> list[str]:
    """Which loss is best, by measure, and how often."""
    sentences = []
    for measure, metric in MEASURES.items():
        best: dict[str, int] = dict.fromkeys(LOSSES, 0)
        groups = {(row["noise %"], row["network"]) for row in rows if row["network"] != "none"}
        complete = 0
        for group in groups:
            here = {row["loss"]: row[measure] for row in rows if (row["noise %"], row["network"]) == group}
            if len(here) == len(LOSSES) and all(map(math.isfinite, here.values())):
                complete += 1
                best[(max if metric.higher_is_better else min)(here, key=lambda loss: here[loss])] += 1
        if complete:
            counts = ", ".join(f"{loss} {count}" for loss, count in best.items())
            sentences.append(f"{measure}: best of {complete} combinations of network and noise: {counts}.")
    return sentences


def _noisy(case: Case, percent: float, seed: int) -> DWI:
    sigma = percent / 100 * float(case.dwi.mean_b0()[case.mask].mean())
    return replace(case.dwi, signal=rician(case.dwi.signal, sigma, np.random.default_rng(seed)))


def _curves(rows: Sequence[Row], network: str) -> str:
    from matplotlib.figure import Figure

    from ..evaluation.drawing import CHECKPOINT_COLOURS, INK, PAGE, in_page_ink, to_svg

    figure = Figure(figsize=(PAGE, 2.6), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
        for n, loss in enumerate((*LOSSES, "noisy")):
            here = [row for row in rows if row["loss"] == loss and row["network"] in (network, "none")]
            colour = INK if loss == "noisy" else CHECKPOINT_COLOURS[n % len(CHECKPOINT_COLOURS)]
            style = ":" if loss == "noisy" else "o-"
            axes.plot([r["noise %"] for r in here], [r[measure] for r in here], style, ms=4, color=colour, label=loss)
        in_page_ink(axes)
        axes.set_title(measure, color=INK, fontsize=10)
        axes.set_xlabel("noise, %", color=INK, fontsize=8)
    axes.legend(fontsize=7, frameon=False, labelcolor=INK)
    return to_svg(figure)


def _pictures(images: Path, percent: float, networks: Mapping[str, Any]) -> str:
    from matplotlib.figure import Figure

    from ..evaluation.drawing import INK, PAGE, to_svg

    names = {"acquired": "acquired", "noisy": f"noise{percent:g}-noisy"}
    names |= {f"{network}\n{loss}": f"noise{percent:g}-{network}-{loss}" for network in networks for loss in LOSSES}
    shown = {
        title: np.load(images / f"{name}.npy") for title, name in names.items() if (images / f"{name}.npy").is_file()
    }
    white = float(np.percentile(shown["acquired"], 99.8))
    columns = 1 + len(LOSSES)
    count = -(-len(shown) // columns)
    figure = Figure(figsize=(PAGE, PAGE / columns * count), layout="constrained")
    panels = figure.subplots(count, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (title, picture) in zip(panels, shown.items(), strict=False):
        axes.imshow(picture.T, cmap="gray", vmin=0, vmax=white, origin="lower", interpolation="none")
        axes.set_title(title, color=INK, fontsize=8)
    return to_svg(figure)
