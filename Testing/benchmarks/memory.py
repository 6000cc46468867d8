"""Peak memory of reading, running and writing against what it should be; large scans; cost from 1e2 to 1e5 slices.

    python -m Testing.benchmarks.memory [--repeats 5] [--quick] [--size-gb 5] [--json FILE] [--plot FILE.png]

Each step runs in a process of its own. Its peak is counted from just before the step, libraries loaded and the network
warm, and compared with the volumes that the step makes, once each, plus a bounded work buffer: the limit. The rows show
megabytes and seconds a thousand slices.

The large scan is the result of `run` on one of a quarter its size, in 4 GB of memory: as much as the system gives the
process to write to of its own (RLIMIT_DATA). Pages of files, which the system takes back when it likes, are not
counted.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from DWISuperResLib.dwi import DWI
from DWISuperResLib.io import write_dwi, write_image
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.scratch import LARGEST_IN_MEMORY, large_arrays_in, signal_array
from Testing.benchmarks.harness import Result, parser, report

ROOT = Path(__file__).parents[2]
BUFFER = {"read": 64.0, "run": 384.0, "write": 64.0}  # MB beyond the volumes
MEMORY = 4096.0  # MB for the large scan
GROWTH_LIMIT = 1.25  # seconds a slice at the most slices over those at a tenth of them

_START = """
import json, sys, time
from pathlib import Path
import numpy as np
import DWISuperResLib as dsr
from DWISuperResLib.checkpoints import Card, Checkpoint
from DWISuperResLib.io import read_dwi, write_dwi
from DWISuperResLib.networks import build

def resident(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) / 1024

def reset():
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    return resident("VmRSS")

def default(**arguments):
    arguments = {"scales": [2], **arguments}
    return Checkpoint(Card("default", "sr_unet", arguments, (2,)), build("sr_unet", **arguments).state_dict())
"""
_STEPS = (
    _START
    + """
scan, out = sys.argv[1:]
checkpoint = default()
tiny = read_dwi(scan)
tiny = dsr.DWI(tiny.signal[:, :, :1, :8].copy(), tiny.affine, tiny.bvals[:8], tiny.bvecs[:8])
dsr.super_resolve(tiny, checkpoint, 2)
write_dwi(tiny, Path(out).with_name("tiny.nii.gz"))
rows = {}
start = reset(); dwi = read_dwi(scan); rows["read"] = resident("VmHWM") - start, dwi.signal.nbytes / 2**20
mask = np.zeros(dwi.spatial_shape, bool); mask[:, :, dwi.spatial_shape[2] // 2] = True
start = reset(); fine = dsr.super_resolve(dwi, checkpoint, 2, mask=mask)
rows["run"] = resident("VmHWM") - start, fine.signal.nbytes / 2**20
start = reset(); write_dwi(fine, out); rows["write"] = resident("VmHWM") - start, 0.0
print(json.dumps(rows))
"""
)
_SCALING = (
    _START
    + """
checkpoint = default(width=8, blocks=[1], neighbours=1)
rng = np.random.default_rng(0)
rows = []
for slices in json.loads(sys.argv[1]):
    volumes = 50
    block = rng.random((16, 16, 2, volumes), dtype=np.float32) + 1
    signal = np.asfortranarray(np.tile(block, (1, 1, slices // (2 * volumes), 1)))
    bvecs = rng.normal(size=(volumes, 3)); bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    dwi = dsr.DWI(signal, np.diag([2, 2, 2.5, 1]), np.full(volumes, 1000.0), bvecs)
    if not rows:
        dsr.super_resolve(dwi, checkpoint, 2)
    before = reset(); start = time.perf_counter()
    fine = dsr.super_resolve(dwi, checkpoint, 2)
    rows.append((slices, time.perf_counter() - start, resident("VmHWM") - before, fine.signal.nbytes / 2**20))
print(json.dumps(rows))
"""
)
_LARGE = (
    _START
    + """
import resource, threading
from DWISuperResLib import scratch
from DWISuperResLib.apps import cli

limit, largest, arguments = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
scratch.LARGEST_IN_MEMORY = largest
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
peak, done = 0.0, threading.Event()

def watch():
    global peak
    while not done.wait(0.01):
        peak = max(peak, resident("RssAnon"))

watcher = threading.Thread(target=watch)
watcher.start()
start = time.perf_counter()
code = cli.main(arguments)
done.set()
watcher.join()
print(json.dumps({"code": code, "peak": peak, "seconds": time.perf_counter() - start}))
"""
)


def main(argv: list[str] | None = None) -> list[Result]:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options.add_argument("--size-gb", type=float, default=5.0, help="large scan (default 5; 16 takes minutes)")
    options.add_argument("--plot", type=Path, help="draw the cost over the number of slices")
    arguments = options.parse_args(argv)
    if Path("/proc/self/clear_refs").exists():
        results = peaks((32, 32, 4) if arguments.quick else (102, 102, 20))
        volumes = max(8, round(arguments.size_gb * 1e9 / (4 * 4 * 145 * 174 * 145)))
        results += large((24, 28, 4, 8), 0) if arguments.quick else large((145, 174, 145, volumes), LARGEST_IN_MEMORY)
        counts = [100, 200] if arguments.quick else [100, 300, 1000, 3000, 10_000, 30_000, 100_000]
        results += scaling(counts, arguments.repeats, arguments.plot)
    else:
        results = [Result("peak memory", "limit", skipped="needs Linux, which can start the peak anew")]
    report(results, arguments.json)
    return results


def peaks(shape: tuple[int, int, int]) -> list[Result]:
    """Megabytes above the start at the peak of each step."""
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.nii.gz"
        dwi = phantom(shape, (2, 2, 2.5), supersampling=1, shells=((0, 2), (1000, 40)))
        write_dwi(dwi, scan)
        rows = _child(_STEPS, str(scan), str(Path(folder) / "fine.nii.gz"))
    limits = {"read": "the scan", "run": "the result", "write": "nothing"}
    return [
        Result(
            f"peak memory of {step}, MB (not seconds)",
            f"limit: {limits[step]} + {BUFFER[step]:g} MB",
            [max(peak, 1.0)],  # memory that was held already is reused
            [volume + BUFFER[step]],
            goal=1,
            note=f"{volume:.0f} MB of volumes are new, {peak - volume:.0f} MB of work",
        )
        for step, (peak, volume) in rows.items()
    ]


def large(shape: tuple[int, int, int, int], in_memory: int) -> list[Result]:
    """`run --scale 2`, all but one slice interpolated, uncompressed; arrays above `in_memory` bytes in files."""
    size = 4 * np.prod(shape, dtype=np.int64)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        needed, free = 10 * size, shutil.disk_usage(folder).free
        task, limit = f"memory of run, result of {4 * size / 1e9:.3g} GB, MB", f"limit: {MEMORY:g} MB"
        if free < needed:
            return [Result(task, limit, skipped=f"{needed / 1e9:.0f} GB of disk needed, {free / 1e9:.0f} GB free")]
        _write_large(shape, folder)
        arguments = ["run", "scan.nii", "fine.nii", "--mask", "mask.nii", "--device", "cpu", "--progress", "none"]
        arguments = [str(folder / a) if a.endswith(".nii") else a for a in arguments]
        found = _child(_LARGE, str(int(MEMORY) << 20), str(in_memory), *arguments)
        written = (folder / "fine.nii").stat().st_size
    assert isinstance(found, dict)
    assert found["code"] == 0
    note = (
        f"{size / 1e9:.3g} GB read, {written / 1e9:.3g} GB written in {found['seconds']:.0f} s; the limit was enforced"
    )
    return [Result(task, limit, [found["peak"]], [MEMORY], goal=1, note=note)]


def _write_large(shape: tuple[int, int, int, int], folder: Path) -> None:
    rng = np.random.default_rng(0)
    scan = phantom(shape[:3], (1.25, 1.25, 1.25), supersampling=1, shells=((0, 1), (1000, 1)))
    base = scan.signal[..., 0]
    with large_arrays_in(folder):
        signal = signal_array(shape)
    for n in range(shape[3]):
        signal[..., n] = base * rng.uniform(0.2, 0.6) + rng.standard_normal(base.shape, np.float32)
    bvecs = rng.normal(size=(shape[3], 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvals = np.where(np.arange(shape[3]) % 16 == 0, 0.0, 1000.0)
    write_dwi(DWI(signal, scan.affine, bvals, bvecs), folder / "scan.nii")
    mask = np.zeros(shape[:3], np.uint8)
    mask[..., shape[2] // 2] = 1
    write_image(mask, scan.affine, folder / "mask.nii")


def scaling(counts: list[int], repeats: int, plot: Path | None) -> list[Result]:
    """Seconds a thousand slices, and memory, over the number of slices (16 x 16 pixels, a small network)."""
    runs = [_child(_SCALING, json.dumps(counts)) for _ in range(min(repeats, 3))]
    columns = np.array(runs)  # (run, count, slices | seconds | peak | result)
    cost = 1e3 * columns[..., 1] / columns[..., 0]
    if plot:
        _draw(columns, plot)
    extra = columns[..., 2] - columns[..., 3]
    listed = ", ".join(f"{n:g}: {c:.3g} s" for n, c in zip(counts, np.median(cost, 0), strict=True))
    return [
        Result(
            f"1000 slices, of {counts[-1]:.0e} against fewer",
            f"{counts[-2 if len(counts) < 3 else -3]:.0e} slices, {GROWTH_LIMIT:g} times their cost",
            cost[:, -1].tolist(),
            (GROWTH_LIMIT * cost[:, -2 if len(counts) < 3 else -3]).tolist(),
            goal=1,
            note=f"a thousand slices of {listed}",
        ),
        Result(
            "  peak memory beyond the result, MB",
            f"limit: {BUFFER['run']:g} MB",
            np.maximum(extra[:, -1], 1.0).tolist(),
            [BUFFER["run"]] * len(runs),
            goal=1,
            note=f"at {counts[-1]:.0e} slices; at {counts[0]} {np.median(extra[:, 0]):.0f} MB",
        ),
    ]


def _child(program: str, *arguments: str) -> list | dict:
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The measured process exited with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def _draw(columns: np.ndarray, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots(1, 2)
    slices, seconds, peak, result = np.median(columns, 0).T
    axes[0].loglog(slices, seconds, "o-", label="measured")
    axes[0].loglog(slices, seconds[-1] * slices / slices[-1], "k:", label="proportional")
    axes[0].set(xlabel="slices", ylabel="seconds")
    axes[1].loglog(slices, peak, "o-", label="peak above the input")
    axes[1].loglog(slices, result, "k:", label="result alone")
    axes[1].set(xlabel="slices", ylabel="MB")
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
