"""Every scan of a data set, on local workers or those of a scheduler, and the table that says what became of each."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from ...errors import InputError
from ...io import output_files
from ...progress import Reporter
from .layout import BidsScan
from .scan import FAILED, Job, Record
from .workers import local_workers, process_all

TABLE = "superres_scans.tsv"
"""In the root of the derivatives: a row for each scan that was tried, as the last run left it."""
COLUMNS = ("participant_id", "session_id", "scan", "status", "seconds", "warnings", "error")


def run_scans(
    scans: Sequence[BidsScan], job: Job, report: Reporter, *, workers: int | None = None, scheduler: str | None = None
) -> list[Record]:
    """Process scans and write the table, also when it is interrupted.

    Parameters
    ----------
    scans, job
        See `scan.process`.
    report : Reporter
    workers : int, optional
        Local processes, see `workers.local_workers`.
    scheduler : str, optional
        Address of a Dask scheduler whose workers are used instead.
    """
    records: list[Record] = []

    def each(record: Record) -> None:
        records.append(record)
        counts = Counter(one.status for one in records)
        counted = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        report(len(records) / len(scans), f"{len(records)} of {len(scans)} scans: {counted}")
        if record.status == FAILED:
            report.status(f"Failed: {record.error}")

    with ExitStack() as stack:
        stack.callback(lambda: write_table(Path(job.output) / TABLE, records))
        report.status("Starting workers" if scheduler is None else f"Connecting to {scheduler}")
        address = scheduler or stack.enter_context(local_workers(workers, job.inference.device))
        process_all(scans, job, address, each, report.status)
    return records


def write_table(path: Path, records: Iterable[Record]) -> None:
    """Add records to the table at `path`, in place of what it said of the same scans.

    Several runs, each on its own participants, may do so at once: one waits for the other.
    """
    rows = {record.stem: _row(record) for record in records}
    if not rows:
        return
    with output_files([path], overwrite=True, wait=True) as (temporary,):
        merged = {row["scan"]: row for row in read_table(path)} | rows
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
        writer.writeheader()
        writer.writerows(merged[stem] for stem in sorted(merged))
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none where it is not there.

    Raises
    ------
    InputError
        If it is not such a table.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table ({error}); remove it.") from error
    if any(set(row) != set(COLUMNS) or None in row.values() for row in rows):
        raise InputError(f"{path} has other columns than {', '.join(COLUMNS)}; remove it.")
    return rows


def _row(record: Record) -> dict[str, str]:
    values = (
        f"sub-{record.participant}",
        f"ses-{record.session}" if record.session else "n/a",
        record.stem,
        record.status,
        f"{record.seconds:.1f}",
        " ".join(record.warnings) or "n/a",
        record.error or "n/a",
    )
    return dict(zip(COLUMNS, (" ".join(value.split()) for value in values), strict=True))
