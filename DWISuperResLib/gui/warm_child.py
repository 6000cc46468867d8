"""One child process for many commands: what took seconds to load is there when the next command comes.

It is started on demand, runs one command at a time (see `worker`), and is ended when a command is cancelled, fails in a
way that leaves doubts about it, or when its owner closes it. Needs neither Qt nor Slicer.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .child import ChildProcess

ANSWERED = (0, 2)
"""Exit codes of a command after which the child is as good as before: done, and input that cannot be used."""


class Command:
    """One command in the warm child: what a job sees of it."""

    def __init__(self, owner: WarmChild, child: ChildProcess, arguments: Sequence[str]):
        self._owner, self._child = owner, child
        self._since = child.mark()
        self._code: int | None = None
        self._messages: list[dict[str, Any]] = []
        child.read()  # what it said while nobody asked
        child.send({"arguments": list(arguments)})

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended the child."""
        ended = self._child.exit_code  # before reading, so that nothing it said last is missed
        self._take()
        if self._code is None and ended is not None:
            self._code = ended or 1  # it went without an answer
        return self._code

    def read(self) -> list[dict[str, Any]]:
        """The messages since the last call."""
        self._take()
        messages, self._messages = self._messages, []
        return messages

    def said(self) -> str:
        """The end of what the child printed beside the protocol during this command."""
        return self._child.said(self._since)

    def stop(self) -> None:
        """End the child if the command has not ended well; else it stays for the next one."""
        if self.exit_code not in ANSWERED:
            self._owner.close()

    def _take(self) -> None:
        for message in self._child.read():
            if message["type"] == "end":
                self._code = int(message["code"])
            else:
                self._messages.append(message)


class WarmChild:
    """The child and its folder.

    Parameters
    ----------
    command : callable() -> sequence of str
        What to start: a Python that runs `DWISuperResLib.gui.worker`.
    environment : callable() -> mapping or None
        Of the child; None inherits.
    parent : callable() -> str or None
        Where the folder for what it prints is made; None for the system's.
    """

    def __init__(
        self,
        command: Callable[[], Sequence[str]],
        environment: Callable[[], Mapping[str, str] | None],
        parent: Callable[[], str | None],
    ):
        self._command, self._environment, self._parent = command, environment, parent
        self._child: ChildProcess | None = None
        self._folder: Path | None = None

    @property
    def is_running(self) -> bool:
        """Whether a child is there."""
        return self._child is not None and self._child.exit_code is None

    def start(self) -> None:
        """Start the child unless it runs, so that it loads what commands will need.

        Raises
        ------
        OSError
            If it cannot be started.
        """
        if self.is_running:
            return
        self.close()
        self._folder = Path(tempfile.mkdtemp(prefix="DWISuperRes-child-", dir=self._parent()))
        try:
            self._child = ChildProcess(list(self._command()), self._folder, self._environment())
        except Exception:
            self.close()
            raise

    def run(self, arguments: Sequence[str], _folder: Path | None = None) -> Command:
        """Start one command; the one before must have ended.

        Raises
        ------
        OSError
            If the child cannot be started.
        """
        self.start()
        assert self._child is not None
        try:
            return Command(self, self._child, arguments)
        except OSError:  # it ended between two commands
            self.close()
            self.start()
            return Command(self, self._child, arguments)

    def close(self) -> None:
        """End the child with all it started and remove its folder; the next command starts another."""
        if self._child is not None:
            self._child.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._child = self._folder = None
