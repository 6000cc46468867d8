"""One network for many scales? The comparison of Pham et al. 2019, Table 1, on DWI.

doi:10.1016/j.compmedimag.2019.101647: ReCNN trained on x2, on x3, on both with as many samples, and on both with twice
as many; each is tested on factors that it was and was not trained on, isotropic, anisotropic and fractional.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..dwi import DWI
from ..errors import InputError
from ..resampling import MAX_FACTOR
from ..resampling.degradation import degrade
from ..resampling.scale import Scale
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
from .scoring import SIGNAL, Case, open_case, restore, signal_row, with_mean

TRAINED: dict[str, tuple[tuple[str, ...], int]] = {
    "x2": (("2x2x2",), 1),
    "x3": (("3x3x3",), 1),
    "x2, x3": (("2x2x2", "3x3x3"), 1),
    "x2, x3, double samples": (("2x2x2", "3x3x3"), 2),
}
"""Factors of each training (within slices, across them), and how many times as many steps it has."""
TESTED = ("2x2x2", "2x2x3", "2x2.5x2", "2x3x3", "2.5x2.5x2.5", "3x3x3")
_SECONDS_PER_RUN = 30.0


@dataclass(frozen=True, kw_only=True)
class BlockStudyOptions(TrainingOptions):
    """What studies of networks of blocks are asked besides.

    Attributes
    ----------
    methods : sequence of str
        Some of `resampling.upsamplers.UPSAMPLERS`.

    Raises
    ------
    InputError
        If a method is unknown, or patches are too small for a factor of 3.
    """

    layers: int = option(10, "layers of ReCNN; published are 10 and 20")
    filters: int = option(32, "filters of each layer; published are 64")
    methods: Sequence[str] = option(("bspline",), "interpolations beside the networks")
    degradation: str = option("gaussian", "what lowers the resolution")
    patch: int = option(25, "edge of a training patch in voxels")
    batch: int = option(8, "patches in a batch")
    test_slices: int = option(40, "slices of each held-out scan, where the brain is largest")
    test_volumes: int = option(4, "volumes of each held-out scan, spread over the b-values")

    def __post_init__(self) -> None:
        from ..resampling.upsamplers import UPSAMPLERS

        for method in self.methods:
            UPSAMPLERS.find(method)
        if self.patch < 24 or self.batch < 1 or self.test_volumes < 1 or self.test_slices < 1:
            raise InputError(
                f"patch is {self.patch}, batch {self.batch}, test_volumes {self.test_volumes} and test_slices "
                f"{self.test_slices}; expected patches of at least 24 voxels, and at least 1 of the others."
            )

    @property
    def recnn(self) -> dict[str, Any]:
        """The network, as a configuration says it."""
        return {"architecture": "recnn", "arguments": {"layers": self.layers, "filters": self.filters}}

    def of_blocks(
        self, scans: Sequence[Path], network: Mapping[str, Any], scales: Sequence[str], steps: int
    ) -> dict[str, Any]:
        """A training of blocks by the mean squared error, with rates as published between weights and biases."""
        return self.configuration(
            scans,
            steps,
            scales=list(scales),
            network=dict(network),
            degradation={"models": {self.degradation: 1.0}, "fwhm": [1.0, 1.0]},
            loss=[{"name": "l2"}],
            schedule={"optimizer": "adam", "bias_ratio": 0.1, "beta2": 0.999},
        )

    def lowered(self, case: Case, scale: str) -> DWI:
        """The case at low resolution; the factors are those within its slices and across them."""
        factors = Scale.of_slices(*factors_of(scale), axis=case.axis)
        return degrade(case.dwi, factors, model=self.degradation, axis=case.axis)

    def cases(self, tests: Sequence[Path]) -> list[Case]:
        """The held-out scans, cut to what is tested."""
        return [open_case(path, self.test_slices).of_volumes(self.test_volumes) for path in tests]


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(BlockStudyOptions):
    """Options of the study of scales.

    Attributes
    ----------
    tested : sequence of str
        Factors within the slices and across them.
    """

    tested: Sequence[str] = option(TESTED, "factors to test on")

    def __post_init__(self) -> None:
        super().__post_init__()
        for scale in self.tested:
            factors_of(scale)


def run_scale_study(options: ScaleOptions, *, progress: Progress | None = None, cancel: Cancel | None = None) -> Path:
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

    def cost() -> float:
        step = step_seconds(options.of_blocks(files, options.recnn, ["2x2x2"], 1))
        return step * sum(times for _, times in TRAINED.values())

    def plan() -> dict[str, int]:
        return options.plan(cost, len(TRAINED), _SECONDS_PER_RUN, progress, "measuring a step")

    planned = remember(output, asked, plan)
    cases = options.cases(tests)
    runs = [
        Run(
            name.replace(", ", "_").replace(" ", "_"),
            {"trained on": name},
            options.of_blocks(files, options.recnn, scales, times * planned["steps"]),
        )
        for name, (scales, times) in TRAINED.items()
    ]
    baseline: list[Row] = []
    for method in options.methods:
        baseline += [{"trained on": method, **row} for row in _scored(options, cases, method=method)]
    report = output / "report.html"

    def score(run: Run, checkpoint: Path) -> list[Row]:
        return _scored(options, cases, checkpoint=checkpoint)

    for rows in execute(runs, output, score, progress=progress, cancel=cancel):
        everything = [*baseline, *rows]
        write_table(everything, output / "scores.tsv")
        averaged = [row for row in everything if row["scan"] == everything[-1]["scan"]]
        facts = {**asked, **planned, "runs done": f"{len({row['trained on'] for row in rows})} of {len(runs)}"}
        sections = [("PSNR and SSIM by the factors tested", [(_curves(averaged), "")])]
        write_page(report, "One network for many scales?", conclusions(averaged), sections, table(averaged), facts)
    return report


STUDIES.register("scales")(
    Study("train blocks on one scale and on several, and test on factors between", ScaleOptions, run_scale_study)
)


def table(rows: Sequence[Row]) -> list[Row]:
    """In the form of the paper: a row for each factor tested, PSNR and SSIM of each training beside one another."""
    found: dict[str, Row] = {}
    for row in rows:
        line = found.setdefault(row["tested on"], {"tested on": row["tested on"]})
        line |= {f"{row['trained on']}: {measure}": row[measure] for measure in SIGNAL}
    return list(found.values())


def conclusions(rows: Sequence[Row]) -> list[str]:
    """What a single network for all factors costs or brings, in the order of the question."""
    psnr: dict[tuple[str, str], float] = {(row["trained on"], row["tested on"]): row["PSNR"] for row in rows}
    names = list(dict.fromkeys(row["trained on"] for row in rows))
    tested = list(dict.fromkeys(row["tested on"] for row in rows))
    sentences = []
    for name in names:
        best = sum(psnr[name, factors] == max(psnr[other, factors] for other in names) for factors in tested)
        mean = sum(psnr[name, factors] for factors in tested) / len(tested)
        sentences.append(f"{name}: PSNR {mean:.2f} dB on average, best of {len(names)} at {best} of {len(tested)}.")
    return sentences + _beside_single(psnr, names, tested)


def _beside_single(psnr: Mapping[tuple[str, str], float], names: Sequence[str], tested: Sequence[str]) -> list[str]:
    """Networks of several factors, each at the factor of a network that was trained on it alone."""
    sentences = []
    both = [name for name, (several, _) in TRAINED.items() if len(several) > 1 and name in names]
    alone = {name: scales[0] for name, (scales, _) in TRAINED.items() if len(scales) == 1 and name in names}
    for single, scale in alone.items() if both else ():
        if scale in tested:
            changes = ", ".join(f"{psnr[name, scale] - psnr[single, scale]:+.2f} dB ({name})" for name in both)
            sentences.append(f"At {scale}, beside the network trained on it alone: {changes}.")
    return sentences


def factors_of(scale: str) -> tuple[Fraction, Fraction, Fraction]:
    """Factors along both axes of the slice and across slices; InputError if there are not three from 1 on.

    Examples
    --------
    >>> factors_of("2x2.5x1")
    (Fraction(2, 1), Fraction(5, 2), Fraction(1, 1))
    """
    try:
        first, second, across = map(Fraction, scale.split("x"))
    except (ValueError, ZeroDivisionError):
        first = second = across = Fraction(0)
    if not all(1 <= factor <= MAX_FACTOR for factor in (first, second, across)):
        raise InputError(f"The scale to test is {scale!r}; expected three factors from 1 to {MAX_FACTOR}, as 2x2x3.")
    return first, second, across


def _scored(
    options: ScaleOptions, cases: Sequence[Case], *, method: str = "", checkpoint: Path | None = None
) -> list[Row]:
    """Rows of every factor tested, of each scan and their mean."""
    from ..checkpoints import Checkpoint, load_checkpoint

    rows: list[Row] = []
    for scale in options.tested:
        loaded = None
        if checkpoint is not None:
            # What a network makes of factors that it was not trained on is the question.
            stored = load_checkpoint(checkpoint)
            first, second, across = map(float, factors_of(scale))
            loaded = Checkpoint(replace(stored.card, factors=((first, second, across),)), stored.weights)
        found = []
        for case in cases:
            low = options.lowered(case, scale)
            found.append(signal_row(case, restore(case, low, method=method, checkpoint=loaded)))
        rows += [{"tested on": scale, **row} for row in with_mean(found)]
    return rows


def _curves(rows: Sequence[Row]) -> str:
    from matplotlib.figure import Figure

    from ..evaluation.drawing import CHECKPOINT_COLOURS, INK, PAGE, in_page_ink, to_svg

    figure = Figure(figsize=(PAGE, 3.0), layout="constrained")
    names = list(dict.fromkeys(row["trained on"] for row in rows))
    for axes, measure in zip(figure.subplots(1, len(SIGNAL)), SIGNAL, strict=True):
        for number, name in enumerate(names):
            here = [row for row in rows if row["trained on"] == name]
            colour = CHECKPOINT_COLOURS[number % len(CHECKPOINT_COLOURS)] if name in TRAINED else INK
            style = "o-" if name in TRAINED else "o:"
            axes.plot([r["tested on"] for r in here], [r[measure] for r in here], style, ms=4, color=colour, label=name)
        in_page_ink(axes)
        axes.set_title(measure, color=INK, fontsize=10)
        axes.tick_params(axis="x", labelsize=7)
    axes.legend(fontsize=7, frameon=False, labelcolor=INK)
    return to_svg(figure)
