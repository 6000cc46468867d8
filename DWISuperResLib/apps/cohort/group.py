"""The report on a cohort: one HTML file with a table to sort and to filter, and the numbers behind it."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...io import output_files
from .participant import TABLE, read_table
from .scan import FAILED, read_sidecar

PAGE, NUMBERS = "superres_group.html", "superres_group.tsv"
OUTLIER = 3.5
"""Modified z-score from which a scan stands out (Iglewicz & Hoaglin 1993, How to Detect and Handle Outliers)."""
FEWEST = 8
"""Scans below which none is called an outlier."""
JUDGED = ("bias", "mae")
"""Of each map: what a scan is compared with the others by."""


@dataclass(frozen=True)
class Result:
    """A row of the report: a scan that was processed, or failed.

    Attributes
    ----------
    facts : mapping
        Its sidecar's section, see `scan.read_sidecar`; empty where it failed.
    outlier : tuple of str
        What makes it one, a phrase each.
    """

    participant: str
    session: str
    scan: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    outlier: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """As in the table."""
        return "failed" if self.error else "done"

    @property
    def fired(self) -> list[Mapping[str, Any]]:
        """Self-checks that warn."""
        return [check for check in self.facts.get("checks", ()) if check["fired"]]

    def value(self, name: str, column: str) -> float:
        """Of a map; NaN where there is none."""
        found = self.facts.get("changes", {}).get(name, {}).get(column)
        return math.nan if found is None else float(found)


def write_group_report(output: Path, participants: Sequence[str] = (), *, overwrite: bool = False) -> tuple[Path, Path]:
    """Write the report on what lies in a folder of derivatives; return the page and the table of numbers.

    Parameters
    ----------
    output : path
    participants : sequence of str
        Labels, with or without "sub-"; all by default.
    overwrite : bool
        Replace an earlier report.

    Raises
    ------
    InputError
        If there is nothing to report on, a label is not there, or a report is and `overwrite` is False.
    """
    from ...evaluation.pages import render

    results = with_outliers(read_results(output, participants))
    targets = [output / NUMBERS, output / PAGE]
    with output_files(targets, overwrite) as (numbers, page):
        numbers.write_text(_as_tsv(results), encoding="utf-8")
        page.write_text(render("cohort.html.j2", **_page(results, output)), encoding="utf-8")
    return targets[1], targets[0]


def read_results(output: Path, participants: Sequence[str] = ()) -> list[Result]:
    """Every scan that has a result, or whose last run failed without leaving one, in the order of their names."""
    wanted = {label.removeprefix("sub-") for label in participants}
    found: dict[str, Result] = {}
    for sidecar in output.glob("sub-*/**/*_dwi.json"):
        stem = sidecar.relative_to(output).as_posix().removesuffix("_dwi.json")
        if facts := read_sidecar(sidecar):
            names = dict(part.split("-", 1) for part in stem.split("/")[:2] if "-" in part)
            found[stem] = Result(names["sub"], names.get("ses", ""), stem, facts)
    failed = [row for row in read_table(output / TABLE) if row["status"] == FAILED]
    found = {row["scan"]: _without_result(row) for row in failed} | found
    kept = [found[stem] for stem in sorted(found) if not wanted or found[stem].participant in wanted]
    if absent := sorted(wanted - {result.participant for result in kept}):
        raise InputError(f"{output} holds no result of participant {', '.join(absent)}; run the level participant.")
    if not kept:
        raise InputError(f"{output} holds no result; run the level participant first, with the same output folder.")
    return kept


def _without_result(row: Mapping[str, str]) -> Result:
    session = row["session_id"].removeprefix("ses-")
    participant = row["participant_id"].removeprefix("sub-")
    return Result(participant, "" if session == "n/a" else session, row["scan"], error=row["error"])


def modified_z_scores(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """0.6745 (x - median) / MAD of each value; 0 where the MAD is 0, NaN stays.

    Iglewicz & Hoaglin 1993, eq. 3.1.

    Examples
    --------
    >>> modified_z_scores(np.array([1.0, 2.0, 3.0, 4.0, 100.0])).round(1).tolist()
    [-1.3, -0.7, 0.0, 0.7, 65.4]
    """
    deviation = values - np.nanmedian(values)
    spread = np.nanmedian(np.abs(deviation))
    return 0.6745 * deviation / spread if spread > 0 else np.where(np.isnan(values), np.nan, 0.0)


def with_outliers(results: Sequence[Result]) -> list[Result]:
    """The results, those that stand out marked."""
    reasons: dict[str, list[str]] = {}
    finished = [result for result in results if not result.error]
    for name in map_names_of(results):
        for column in JUDGED:
            values = np.array([result.value(name, column) for result in finished])
            if np.isfinite(values).sum() < FEWEST:
                continue
            for result, value, score in zip(finished, values, modified_z_scores(values), strict=True):
                if abs(score) > OUTLIER:
                    phrase = f"{name.upper()} {column} {value:.3g} (z {score:+.1f})"
                    reasons.setdefault(result.scan, []).append(phrase)
    return [Result(r.participant, r.session, r.scan, r.facts, r.error, tuple(reasons.get(r.scan, ()))) for r in results]


def map_names_of(results: Sequence[Result]) -> list[str]:
    """The maps that any of the results has, in their order."""
    return list(dict.fromkeys(name for result in results for name in result.facts.get("changes", ())))


def _columns(maps: Sequence[str]) -> list[tuple[str, str, str]]:
    """(map, value, heading) of the table's numbers."""
    from ...microstructure import map_info

    headings = {"before": "before", "after": "after", "bias": "change", "mae": "mean |change|"}
    columns = []
    for name in maps:
        info = map_info(name)
        unit = " (10⁻³ mm²/s)" if info.unit == "mm²/s" else ""
        columns += [(name, column, f"{info.label} {heading}{unit}") for column, heading in headings.items()]
    return columns


def _shown(name: str, value: float) -> float:
    """Diffusivities in 10⁻³ mm²/s."""
    from ...microstructure import map_info

    return value * 1e3 if map_info(name).unit == "mm²/s" else value


def _page(results: Sequence[Result], output: Path) -> dict[str, Any]:
    from . import figures

    maps = map_names_of(results)
    columns = _columns(maps)
    rows = [
        {
            "result": result,
            "numbers": [_shown(name, result.value(name, column)) for name, column, _ in columns],
        }
        for result in results
    ]
    return {
        "title": f"{len(results)} super-resolved scans of {len({r.participant for r in results})} participants",
        "sentences": sentences(results),
        "headings": [heading for *_, heading in columns],
        "rows": rows,
        "checks": _checks(results),
        "outliers": [result for result in results if result.outlier],
        "failures": [result for result in results if result.error],
        "figures": figures.of_changes(results, maps),
        "facts": _facts(results, output),
        "outlier_score": OUTLIER,
    }


def sentences(results: Sequence[Result]) -> list[str]:
    """The report in a few plain sentences."""
    failed = sum(bool(result.error) for result in results)
    done = len(results) - failed
    warned = sum(bool(result.fired) for result in results)
    outliers = sum(bool(result.outlier) for result in results)
    found = [
        f"{done} of {len(results)} scans are super-resolved" + (f"; {failed} failed." if failed else "; none failed.")
    ]
    found.append(f"Scans with a self-check that warns: {warned}; that stand out from the others: {outliers}.")
    for name in map_names_of(results):
        values = np.array([[r.value(name, column) for column in ("before", "after")] for r in results if not r.error])
        before, after = (_shown(name, value) for value in np.nanmean(values, axis=0))
        found.append(f"Mean {name.upper()} in the brain: {before:.3f} before, {after:.3f} after.")
    found += _mixtures(results)
    return found


def _mixtures(results: Sequence[Result]) -> list[str]:
    """What is not the same in all results, though a cohort should be processed in one way."""
    told = []
    for label, key in (("versions of DWISuperRes", "version"), ("checkpoints", "checkpoint"), ("scales", "scale")):
        if len({str(result.facts.get(key)) for result in results if not result.error}) > 1:
            told.append(f"Results of several {label} are mixed; run the level participant again with --overwrite.")
    options = [result.facts.get("options", {}) for result in results if not result.error]
    for name in sorted({name for each in options for name in each}):
        if len({str(each.get(name)) for each in options}) > 1:
            told.append(f"Results of several values of --{name.replace('_', '-')} are mixed; compare them with care.")
    return told


def _checks(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For each self-check that fired: on how many scans, and where worst."""
    fired: dict[str, list[tuple[float, Result, Mapping[str, Any]]]] = {}
    tried = Counter(check["name"] for result in results for check in result.facts.get("checks", ()))
    for result in results:
        for check in result.fired:
            value = math.inf if check["value"] is None else check["value"]
            fired.setdefault(check["name"], []).append((value, result, check))
    rows = []
    for name, cases in sorted(fired.items(), key=lambda item: -len(item[1])):
        value, worst, check = max(cases, key=lambda case: case[0])
        rows.append(
            {"name": name, "count": len(cases), "tried": tried[name], "value": value,
             "threshold": check["threshold"], "scan": worst.scan, "advice": check["advice"]}
        )  # fmt: skip
    return rows


def _facts(results: Sequence[Result], output: Path) -> dict[str, str]:
    """What was run, where it is the same for all."""
    finished = [result.facts for result in results if not result.error]
    facts = {"derivatives": str(output.resolve())}
    for key in ("version", "scale", "checkpoint", "options"):
        values = {str(each.get(key)): each.get(key) for each in finished}
        if len(values) == 1:
            (value,) = values.values()
            shown = {k: v for k, v in value.items() if v not in (None, "", False)} if isinstance(value, dict) else value
            facts[key] = ", ".join(f"{k} {v}" for k, v in shown.items()) if isinstance(shown, dict) else str(shown)
    if finished:
        seconds = np.array([each["seconds"] for each in finished])
        facts["seconds a scan"] = f"{np.median(seconds):.1f} (median), {seconds.max():.1f} at most"
        facts["worker time"] = f"{seconds.sum() / 3600:.2f} h in all"
    return facts


def _as_tsv(results: Sequence[Result]) -> str:
    columns = _columns(map_names_of(results))
    header = ["participant_id", "session_id", "scan", "status", "seconds", "failed_checks", "outlier"]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow([*header, *(f"{name}_{column}" for name, column, _ in columns)])
    for result in results:
        names = "; ".join(check["name"] for check in result.fired)
        values = (result.value(name, column) for name, column, _ in columns)
        writer.writerow([
            f"sub-{result.participant}", f"ses-{result.session}" if result.session else "n/a", result.scan,
            result.status, result.facts.get("seconds", "n/a"), names or "n/a", "; ".join(result.outlier) or "n/a",
            *("n/a" if math.isnan(value) else f"{value:.6g}" for value in values),
        ])  # fmt: skip
    return text.getvalue()
