"""The same computation for many scans, one after another; to its observers it is one job."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..errors import Cancelled, DWISuperResError, ProcessingError
from .job import Job


class Batch:
    """Jobs one after another; what fails is left out and said.

    Parameters
    ----------
    scans : sequence of nodes
        Those that leave the scene meanwhile are passed over.
    start : callable(scan, on_progress, on_finished) -> Job
    on_progress, on_finished : callable(Batch), optional

    Attributes
    ----------
    state, fraction, eta, message, device, error, details, warnings, result : as `Job`
        `result` holds the output nodes; it failed only if every scan did.
    """

    def __init__(
        self,
        scans: Sequence[Any],
        start: Callable[[Any, Callable[[Job], None], Callable[[Job], None]], Job],
        on_progress: Callable[[Batch], None] | None = None,
        on_finished: Callable[[Batch], None] | None = None,
    ):
        self._scans, self._start = list(scans), start
        self._on_progress, self._on_finished = on_progress, on_finished
        self._index = -1
        self._name = ""
        self.state = "running"
        self.fraction, self.message, self.device, self.details = 0.0, "", "", ""
        self.eta: float | None = None
        self.error: DWISuperResError | None = None
        self.warnings: list[str] = []
        self.result: list[Any] = []

    def next(self) -> None:
        """Start the next scan, or end."""
        self._index += 1
        if self._index == len(self._scans):
            self._end()
            return
        scan = self._scans[self._index]
        if not slicer.mrmlScene.IsNodePresent(scan):
            self.next()
            return
        self._name = scan.GetName()
        try:
            self._start(scan, self._progressed, self._ended)
        except Cancelled as error:  # the user would not have the packages installed
            self._end(error)
        except DWISuperResError as error:
            self._failed(error)
            self.next()

    def wait(self, poll: Callable[[], None]) -> list[Any]:
        """Block until the end; return the output nodes, or raise what went wrong."""
        while self.state == "running":
            poll()
            time.sleep(0.05)
        if self.error is not None:
            raise self.error
        return self.result

    def _progressed(self, job: Job) -> None:
        self.fraction = (self._index + job.fraction) / len(self._scans)
        self.eta, self.device = None, job.device or self.device
        text = _("Scan {n} of {total} ({name}): {message}")
        self.message = text.format(n=self._index + 1, total=len(self._scans), name=self._name, message=job.message)
        if self._on_progress:
            self._on_progress(self)

    def _ended(self, job: Job) -> None:
        self.device = job.device or self.device
        if job.state == "cancelled":
            self._end(job.error)
            return
        if job.state == "failed":
            self.details = job.details
            self._failed(job.error or ProcessingError(_("The computation failed.")))
        else:
            self.result.append(job.result)
            self.warnings += [f"{self._name}: {warning}" for warning in job.warnings]
        self.next()

    def _failed(self, error: DWISuperResError) -> None:
        self.warnings.append(f"{self._name}: {error}")

    def _end(self, error: DWISuperResError | None = None) -> None:
        if error is not None:
            self.state, self.error = "cancelled", error
        elif self.result or not self.warnings:
            self.state, self.fraction = "finished", 1.0
        else:
            self.state, self.error = "failed", ProcessingError("; ".join(self.warnings))
        if self._on_finished:
            self._on_finished(self)
