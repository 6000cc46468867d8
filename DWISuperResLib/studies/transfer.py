"""Does a network serve scans unlike those it was trained on? The comparison of Pham et al. 2019, Table 2, on DWI.

doi:10.1016/j.compmedimag.2019.101647: spline, LRTV, SRCNN3D and ReCNN on two data sets. Here every network is trained
on each, tested on both, and tested again after going on with few scans of the set that it had not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..resampling.upsamplers import UPSAMPLERS
from .base import (
    STEPS_PER_EPOCH,
    STUDIES,
    Cancel,
    Progress,
    Row,
    Run,
    Study,
    execute,
    option,
    remember,
    step_seconds,
    write_page,
    write_table,
)
from .scales import BlockStudyOptions, factors_of
from .scoring import Case, restore, signal_row, with_mean

SETS = ("A", "B")
PUBLISHED = ("bspline", "lrtv")
"""Interpolations of the paper's table."""
SRCNN = {"architecture": "srcnn", "arguments": {"kernels": [9, 1, 5], "filters": [64, 32]}}
_SECONDS_PER_RUN = 30.0


@dataclass(frozen=True, kw_only=True)
class TransferOptions(BlockStudyOptions):
    """Options of the study of transfer.

    Attributes
    ----------
    other : sequence of str
        The second data set, as `data` names the first.

    Raises
    ------
    InputError
        If there is no second data set, or an option has no such value.
    """

    other: Sequence[str] = option(tuple, "second data set: DWI files, folders or patterns", fixed=False)
    other_held_out: Sequence[str] | float = option(
        0.2, "of the second data set, scans to test on, or the fraction of subjects to hold out", fixed=False
    )
    scale: str = option("2x2x2", "factors within slices and across them")
    few: int = option(1, "scans of the other data set to go on with")
    fine_share: float = option(0.25, "steps of going on, as a share of a training's")
    methods: Sequence[str] = option(
        lambda: tuple(name for name in PUBLISHED if name in UPSAMPLERS), "interpolations beside the networks"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        factors_of(self.scale)
        if not self.other:
            raise InputError("There is no second data set; name its scans with other.")
        if self.few < 1 or not 0 < self.fine_share <= 1:
            raise InputError(
                f"few is {self.few} and fine_share {self.fine_share}; expected at least one scan and a share up to 1."
            )

    @property
    def networks(self) -> dict[str, Mapping[str, Any]]:
        """Networks by name, as a configuration says them."""
        return {"SRCNN3D": SRCNN, "ReCNN": self.recnn}

    def both(self) -> dict[str, tuple[list[Path], list[Path]]]:
        """Scans to train on and to test on of either data set; InputError as of `divided`, or if they share any."""
        second = replace(self, data=self.other, held_out=self.other_held_out)
        found = dict(zip(SETS, (self.divided(), second.divided()), strict=True))
        first, other = ({*files, *tests} for files, tests in found.values())
        if shared := first & other:
            raise InputError(f"{min(shared)} is in both data sets; leave it out of one.")
        return found


def run_transfer_study(
    options: TransferOptions, *, progress: Progress | None = None, cancel: Cancel | None = None
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
    output = options.output
    sets = options.both()
    output.mkdir(parents=True, exist_ok=True)
    scans = {
        name: {"scans": list(map(str, files)), "held_out": list(map(str, tests))}
        for name, (files, tests) in sets.items()
    }
    asked = {**scans, **options.asked()}

    def cost() -> float:
        trees = [options.of_blocks(sets["A"][0], n, [options.scale], 1) for n in options.networks.values()]
        return len(SETS) * (1 + options.fine_share) * sum(map(step_seconds, trees))

    def plan() -> dict[str, int]:
        runs = 2 * len(SETS) * len(options.networks)
        return options.plan(cost, runs, _SECONDS_PER_RUN, progress, "measuring a step")

    planned = remember(output, asked, plan)
    cases = {name: options.cases(tests) for name, (_, tests) in sets.items()}
    baseline = [
        {"method": method, "trained on": "none", **row}
        for method in options.methods
        for name in SETS
        for row in _scored(options, name, cases[name], method=method)
    ]
    report = output / "report.html"

    def score(run: Run, checkpoint: Path) -> list[Row]:
        # After going on, the other data set alone is of interest.
        tested = SETS if run.facts["trained on"] in SETS else run.facts["trained on"][-1]
        return [row for name in tested for row in _scored(options, name, cases[name], checkpoint=checkpoint)]

    runs = _runs(options, {name: files for name, (files, _) in sets.items()}, planned["steps"])
    for rows in execute(runs, output, score, progress=progress, cancel=cancel):
        everything = [*baseline, *rows]
        write_table(everything, output / "scores.tsv")
        averaged = averages(everything)
        facts = {**asked, **planned}
        write_page(report, "Does a network serve foreign scans?", conclusions(averaged), [], averaged, facts)
    return report


STUDIES.register("transfer")(
    Study("train blocks on one data set, test on another, go on with few scans", TransferOptions, run_transfer_study)
)


def averages(rows: Sequence[Row]) -> list[Row]:
    """One row for each method, training and data set tested: of its only scan, or the mean; by data set and method."""
    last = {(row["tested on"], row["method"], row["trained on"]): row for row in rows}
    order = list(dict.fromkeys(row["method"] for row in rows))
    return sorted(last.values(), key=lambda row: (row["tested on"], order.index(row["method"])))


def conclusions(rows: Sequence[Row]) -> list[str]:
    """What foreign training costs, and what going on with few scans brings back, for each network and data set."""
    psnr = {(row["tested on"], row["method"], row["trained on"]): row["PSNR"] for row in rows}
    sentences = []
    for tested, foreign in zip(SETS, reversed(SETS), strict=True):
        interpolated = {m: value for (t, m, trained), value in psnr.items() if t == tested and trained == "none"}
        best = max(interpolated, key=interpolated.__getitem__, default="")
        beside = f"; {best} {interpolated[best]:.2f} dB." if best else "."
        for method in dict.fromkeys(method for t, method, trained in psnr if t == tested and trained != "none"):
            if sentence := _of_method(psnr, method, tested, foreign):
                sentences.append(sentence + beside)
    return sentences


def _of_method(psnr: Mapping[tuple[str, str, str], float], method: str, tested: str, foreign: str) -> str:
    """Own against foreign training; nothing while one of them is missing."""
    own, other = (psnr.get((tested, method, trained)) for trained in (tested, foreign))
    if own is None or other is None:
        return ""
    tuned = [v for (t, m, trained), v in psnr.items() if (t, m) == (tested, method) and trained not in SETS]
    sentence = f"{method} on {tested}: PSNR {own:.2f} dB trained on it, {other:.2f} dB trained on {foreign}"
    return sentence + "".join(f", {value:.2f} dB after going on with few of its scans" for value in tuned)


def _runs(options: TransferOptions, files: Mapping[str, Sequence[Path]], steps: int) -> list[Run]:
    """Every network on each data set; then on with few scans of the other."""
    runs: list[Run] = []
    fine_steps = max(1, round(steps * options.fine_share))
    fine_steps -= fine_steps % STEPS_PER_EPOCH if fine_steps > STEPS_PER_EPOCH else 0
    for name, network in options.networks.items():
        first = {
            trained: Run(
                f"{name}-{trained}",
                {"method": name, "trained on": trained},
                options.of_blocks(files[trained], network, [options.scale], steps),
            )
            for trained in SETS
        }
        runs += first.values()
        for foreign, own in zip(SETS, reversed(SETS), strict=True):
            start = {**network, "start_from": str(first[foreign].checkpoint(options.output))}
            few = sorted(files[own])[: options.few]
            runs.append(
                Run(
                    f"{name}-{foreign}-to-{own}",
                    {"method": name, "trained on": f"{foreign}, then {len(few)} of {own}"},
                    options.of_blocks(few, start, [options.scale], fine_steps),
                )
            )
    return runs


def _scored(
    options: TransferOptions, name: str, cases: Sequence[Case], *, method: str = "", checkpoint: Path | None = None
) -> list[Row]:
    """Rows of every held-out scan of a data set, and their mean."""
    rows = []
    for case in cases:
        low = options.lowered(case, options.scale)
        rows.append(signal_row(case, restore(case, low, method=method, checkpoint=checkpoint)))
    return [{"tested on": name, **row} for row in with_mean(rows)]
