"""Every benchmark, one table.

    python -m Testing.benchmarks [NAME ...] [--json FILE] [--quick] [--repeats N]

Ratios above 1 mean that ours is faster, or below its limit; each pair of runs is interleaved, the spread is that of the
pairs. Peers that pip cannot install come from Testing/install_system_packages.sh; those missing are skipped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from Testing.benchmarks import whole_scan
from Testing.benchmarks.harness import Result, machine, report

NAMES = (
    "startup",
    "microstructure",
    "losses",
    "super_resolution",
    "blocks",
    "whole_scan",
    "evaluation",
    "training",
    "memory",
    "slicer_child",
    "gpu",
)
TAKE_QUICK = ("slicer_child", "super_resolution", "blocks", "whole_scan", "evaluation", "training", "memory", "gpu")
PACKAGES = ("torch", "numpy", "dipy", "nibabel", "fastai", "isal")


def main(argv: list[str] | None = None) -> list[Result]:
    """Run those named, or all; print and write one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved repeats of each pair (default: 3)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes where a benchmark has them, one repeat")
    parser.add_argument("--json", type=Path, help="write every measured second to this file")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(NAMES)}")
    results = []
    for name in arguments.names or NAMES:
        options = ["--repeats", str(1 if arguments.quick else arguments.repeats)]
        if arguments.quick and name in TAKE_QUICK:
            options.append("--quick")
        if name == "memory" and arguments.json:
            options += ["--plot", str(arguments.json.with_suffix(".png"))]
        print(f"== {name}", flush=True)
        run: Callable[[list[str]], list[Result]] = import_module(f"Testing.benchmarks.{name}").main
        start = time.perf_counter()
        results += run(options)
        print(f"{name} took {time.perf_counter() - start:.0f} s", flush=True)
    print("\n== all")
    print(machine())
    print(", ".join(_versions()))
    report(results, arguments.json)
    return results


def _versions() -> list[str]:
    found = [f"Python {sys.version.split()[0]}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} missing")
    if shutil.which("mrgrid"):
        found.append(f"MRtrix3 {whole_scan.mrtrix_version()}")
    return found


if __name__ == "__main__":
    main()
