"""A button that starts a computation and then cancels it, with its progress bar and status line."""

from __future__ import annotations

from collections.abc import Callable

import slicer
import slicer.util
from slicer.i18n import tr as _

from ..errors import Cancelled, DWISuperResError
from .job import Job


class RunControl:
    """Binds a button, a progress bar and a label to jobs of the logic.

    Parameters
    ----------
    button, bar, label : QPushButton, QProgressBar, QLabel
    start : callable(onProgress, onFinished) -> Job
        Starts the job without waiting.
    cancel : callable()
    finished : callable(result)
        Called when the job succeeded.
    changed : callable()
        Called when a job started or ended.
    """

    def __init__(self, button, bar, label, *, start, cancel, finished, changed: Callable[[], None]):
        self._button, self._bar, self._label = button, bar, label
        self._start, self._cancel, self._finished, self._changed = start, cancel, finished, changed
        self._text, self._tip = button.text, button.toolTip
        self.running = False
        self._bar.visible = False
        self.say("")
        button.clicked.connect(self._clicked)

    def update(self, can_start: bool) -> None:
        """Enable the button if a job can start, or is this control's and can be cancelled."""
        self._button.enabled = self.running or can_start

    def say(self, text: str) -> None:
        """Show a line below the button; an empty one takes no room."""
        self._label.text = text
        self._label.visible = bool(text)

    def _clicked(self, *_checked) -> None:
        if self.running:
            self._cancel()
            return
        self._show(True)
        self.say(_("Starting..."))
        try:
            self._start(self._progressed, self._ended)
        except Cancelled as error:
            self._show(False)
            self.say(str(error))
        except DWISuperResError as error:
            self._show(False)
            self._fail(str(error), "")
        except Exception:  # nothing runs, so the button must not say Cancel
            self._show(False)
            self.say("")
            raise
        else:
            self._changed()  # now that it runs, nothing else can start

    def _show(self, running: bool) -> None:
        self.running = running
        self._button.text = _("Cancel") if running else self._text
        self._button.toolTip = _("End the computation; nothing is changed.") if running else self._tip
        self._bar.visible = running
        self._bar.value = 0
        self._changed()

    def _progressed(self, job: Job) -> None:
        self._bar.value = round(100 * job.fraction)
        self.say(status_text(job))

    def _ended(self, job: Job) -> None:
        self._show(False)
        if job.state == "finished":
            lines = [
                _("Done.") + (f" {job.device}." if job.device else ""),
                *(f"⚠ {warning}" for warning in job.warnings),
            ]
            self.say("\n".join(lines))
            self._finished(job.result)
        elif job.state == "cancelled":
            self.say(str(job.error))
        else:
            self._fail(str(job.error), job.details)

    def _fail(self, error: str, details: str) -> None:
        self.say(error)
        options = {"detailedText": details} if details else {}
        slicer.util.errorDisplay(error, windowTitle="DWISuperRes", **options)


def status_text(job: Job) -> str:
    """What the job does, the time left, the device."""
    parts = [job.message] if job.message else []
    if isinstance(job.eta, int | float):
        minutes, seconds = divmod(round(job.eta), 60)
        left = _("{m} min {s} s left").format(m=minutes, s=seconds) if minutes else _("{s} s left").format(s=seconds)
        parts.append(left)
    if job.device and job.device not in parts:
        parts.append(job.device)
    return "; ".join(parts) or _("Starting...")
