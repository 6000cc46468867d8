"""The papers' experiments, each one command: runs that differ in one factor, then a table, figures and a page.

A study folder holds `study.json` (what was asked, fixed when the study starts), `runs/<name>` (one training each, with
its scores), `scores.tsv` and `report.html`, both rewritten after every run. Started again, a study goes on where it
stopped.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Cancelled, InputError

Row = dict[str, Any]
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Run:
    """One training of a study.

    Attributes
    ----------
    name : str
        Of its folder and checkpoint.
    facts : dict
        First columns of its rows: what it is.
    configuration : dict
        As for `training.validated`, without name, output and resume.
    """

    name: str
    facts: dict[str, Any]
    configuration: dict[str, Any]

    def checkpoint(self, output: Path) -> Path:
        """Where the trained network is, or will be."""
        return output / "runs" / self.name / f"{self.name}.safetensors"


def remember(output: Path, asked: Mapping[str, Any], plan: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What a study fixed when it started: `asked`, and what `plan` then measured; kept in study.json.

    Raises
    ------
    InputError
        If the folder holds a study that was asked otherwise.
    """
    path = output / "study.json"
    wanted = json.loads(json.dumps(asked))
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if changed := [key for key in wanted if found["asked"].get(key) != wanted[key]]:
            raise InputError(
                f"{output} holds a study with another {', '.join(changed)}; ask the same to resume it, or choose "
                "another output."
            )
        return found["plan"]
    planned = dict(plan())
    path.write_text(json.dumps({"asked": wanted, "plan": planned}, indent=1) + "\n", encoding="utf-8")
    return planned


def execute(
    runs: Sequence[Run],
    output: Path,
    score: Callable[[Run, Path], list[Row]],
    *,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Iterator[list[Row]]:
    """Train and score the runs that are not done yet; after each, yield the rows of all that are done."""
    from ..training import train, validated

    rows: list[Row] = []
    for number, run in enumerate(runs):
        if cancel is not None and cancel():
            raise Cancelled("Cancelled; the study goes on from here when started again.")
        if progress is not None:
            progress(number / len(runs), f"{run.name} ({number + 1} of {len(runs)})")
        folder = output / "runs" / run.name
        checkpoint = run.checkpoint(output)
        scores = folder / "scores.json"
        if not checkpoint.is_file():
            configuration = {**run.configuration, "name": run.name, "output": str(folder), "resume": True}
            train(validated(configuration))
        if not scores.is_file():
            found = [{**run.facts, **row} for row in score(run, checkpoint)]
            scores.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        rows += json.loads(scores.read_text(encoding="utf-8"))
        yield rows


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Tab-separated values with a header; missing and non-finite values are n/a."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([cell(row.get(column)) for column in columns] for row in rows)]
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def cell(value: Any) -> str:
    """A value as text of a table: four significant digits."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "n/a"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_page(
    path: Path,
    title: str,
    sentences: Sequence[str],
    sections: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    rows: Sequence[Row],
    facts: Mapping[str, Any],
) -> None:
    """One self-contained HTML page.

    Parameters
    ----------
    path : path
    title : str
    sentences : sequence of str
        The outcome, most important first.
    sections : sequence of (heading, figures)
        Figures are (SVG text, caption).
    rows : sequence of dict
        The table.
    facts : mapping
        What was run.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from ..evaluation.report import TEMPLATES

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    columns = list(dict.fromkeys(key for row in rows for key in row))
    page = environment.get_template("study.html.j2").render(
        title=title,
        sentences=sentences,
        sections=sections,
        columns=columns,
        rows=[[cell(row.get(column)) for column in columns] for row in rows],
        facts=facts,
        written=datetime.datetime.now().astimezone().isoformat(" ", "minutes"),
    )
    path.write_text(page, encoding="utf-8")
