"""Does a registered structural image help? Networks of slices trained with and without it, and tested with a wrong one.

Both networks see the same patches in the same order for as many steps; one of them sees a guide besides. It is then
shown the right guide, a blank one, and the right one at a wrong place: a network that uses its guide errs with these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..dwi import Volume
from ..errors import InputError
from ..inference.guides import check_place
from ..io import read_scan, read_volume
from ..io.cohort import find_guide
from ..resampling.degradation import degrade
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
    step_seconds,
    write_page,
    write_table,
)
from .scoring import keep_picture, open_case, restore, row_of, with_mean

NETWORKS: dict[str, dict[str, Any]] = {
    "sr_unet": {
        "scales": [2, 3],
        "width": 24,
        "blocks": [1, 2, 2],
        "neighbours": 0,
        "guidance": ["mean_b0", "mean_dwi"],
    },
    "recnn": {"layers": 8, "filters": 24, "dimensions": 2, "guidance": ["mean_b0", "mean_dwi"]},
}
"""Small enough that both runs fit into minutes; the first is shown its guide on the coarse grid, the second on the
fine one."""
MEASURES = ("DWI NRMSE", "FA MAE", "QA MAE")
"""Columns that the conclusions and figures are about; less is better."""
KINDS = {"without": ("none",), "with": ("right", "blank", "shifted")}
"""Networks, and the guides that each is tested with."""
_SECONDS_PER_RUN = 15.0


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions(TrainingOptions):
    """Options of the study of guides.

    Attributes
    ----------
    guides : sequence of str
        A pattern relative to each scan's folder, see `io.cohort.find_guide`, or SCAN=FILE for each scan.
    scale : int
        In-plane factor.
    shift : float
        By which the wrong guide is moved along each axis of the scanner, mm.
    degradation : str
    architecture, arguments
        The network of slices, one of `NETWORKS` or any that takes an argument `guide`, then with arguments.

    Raises
    ------
    InputError
        If an option has no such value.
    """

    guides: Sequence[str] = option((), "structural images: a pattern beside each scan, or SCAN=FILE for each")
    scale: int = option(2, "in-plane factor")
    shift: float = option(20.0, "by which the wrong guide is moved along each axis, mm")
    degradation: str = option("kspace", "what lowers the resolution")
    architecture: str = option("sr_unet", "network: sr_unet, shown the guide on the coarse grid, or recnn, on the fine")
    arguments: Mapping[str, Any] | None = option(None)

    def __post_init__(self) -> None:
        pairs = [text.partition("=") for text in self.guides]
        if not pairs or (len(pairs) > 1 and not all(key and path for key, _, path in pairs)):
            raise InputError(
                f"The guides are {list(self.guides)}; expected one pattern relative to the scans' folders, such as "
                "{name}_T1w.nii.gz, or SCAN=FILE for each scan."
            )
        if self.arguments is None:
            if self.architecture not in NETWORKS:
                raise InputError(f"The network is {self.architecture!r}; expected {' or '.join(NETWORKS)}.")
            object.__setattr__(self, "arguments", NETWORKS[self.architecture])

    @property
    def guide(self) -> str | dict[str, str]:
        """As `data.guide` of a training."""
        pairs = [text.partition("=") for text in self.guides]
        return {key: path for key, _, path in pairs} if pairs[0][1] else self.guides[0]


def run_guidance_study(
    options: GuidanceOptions, *, progress: Progress | None = None, cancel: Cancel | None = None
) -> Path:
    """Run the study, or go on with it.

    Returns
    -------
    Path of report.html; scores.tsv stands beside it.

    Raises
    ------
    InputError
        If an option has no such value, a guide is missing or lies elsewhere, or the output holds another study.
    """
    output = options.output
    files, tests = options.divided()
    asked = {"scans": list(map(str, files)), "held_out": list(map(str, tests)), **options.asked()}
    guides = [_guide(path, options) for path in tests]
    output.mkdir(parents=True, exist_ok=True)

    def cost() -> float:
        return sum(step_seconds(_configuration(options, files, 1, name)) for name in KINDS)

    def plan() -> dict[str, int]:
        return options.plan(cost, len(KINDS), _SECONDS_PER_RUN, progress, "measuring the networks")

    planned = remember(output, asked, plan)
    cases = [open_case(path, options.test_slices) for path in tests]
    lows = [degrade(case.dwi, options.scale, model=options.degradation, axis=case.axis) for case in cases]
    runs = [Run(name, {"network": name}, _configuration(options, files, planned["steps"], name)) for name in KINDS]

    def restored(network: str, kind: str, checkpoint: Path | None) -> list[Row]:
        rows = []
        for case, low, guide in zip(cases, lows, guides, strict=True):
            shown = _shown(guide, kind, options.shift)
            test = restore(case, low, checkpoint=checkpoint, guide=shown)
            rows.append(row_of(case, case.scorer(test)))
            if case is cases[0]:
                keep_picture(output / "images", f"{network}-{kind}", case, test)
        return [{"guide": kind, **row} for row in with_mean(rows)]

    def score(run: Run, checkpoint: Path) -> list[Row]:
        return [row for kind in KINDS[run.name] for row in restored(run.name, kind, checkpoint)]

    baseline = kept_rows(output / "baseline.json", lambda: restored("sinc", "none", None))
    keep_picture(output / "images", "acquired", cases[0], cases[0].dwi)
    report = output / "report.html"
    for rows in execute(runs, output, score, progress=progress, cancel=cancel):
        everything = [{"network": "sinc", **row} for row in baseline] + rows
        write_table(everything, output / "scores.tsv")
        averaged = [row for row in everything if row["scan"] == everything[-1]["scan"]]
        sections = [
            ("Errors", [(_errors(averaged), "Errors against the scan as acquired, inside the brain; less is better.")]),
            ("Pictures", [(_pictures(output / "images"), f"{cases[0].name}: one volume, and what differs from it.")]),
        ]
        write_page(
            report, "Does a registered structural image help?", conclusions(averaged), sections, everything,
            {**asked, **planned, "runs done": f"{len({row['network'] for row in rows})} of {len(runs)}"},
        )  # fmt: skip
    return report


STUDIES.register("guidance")(
    Study("train with and without a structural image as a guide, and test with a wrong one", GuidanceOptions,
          run_guidance_study)
)  # fmt: skip


def conclusions(rows: Sequence[Row]) -> list[str]:
    """What the guide changed, by measure: a row for each network and guide.

    Examples
    --------
    >>> values = {("sinc", "none"): 0.2, ("without", "none"): 0.1, ("with", "right"): 0.09, ("with", "shifted"): 0.12}
    >>> rows = [{"network": n, "guide": g, "FA MAE": value} for (n, g), value in values.items()]
    >>> conclusions(rows)
    ['FA MAE: 0.1 without a guide, 0.09 with it (-10.0 %), 0.12 with it at a wrong place (+20.0 %); sinc 0.2.']
    """
    sentences = []
    for measure in MEASURES:
        found = {(row["network"], row["guide"]): row.get(measure, math.nan) for row in rows}
        without, guided = found.get(("without", "none"), math.nan), found.get(("with", "right"), math.nan)
        if math.isfinite(without) and math.isfinite(guided):
            wrong = found[("with", "shifted")]
            change, worse = (100 * (value / without - 1) for value in (guided, wrong))
            sentences.append(
                f"{measure}: {without:.4g} without a guide, {guided:.4g} with it ({change:+.1f} %), {wrong:.4g} with "
                f"it at a wrong place ({worse:+.1f} %); sinc {found[('sinc', 'none')]:.4g}."
            )
    return sentences


def _configuration(options: GuidanceOptions, files: Sequence[Path], steps: int, name: str) -> dict[str, Any]:
    guided = name == "with"
    tree = options.configuration(
        files,
        steps,
        scales=[options.scale],
        network={
            "architecture": options.architecture,
            "arguments": {**(options.arguments or {}), **({"guide": True} if guided else {})},
        },
        degradation={"models": {options.degradation: 1.0}},
        loss=[{"name": "charbonnier"}],
    )
    tree["data"]["guide"] = options.guide if guided else None
    return tree


def _guide(path: Path, options: GuidanceOptions) -> Volume:
    """A test scan's, which lies where it should."""
    found = find_guide(path, options.guide)
    assert found is not None
    guide = read_volume(found)
    try:
        check_place(guide, read_scan(path).series)
    except InputError as error:
        raise InputError(f"{found}, the guide of {path}: {error}") from error
    return guide


def _shown(guide: Volume, kind: str, shift: float) -> Volume | None:
    """The guide as it is, blank, or moved; None for networks that take none."""
    if kind == "blank":
        return replace(guide, image=np.ones_like(guide.image))
    if kind == "shifted":
        moved = np.eye(4)
        moved[:3, 3] = shift
        return replace(guide, affine=moved @ guide.affine)
    return guide if kind == "right" else None


def _errors(rows: Sequence[Row]) -> str:
    from matplotlib.figure import Figure

    from ..evaluation.drawing import CHECKPOINT_COLOURS, INK, PAGE, in_page_ink, to_svg

    figure = Figure(figsize=(PAGE, 2.8), layout="constrained")
    names = [row["network"] if row["guide"] == "none" else f"with, {row['guide']}" for row in rows]
    for axes, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
        axes.bar(range(len(rows)), [row[measure] for row in rows], color=CHECKPOINT_COLOURS[0])
        in_page_ink(axes)
        axes.set_title(measure, color=INK, fontsize=10)
        axes.set_xticks(range(len(rows)), names, rotation=40, ha="right", color=INK, fontsize=8)
    return to_svg(figure)


def _pictures(images: Path) -> str:
    from matplotlib.figure import Figure

    from ..evaluation.drawing import INK, PAGE, to_svg

    names = ["sinc-none", *(f"{network}-{kind}" for network, kinds in KINDS.items() for kind in kinds)]
    shown = {name: np.load(images / f"{name}.npy") for name in names if (images / f"{name}.npy").is_file()}
    acquired = np.load(images / "acquired.npy")
    white = float(np.percentile(acquired, 99.8))
    figure = Figure(figsize=(PAGE, PAGE / (1 + len(shown)) * 2.3), layout="constrained")
    panels = figure.subplots(2, 1 + len(shown), squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    bound = max(float(np.percentile(np.abs(picture - acquired), 99.5)) for picture in shown.values()) or 1.0
    for column, (name, picture) in zip(panels.T, {"acquired": acquired, **shown}.items(), strict=True):
        column[0].imshow(picture.T, cmap="gray", vmin=0, vmax=white, origin="lower", interpolation="none")
        column[0].set_title(name.removesuffix("-none"), color=INK, fontsize=8)
        if name != "acquired":
            column[1].imshow(
                (picture - acquired).T, cmap="RdBu_r", vmin=-bound, vmax=bound, origin="lower", interpolation="none"
            )
    return to_svg(figure)
