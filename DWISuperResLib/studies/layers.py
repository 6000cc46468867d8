"""Which VGG layers bring grids? The ablation and isolation of arXiv 2605.15895, at several noise levels.

Every run trains the same network on the same patches in the same order for as many steps; only the loss differs:
L1 alone (the reference), L1 with one tap (Feat0 to Feat4) and L1 with the taps up to a depth (abl0: all five, to abl4:
the shallowest, which is Feat0). L1, Feat0 and Feat1 are then trained on for x3.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..io import read_dwi, write_dwi
from .base import Progress, Row, Run, execute, remember, write_page, write_table
from .layer_page import FEATURES, conclusions, page_sections
from .scoring import Case, add_noise, label, open_case, score_case, with_mean

LOSSES: dict[str, tuple[int, ...]] = {
    "L1": (0, 0, 0, 0, 0),
    **{name: tuple(int(i == n) for i in range(5)) for n, name in enumerate(FEATURES)},
    **{f"abl{n}": tuple(int(i < 5 - n) for i in range(5)) for n in range(3, -1, -1)},
}
"""Which of the paper's five taps each loss has; abl4 is Feat0."""

TRANSFERRED = ("L1", "Feat0", "Feat1")
NETWORK = {
    "scales": [2, 3],
    "width": 24,
    "blocks": [1, 1, 1, 1],
    "neighbours": 0,
    "guidance": [],
    "band_limited": False,  # else the network could not draw a grid within the measured band
}
"""Small, one slice in, and coarse enough inside (16 px of the x2 image) to draw a grid of every period measured."""

STRENGTH = 125.0
"""Each tap's term / L1 term before training, where weights are made equal. The paper's weights come with an L1 weight
of 125 that its code never uses; taken as meant to make all terms equal, that leaves each 125 times the L1 term."""

_STEPS_PER_EPOCH = 25
_SECONDS_PER_RUN = 15.0


def run_layer_study(
    data: Sequence[str],
    output: str | Path,
    *,
    held_out: Sequence[str] | float = 0.2,
    subject: str | None = None,
    losses: Sequence[str] = tuple(LOSSES),
    weights: str = "torchvision",
    snr: Sequence[float | None] = (None, 15.0, 8.0),
    minutes: float = 60.0,
    steps: int | None = None,
    seed: int = 42,
    model: str = "kspace",
    architecture: str = "sr_unet",
    arguments: Mapping[str, Any] = NETWORK,
    patch: int = 64,
    batch: int = 4,
    learning_rate: float = 1e-3,
    test_slices: int = 12,
    accelerator: str = "auto",
    precision: str = "fp32",
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
    losses : sequence of str
        Some of `LOSSES`, in the order in which they run.
    weights : str
        "torchvision" (VGG16-bn with the paper's weights and its normalisation, which is none), or a file of VGG16
        weights: taps deeper than it holds are untrained and named so, and tap weights are made equal, see STRENGTH.
    snr : sequence of float or None
        Noise levels: Rician noise is added to every scan, before the resolution is lowered, so that the b0 of the
        foreground has this SNR; None leaves scans as acquired. Tests compare with the scan as acquired.
    minutes : float
        Time to spend, from which the number of steps follows.
    steps : int, optional
        Training steps of a run instead; above 25 rounded up to a multiple of it.
    seed : int
    model : str
        Degradation model.
    architecture, arguments
        The network; it must serve x2 and x3.
    patch, batch, learning_rate
        Of training; patch in px, a multiple of 16 so that taps see whole strides.
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

    if patch % 16 or patch < 48 or batch < 1 or test_slices < 1:
        raise InputError(f"patch is {patch} and batch {batch}; expected a multiple of 16 from 48, and at least 1.")
    if not snr or any(level is not None and not level > 0 for level in snr):
        raise InputError(f"The noise levels are {list(snr)}; expected positive SNRs, or None for scans as acquired.")
    if not losses or not set(losses) <= set(LOSSES):
        raise InputError(f"The losses are {list(losses)}; expected some of {', '.join(LOSSES)}.")
    output = Path(output)
    weights = weights if weights in ("torchvision", "untrained") else str(Path(weights).expanduser().resolve())
    validation = held_out if isinstance(held_out, float) else list(held_out)
    files, tests = divide(
        Data.model_validate({"scans": list(data), "validation": validation, "subject": subject}), seed
    )
    if not tests:
        raise InputError("No scan is held out; name one with held_out, or give scans of at least two subjects.")
    output.mkdir(parents=True, exist_ok=True)
    asked: dict[str, Any] = {
        "scans": [str(path) for path in files],
        "held_out": [str(path) for path in tests],
        "losses": list(losses),
        "weights": weights,
        "snr": list(snr),
        "seed": seed,
        "model": model,
        "architecture": architecture,
        "arguments": dict(arguments),
        "patch": patch,
        "batch": batch,
        "learning_rate": learning_rate,
        "test_slices": test_slices,
    }

    def configuration(loss: Sequence[Mapping[str, Any]], scans: Sequence[Path], count: int, scale: int) -> dict:
        return {
            "scales": [scale],
            "seed": seed,
            "data": {
                "scans": [str(path) for path in scans],
                "validation": [],
                "cache": str(output / "cache"),
                "slabs": -(-batch // 2),
                "patches": min(batch, 2),
                "patch": patch,
                "workers": 0,
            },
            "network": {"architecture": architecture, "arguments": dict(arguments)},
            "degradation": {"models": {model: 1.0}},
            "augmentation": {"intensity": [1, 1], "contrast": [1, 1]},
            "loss": [dict(term) for term in loss],
            "schedule": {
                "epochs": -(-count // _STEPS_PER_EPOCH),
                "steps_per_epoch": min(count, _STEPS_PER_EPOCH),
                "learning_rate": learning_rate,
                "weight_decay": 0.0,
                "clip": None,
                "ema": None,
            },
            "machine": {"accelerator": accelerator, "precision": precision, "progress": False},
        }

    transferred = [name for name in TRANSFERRED if name in losses]
    # Sums of steps over the runs of one loss: x3 is trained on for half as long, at the first noise level.
    shares = {name: len(snr) + 0.5 * (name in transferred) for name in losses}

    def plan() -> dict[str, Any]:
        if progress is not None:
            progress(0.0, "measuring the losses")
        measured = _measure(configuration([{"name": "l1"}], files, 1, 2), weights)
        if steps is not None:
            return {**measured, "steps": steps}
        runs = len(snr) * len(losses) + len(transferred)
        cost = sum(share * measured["seconds"][name] for name, share in shares.items())
        count = int((60 * minutes - runs * _SECONDS_PER_RUN) / cost)
        if count < _STEPS_PER_EPOCH:
            needed = (_STEPS_PER_EPOCH * cost + runs * _SECONDS_PER_RUN) / 60
            raise InputError(
                f"{minutes:g} minutes are too few for {runs} runs; give at least {math.ceil(needed)}, fewer noise "
                "levels, or a number of steps."
            )
        return {**measured, "steps": count // _STEPS_PER_EPOCH * _STEPS_PER_EPOCH}

    planned = remember(output, asked, plan)
    terms = {name: loss_terms(name, weights, planned["tap_weights"]) for name in losses}
    cases = [open_case(path, test_slices) for path in tests]
    runs = []
    for level in snr:
        scans = files if level is None else _noisy_copies(files, level, seed, output / "scans")
        for name in losses:
            facts = {"loss": name, "snr": level, "scale": 2, "taps": _taps(name, planned["untrained_from"])}
            tree = configuration(terms[name], scans, planned["steps"], 2)
            runs.append(Run(f"x2-{label(level)}-{name}", facts, tree))
    first = {run.facts["loss"]: run for run in runs[: len(losses)]}
    for name in transferred:
        start = first[name]
        tree = configuration(
            terms[name], [Path(p) for p in start.configuration["data"]["scans"]], -(-planned["steps"] // 2), 3
        )
        tree["network"]["start_from"] = str(start.checkpoint(output))
        runs.append(Run(f"x3-{label(snr[0])}-{name}", {**start.facts, "scale": 3}, tree))

    def score(run: Run, checkpoint: Path) -> list[Row]:
        level, scale = run.facts["snr"], run.facts["scale"]
        found = [score_case(case, level, scale, model, seed, checkpoint, output / "images") for case in cases]
        return with_mean(found)

    baseline = _baseline(cases, snr, model, seed, output)
    report = output / "report.html"
    for rows in execute(runs, output, score, progress=progress, cancel=cancel):
        everything = [*baseline, *rows]
        write_table(everything, output / "scores.tsv")
        facts = {**asked, **planned, "runs done": f"{len(rows) // (len(cases) + (len(cases) > 1))} of {len(runs)}"}
        sentences = conclusions(everything, planned["untrained_from"])
        averaged = [row for row in everything if row["scan"] == everything[-1]["scan"]]
        sections = page_sections(averaged, output / "images", cases[0].name)
        write_page(report, "Which VGG layers bring grids?", sentences, sections, everything, facts)
    return report


def loss_terms(name: str, weights: str, tap_weights: Sequence[float]) -> list[dict[str, Any]]:
    """The loss of `LOSSES` as `losses.build_loss` takes it."""
    chosen = [w * on for w, on in zip(tap_weights, LOSSES[name], strict=True)]
    terms: list[dict[str, Any]] = [{"name": "l1"}]
    if any(chosen):
        terms.append({"name": "feature", "taps": "paper", "tap_weights": chosen, **_backbone(weights)})
    return terms


def _backbone(weights: str) -> dict[str, Any]:
    if weights == "torchvision":
        return {"backbone": "vgg16_bn", "weights": weights, "normalisation": "none"}
    return {"backbone": "vgg16", "weights": weights, "untrained_deeper": True}


def _measure(tree: dict[str, Any], weights: str) -> dict[str, Any]:
    """Tap weights, the first untrained layer, and seconds of a step with each loss, on batches of the training data."""
    import torch

    from ..losses import build_backbone
    from ..losses.features import PAPER_WEIGHTS
    from ..losses.vgg import PAPER_TAPS
    from ..networks import build
    from ..training import validated
    from ..training.module import WHITE
    from ..training.patches import Batches, DWIData

    config = validated({**tree, "output": tree["data"]["cache"]})
    torch.manual_seed(config.seed)
    network: Any = build(config.network.architecture, **config.network.arguments)
    loader = DWIData(config, network.view, None)
    loader.prepare_data()
    loader.setup("fit")
    batches = Batches(loader.scans, network.view, config, None)
    options = _backbone(weights)
    backbone = build_backbone(options.pop("backbone"), PAPER_TAPS, **options)
    ratios, seconds = [], math.inf
    for index in range(4):
        shown = batches[index]
        start = time.perf_counter()
        prediction = network(shown["input"], shown["target"].shape[2:])
        prediction.square().mean().backward()
        seconds = min(seconds, time.perf_counter() - start)
        pair = (prediction.detach() / WHITE[config.normalisation], shown["target"] / WHITE[config.normalisation])
        with torch.no_grad():
            seen, wanted = (backbone(images) for images in pair)
        distance = (pair[0] - pair[1]).abs().mean()
        ratios.append([float((seen[tap] - wanted[tap]).abs().mean() / distance) for tap in PAPER_TAPS])
    equal = STRENGTH / np.mean(ratios, axis=0)
    tap_weights = list(PAPER_WEIGHTS) if weights == "torchvision" else [float(f"{w:.4g}") for w in equal]
    return {
        "tap_weights": tap_weights,
        "untrained_from": backbone.description["untrained_from"],
        "seconds": _step_seconds(pair, seconds, weights, tap_weights),
    }


def _step_seconds(pair, network_seconds: float, weights: str, tap_weights: Sequence[float]) -> dict[str, float]:
    """Seconds of a training step with each loss: the network's share, then forward and backward of the loss."""
    from ..losses import build_loss

    result = {}
    for name in LOSSES:
        loss = build_loss(loss_terms(name, weights, tap_weights))
        best = math.inf
        for _ in range(2):
            prediction = pair[0].clone().requires_grad_()
            start = time.perf_counter()
            loss(prediction, pair[1])[0].backward()
            best = min(best, time.perf_counter() - start)
        result[name] = round(network_seconds + best, 4)
    return result


def _noisy_copies(files: Sequence[Path], snr: float, seed: int, folder: Path) -> list[Path]:
    copies = []
    for number, path in enumerate(files):
        copy = folder / label(snr) / f"{number:03d}_{path.name.split('.')[0]}.nii"
        if not copy.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_dwi(add_noise(read_dwi(path), snr, seed + number), copy)
        copies.append(copy)
    return copies


def _baseline(cases: Sequence[Case], snr, model: str, seed: int, output: Path) -> list[Row]:
    """Sinc interpolation, at every noise level for x2 and at the first for x3."""
    path = output / "baseline.json"
    if not path.is_file():
        rows: list[Row] = []
        for level, scale in [*((level, 2) for level in snr), (snr[0], 3)]:
            facts = {"loss": "sinc", "snr": level, "scale": scale, "taps": "interpolation"}
            found = [score_case(case, level, scale, model, seed, None, output / "images") for case in cases]
            rows += [{**facts, **row} for row in with_mean(found)]
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def _taps(name: str, untrained_from: str | None) -> str:
    from ..losses.vgg import PAPER_TAPS, TAPS

    parts = []
    for tap, on in zip(PAPER_TAPS, LOSSES[name], strict=True):
        if on:
            untrained = untrained_from is not None and TAPS.index(tap) >= TAPS.index(untrained_from)
            parts.append(f"{tap}{' (untrained)' if untrained else ''}")
    return " + ".join(parts) or "none"
