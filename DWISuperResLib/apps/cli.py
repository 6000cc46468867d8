"""The command line: which command was meant, exit codes, interruption; the commands' modules hold what each does.

Exit codes: 0 done, 2 input that cannot be used, 1 a failure while running, 130 and 143 interrupted and terminated.
"""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

from .. import __version__
from ..errors import DWISuperResError, InputError
from ..progress import Reporter, open_standard_streams, reporter
from .options import parse

PROGRAM = "dwi-superres"


class _Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM; raised in the main thread, so that every unfinished file is removed on the way out."""

    def __init__(self, number: int):
        super().__init__()
        self.exit_code = 128 + number


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Examples
    --------
    >>> main(["--version"])
    dwi-superres 0.1.0
    0
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    open_standard_streams()
    try:
        command = _command(argv)
    except Exception as error:
        if "--debug" in argv and not isinstance(error, InputError):
            raise
        json_mode = "--progress=json" in argv or ("--progress", "json") in itertools.pairwise(argv)
        with reporter("json" if json_mode else "none") as report:
            return _failed(error, report)
    if command is None:
        return 0
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with reporter(command.progress) as report:
            return _run(command, report)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _command(argv: list[str]) -> Any:
    """The command that was asked for, its arguments read; None once the overview was shown."""
    group = argv[0] if argv and argv[0] in GROUPS else ""
    declared = GROUPS[group]() if group else COMMANDS
    asked = argv[1:] if group else argv
    if asked and asked[0] in declared:
        kind = _declared(declared[asked[0]])
        description = f"{_summary(kind)}.\n\nexample:\n  {PROGRAM} {kind.example}"
        return parse(kind, asked[1:], " ".join([PROGRAM, *argv[: len(argv) - len(asked) + 1]]), description)
    if argv[:1] == ["--version"]:
        print(f"{PROGRAM} {__version__}")
        return None
    if asked and asked[0] in ("-h", "--help"):
        print(_overview(group, declared))
        return None
    wanted = f"There is no command {' '.join(argv[: 2 if group else 1])!r}" if asked else "A command is missing"
    raise InputError(
        f"{wanted}; expected one of {', '.join([*declared, *(() if group else GROUPS)])}; "
        f"see {' '.join([PROGRAM, group]).strip()} --help."
    )


def _studies() -> dict[str, str]:
    from ..studies import STUDIES

    return {name: f"studies:study_command:{name}" for name in STUDIES}


COMMANDS = {
    "run": "scans:Run",
    "maps": "scans:Maps",
    "compare": "scans:Compare",
    "degrade": "scans:Degrade",
    "evaluate": "experiments:Evaluate",
    "train": "experiments:Train",
    "bids": "cohort.command:Bids",
    "demo": "experiments:Demo",
}
"""Where each command is declared: a module of this room and a class, a dataclass that runs when it is called.

Its fields are the arguments, its docstring begins with what it does, `example` shows how it is used.
"""
GROUPS: dict[str, Callable[[], dict[str, str]]] = {
    "checkpoints": lambda: {
        "list": "checkpoints:List",
        "info": "checkpoints:Info",
        "import": "checkpoints:Import",
        "calibrate": "checkpoints:Calibrate",
    },
    "study": _studies,
}
"""Commands of two words, read when the first is given; a function that makes the class is followed by its argument."""


def _declared(place: str) -> Any:
    module, name, *arguments = place.split(":")
    found = getattr(import_module(f".{module}", __package__), name)
    return found(*arguments) if arguments else found


def _summary(kind: type) -> str:
    return (kind.__doc__ or "").split("\n")[0].rstrip(".")


def _overview(group: str, declared: Mapping[str, str]) -> str:
    commands = {name: _summary(_declared(place)) for name, place in declared.items()}
    if not group:
        commands |= {name: f"see {PROGRAM} {name} --help" for name in GROUPS}
    lines = [
        f"usage: {' '.join([PROGRAM, group]).strip()} COMMAND ... [--help]",
        "",
        "Super-resolve diffusion-weighted MRI, and see what that did to the microstructure.",
        "",
        *(f"  {name:14}{summary}" for name, summary in commands.items()),
        "",
        "Scans are NIfTI with .bval and .bvec beside them, or NRRD; both for input and output.",
        f"{PROGRAM} COMMAND --help says more; {PROGRAM} --version tells the version.",
    ]
    return "\n".join(lines)


def _run(command: Any, report: Reporter) -> int:
    try:
        command(report)
    except _Interrupted as interruption:
        # What is saved of a training, only the training can tell.
        report.error(" ".join([command.cancelled, *getattr(interruption, "__notes__", ())]), "Cancelled")
        return interruption.exit_code
    except Exception as error:
        if command.debug:
            raise
        return _failed(error, report)
    return 0


def _failed(error: Exception, report: Reporter) -> int:
    """Say why, and return the exit code."""
    if isinstance(error, DWISuperResError):
        report.error(str(error), type(error).__name__)
        return error.exit_code
    report.error(_unexpected(error), type(error).__name__)
    return 1


def _unexpected(error: Exception) -> str:
    # Where Python itself cannot allocate, some of its functions fail "without exception set".
    if isinstance(error, MemoryError) or (isinstance(error, SystemError) and "without exception" in str(error)):
        return "There is not enough memory for this; free some, or compute a smaller scan or scale."
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename} cannot be used ({error.strerror}); check its name, its permissions and its disk."
    reason = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {reason} (--debug shows where)."


def _interrupt(number: int, frame: object) -> NoReturn:
    for each in (signal.SIGINT, signal.SIGTERM):  # a second signal must not interrupt the cleaning up
        signal.signal(each, signal.SIG_IGN)
    raise _Interrupted(number)
