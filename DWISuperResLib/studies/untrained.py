"""Is an untrained perceptual loss better than L1 and SSIM for denoising? The comparison of arXiv 2411.05884 on DWI.

Every run trains one kind of network (DnCNN, a residual network, a Swin transformer) at one level of Rician noise, on
the same patches in the same order for as many steps; only the loss differs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..dwi import DWI
from ..errors import InputError
from ..evaluation.compare import compare
from ..metrics import image_scores
from ..resampling.degradation import rician
from .base import Progress, Row, Run, execute, remember, write_page, write_table
from .scoring import Case, open_case, with_mean

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

MEASURES = ("DWI PSNR", "DWI SSIM", "FA MAE", "QA MAE")
_STEPS_PER_EPOCH = 25
_SECONDS_PER_RUN = 10.0


def run_untrained_study(
    data: Sequence[str],
    output: str | Path,
    *,
    held_out: Sequence[str] | float = 0.2,
    subject: str | None = None,
    noise: Sequence[float] = (1.0, 5.0, 10.0, 20.0),
    upl: Mapping[str, Any] | None = None,
    networks: Mapping[str, Mapping[str, Any]] = NETWORKS,
    minutes: float = 60.0,
    steps: int | None = None,
    seed: int = 42,
    patch: int = 64,
    batch: int = 4,
    learning_rate: float = 1e-3,
    test_slices: int = 8,
    accelerator: str = "auto",
    precision: str = "auto",
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
    held_out : sequence of str, or float
        Scans to test on, or the fraction of subjects to hold out.
    subject : str, optional
        Regular expression that tells subjects apart, see `training.configuration.Data`.
    noise : sequence of float
        Standard deviations of the Rician noise added, in percent of the brain's mean b0 signal.
    upl : mapping, optional
        Options of the untrained loss: depth, kernel, pooling, initialisation, seed; see `losses.untrained`.
    networks : mapping of architecture to its arguments
    minutes : float
        Time to spend, from which the number of steps follows.
    steps : int, optional
        Training steps of a run instead; rounded up to 25.
    seed : int
    patch, batch, learning_rate
        Of training.
    test_slices : int
        Slices of each held-out scan, where the brain is largest.
    accelerator, precision
        See `training.configuration.Machine`.
    progress, cancel
        As for `engine.super_resolve`.

    Returns
    -------
    Path of report.html; scores.tsv stands beside it.

    Raises
    ------
    InputError
        If an option has no such value, or `output` holds another study.
    """
    from ..training.cache import divide
    from ..training.configuration import Data

    if not noise or min(noise) <= 0:
        raise InputError(f"The noise levels are {list(noise)}; expected percentages above 0.")
    output = Path(output)
    validation = held_out if isinstance(held_out, float) else list(held_out)
    described = Data.model_validate({"scans": list(data), "validation": validation, "subject": subject})
    files, tests = divide(described, seed)
    if not tests:
        raise InputError("No scan is held out; name one with held_out, or give scans of at least two subjects.")
    output.mkdir(parents=True, exist_ok=True)
    asked: dict[str, Any] = {
        "scans": [str(path) for path in files],
        "held_out": [str(path) for path in tests],
        "noise": list(noise),
        "upl": {"seed": seed, **(upl or {})},
        "networks": {name: dict(arguments) for name, arguments in networks.items()},
        "seed": seed,
        "patch": patch,
        "batch": batch,
        "learning_rate": learning_rate,
        "test_slices": test_slices,
    }

    def configuration(network: str, loss: str, percent: float, count: int) -> dict[str, Any]:
        return {
            "task": "denoising",
            "scales": [1],
            "seed": seed,
            "data": {
                "scans": asked["scans"],
                "validation": [],
                "cache": str(output / "cache"),
                "slabs": -(-batch // 2),
                "patches": min(batch, 2),
                "patch": patch,
                "workers": 0,
            },
            "network": {"architecture": network, "arguments": asked["networks"][network]},
            "degradation": {"noise": [percent, percent]},
            "augmentation": {"intensity": [1, 1], "contrast": [1, 1]},
            "loss": [LOSSES[loss] | (asked["upl"] if loss == "uPL" else {})],
            "schedule": {
                "epochs": max(1, -(-count // _STEPS_PER_EPOCH)),
                "steps_per_epoch": _STEPS_PER_EPOCH,
                "learning_rate": learning_rate,
                "weight_decay": 0.0,
                "ema": None,
            },
            "machine": {"accelerator": accelerator, "precision": precision, "progress": False},
        }

    def plan() -> dict[str, Any]:
        if steps is not None:
            return {"steps": steps}
        if progress is not None:
            progress(0.0, "measuring the losses")
        cost = sum(_step_seconds(configuration(n, loss, noise[0], 1)) for n in networks for loss in LOSSES) * len(noise)
        runs = len(networks) * len(LOSSES) * len(noise)
        count = int((60 * minutes - runs * _SECONDS_PER_RUN) / cost)
        if count < _STEPS_PER_EPOCH:
            needed = math.ceil((_STEPS_PER_EPOCH * cost + runs * _SECONDS_PER_RUN) / 60)
            raise InputError(
                f"{minutes:g} minutes are too few for {runs} runs; give at least {needed}, fewer noise levels or "
                "networks, or a number of steps."
            )
        return {"steps": count // _STEPS_PER_EPOCH * _STEPS_PER_EPOCH}

    planned = remember(output, asked, plan)
    cases = [open_case(path, test_slices) for path in tests]
    runs = [
        Run(
            f"noise{percent:g}-{network}-{loss}",
            {"noise %": percent, "network": network, "loss": loss},
            configuration(network, loss, percent, planned["steps"]),
        )
        for percent in noise
        for network in networks
        for loss in LOSSES
    ]
    # Names of the scans, in order, are the noise's seeds: every network is shown the same noise.
    shown = {(percent, n): _noisy(case, percent, seed + n) for percent in noise for n, case in enumerate(cases)}
    baseline: list[Row] = []
    for percent in noise:
        found = [_score(case, shown[percent, n]) for n, case in enumerate(cases)]
        baseline += [{"noise %": percent, "network": "none", "loss": "noisy", **row} for row in with_mean(found)]

    def score(run: Run, checkpoint: Path) -> list[Row]:
        from ..inference.predict import super_resolve

        rows = []
        for n, case in enumerate(cases):
            noisy = shown[run.facts["noise %"], n]
            denoised = super_resolve(noisy, str(checkpoint), 1, precision="fp32", axis=case.axis)
            rows.append(_score(case, denoised))
            if n == 0:
                _keep_picture(output / "images", run.name, case, denoised)
        return with_mean(rows)

    _keep_picture(output / "images", "acquired", cases[0], cases[0].dwi)
    for percent in noise:
        _keep_picture(output / "images", f"noise{percent:g}-noisy", cases[0], shown[percent, 0])
    report = output / "report.html"
    each = len(cases) + (len(cases) > 1)
    for rows in execute(runs, output, score, progress=progress, cancel=cancel):
        everything = [*baseline, *rows]
        write_table(everything, output / "scores.tsv")
        averaged = [row for row in everything if row["scan"] == everything[-1]["scan"]]
        facts = {**asked, **planned, "runs done": f"{len(rows) // each} of {len(runs)}"}
        sections = [
            ("Scores by noise", [(_curves(averaged, network), network) for network in networks]),
            (
                "Pictures",
                [(_pictures(output / "images", p, networks), f"{cases[0].name}, {p:g} % noise") for p in noise],
            ),
        ]
        write_page(
            report, "Untrained perceptual loss for denoising", conclusions(averaged), sections, everything, facts
        )
    return report


def conclusions(rows: Sequence[Row]) -> list[str]:
    """Which loss is best, by measure, and how often."""
    sentences = []
    for measure in MEASURES:
        best: dict[str, int] = dict.fromkeys(LOSSES, 0)
        groups = {(row["noise %"], row["network"]) for row in rows if row["network"] != "none"}
        complete = 0
        for group in groups:
            here = {row["loss"]: row[measure] for row in rows if (row["noise %"], row["network"]) == group}
            if len(here) == len(LOSSES) and all(map(math.isfinite, here.values())):
                complete += 1
                best[(min if measure.endswith("MAE") else max)(here, key=lambda loss: here[loss])] += 1
        if complete:
            counts = ", ".join(f"{loss} {count}" for loss, count in best.items())
            sentences.append(f"{measure}: best of {complete} combinations of network and noise: {counts}.")
    return sentences


def _noisy(case: Case, percent: float, seed: int) -> DWI:
    volumes = case.dwi.is_b0 if case.dwi.is_b0.any() else slice(None)
    sigma = percent / 100 * float(case.dwi.signal[case.mask][:, volumes].mean())
    return replace(case.dwi, signal=rician(case.dwi.signal, sigma, np.random.default_rng(seed)))


def _score(case: Case, test: DWI) -> Row:
    weighted = ~case.dwi.is_b0
    pair = case.dwi.signal[..., weighted], test.signal[..., weighted]
    quality = image_scores(*pair, mask=case.mask, slice_axis=case.axis)
    difference = compare(case.dwi, test, ("fa", "qa"), mask=case.mask).difference
    return {
        "scan": case.name,
        "DWI PSNR": quality["psnr"],
        "DWI SSIM": quality["ssim"],
        "DWI NRMSE": quality["nrmse"],
        "FA MAE": float(np.abs(difference["fa"][case.mask]).mean()),
        "QA MAE": float(np.abs(difference["qa"][case.mask]).mean()),
    }


def _step_seconds(tree: dict[str, Any]) -> float:
    """Seconds of one training step, forward and backward, on noise of the batch's shape."""
    import torch

    from ..losses import build_loss
    from ..networks import build

    data = tree["data"]
    network = build(tree["network"]["architecture"], **tree["network"]["arguments"])
    loss = build_loss(tree["loss"])
    best = math.inf
    for _ in range(3):
        images = torch.rand(data["slabs"] * data["patches"], 1, data["patch"], data["patch"])
        start = time.perf_counter()
        loss(network(images, images.shape[2:]), images.flip(0))[0].backward()
        best = min(best, time.perf_counter() - start)
    return best


def _keep_picture(folder: Path, name: str, case: Case, dwi: DWI) -> None:
    folder.mkdir(exist_ok=True)
    middle = case.mask.shape[case.axis] // 2
    volume = int(np.argmax(case.dwi.bvals))
    np.save(folder / f"{name}.npy", np.take(dwi.signal[..., volume], middle, case.axis))


def _curves(rows: Sequence[Row], network: str) -> str:
    from matplotlib.figure import Figure

    from ..evaluation.figures import CHECKPOINT_COLOURS, INK, PAGE, to_svg

    figure = Figure(figsize=(PAGE, 2.6), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
        for n, loss in enumerate((*LOSSES, "noisy")):
            here = [row for row in rows if row["loss"] == loss and row["network"] in (network, "none")]
            colour = INK if loss == "noisy" else CHECKPOINT_COLOURS[n % len(CHECKPOINT_COLOURS)]
            style = ":" if loss == "noisy" else "o-"
            axes.plot([r["noise %"] for r in here], [r[measure] for r in here], style, ms=4, color=colour, label=loss)
        axes.patch.set_visible(False)
        axes.set_title(measure, color=INK, fontsize=10)
        axes.set_xlabel("noise, %", color=INK, fontsize=8)
        axes.tick_params(colors=INK, labelsize=8)
        for spine in axes.spines.values():
            spine.set_color(INK)
    axes.legend(fontsize=7, frameon=False, labelcolor=INK)
    return to_svg(figure)


def _pictures(images: Path, percent: float, networks: Mapping[str, Any]) -> str:
    from matplotlib.figure import Figure

    from ..evaluation.figures import INK, PAGE, to_svg

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
