"""The papers' experiments, each one command: runs that differ in one factor, then a table, figures and a page.

A study folder holds `study.json` (what was asked, fixed when the study starts), `runs/<name>` (one training each, with
its scores), `scores.tsv` and `report.html`, both rewritten after every run. Started again, a study goes on where it
stopped. Whoever adds a study writes one file: options, a function, and an entry in `STUDIES`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from ..errors import Cancelled, InputError
from ..io import write_text
from ..registry import Registry

Row = dict[str, Any]
Progress = Callable[[float, str], None]
Cancel = Callable[[], bool]

STEPS_PER_EPOCH = 25


def option(default: Any, text: str = "", *, fixed: bool = True) -> Any:
    """A field of a study's options.

    Parameters
    ----------
    default : object
        A function that makes it, for what can change.
    text : str
        Help; with it, the field is a flag of the command line.
    fixed : bool
        Whether a study that is resumed must be asked the same.

    Examples
    --------
    >>> from dataclasses import make_dataclass
    >>> Asked = make_dataclass("Asked", [("runs", int, option(3, "how many"))])
    >>> Asked().runs
    3
    """
    metadata = {"help": text, "fixed": fixed}
    return (
        field(default_factory=default, metadata=metadata)
        if callable(default)
        else field(default=default, metadata=metadata)
    )


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What every study is asked; a field with a help text is a flag of the command line.

    Examples
    --------
    >>> from dataclasses import fields
    >>> options = StudyOptions(data=["scans"], output=Path("study"))
    >>> options.asked(), [f.name for f in fields(options) if f.metadata["help"]]
    ({'seed': 42}, ['data', 'output', 'seed'])
    """

    data: Sequence[str] = field(
        metadata={
            "help": "files of DWI or structural images, folders or patterns of DWI",
            "fixed": False,
        }
    )
    output: Path = field(metadata={"help": "study folder; resumed if it exists", "fixed": False})
    seed: int = option(42, "of all that is drawn")

    def asked(self) -> dict[str, Any]:
        """What must be the same when the study is resumed."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["fixed"]}


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(StudyOptions):
    """What every study that trains is asked besides."""

    held_out: Sequence[str] | float = option(
        0.2, "scans to test on, or the fraction of subjects to hold out", fixed=False
    )
    subject: str | None = option(
        None, "regular expression; scans whose paths match to the same text are one subject", fixed=False
    )
    minutes: float = option(60.0, "time to spend, from which the number of steps follows", fixed=False)
    steps: int | None = option(None, "training steps of a run instead, above 25 in multiples of it", fixed=False)
    patch: int = option(64, "side of a training patch in px")
    batch: int = option(4, "patches in a batch")
    learning_rate: float = option(1e-3, "highest learning rate")
    test_slices: int = option(8, "slices of each held-out scan, where the brain is largest")
    accelerator: str = option("auto", "auto, cpu, gpu or mps", fixed=False)
    precision: str = option("auto", "auto, fp32, bf16 or fp16", fixed=False)

    def divided(self) -> tuple[list[Path], list[Path]]:
        """Scans to train on and to test on; InputError if there is none to test on."""
        from ..io.cohort import divide

        files, tests = divide(self.data, held_out=self.held_out, subject=self.subject, seed=self.seed)
        if not tests:
            raise InputError("No scan is held out; name one with held_out, or give scans of at least two subjects.")
        return files, tests

    def configuration(
        self, scans: Sequence[Path], steps: int, *, schedule: Mapping[str, Any] = {}, **sections: Any
    ) -> dict[str, Any]:
        """A training of `steps` steps for `training.validated`: the same patches in the same order for every run."""
        return {
            "seed": self.seed,
            "data": {
                "scans": [str(path) for path in scans],
                "validation": [],
                "cache": str(self.output / "cache"),
                "slabs": -(-self.batch // 2),
                "patches": min(self.batch, 2),
                "patch": self.patch,
                "workers": 0,
            },
            "augmentation": {"intensity": [1, 1], "contrast": [1, 1]},
            "schedule": {
                "epochs": -(-steps // STEPS_PER_EPOCH),
                "steps_per_epoch": min(steps, STEPS_PER_EPOCH),
                "learning_rate": self.learning_rate,
                "weight_decay": 0.0,
                "ema": None,
                **schedule,
            },
            "machine": {"accelerator": self.accelerator, "precision": self.precision, "progress": False},
            **sections,
        }

    def plan(
        self, cost: Callable[[], float], runs: int, seconds_per_run: float, progress: Progress | None, message: str
    ) -> dict[str, int]:
        """The steps of each run: those asked for, else what `affordable_steps` makes of `cost`, which measures."""
        if self.steps is not None:
            return {"steps": self.steps}
        if progress is not None:
            progress(0.0, message)
        return {"steps": self.affordable_steps(cost(), runs, seconds_per_run)}

    def affordable_steps(self, seconds: float, runs: int, seconds_per_run: float) -> int:
        """Steps of each run within `minutes`, where one step of all runs takes `seconds`.

        Raises
        ------
        InputError
            If there is time for less than one epoch.
        """
        steps = int((60 * self.minutes - runs * seconds_per_run) / seconds)
        if steps < STEPS_PER_EPOCH:
            needed = math.ceil((STEPS_PER_EPOCH * seconds + runs * seconds_per_run) / 60)
            raise InputError(
                f"{self.minutes:g} minutes are too few for {runs} runs; give at least {needed}, ask for fewer runs, or "
                "give a number of steps."
            )
        return steps // STEPS_PER_EPOCH * STEPS_PER_EPOCH


def step_seconds(tree: Mapping[str, Any]) -> float:
    """Seconds of one training step, forward and backward, on noise of the batch's shape."""
    import torch

    from ..losses import build_loss
    from ..networks import build

    data = tree["data"]
    network: Any = build(tree["network"]["architecture"], **tree["network"]["arguments"])
    loss = build_loss(tree["loss"])
    fine = [data["patch"]] * network.view.dimensions
    coarse = fine if network.view.kernel is not None else [n // tree["scales"][0] for n in fine]
    best = math.inf
    for _ in range(3):
        shown = torch.rand(data["slabs"] * data["patches"], network.view.channels, *coarse)
        wanted = torch.rand(len(shown), 1, *fine)
        start = time.perf_counter()
        loss(network(shown, fine), wanted)[0].backward()
        best = min(best, time.perf_counter() - start)
    return best


class RunStudy(Protocol):
    """Runs a study, or goes on with it, and returns the path of its page."""

    def __call__(self, options: Any, *, progress: Progress | None = None, cancel: Cancel | None = None) -> Path: ...


@dataclass(frozen=True)
class Study:
    """An experiment.

    Attributes
    ----------
    summary : str
        One line for people.
    options : type
        Its options, a `StudyOptions`.
    run : callable (options, progress, cancel) -> path of its page

    Examples
    --------
    >>> from DWISuperResLib.studies import STUDIES
    >>> issubclass(STUDIES["layers"].options, StudyOptions)
    True
    """

    summary: str
    options: type[StudyOptions]
    run: RunStudy


STUDIES: Registry[Study] = Registry("study")
"""By name; `DWISuperResLib.studies` fills it."""


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
    write_text(path, json.dumps({"asked": wanted, "plan": planned}, indent=1) + "\n")
    return planned


def execute(
    runs: Sequence[Run],
    output: Path,
    score: Callable[[Run, Path], list[Row]],
    *,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Iterator[list[Row]]:
    """Train and score the runs that are not done yet; after each, yield the rows of all that are done."""
    from ..training import train, validated

    rows: list[Row] = []
    for number, run in enumerate(runs):
        stop_if_cancelled(cancel)
        if progress is not None:
            progress(number / len(runs), f"{run.name} ({number + 1} of {len(runs)})")
        folder = output / "runs" / run.name
        checkpoint = run.checkpoint(output)
        scores = folder / "scores.json"
        if not checkpoint.is_file():
            configuration = {**run.configuration, "name": run.name, "output": str(folder), "resume": True}
            train(validated(configuration))

        def measure(run: Run = run, checkpoint: Path = checkpoint) -> list[Row]:
            return [{**run.facts, **row} for row in score(run, checkpoint)]

        rows += kept_rows(scores, measure)
        yield rows


def kept_rows(path: Path, measure: Callable[[], list[Row]]) -> list[Row]:
    """Rows as of a file, which is written first where it is missing."""
    if not path.is_file():
        write_text(path, json.dumps(measure(), indent=1) + "\n")
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def stop_if_cancelled(cancel: Cancel | None) -> None:
    """Raise Cancelled where `cancel` returns True."""
    if cancel is not None and cancel():
        raise Cancelled("Cancelled; the study goes on from here when started again.")


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Tab-separated values with a header; missing and non-finite values are n/a."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([cell(row.get(column)) for column in columns] for row in rows)]
    write_text(path, "".join("\t".join(line) + "\n" for line in lines))


def cell(value: Any) -> str:
    """A value as text of a table: four significant digits.

    Examples
    --------
    >>> cell(0.123456), cell(None), cell("L1")
    ('0.1235', 'n/a', 'L1')
    """
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
    from ..evaluation.pages import render

    columns = list(dict.fromkeys(key for row in rows for key in row))
    page = render(
        "study.html.j2",
        title=title,
        sentences=sentences,
        sections=sections,
        columns=columns,
        rows=[[cell(row.get(column)) for column in columns] for row in rows],
        facts=facts,
    )
    write_text(path, page)
