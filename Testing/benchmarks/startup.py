"""Start-up times against their limits.

python -m Testing.benchmarks.startup [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from DWISuperResLib.apps.cli import COMMANDS
from DWISuperResLib.io import write_dwi
from DWISuperResLib.phantoms import phantom
from Testing.benchmarks.harness import Result, parser, report

ROOT = Path(__file__).parents[2]
LIMITS = {
    "import DWISuperResLib": 0.2, "dwi-superres --help": 0.5, "first progress line of run": 5.0,
    **dict.fromkeys((f"dwi-superres {command} --help" for command in COMMANDS), 1.0),
    "maps --maps fa, 100x100x60x42, mask included": 1.0,
}  # fmt: skip
"""Seconds."""


def measure(repeats: int = 5) -> dict[str, list[float]]:
    """Seconds of each repeat; the time the bare interpreter takes is taken off the import alone."""
    times: dict[str, list[float]] = {name: [] for name in LIMITS}
    program = [sys.executable, "-m", "DWISuperResLib"]
    with tempfile.TemporaryDirectory() as name:
        small, large, out = (str(Path(name) / file) for file in ("small.nrrd", "large.nii.gz", "out"))
        write_dwi(phantom((48, 48, 10)), small)
        scan = phantom((100, 100, 60), (2, 2, 2), supersampling=1, shells=((0, 2), (1000, 40)))
        write_dwi(replace(scan, signal=scan.signal.round()), large)
        run = [*program, "run", small, f"{out}.nrrd", "--method", "sinc", "--progress", "json", "--overwrite"]
        maps = [*program, "maps", large, out, "--maps", "fa", "--progress", "none", "--overwrite"]
        for _ in range(repeats):
            bare = _seconds([sys.executable, "-c", "pass"])
            times["import DWISuperResLib"].append(_seconds([sys.executable, "-c", "import DWISuperResLib"]) - bare)
            times["dwi-superres --help"].append(_seconds([*program, "--help"]))
            times["first progress line of run"].append(_seconds(run, first_line=True))
            for command in COMMANDS:
                times[f"dwi-superres {command} --help"].append(_seconds([*program, command, "--help"]))
            times["maps --maps fa, 100x100x60x42, mask included"].append(_seconds(maps))
    return times


def _seconds(command: list[str], *, first_line: bool = False) -> float:
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if first_line:
            process.stdout.readline()
            seconds = time.perf_counter() - start
        process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}.")
    return seconds if first_line else time.perf_counter() - start


def main(argv: list[str] | None = None) -> list[Result]:
    """Measure, print, write."""
    arguments = parser(__doc__).parse_args(argv)
    results = [
        Result(name, "limit", seconds, [LIMITS[name]] * len(seconds), goal=1)
        for name, seconds in measure(arguments.repeats).items()
    ]
    report(results, arguments.json)
    return results


if __name__ == "__main__":
    main()
