"""The command `bids`: a BIDS App."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from ...errors import InputError, ProcessingError
from ...inference.options import InferenceOptions
from ...progress import Reporter
from ..options import Writing, argument, maps, names_of, option
from ..scans import SCALE_HELP, SCALES
from .scan import FAILED, Record

LEVELS = ("participant", "group")
OF_BOTH_LEVELS = {"input", "output", "level", "participant_label", "progress", "debug", "overwrite"}
_SHOWN = 20


def whole(text: str) -> int:
    """Parser of a count from 1 on."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"{text!r} is no whole number from 1 on")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class Bids(Writing):
    """Super-resolve a BIDS data set, then report on it."""

    example: ClassVar[str] = "bids study study/derivatives/superres participant --workers 4"
    cancelled: ClassVar[str] = "Cancelled; finished scans are kept, and the same command goes on after them."
    input: Path = argument("BIDS data set")
    output: Path = argument("folder for the derivatives; group reads what participant wrote there")
    level: str = argument("participant: every scan; group: one report on all")
    participant_label: tuple[str, ...] = option("only these, with or without sub-", (), metavar="LABEL ...")
    session_label: tuple[str, ...] = option("only these, with or without ses-", (), metavar="LABEL ...")
    scale: str = option(SCALE_HELP, "2", metavar=SCALES)
    checkpoint: str = option("network to use", "default", metavar="NAME|FILE")
    maps: tuple[str, ...] = option("names with commas between them", ("fa", "qa"), choices=maps, parse=names_of(maps))
    inference: InferenceOptions = InferenceOptions()
    workers: int | None = option(
        "processes on this machine (default: one for each GPU, else one for four cores)", None, parse=whole
    )
    scheduler: str | None = option("address of a Dask scheduler whose workers to use", None, metavar="tcp://HOST:PORT")

    def __call__(self, report: Reporter) -> None:
        """Of one of the two levels."""
        if self.level not in LEVELS:
            raise InputError(f"The level is {self.level!r}; expected participant or group.")
        if self.level == "group":
            self._group(report)
        else:
            self._participants(report)

    def _group(self, report: Reporter) -> None:
        from .group import write_group_report

        if changed := [
            each.name.replace("_", "-")
            for each in fields(self)
            if each.name not in OF_BOTH_LEVELS and getattr(self, each.name) != each.default
        ]:
            raise InputError(f"--{changed[0]} is for the level participant; leave it out.")
        report.status("Reading the results")
        page, table = write_group_report(self.output, self.participant_label, overwrite=self.overwrite)
        report(1.0, "Done")
        report.result(f"Wrote {page} and {table}", report=str(page), table=str(table))

    def _participants(self, report: Reporter) -> None:
        if self.workers and self.scheduler:
            raise InputError("--workers and --scheduler exclude one another: a scheduler has its own workers.")
        from .layout import find_scans, prepare_output, require

        require("bids", "dask", "distributed")
        from ...checkpoints import read_card, resolve, shipped_checkpoints
        from .participant import TABLE, run_scans
        from .scan import Job

        read_card(self.checkpoint)
        is_shipped = self.checkpoint in shipped_checkpoints()  # each worker has its own copy
        checkpoint = self.checkpoint if is_shipped else str(resolve(self.checkpoint).resolve())
        report.status(f"Looking for scans in {self.input}")
        scans = find_scans(self.input, self.participant_label, self.session_label)
        prepare_output(self.output, self.input)
        job = Job(str(self.output.resolve()), self.scale, checkpoint, self.maps, self.inference, self.overwrite)
        records = run_scans(scans, job, report, workers=self.workers, scheduler=self.scheduler)
        report(1.0, "Done")
        counts = Counter(record.status for record in records)
        table = self.output / TABLE
        report.result(
            f"{_counted(counts)} of {len(records)} scans; {table} says more", table=str(table), **dict(counts)
        )
        _judge(records)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


def _judge(records: Sequence[Record]) -> None:
    """Raise unless every scan is done: InputError where none could be used as it is given."""
    failed = [record for record in records if record.status == FAILED]
    if not failed:
        return
    shown = " ".join(record.error for record in failed[:_SHOWN])
    more = f" And {len(failed) - _SHOWN} more." if len(failed) > _SHOWN else ""
    is_input = {"InputError", "MissingDependencyError"}.issuperset(record.kind for record in failed)
    if len(failed) == len(records) and is_input:
        raise InputError(f"None of the {len(records)} scans can be processed: {failed[0].error}")
    raise ProcessingError(f"{len(failed)} of {len(records)} scans failed: {shown}{more}")
