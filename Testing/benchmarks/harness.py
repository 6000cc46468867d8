"""Side-by-side timing: both ways run in turn, so that a busy machine slows both; ratios come from neighbouring runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Result:
    """Seconds of one task done our way and a peer's way, repeat by repeat; or why it was not measured."""

    task: str
    peer: str
    ours: list[float] = dataclasses.field(default_factory=list)
    theirs: list[float] = dataclasses.field(default_factory=list)
    goal: float | None = None
    note: str = ""
    skipped: str = ""

    @property
    def ratios(self) -> list[float]:
        """How many times as fast ours is, from each pair of neighbouring runs."""
        return [peer / own for own, peer in zip(self.ours, self.theirs, strict=True)]


def compare(
    task: str,
    ours: Callable[[], object],
    peer: str,
    theirs: Callable[[], object],
    *,
    repeats: int,
    goal: float | None = None,
    share: float = 1.0,
    note: str = "",
) -> Result:
    """Time both ways in turn after one warm-up each.

    `share` is the part of the task that the peer does, where its cost is known to be proportional: its seconds are
    divided by it.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for seconds, way in zip(times, (ours, theirs), strict=True):
            start = time.perf_counter()
            way()
            if repeat:
                seconds.append(time.perf_counter() - start)
    return Result(task, peer, times[0], [seconds / share for seconds in times[1]], goal, note)


def run_command(*command: object) -> None:
    """Run a program; raise with what it said where it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} exited with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")


def missing_programs(*names: str) -> str:
    """Why a peer has to be skipped, or nothing."""
    absent = [name for name in names if shutil.which(name) is None]
    return f"not on the path: {', '.join(absent)}" if absent else ""


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats of each pair (default 5)")
    parser.add_argument("--json", type=Path, help="write every measured second to this file")
    return parser


def report(results: Sequence[Result], json_path: Path | None = None) -> None:
    """Print the table of ratios (median, smallest and largest); write all seconds as JSON."""
    print(f"{'task':46} {'peer':34} {'ours s':>8} {'peer s':>8} {'ratio':>7}  {'spread':15} goal")
    for result in results:
        start = f"{result.task:46} {result.peer:34}"
        if result.skipped:
            print(f"{start} skipped: {result.skipped}")
            continue
        ours, theirs, ratio = (statistics.median(x) for x in (result.ours, result.theirs, result.ratios))
        spread = f"{min(result.ratios):.3g} to {max(result.ratios):.3g}"
        verdict = "" if result.goal is None else f"{result.goal:g} {'met' if ratio >= result.goal else 'MISSED'}"
        print(f"{start} {ours:8.4g} {theirs:8.4g} {ratio:6.3g}x  {spread:15} {verdict}")
        if result.note:
            print(f"    {result.note}")
    if json_path:
        content = {
            "machine": {
                "processor": machine(),
                "cores": cores(),
                "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
                "python": platform.python_version(),
                "packages": {name: version(name) for name in ("torch", "numpy", "dipy")},
            },
            "results": [dataclasses.asdict(result) | {"ratios": result.ratios} for result in results],
        }
        json_path.write_text(json.dumps(content, indent=1))


def machine() -> str:
    """The processor, its cores and the instructions that matter to convolutions, in words."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    flags = said.get("flags", "").split()
    sets = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags]
    processor = said.get("model name", platform.processor() or platform.machine())
    return f"{processor}, {cores()} cores, {' '.join(sets) or 'instruction sets not known'}"


def cores() -> int | None:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
