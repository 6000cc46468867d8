"""Start-up times against their limits.

python -m Testing.benchmarks.startup [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from Testing.benchmarks.harness import Result, parser, report

ROOT = Path(__file__).parents[2]
LIMITS = {"import DWISuperResLib": 0.2, "dwi-superres --help": 0.5, "first progress line of run": 5.0}  # seconds


def measure(repeats: int = 5) -> dict[str, list[float]]:
    """Seconds of each repeat; the time the bare interpreter takes is taken off the import alone."""
    times: dict[str, list[float]] = {name: [] for name in LIMITS}
    help_, run = [[sys.executable, "-m", "DWISuperResLib", *rest] for rest in (["--help"], ["run"])]
    with tempfile.TemporaryDirectory() as folder:
        scan = str(Path(folder) / "scan.nrrd")
        make = (
            "from DWISuperResLib import phantom, write_dwi; import sys; write_dwi(phantom((48, 48, 10)), sys.argv[1])"
        )
        subprocess.run([sys.executable, "-c", make, scan], cwd=ROOT, check=True)
        run += [scan, str(Path(folder) / "out.nrrd"), "--method", "sinc", "--progress", "json"]
        for _ in range(repeats):
            bare = _seconds([sys.executable, "-c", "pass"])
            times["import DWISuperResLib"].append(_seconds([sys.executable, "-c", "import DWISuperResLib"]) - bare)
            times["dwi-superres --help"].append(_seconds(help_))
            times["first progress line of run"].append(_seconds([*run, "--overwrite"], first_line=True))
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
