"""A job: commands run one after another in a child process, then their results taken over; it can be cancelled.

It owns the temporary folder and removes it however it ends. Its caller drives it: `wait()` blocks, or a timer polls.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from slicer.i18n import tr as _

from ..errors import Cancelled, DWISuperResError, InputError, MissingDependencyError, ProcessingError

_POLL_SECONDS = 0.05
_KINDS: dict[str, type[DWISuperResError]] = {
    cls.__name__: cls for cls in (InputError, MissingDependencyError, Cancelled)
}


def own_words(message: Mapping[str, Any]) -> str:
    """What a message of the child says by itself."""
    return str(message.get("message") or "")


@dataclass(frozen=True)
class Step:
    """A command, made from the results of the steps before it, its share of the progress bar, and what it says."""

    command: Callable[[list[dict[str, Any]]], Sequence[str]]
    weight: float = 1.0
    words: Callable[[Mapping[str, Any]], str] = own_words


class Running(Protocol):
    """A command on its way, in a child of its own or in one that is shared."""

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""

    def read(self) -> list[dict[str, Any]]:
        """The messages since the last call."""

    def said(self) -> str:
        """The end of what it printed beside the messages."""

    def stop(self) -> None:
        """End it, if it has not ended, with everything it started."""


class Job:
    """Commands and what becomes of their results.

    Parameters
    ----------
    steps : sequence of Step
        The command of each ends by a `result` message.
    folder : Path
        The job's own folder, from `make_folder`; removed at the end.
    finish : callable(list of result messages) -> object
        Takes the results over while the folder still exists.
    launch : callable(command, folder) -> Running
        Starts a command; `folder` is an empty one for what it prints.
    on_progress, on_finished : callable(Job), optional
        Called from `poll`.

    Attributes
    ----------
    state : "running", "finished", "failed" or "cancelled"
    fraction, eta, message, device : how far it is, seconds left or None, what it does, what it computes on
    error : the exception when it failed; `details` is what the child printed
    warnings : sentences the child reported with its results
    result : what `finish` returned
    """

    def __init__(
        self,
        steps: Sequence[Step],
        folder: Path,
        finish: Callable[[list[dict[str, Any]]], Any],
        *,
        launch: Callable[[Sequence[str], Path], Running],
        on_progress: Callable[[Job], None] | None = None,
        on_finished: Callable[[Job], None] | None = None,
    ):
        self._steps = list(steps)
        self._folder, self._finish, self._launch = folder, finish, launch
        self._on_progress, self._on_finished = on_progress, on_finished
        self._results: list[dict[str, Any]] = []
        self._pending: dict[str, Any] | None = None
        self._child: Running | None = None
        self._step = -1
        self.state = "running"
        self.fraction, self.message, self.device = 0.0, "", ""
        self.eta: float | None = None
        self.error: DWISuperResError | None = None
        self.details, self.result = "", None
        self.warnings: list[str] = []

    def start(self) -> None:
        """Start the first command."""
        self._next_command()

    def wait(self) -> Any:
        """Block until the end; return the result, or raise what went wrong."""
        try:
            while self.state == "running":
                self.poll()
                time.sleep(_POLL_SECONDS)
        finally:
            self.cancel()  # where an interrupt from the keyboard ends the wait
        if self.error is not None:
            raise self.error
        return self.result

    def poll(self) -> None:
        """Take in what the child said; go on to the next command or to the end."""
        if self.state != "running" or self._child is None:
            return
        exit_code = self._child.exit_code  # before reading, so that nothing it said last is missed
        for message in self._child.read():
            self._take(message)
        if self.state == "running" and exit_code is not None:
            self._child_ended(exit_code)
        elif self._on_progress:
            self._on_progress(self)

    def cancel(self) -> None:
        """End the child with all it started; nothing is taken over."""
        if self.state == "running":
            self._end("cancelled", Cancelled(_("Cancelled; nothing was changed.")))

    def discard(self) -> None:
        """Give the job up before it starts."""
        self.state = "failed"
        shutil.rmtree(self._folder)

    def _take(self, message: Mapping[str, Any]) -> None:
        kind, text = message["type"], self._steps[self._step].words(message)
        if text and kind in ("status", "progress"):
            self.message = text
        if kind == "progress" and isinstance(message.get("fraction"), int | float):
            weights = [step.weight for step in self._steps]
            done = sum(weights[: self._step]) + weights[self._step] * min(1.0, max(0.0, message["fraction"]))
            self.fraction = done / (sum(weights) or 1.0)
            self.eta = message.get("eta")
        elif kind == "result":
            self._pending = dict(message)
            self.warnings += [str(w) for w in message.get("warnings", [])]
            if "device" in message:
                self.device = text
        elif kind == "error":
            self.error = _KINDS.get(str(message.get("kind")), ProcessingError)(text or _("The computation failed."))

    def _child_ended(self, exit_code: int) -> None:
        if self.error is not None or exit_code != 0 or self._pending is None:
            self._end("failed", self.error or ProcessingError(self._explain(exit_code)))
            return
        self._results.append(self._pending)
        if self._step + 1 < len(self._steps):
            self._next_command()
            return
        try:
            self.result = self._finish(self._results)
        except DWISuperResError as error:
            self._end("failed", error)
        except Exception as error:
            self.details = traceback.format_exc()
            text = _("The result could not be taken into the scene: {error}.")
            self._end("failed", ProcessingError(text.format(error=error)))
        else:
            self._end("finished", None)

    def _next_command(self) -> None:
        self._step += 1
        self._pending = None
        self.eta = None
        output = self._folder / f"step{self._step}"
        output.mkdir()
        command = list(self._steps[self._step].command(self._results))
        try:
            self._child = self._launch(command, output)
        except DWISuperResError as error:
            self._end("failed", error)
        except OSError as error:
            text = _("Python could not be started for the computation ({error}); install 3D Slicer again.")
            self._end("failed", ProcessingError(text.format(error=error)))

    def _explain(self, exit_code: int) -> str:
        said = self._child.said().lower() if self._child else ""
        if "no space left" in said or shutil.disk_usage(self._folder).free < 1 << 20:
            text = _("The disk that holds {folder} is full; free some space and try again.")
            return text.format(folder=self._folder.parent)
        if exit_code in (-9, 137) or "memoryerror" in said or "bad_alloc" in said:
            return _(
                "The computation was ended by the system, most often because memory ran out; "
                "close other scans and programs, or crop the scan first."
            )
        if "no module named" in said:
            return _("A Python package is missing or damaged (see the details); install it and restart 3D Slicer.")
        text = _("The computation ended without a result ({code}); see the details, and report them if this recurs.")
        return text.format(code=(_("signal {n}") if exit_code < 0 else _("code {n}")).format(n=abs(exit_code)))

    def _end(self, state: str, error: DWISuperResError | None) -> None:
        if self._child is not None:
            if state == "failed":
                self.details = self.details or self._child.said()
            self._child.stop()
        shutil.rmtree(self._folder, ignore_errors=os.name == "nt")  # Windows: a scanner may still hold a file
        self.state, self.error = state, error
        if state == "finished":
            self.fraction, self.eta = 1.0, 0.0
        if self._on_finished:
            self._on_finished(self)


def make_folder(parent: str | os.PathLike[str] | None = None) -> Path:
    """A new temporary folder for a job.

    Raises
    ------
    ProcessingError
        If none can be made there.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="DWISuperRes-", dir=parent or None))
    except OSError as error:
        text = _(
            "No temporary folder can be made in {folder} ({reason}); choose another in Edit > Application Settings > "
            "General, or free some space."
        )
        where = parent or tempfile.gettempdir()
        raise ProcessingError(text.format(folder=where, reason=error.strerror)) from error


def check_space(folder: Path, needed: float) -> None:
    """Raise ProcessingError unless the disk of `folder` has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        text = _(
            "The disk that holds {folder} has {free} GB free and about {needed} GB are needed; free some space or "
            "choose another temporary folder."
        )
        sizes = {"free": f"{free / 1e9:.1f}", "needed": f"{needed / 1e9:.1f}"}
        raise ProcessingError(text.format(folder=folder.parent, **sizes))
