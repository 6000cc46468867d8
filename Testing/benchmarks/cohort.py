"""A cohort in trouble: a synthetic BIDS data set whose workers are killed and whose scheduler is restarted.

    python -m Testing.benchmarks.cohort [DATA] [--scans 40] [--folder DIR]

DATA is the folder of the development scans, of which crops are taken. Prints what was tried, lost, doubled and how long
it took; exits 1 if anything was lost or doubled, or differs from the serial run. Scans run on the CPU in float32 with
one thread each, so that results can be compared bit by bit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib

from DWISuperResLib.apps.cohort.participant import TABLE, read_table
from Testing.benchmarks.bids_dataset import write_dataset

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
OPTIONS = ("--device", "cpu", "--precision", "fp32", "--progress", "none")
LONGEST_SECONDS = 1800


def main(argv: list[str] | None = None) -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("DWISUPERRES_SHARED", ROOT.parent / "shared")) / "data"
    parser.add_argument("data", nargs="?", type=Path, default=shared, help="folder of the development scans")
    parser.add_argument("--scans", type=int, default=40)
    parser.add_argument("--folder", type=Path, help="keep everything in this new folder")
    arguments = parser.parse_args(argv)
    if not arguments.data.is_dir():
        print(f"skipped: the development scans are not in {arguments.data} (set DWISUPERRES_SHARED to its parent)")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        source = folder / "bids"
        count = len(write_dataset(source, arguments.data, arguments.scans))
        return _show(source, folder, count)


def _show(source: Path, folder: Path, count: int) -> int:
    print(f"{count} scans of {len(list(source.glob('sub-*')))} participants; {os.cpu_count()} cores", flush=True)
    serial, begun = folder / "serial", time.perf_counter()
    code = _command(source, serial, "--workers", "1").wait(LONGEST_SECONDS)
    wanted = results(serial)
    faults = _report("serial", serial, code, count, wanted, time.perf_counter() - begun)

    begun = time.perf_counter()
    code = _command(source, folder / "parallel", "--workers", "2").wait(LONGEST_SECONDS)
    faults += _report("2 workers", folder / "parallel", code, count, wanted, time.perf_counter() - begun)

    begun = time.perf_counter()
    code = killed_workers(source, folder / "killed", count)
    faults += _report("4 workers, 2 killed", folder / "killed", code, count, wanted, time.perf_counter() - begun)

    begun = time.perf_counter()
    code = restarted_scheduler(source, folder / "restarted", count)
    faults += _report("scheduler restarted", folder / "restarted", code, count, wanted, time.perf_counter() - begun)

    begun = time.perf_counter()
    code = _command(source, folder / "killed", "--workers", "1").wait(LONGEST_SECONDS)
    faults += _report("the same again", folder / "killed", code, count, wanted, time.perf_counter() - begun)
    code = _run([sys.executable, "-m", "DWISuperResLib", "bids", source, folder / "killed", "group"]).wait(300)
    print(f"group report: {folder / 'killed' / 'superres_group.html'}, exit code {code}")
    return 1 if faults or code else 0


def killed_workers(source: Path, output: Path, count: int, workers: int = 4, victims: int = 2) -> int:
    """The exit code of a run of which some workers are killed once a quarter, then half of the scans are done."""
    from distributed import Client

    from DWISuperResLib.apps.cohort.workers import local_workers

    with local_workers(workers, "cpu") as address, Client(address, set_as_default=False) as client:
        client.wait_for_workers(workers)
        processes = list(client.run(os.getpid).values())
        run = _command(source, output, "--scheduler", address)
        for n, process in enumerate(processes[:victims], start=1):
            _wait(lambda n=n: len(sidecars(output)) >= n * count // 4 or run.poll() is not None)
            os.kill(process, signal.SIGKILL)
            print(f"killed worker {process} after {len(sidecars(output))} scans", flush=True)
        return run.wait(LONGEST_SECONDS)


def restarted_scheduler(source: Path, output: Path, count: int) -> int:
    """The exit code of a run whose scheduler is killed and started again after a third of the scans."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
    worker = ["worker", address, "--nthreads", "1", "--no-dashboard", "--memory-limit", "0"]
    with _kept_running({"scheduler": scheduler, "worker 1": worker, "worker 2": worker}) as tend:
        run = _command(source, output, "--scheduler", address)
        _wait(lambda: tend() and (len(sidecars(output)) >= count // 3 or run.poll() is not None))
        tend(kill="scheduler")
        print(f"killed the scheduler after {len(sidecars(output))} scans", flush=True)
        _wait(lambda: tend() and run.poll() is not None)
        return run.returncode


@contextmanager
def _kept_running(commands: Mapping[str, list]) -> Iterator[Callable[..., bool]]:
    """Processes of Dask, started again when they end, as a batch system does; yields what looks after them."""

    def start(name: str) -> subprocess.Popen:
        arguments = [sys.executable, "-m", "distributed.cli.dask_" + commands[name][0], *commands[name][1:]]
        return _run(arguments, stderr=subprocess.DEVNULL)

    processes = {name: start(name) for name in commands}

    def tend(kill: str = "") -> bool:
        if kill:
            processes[kill].kill()
            processes[kill].wait()
            time.sleep(3)
        for name, process in processes.items():
            if process.poll() is not None:
                processes[name] = start(name)
        return True

    try:
        yield tend
    finally:
        for process in reversed(processes.values()):
            process.terminate()
        for process in processes.values():
            process.wait(60)


def sidecars(output: Path) -> list[Path]:
    """Of the scans that are done."""
    return list(output.glob("sub-*/**/*_dwi.json"))


def results(output: Path) -> dict[str, str]:
    """A hash of the voxels of every image and of the bytes of every table, by name."""
    found = {}
    for path in sorted(p for p in output.glob("sub-*/**/*") if p.is_file() and p.suffix != ".json"):
        is_image = path.name.endswith(".nii.gz")
        content = nib.load(path).dataobj.get_unscaled().tobytes() if is_image else path.read_bytes()
        found[path.relative_to(output).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def _report(name: str, output: Path, code: int, count: int, wanted: Mapping[str, str], seconds: float) -> int:
    """Print what became of a run; return the number of faults."""
    found = results(output)
    rows = read_table(output / TABLE)
    lost = count - len(sidecars(output)) + len(set(wanted) - set(found))
    more = len(set(found) - set(wanted)) + len(rows) - len({row["scan"] for row in rows}) + abs(len(rows) - count)
    differing = sum(found[file] != digest for file, digest in wanted.items() if file in found)
    statuses = ", ".join(f"{n} {status}" for status, n in sorted(Counter(row["status"] for row in rows).items()))
    per_hour = 3600 * count / seconds
    print(
        f"{name:22} exit {code}; {statuses}; lost {lost}, too many {more}, differing {differing} of {len(wanted)}; "
        f"{seconds:.0f} s, {per_hour:.0f} scans/h",
        flush=True,
    )
    return lost + more + differing + (code != 0)


def _command(source: Path, output: Path, *options: str) -> subprocess.Popen:
    return _run([sys.executable, "-m", "DWISuperResLib", "bids", source, output, "participant", *OPTIONS, *options])


def _run(command: list, stderr: int | None = None) -> subprocess.Popen:
    arguments = list(map(str, command))
    return subprocess.Popen(arguments, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=stderr)


def _wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {LONGEST_SECONDS} s in vain")
        time.sleep(0.3)


if __name__ == "__main__":
    sys.exit(main())
