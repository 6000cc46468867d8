"""Which VGG layers bring grids? The ablation and isolation of arXiv 2605.15895, at several noise levels.

Every run trains the same network on the same patches in the same order for as many steps; only the loss differs:
L1 alone (the reference), L1 with one tap (Feat0 to Feat4) and L1 with the taps up to a depth (abl0: all five, to abl4:
the shallowest, which is Feat0). L1, Feat0 and Feat1 are then trained on for x3.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dwi import Volume
from ..errors import InputError
from ..io import read_scan, scan_outputs
from .base import (
    STUDIES,
    Cancel,
    Progress,
    Row,
    Run,
    Study,
    TrainingOptions,
    execute,
    kept_rows,
    option,
    remember,
    write_page,
    write_table,
)
from .layer_page import FEATURES, conclusions, page_sections
from .scoring import Case, add_noise, label, open_case, score_case, with_mean

if TYPE_CHECKING:
    from torch import Tensor

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

_SECONDS_PER_RUN = 15.0


@dataclass(frozen=True, kw_only=True)
class LayerOptions(TrainingOptions):
    """Options of the layer study.

    Attributes
    ----------
    losses : sequence of str
        Some of `LOSSES`, in the order in which they run.
    weights : str
        "torchvision" (VGG16-bn with the paper's weights and its normalisation, which is none), or a file of VGG16
        weights: taps deeper than it holds are untrained and named so, and tap weights are made equal, see STRENGTH.
    snr : sequence of float or None
        Noise levels: Rician noise is added to every scan, before the resolution is lowered, at this SNR of the
        foreground's b0; None leaves scans as acquired. Tests compare with the scan as acquired.
    degradation : str
        Degradation.
    architecture, arguments
        The network; it must serve x2 and x3.
    patch
        A multiple of 16, so that taps see whole strides.

    Raises
    ------
    InputError
        If an option has no such value.
    """

    losses: Sequence[str] = option(tuple(LOSSES), "some of L1, Feat0 to Feat4, abl0 to abl3")
    weights: str = option("torchvision", "of VGG16: torchvision, or a file")
    snr: Sequence[float | None] = option((None, 15.0, 8.0), "noise levels; none leaves scans as acquired")
    degradation: str = option("kspace", "what lowers the resolution")
    architecture: str = option("sr_unet")
    arguments: Mapping[str, Any] = option(lambda: dict(NETWORK))
    test_slices: int = option(12, "slices of each held-out scan, where the brain is largest")
    precision: str = option("fp32", "auto, fp32, bf16 or fp16", fixed=False)

    def __post_init__(self) -> None:
        if self.patch % 16 or self.patch < 48 or self.batch < 1 or self.test_slices < 1:
            raise InputError(
                f"patch is {self.patch} and batch {self.batch}; expected a multiple of 16 from 48, and at least 1."
            )
        if not self.snr or any(level is not None and not level > 0 for level in self.snr):
            raise InputError(
                f"The noise levels are {list(self.snr)}; expected positive SNRs, or None for scans as acquired."
            )
        if not self.losses or not set(self.losses) <= set(LOSSES):
            raise InputError(f"The losses are {list(self.losses)}; expected some of {', '.join(LOSSES)}.")
        if self.weights not in ("torchvision", "untrained"):
            object.__setattr__(self, "weights", str(Path(self.weights).expanduser().resolve()))

    @property
    def transferred(self) -> list[str]:
        """Losses whose networks are trained on for x3."""
        return [name for name in TRANSFERRED if name in self.losses]


def run_layer_study(options: LayerOptions, *, progress: Progress | None = None, cancel: Cancel | None = None) -> Path:
    """Run the study, or go on with it.

    Returns
    -------
    Path of report.html; scores.tsv stands beside it.

    Raises
    ------
    InputError
        If an option has no such value, or the output holds another study.
    """
    output = options.output
    files, tests = options.divided()
    output.mkdir(parents=True, exist_ok=True)
    asked = {"scans": list(map(str, files)), "held_out": list(map(str, tests)), **options.asked()}

    def plan() -> dict[str, Any]:
        if progress is not None:
            progress(0.0, "measuring the losses")
        measured = _measure(_configuration(options, [{"name": "l1"}], files, 1, 2), options.weights)
        if options.steps is not None:
            return {**measured, "steps": options.steps}
        # x3 is trained on for half as long, at the first noise level.
        shares = {name: len(options.snr) + 0.5 * (name in options.transferred) for name in options.losses}
        runs = len(options.snr) * len(options.losses) + len(options.transferred)
        cost = sum(share * measured["seconds"][name] for name, share in shares.items())
        return {**measured, "steps": options.affordable_steps(cost, runs, _SECONDS_PER_RUN)}

    planned = remember(output, asked, plan)
    cases = [open_case(path, options.test_slices) for path in tests]
    runs = _runs(options, files, planned)

    def score(run: Run, checkpoint: Path) -> list[Row]:
        level, scale = run.facts["snr"], run.facts["scale"]
        images = output / "images"
        return with_mean(
            [score_case(case, level, scale, options.degradation, options.seed, checkpoint, images) for case in cases]
        )

    baseline = _baseline(options, cases)
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


STUDIES.register("layers")(
    Study("find which VGG layers of a feature loss bring grid artefacts", LayerOptions, run_layer_study)
)


def _configuration(
    options: LayerOptions, loss: Sequence[Mapping[str, Any]], scans: Sequence[Path], steps: int, scale: int
) -> dict[str, Any]:
    return options.configuration(
        scans,
        steps,
        scales=[scale],
        network={"architecture": options.architecture, "arguments": dict(options.arguments)},
        degradation={"models": {options.degradation: 1.0}},
        loss=[dict(term) for term in loss],
        schedule={"clip": None},
    )


def _runs(options: LayerOptions, files: Sequence[Path], planned: Mapping[str, Any]) -> list[Run]:
    """Every loss at every noise level for x2; then, from the first level's networks, x3."""
    terms = {name: loss_terms(name, options.weights, planned["tap_weights"]) for name in options.losses}
    runs: list[Run] = []
    first: dict[str, Run] = {}
    for level in options.snr:
        scans = files if level is None else _noisy_copies(files, level, options.seed, options.output / "scans")
        for name in options.losses:
            facts = {"loss": name, "snr": level, "scale": 2, "taps": _taps(name, planned["untrained_from"])}
            tree = _configuration(options, terms[name], scans, planned["steps"], 2)
            runs.append(Run(f"x2-{label(level)}-{name}", facts, tree))
            first.setdefault(name, runs[-1])
    for name in options.transferred:
        start = first[name]
        scans = [Path(path) for path in start.configuration["data"]["scans"]]
        tree = _configuration(options, terms[name], scans, -(-planned["steps"] // 2), 3)
        tree["network"]["start_from"] = str(start.checkpoint(options.output))
        runs.append(Run(f"x3-{label(options.snr[0])}-{name}", {**start.facts, "scale": 3}, tree))
    return runs


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
    from ..training.cache import divided
    from ..training.module import WHITE
    from ..training.patches import Batches, DWIData

    config = validated({**tree, "output": tree["data"]["cache"]})
    torch.manual_seed(config.seed)
    network: Any = build(config.network.architecture, **config.network.arguments)
    loader = DWIData(config, network.view, None, divided(config))
    loader.prepare_data()
    loader.setup("fit")
    batches = Batches(loader.scans, network.view, config, None)
    arguments = _backbone(weights)
    backbone = build_backbone(arguments.pop("backbone"), PAPER_TAPS, **arguments)
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


def _step_seconds(
    pair: tuple[Tensor, Tensor], network_seconds: float, weights: str, tap_weights: Sequence[float]
) -> dict[str, float]:
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
            scan = read_scan(path)
            with scan_outputs([copy], structural=isinstance(scan, Volume)) as write:
                write(copy, scan.like(add_noise(scan.series, snr, seed + number)))
        copies.append(copy)
    return copies


def _baseline(options: LayerOptions, cases: Sequence[Case]) -> list[Row]:
    """Sinc interpolation, at every noise level for x2 and at the first for x3."""

    def measure() -> list[Row]:
        rows: list[Row] = []
        images = options.output / "images"
        for level, scale in [*((level, 2) for level in options.snr), (options.snr[0], 3)]:
            facts = {"loss": "sinc", "snr": level, "scale": scale, "taps": "interpolation"}
            found = [score_case(case, level, scale, options.degradation, options.seed, None, images) for case in cases]
            rows += [{**facts, **row} for row in with_mean(found)]
        return rows

    return kept_rows(options.output / "baseline.json", measure)


def _taps(name: str, untrained_from: str | None) -> str:
    from ..losses.vgg import PAPER_TAPS, TAPS

    parts = []
    for tap, on in zip(PAPER_TAPS, LOSSES[name], strict=True):
        if on:
            untrained = untrained_from is not None and TAPS.index(tap) >= TAPS.index(untrained_from)
            parts.append(f"{tap}{' (untrained)' if untrained else ''}")
    return " + ".join(parts) or "none"
