"""A whole scan through the default network, x2, against MRtrix3's cubic regridding: both one command, file to file.

    python -m Testing.benchmarks.whole_scan [SCAN] [--repeats 5] [--quick] [--json FILE]

Without a scan, the numerical phantom at 102 x 102 x 60 with 42 volumes, stored as a scanner does (16-bit integers).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from DWISuperResLib.checkpoints import Card, save_checkpoint, shipped_checkpoints
from DWISuperResLib.io import write_dwi
from DWISuperResLib.networks import build
from DWISuperResLib.phantoms import phantom
from Testing.benchmarks.harness import Result, compare, missing_programs, parser, report, run_command


def main(argv: list[str] | None = None) -> list[Result]:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("scan", nargs="?", type=Path, help="NIfTI with .bval and .bvec beside it")
    options.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    arguments = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = arguments.scan or folder / "phantom.nii.gz"
        if not arguments.scan:
            shape = (24, 24, 6) if arguments.quick else (102, 102, 60)
            dwi = phantom(shape, (2, 2, 2), supersampling=1, shells=((0, 2), (1000, 20), (2000, 20)))
            write_dwi(replace(dwi, signal=dwi.signal.round()), scan)
        results = [against_mrgrid(scan, folder, arguments.repeats)]
    report(results, arguments.json)
    return results


def against_mrgrid(scan: Path, folder: Path, repeats: int) -> Result:
    """The two commands in turn."""
    task = "default network x2, whole scan, command line"
    if reason := missing_programs("mrgrid"):
        return Result(
            task,
            "MRtrix3 mrgrid regrid, cubic",
            skipped=f"{reason}; Testing/install_system_packages.sh installs MRtrix3",
        )
    peer = f"MRtrix3 {mrtrix_version()} mrgrid regrid, cubic"
    checkpoint, note = "default", ""
    if "default" not in shipped_checkpoints():
        checkpoint = str(folder / "default.safetensors")
        card = Card("default", "sr_unet", {}, (2, 3))
        save_checkpoint(checkpoint, build("sr_unet").state_dict(), card)
        note = ", untrained weights"
    threads = torch.get_num_threads()
    run = [sys.executable, "-m", "DWISuperResLib", "run", scan, folder / "ours.nii.gz", "--scale", 2]
    run += ["--checkpoint", checkpoint, "--overwrite", "--progress", "none"]
    regrid = ["mrgrid", scan, "regrid", "-scale", "2,2,1", folder / "theirs.nii.gz", "-interp", "cubic"]
    regrid += ["-force", "-quiet", "-nthreads", threads]
    return compare(
        task,
        lambda: run_command(*run),
        peer,
        lambda: run_command(*regrid),
        repeats=repeats,
        goal=3,
        note=f"{scan.name}, {threads} threads, starting Python and torch included{note}",
    )


def mrtrix_version() -> str:
    """As its programs tell it."""
    return subprocess.run(["mrgrid", "-version"], capture_output=True, text=True, check=True).stdout.split()[2]


if __name__ == "__main__":
    main()
