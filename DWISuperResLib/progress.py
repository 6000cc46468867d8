"""How far a job is: a bar on a terminal, JSON lines for a parent process, or nothing.

Every reporter is a callable (fraction, message) for the library and a context manager for the command line.
In JSON mode standard output carries one ASCII JSON object a line and nothing else:

    {"type": "status", "message": ...}
    {"type": "progress", "fraction": 0.42, "eta": 12.3, "message": ...}     eta in seconds, null while unknown
    {"type": "result", ...}
    {"type": "error", "message": "one sentence", "kind": "InputError"}

Nobody has to listen: output that cannot be written (a closed pipe, a program without a console) never stops the work.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

MODES = ("auto", "rich", "json", "none")
_SECONDS_BETWEEN_LINES = 0.2


def open_standard_streams() -> None:
    """Make standard output and error usable wherever the program runs.

    Where they are closed (a program without a console), they lead nowhere: otherwise the next file opened would take
    their number, and what libraries print would be written into it. Letters that the output's encoding lacks are
    escaped.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for good)
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    r"""Text without the control characters that would drive a terminal: they are written out.

    Examples
    --------
    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(c if c in "\n\t" or not (c < " " or "\x7f" <= c < "\xa0") else f"\\x{ord(c):02x}" for c in text)


def _say(text: str, stream: TextIO) -> bool:
    """Print a line; False, and silence from then on, where nobody is there to read it."""
    try:
        print(printable(text), file=stream, flush=True)
    except (OSError, ValueError):
        _silence(stream)
        return False
    return True


def _silence(stream: TextIO) -> None:
    """Lead what is still in a broken stream's buffer nowhere, or Python would fail over it when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def reporter(mode: str) -> Reporter:
    """The reporter for one of MODES; auto is a bar where standard error is a terminal, else plain lines.

    Examples
    --------
    >>> with reporter("none") as report:
    ...     report(0.5, "half of it is done")
    """
    if mode == "json":
        return JsonReporter()
    if mode == "rich" or (mode == "auto" and sys.stderr.isatty()):
        return BarReporter()
    return LineReporter() if mode == "auto" else Reporter()


class Reporter:
    """Quiet: only the result, on standard output, and errors, on standard error."""

    _warnings: tuple[str, ...] = ()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to close."""

    def __call__(self, fraction: float, message: str = "") -> None:
        """Report that `fraction` (0 to 1) of the work is done."""

    def status(self, message: str) -> None:
        """Report what begins now."""

    def warn(self, sentence: str) -> None:
        """Say at once, and again with the result, what the user should know about it."""
        self._warnings += (sentence,)
        self.status(f"Warning: {sentence}")

    def result(self, text: str, **facts: Any) -> None:
        """Report the outcome: `text` for people, `facts` for programs, "warnings" among them for both."""
        text = "\n".join([text, *(f"Warning: {sentence}" for sentence in self._all_warnings(facts))])
        if not _say(text, sys.stdout):
            _say(f"dwi-superres: Standard output is closed. {text}", sys.stderr)

    def _all_warnings(self, facts: Mapping[str, Any]) -> list[str]:
        return [*self._warnings, *facts.get("warnings", ())]

    def error(self, message: str, kind: str) -> None:
        """Report a failure in one sentence."""
        _say(f"dwi-superres: {message}", sys.stderr)

    def part(self, start: float, end: float) -> Callable[[float, str], None]:
        """A reporter for a step that takes the work from `start` to `end`."""

        def report(fraction: float, message: str) -> None:
            self(start + (end - start) * fraction, message)

        return report


class LineReporter(Reporter):
    """A line on standard error for each step, as suits a log."""

    def status(self, message: str) -> None:
        _say(message, sys.stderr)


class BarReporter(Reporter):
    """A bar on standard error with the time that remains."""

    def __enter__(self) -> BarReporter:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        class Quiet(Console):
            """A terminal that goes away must not end the program, as it would by default."""

            def on_broken_pipe(self) -> None:
                self.quiet = True
                _silence(sys.stderr)

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=Quiet(stderr=True),
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
        self._bar.console.print(printable(message), highlight=False, markup=False)


class JsonReporter(Reporter):
    """JSON lines on standard output; all else written there, natively too, goes to standard error."""

    def __enter__(self) -> JsonReporter:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        self._heard = True
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
        with contextlib.suppress(OSError):
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
        if warnings := self._all_warnings(facts):
            facts["warnings"] = warnings
        self._write(type="result", **facts)
        if not self._heard:
            _say(f"dwi-superres: Nobody reads the JSON lines. {text}", sys.stderr)

    def error(self, message: str, kind: str) -> None:
        self._write(type="error", message=message, kind=kind)
        super().error(message, kind)

    def _write(self, **line: Any) -> None:
        self._heard = _say(json.dumps(line, allow_nan=False, default=str), self._stream) and self._heard
