"""Run by Slicer as one long-lived child: loads PyTorch once, then runs one command after another.

`python -m DWISuperResLib.gui.worker` reads JSON lines from standard input, ``{"arguments": ["run", ...]}``, and runs
each as the command line does (`apps.cli.main`), with progress as JSON lines on standard output and, last,
``{"type": "end", "code": 0}``. Two commands are its own: ``probe DEVICE`` (see `probe`) and ``colours SCAN OUTPUT
[MASK]`` (see `colours`). It ends with everything it started when its input closes, that is, when Slicer is gone,
however that came about.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

INTERRUPTED = (130, 143)
"""Exit codes of a command that was told to stop; the worker goes with it."""
LOADED_FIRST = ("torch", "DWISuperResLib.apps.scans", "DWISuperResLib.inference.predict")


def main() -> int:
    """Read and run commands until the input ends."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    _load()
    while True:
        arguments = json.loads(lines.get())["arguments"]
        code = run(arguments)
        _say(type="end", code=code)
        if code in INTERRUPTED:
            return code


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    if arguments[0] == "probe":
        from . import probe

        answer = probe.main(arguments[1])
        _say(**answer)
        return 0 if answer["type"] == "result" else 1
    if arguments[0] == "colours":
        from . import colours

        answer = colours.main(*arguments[1:])
        _say(**answer)
        return 0 if answer["type"] == "result" else 2
    from ..apps.cli import main as command_line

    return command_line([*arguments, "--progress", "json"])


def _listen(lines: queue.SimpleQueue[bytes]) -> None:
    """Hand lines on; at the end of the input, end this process and what it started."""
    with open(0, "rb", buffering=0, closefd=False) as commands:  # a lock on sys.stdin would outlive the main thread
        while line := commands.readline():
            lines.put(line)
    if hasattr(os, "getpgid") and os.getpgid(0) == os.getpid():  # a group of our own, as ChildProcess makes it
        with contextlib.suppress(OSError):
            os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _load() -> None:
    """What every command needs; where it is missing or damaged, the commands say so in their own words."""
    for name in LOADED_FIRST:
        with contextlib.suppress(Exception):
            __import__(name)


def _say(**message: Any) -> None:
    print(json.dumps(message, allow_nan=False, default=str), flush=True)


if __name__ == "__main__":
    sys.exit(main())
