"""How far a job is: a bar on a terminal, JSON lines for a parent process, or nothing.

Every reporter is a callable (fraction, message) for the library and a context manager for the command line.
In JSON mode standard output carries one ASCII JSON object a line and nothing else:

    {"type": "status", "message": ...}
    {"type": "progress", "fraction": 0.42, "eta": 12.3, "message": ...}     eta in seconds, null while unknown
    {"type": "result", ...}
    {"type": "error", "message": "one sentence", "kind": "InputError"}
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

MODES = ("auto", "rich", "json", "none")
_SECONDS_BETWEEN_LINES = 0.2


def reporter(mode: str) -> Reporter:
    """The reporter for one of MODES; auto is a bar where standard error is a terminal, else plain lines."""
    if mode == "json":
        return JsonReporter()
    if mode == "rich" or (mode == "auto" and sys.stderr.isatty()):
        return BarReporter()
    return LineReporter() if mode == "auto" else Reporter()


class Reporter:
    """Quiet: only the result, on standard output, and errors, on standard error."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to close."""

    def __call__(self, fraction: float, message: str = "") -> None:
        """Report that `fraction` (0 to 1) of the work is done."""

    def status(self, message: str) -> None:
        """Report what begins now."""

    def result(self, text: str, **facts: Any) -> None:
        """Report the outcome: `text` for people, `facts` for programs."""
        print(text, flush=True)

    def error(self, message: str, kind: str) -> None:
        """Report a failure in one sentence."""
        print(f"dwi-superres: {message}", file=sys.stderr, flush=True)

    def part(self, start: float, end: float) -> Callable[[float, str], None]:
        """A reporter for a step that takes the work from `start` to `end`."""

        def report(fraction: float, message: str) -> None:
            self(start + (end - start) * fraction, message)

        return report


class LineReporter(Reporter):
    """A line on standard error for each step, as suits a log."""

    def status(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


class BarReporter(Reporter):
    """A bar on standard error with the time that remains."""

    def __enter__(self) -> BarReporter:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", total=1.0, visible=False)
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def __call__(self, fraction: float, message: str = "") -> None:
        description = message or self._bar.tasks[0].description
        self._bar.update(self._task, completed=fraction, description=description, visible=True)

    def status(self, message: str) -> None:
        self._bar.console.print(message, highlight=False, markup=False)


class JsonReporter(Reporter):
    """JSON lines on standard output; all else written there, natively too, goes to standard error."""

    def __enter__(self) -> JsonReporter:
        sys.stdout.flush()
        self._stream: TextIO = os.fdopen(os.dup(1), "w", encoding="ascii")
        os.dup2(2, 1)
        self._python_output = contextlib.redirect_stdout(sys.stderr)
        self._python_output.__enter__()
        self._first: tuple[float, float] | None = None
        self._last = -1.0
        return self

    def __exit__(self, *exception: object) -> None:
        self._python_output.__exit__(None, None, None)
        os.dup2(self._stream.fileno(), 1)
        self._stream.close()

    def __call__(self, fraction: float, message: str = "") -> None:
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES and fraction < 1:
            return
        self._last = now
        eta = None
        if self._first is None:
            self._first = now, fraction
        elif fraction > self._first[1]:
            begun, from_fraction = self._first
            eta = round((now - begun) / (fraction - from_fraction) * (1 - fraction), 1)
        self._write(type="progress", fraction=round(fraction, 4), eta=eta, message=message)

    def status(self, message: str) -> None:
        self._write(type="status", message=message)

    def result(self, text: str, **facts: Any) -> None:
        self._write(type="result", **facts)

    def error(self, message: str, kind: str) -> None:
        self._write(type="error", message=message, kind=kind)
        super().error(message, kind)

    def _write(self, **line: Any) -> None:
        print(json.dumps(line, allow_nan=False, default=str), file=self._stream, flush=True)
