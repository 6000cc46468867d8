"""A child process: started in a group of its own, read without ever blocking, ended with all it started.

Its output goes to files rather than pipes: a poll never waits, a child that says much never stalls, and what it said is
there when it has died. Its input is a pipe that closes with this process, however this ends: a child that reads from it
learns so. Needs neither Qt nor Slicer.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIBRARY_PARENT = Path(__file__).resolve().parents[2]
"""Where `python -m DWISuperResLib` finds the library: the child's working folder."""
SECONDS_TO_STOP = 2.0

_running: weakref.WeakSet[ChildProcess] = weakref.WeakSet()


class ChildProcess:
    """Start `command`; what it prints is kept in `folder`, and what it is told is sent by `send`.

    Parameters
    ----------
    command : sequence of str
        Executable and arguments.
    folder : Path
        An existing folder for stdout and stderr.
    environment : mapping, optional
        Replaces the environment.

    Raises
    ------
    OSError
        If it cannot be started.
    """

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None):
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        self._offset, self._rest = 0, b""
        options: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            options = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                cwd=LIBRARY_PARENT,
                env=None if environment is None else dict(environment),
                **options,
            )
        _running.add(self)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def read(self) -> list[dict[str, Any]]:
        """The messages of its protocol since the last call; lines that are none stay in `said`."""
        with self._stdout.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [message for message in map(_message, lines) if message]

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell it something: one line of JSON on its standard input.

        Raises
        ------
        OSError
            If it has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode("ascii") + b"\n")
        self._process.stdin.flush()

    def mark(self) -> tuple[int, int]:
        """How much it has printed, for `said`."""
        return self._stdout.stat().st_size, self._stderr.stat().st_size

    def said(self, since: tuple[int, int] = (0, 0), characters: int = 4000) -> str:
        """The end of what it printed beside the protocol since a `mark`, for the details of an error."""
        lines = self._stdout.read_bytes()[since[0] :].split(b"\n")
        noise = b"\n".join(line for line in lines if line.strip() and not _message(line))
        text = noise + b"\n" + self._stderr.read_bytes()[since[1] :]
        return text[-characters:].decode("utf-8", errors="replace").strip()

    def stop(self) -> None:
        """End it and everything it started: politely, then not."""
        if self._process.poll() is None:
            self._signal_tree(polite=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(SECONDS_TO_STOP)
            self._signal_tree(polite=False)
            self._process.wait()
        with contextlib.suppress(OSError):  # a line that nobody will read
            self._process.stdin.close()  # type: ignore[union-attr]
        _running.discard(self)

    def _signal_tree(self, *, polite: bool) -> None:
        if sys.platform == "win32":
            command = ["taskkill", "/T", "/PID", str(self._process.pid), *([] if polite else ["/F"])]
            subprocess.run(command, capture_output=True, check=False, creationflags=subprocess.CREATE_NO_WINDOW)
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(self._process.pid, signal.SIGTERM if polite else signal.SIGKILL)


def _message(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and isinstance(message.get("type"), str) else None


@atexit.register
def _stop_all() -> None:
    for child in list(_running):
        child.stop()
