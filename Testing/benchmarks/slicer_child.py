"""What a user of the Slicer module waits for: the child between jobs, and how volumes come to it and back.

python -m Testing.benchmarks.slicer_child [--quick] [--repeats 5] [--json FILE]

"Apply" is a super-resolution by the shipped network as the module asks its child for it, from the request to what is
named; by the panel, from the click on the button, with the scan written for the child and the panel's own clock. The
first slice is the first progress of the network's work. The peer of the warm child is a process to look for a device
and another for the command, as a child that does not stay would need.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from DWISuperResLib.gui.warm_child import WarmChild
from DWISuperResLib.io import read_dwi, write_dwi
from DWISuperResLib.phantoms import phantom
from Testing.benchmarks.harness import Result, compare, parser, report

ROOT = Path(__file__).parents[2]
WORKER = [sys.executable, "-m", "DWISuperResLib.gui.worker"]
SHARED = Path(os.environ.get("DWISUPERRES_SHARED", ROOT.parent / "shared"))
SCAN = SHARED / "data/siemens_b15_dti20/siemens_b15_dti20.nii.gz"
"""A whole brain at 2 mm with 42 volumes; its phantom where it is not at hand."""
FIRST_SLICE_LIMIT = 1.0
"""Seconds from a second Apply to its first slice."""


@contextlib.contextmanager
def warm_child(folder: Path) -> Iterator[WarmChild]:
    """The module's child, which ends with the block."""
    child = WarmChild(lambda: WORKER, lambda: None, lambda: str(folder))
    try:
        yield child
    finally:
        child.close()


def apply(child: WarmChild, scan: Path, output: Path) -> tuple[float, float]:
    """Seconds to the first slice and to the end of one command."""
    arguments = ["run", str(scan), str(output), "--scale", "2", "--device", "cpu", "--uncompressed", "--overwrite"]
    start, first = time.perf_counter(), None
    command = child.run(arguments)
    while command.exit_code is None:
        for message in command.read():
            if first is None and message["type"] == "progress" and message["fraction"] > 0:
                first = time.perf_counter() - start
        time.sleep(0.005)
    if command.exit_code:
        raise RuntimeError(f"{' '.join(arguments)} exited with {command.exit_code}: {command.said()}")
    total = time.perf_counter() - start
    return (total if first is None else first), total


def cold(scan: Path, output: Path) -> float:
    """Seconds of the same in processes of their own."""
    start = time.perf_counter()
    probe = "from DWISuperResLib.gui import probe; probe.main('auto')"
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "DWISuperResLib", "run", str(scan), str(output), "--scale", "2"]
    command += ["--device", "cpu", "--uncompressed", "--overwrite", "--progress", "json"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def child_results(folder: Path, shape: tuple[int, int, int], repeats: int) -> list[Result]:
    """First and second Apply in one child, against processes of their own."""
    scan, output = folder / "scan.nrrd", folder / "output.nrrd"
    dwi = phantom(shape, (2.5, 2.5, 3.0), snr=30, supersampling=1, shells=((0, 2), (1000, 30)))
    write_dwi(dwi, scan, compress=False)
    with warm_child(folder) as child:
        first, _ = apply(child, scan, output)
        warm = [apply(child, scan, output) for _ in range(repeats)]
    peers = [cold(scan, output) for _ in range(repeats)]
    size = " x ".join(map(str, (*shape, dwi.n_volumes)))
    note = f"{size}; the first Apply of a child that was not warm yet showed its first slice after {first:.1f} s"
    limits = [FIRST_SLICE_LIMIT] * repeats
    return [
        Result("second Apply, first slice", "limit", [seconds for seconds, _ in warm], limits, goal=1, note=note),
        Result("second Apply, all of it", "two processes a job", [seconds for _, seconds in warm], peers, goal=1),
    ]


def panel_results(folder: Path, repeats: int, *, quick: bool) -> list[Result]:
    """The same through the module's own panel in its test host: a few slices of a real scan first, then all of it."""
    task, peer = "second Apply by the panel, first slice", "limit"
    try:
        from Testing.slicer_host import NoDependencies, start
    except ImportError:
        return [Result(task, peer, skipped="needs slicer-core and PySide6")]
    host = start()
    import slicer

    from DWISuperResLib import mrml

    slicer.app.temporaryPath = str(folder)
    host.new_scene()
    name = SCAN.name if SCAN.is_file() and not quick else "phantom"
    shape = (24, 24, 8) if quick else (102, 102, 60)
    shells = ((0, 2), (1000, 40))
    dwi = phantom(shape, (2.0, 2.0, 2.0), supersampling=1, shells=shells) if name == "phantom" else read_dwi(SCAN)
    middle = dwi.signal.shape[2] // 2
    whole = mrml.add_dwi_node(dwi, "scan")
    part = mrml.add_dwi_node(replace(dwi, signal=dwi.signal[:, :, middle - 2 : middle + 2]), "part")
    widget = host.open_module(dependencies=NoDependencies(warm=True))
    first, second = [], []
    try:
        for _ in range(repeats):
            first.append(click_apply(host, widget, part))
            host.wait(lambda: not widget.logic.isRunning, 600)
            second.append(click_apply(host, widget, whole))
            widget.logic.cancel()  # and the child with it, so that the next repeat begins anew
            widget.logic.warmUp()
        if host.errors:
            raise RuntimeError(host.errors[0])
    finally:
        widget.cleanup()
        host.new_scene()
        slicer.app.temporaryPath = None
    size = " x ".join(map(str, dwi.signal.shape))
    note = f"{name}, {size}; by a child just started, for 4 slices of it, {statistics.median(first):.1f} s"
    return [Result(task, peer, second, [FIRST_SLICE_LIMIT] * repeats, goal=1, note=note)]


def click_apply(host: Any, widget: Any, scan: Any) -> float:
    """Seconds from a click on Apply to the first slice."""
    widget.panel.parameters.inputVolume = scan
    start = time.perf_counter()
    widget.panel.ui.applyButton.click()
    host.wait(lambda: widget.logic.job.fraction > 0 or widget.logic.job.state != "running", 600)
    return time.perf_counter() - start


def exchange_results(folder: Path, shape: tuple[int, int, int], repeats: int) -> list[Result]:
    """A scan from Slicer to the child: uncompressed NRRD by MRML and the library, against bare arrays."""
    task, peer = "a scan to the child, uncompressed NRRD", "bare array, tofile and fromfile"
    try:
        from Testing.slicer_host import start
    except ImportError:
        return [Result(task, peer, skipped="needs slicer-core and PySide6")]
    start()
    import slicer.util

    from DWISuperResLib import mrml

    dwi = phantom(shape, (2.5, 2.5, 3.0), snr=None, supersampling=1, shells=((0, 2), (1000, 30)))
    node = mrml.add_dwi_node(dwi, "scan")
    path, bare = folder / "exchange.nrrd", folder / "exchange.raw"

    def nrrd() -> None:
        mrml.write_dwi_nrrd(node, path)
        read_dwi(path)

    def raw() -> None:
        slicer.util.arrayFromVolume(node).tofile(bare)
        np.asfortranarray(np.fromfile(bare, np.float32).reshape(dwi.signal.shape[::-1]).T)

    note = f"{dwi.signal.nbytes / 1e6:.0f} MB; the table, the affine and their checks included"
    return [compare(task, nrrd, peer, raw, repeats=repeats, note=note)]


def main(argv: list[str] | None = None) -> list[Result]:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="tiny sizes")
    arguments = options.parse_args(argv)
    shape = (24, 24, 6) if arguments.quick else (64, 64, 20)
    large = shape if arguments.quick else (96, 96, 50)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = child_results(folder, shape, arguments.repeats)
        results += panel_results(folder, arguments.repeats, quick=arguments.quick)
        results += exchange_results(folder, large, arguments.repeats)
    report(results, arguments.json)
    return results


if __name__ == "__main__":
    main()
