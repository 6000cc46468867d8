"""A whole evaluation against its limit: `dwi-superres evaluate`, six interpolators, the default network, the report.

    python -m Testing.benchmarks.evaluation [SCAN] [--repeats 5] [--quick] [--json FILE]

One cold command: degrading, upsampling, scores of signals, maps and deep distances, self-checks, figures. Without a
scan, the numerical phantom at 128 x 128 x 60 with 33 volumes, with noise, stored as a scanner does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from DWISuperResLib.io import write_dwi
from DWISuperResLib.phantoms import phantom
from Testing.benchmarks.harness import Result, parser, report, run_command

LIMIT = 30.0  # seconds, on two cores


def main(argv: list[str] | None = None) -> list[Result]:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("scan", nargs="?", type=Path, help="NIfTI with .bval and .bvec beside it")
    options.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    arguments = options.parse_args(argv)
    shape = (36, 40, 4) if arguments.quick else (128, 128, 60)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = arguments.scan or folder / "phantom.nii.gz"
        if not arguments.scan:
            dwi = phantom(shape, (2, 2, 2), supersampling=1, snr=20, shells=((0, 1), (1000, 32)))
            write_dwi(replace(dwi, signal=dwi.signal.round()), scan)
        command = [sys.executable, "-m", "DWISuperResLib", "evaluate", scan, folder / "evaluation", "--overwrite"]
        times = []
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            run_command(*command, "--progress", "none")
            times.append(time.perf_counter() - start)
    task = f"evaluate x2, {arguments.scan.name if arguments.scan else 'x'.join(map(str, (*shape, 33)))}, command line"
    note = f"{torch.get_num_threads()} threads, starting Python and torch included"
    results = [Result(task, "limit", times, [LIMIT] * len(times), goal=1, note=note)]
    report(results, arguments.json)
    return results


if __name__ == "__main__":
    main()
